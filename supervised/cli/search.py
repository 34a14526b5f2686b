"""``supervised search``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tyro.conf import FlagCreatePairsOff, Positional

from maml_rl.tools.options import given
from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.search.searched import Algorithm, Scheduler
from supervised.cli.train import Device, data_folder, new_config, torch_device
from supervised.experiments.config import Method
from supervised.experiments.experiment import Experiment
from supervised.experiments.stored import stored_experiment


def search(
    preset: Positional[str | None] = None,
    *,
    space: tuple[str, ...] = (),
    samples: int | None = None,
    scheduler: Scheduler | None = None,
    algorithm: Algorithm | None = None,
    method: Method | None = None,
    data: Path | None = None,
    device: Device = "cpu",
    output: str | None = None,
    resume: str | None = None,
    address: str | None = None,
    json: FlagCreatePairsOff[bool] = False,
    fields: Any,
) -> None:
    """Search over fields of the configuration with Ray Tune; every trial is a run directory.

    Best is the highest accuracy on validation tasks at any validation, of sinusoids the least loss. As many trials
    run at once as the cluster holds, each on one CPU (and one GPU with --device cuda). Ctrl-C ends the search;
    --resume goes on with it, without computing anything twice.

    Args:
        preset: the experiment; not needed with --resume.
        space: what is searched: NAME=loguniform(LOW,HIGH), uniform(LOW,HIGH), randint(LOW,HIGH) or choice(A,B,...),
            any number of them; NAME is any of the configuration's fields below.
        samples: configurations to try; 16 unless given.
        scheduler: asha, unless given, which stops what falls behind; pbt, whose worse trials take over the
            parameters of better ones and change their values; or none.
        algorithm: random, unless given, or optuna (an extra of this package).
        method: meta-learner or baseline; by default the preset's.
        data: folder or zip file of the images.
        device: where to compute.
        output: folder of the search, a path or a URI (s3://BUCKET/searches/NAME); by default
            runs/search-PRESET-METHOD-DATE-TIME. Trial 3's run is trial-00003 in it.
        resume: go on with the search in this folder.
        address: Ray cluster to connect to; by default RAY_ADDRESS, else a local Ray.
        json: print the trials as JSON.
    """
    from maml_rl.tools.ray_start import start_ray
    from maml_rl.tools.search.display import carry_out
    from maml_rl.tools.search.search import Search, check_goes_on, new_search
    from supervised.experiments.searched import SearchedExperiment

    changes = given(fields)
    if resume is None:
        preset, config = new_config(preset, method, changes)
        experiment = Experiment(config, data_folder(config, data))
        searched = SearchedExperiment(experiment, preset, torch_device(device))
        wanted = new_search(searched, space, samples, scheduler, algorithm)
        name = f"search-{preset}-{config.method}-{time.strftime('%Y%m%d-%H%M%S')}"
        folder = RunDirectory.free(output or f"runs/{name}")
    else:
        folder = RunDirectory.open(resume)
        told: dict[str, Any] = {
            "preset": preset,
            "space": space,
            "samples": samples,
            "scheduler": scheduler,
            "algorithm": algorithm,
            "method": method,
            "output": output,
            **changes,
        }
        check_goes_on(folder, told)
        experiment = stored_experiment(folder, data)
        searched = SearchedExperiment(experiment, folder.description()["preset"], torch_device(device))
        wanted = Search.stored(folder, searched)
    wanted.check()
    start_ray(address)
    carry_out(wanted, folder, "supervised", [], fresh=resume is None, json=json)
