"""``maml-rl search``."""

from __future__ import annotations

import time
from typing import Any

from tyro.conf import FlagCreatePairsOff, Positional

from maml_rl.cli.train import new_plan_of, place_learner, train_options
from maml_rl.envs.naming import naming_options
from maml_rl.experiments.methods import MethodName
from maml_rl.experiments.plan import stored_plan
from maml_rl.experiments.run import Run
from maml_rl.experiments.searched import SearchedPlan
from maml_rl.rllib.resources import check_resources
from maml_rl.tools.options import given
from maml_rl.tools.ray_start import start_ray
from maml_rl.tools.search.display import carry_out
from maml_rl.tools.search.search import (
    Search,
    check_goes_on,
    new_search,
)
from maml_rl.tools.search.searched import Algorithm, Scheduler

search_options = train_options


def search(
    preset: Positional[str | None] = None,
    *,
    space: tuple[str, ...] = (),
    samples: int | None = None,
    scheduler: Scheduler | None = None,
    algorithm: Algorithm | None = None,
    method: MethodName | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    env_config: dict[str, str] | None = None,
    output: str | None = None,
    resume: str | None = None,
    env: str | None = None,
    checkpoint_every: int | None = None,
    num_env_runners: int = 0,
    num_learners: int | None = None,
    gpus: int | None = None,
    address: str | None = None,
    json: FlagCreatePairsOff[bool] = False,
    fields: Any,
) -> None:
    """Search over fields of the configuration with Ray Tune; every trial is a run directory.

    Best is the highest return after adaptation, averaged over the last ten iterations. As many trials run at once
    as the cluster holds. Ctrl-C ends the search; --resume goes on with it, without computing anything twice.

    Args:
        preset: the experiment, or module:Class for an environment of your own; not needed with --resume.
        space: what is searched: NAME=loguniform(LOW,HIGH), uniform(LOW,HIGH), randint(LOW,HIGH) or choice(A,B,...),
            any number of them; NAME is any of the configuration's fields below.
        samples: configurations to try; 16 unless given.
        scheduler: asha, unless given, which stops what falls behind; pbt, whose worse trials take over the
            parameters of better ones and change their values; or none.
        algorithm: random, unless given, or optuna (an extra of this package).
        method: maml, unless another is given.
        iterations: meta-updates of a trial that is not stopped; by default the preset's number.
        seed: of the drawn configurations and of every trial; 0 unless given.
        env_config: further arguments of the environment, as NAME VALUE pairs.
        output: folder of the search, a path or a URI (s3://BUCKET/searches/NAME); by default
            runs/search-PRESET-DATE-TIME. Trial 3's run is trial-00003 in it.
        resume: go on with the search in this folder.
        env: with --resume, the environment where it is not the package's own: files do not choose what is imported.
        checkpoint_every: iterations between checkpoints; 10 unless given.
        num_env_runners: rollout worker processes of each trial; 0 collects in the trial's own process.
        num_learners: learner actors of each trial among which the tasks are shared out; 0, the default, learns in
            the trial's own process.
        gpus: this many learners of each trial, each an actor with a GPU of its own.
        address: Ray cluster to connect to; by default RAY_ADDRESS, else a local Ray.
        json: print the trials as JSON.
    """
    changes = given(fields) | ({} if seed is None else {"seed": seed})
    if resume is None:
        plan = new_plan_of(preset, method, changes, env, env_config)
        if iterations is not None:
            plan.iterations = iterations
        if checkpoint_every is not None:
            plan.checkpoint_every = checkpoint_every
        name = f"search-{plan.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
        folder = Run.free(output or f"runs/{name}")
    else:
        folder = Run.open(resume)
        told: dict[str, Any] = {
            "preset": preset,
            "space": space,
            "samples": samples,
            "scheduler": scheduler,
            "algorithm": algorithm,
            "method": method,
            "iterations": iterations,
            "env_config": env_config,
            "output": output,
            **{name: value for name, value in changes.items() if name != "module"},
        }
        check_goes_on(folder, told)
        plan = stored_plan(folder, env, changes.get("module"))
    place_learner(plan.config, num_env_runners, num_learners, gpus)
    searched = SearchedPlan(plan)
    if resume is None:
        wanted = new_search(searched, space, samples, scheduler, algorithm)
    else:
        wanted = Search.stored(folder, searched)
    wanted.check()
    start_ray(address)
    check_resources(plan.config)
    names = naming_options(plan.config.env, plan.config.module)
    carry_out(wanted, folder, "maml-rl", names, fresh=resume is None, json=json)
