"""``supervised train``, and what its options share with those of other commands."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tyro.conf import FlagCreatePairsOff, Positional

from maml_rl.tools.command_line import print_json, shell_line
from maml_rl.tools.options import explanations, given, option_groups
from maml_rl.tools.run_directory import RunDirectory
from supervised.experiments.config import METHODS, ExperimentConfig, Method
from supervised.experiments.experiment import Experiment, describe
from supervised.experiments.presets import PRESETS, get_preset
from supervised.experiments.stored import resumed_config, starting_point
from supervised.learning.settings import ConfigError, TrainingSettings

Device = Literal["cpu", "cuda"]

GROUPS = {
    "tasks": ("ways", "shots", "query"),
    "images": ("image_size", "validation_fraction", "test_fraction"),
    "adaptation": ("inner_lr", "inner_steps", "learn_inner_lr", "logit_scale"),
    "network": ("hidden_sizes", "filters", "adapt_norm", "context_size", "regularisation"),
    "training": ("iterations", "meta_batch_size", "meta_lr", "meta_lr_decay", "gradient_clip", "seed"),
    "measurement": (
        *("report_every", "validate_every", "validation_episodes", "test_steps", "test_episodes"),
    ),
    "computation": ("tasks_per_chunk", "precision", "capture_graph"),
}


def config_options(arguments: Sequence[str]) -> type:
    """The configuration's fields as options, with the defaults of the preset and method that are named."""
    preset = next((word for word in arguments if word in PRESETS), None)
    method = next((b for a, b in itertools.pairwise(arguments) if a == "--method"), None)
    config = ExperimentConfig()
    if preset is not None:
        known = method if method in METHODS[PRESETS[preset].problem] else None
        config = get_preset(preset, typing.cast(Method | None, known))
    texts = explanations(TrainingSettings, ExperimentConfig)
    return option_groups(GROUPS, typing.get_type_hints(ExperimentConfig), texts, dataclasses.asdict(config))


def train(
    preset: Positional[str | None] = None,
    *,
    method: Method | None = None,
    data: Path | None = None,
    device: Device = "cpu",
    output: str | None = None,
    resume: str | None = None,
    start_from: str | None = None,
    json: FlagCreatePairsOff[bool] = False,
    fields: Any,
) -> None:
    """Meta-train on one of the paper's problems. Ctrl-C ends after the present iteration, with a checkpoint.

    The defaults shown are those of the preset that is named: see "supervised train PRESET --help".

    Args:
        preset: the experiment; not needed with --resume.
        method: meta-learner or baseline; by default the preset's.
        data: folder or zip file of the images; by default what SUPERVISED_OMNIGLOT or SUPERVISED_MINIIMAGENET
            names.
        device: where to compute.
        output: run directory, a path or a URI (s3://BUCKET/runs/NAME); by default runs/PRESET-METHOD-DATE-TIME.
        resume: continue the run in this directory, bit for bit as if it had not stopped.
        start_from: begin with the latest model of this run directory, of a network of the same shape but for
            the last layer, which begins at zero for another number of ways. Learned step sizes begin at zero for
            layers that the other run did not adapt.
        json: print the last row of progress.csv as JSON.
    """
    from supervised.experiments.training import TrainingRun

    changes = given(fields)
    run = None
    if resume is not None and start_from is not None:
        raise ConfigError(f"start_from is {start_from}, but the run in {resume} is resumed: it has a model")
    if resume is not None:
        run = RunDirectory.open(resume)
        config, stored_data, preset = resumed_config(run, preset, method, output, changes)
        data = data or stored_data
    else:
        preset, config = new_config(preset, method, changes)
    experiment = Experiment(config, data_folder(config, data))
    initial = None if start_from is None else starting_point(RunDirectory.open(start_from))
    trainer = experiment.trainer(torch_device(device), None if initial is None else initial[0])
    if run is None:
        name = f"{preset}-{config.method}-{time.strftime('%Y%m%d-%H%M%S')}"
        description = describe(experiment, preset)
        if initial is not None:
            description["start_from"] = {"path": start_from, "iteration": initial[1]}
        run = RunDirectory.create(output or f"runs/{name}", description)
    started = time.monotonic()
    validate = experiment.problem.validate
    row = TrainingRun(trainer, validate, config, run, resume=resume is not None)()
    if json:
        print_json({**row, "run": str(run.place)})
        return
    line = f"{run.place}: {time.monotonic() - started:.0f} s"
    if trainer.iteration >= config.iterations:  # an interrupted run has said how to go on
        line += f"; next: {shell_line('supervised', 'evaluate', run.place)}"
    print(line)


def new_config(
    preset: str | None, method: Method | None, changes: Mapping[str, Any]
) -> tuple[str, ExperimentConfig]:
    """A preset that is there, and its configuration with changes.

    Raises:
        ConfigError: there is no such preset, or it has no such method, or a value is out of range.
    """
    if preset is None:
        raise ConfigError(f"preset is missing; it must be one of: {', '.join(PRESETS)}")
    return preset, dataclasses.replace(get_preset(preset, method), **changes)


def data_folder(config: ExperimentConfig, given: Path | None) -> Path | None:
    """The folder of the images that is given, or else what an environment variable names."""
    variable = os.environ.get(f"SUPERVISED_{config.problem.upper()}")
    return given or (Path(variable) if variable else None)


def torch_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ConfigError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch finds no GPU here; allowed here: cpu")
    return torch.device(name)
