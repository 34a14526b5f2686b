"""What a run directory holds: its experiment, its models, its evaluation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from maml_rl.learning.meta_learner import Params
from maml_rl.tools.command_line import shell_line
from maml_rl.tools.run_directory import RunDirectory
from supervised.experiments.config import ExperimentConfig
from supervised.experiments.experiment import Experiment
from supervised.learning.settings import ConfigError
from supervised.learning.trainer import StartingPoint
from supervised.models.model_file import MODEL, load


def stored_experiment(run: RunDirectory, data: Path | None) -> Experiment:
    """The experiment of a run directory."""
    stored = run.description()
    config = ExperimentConfig.from_dict(stored["config"])
    return Experiment(config, data or (Path(stored["data"]) if stored["data"] else None))


def load_model(run: RunDirectory, which: Literal["best", "latest"]) -> tuple[Params, dict[str, Any]]:
    """Meta-parameters, and with them their iteration."""
    file = load(run.path / MODEL if which == "best" else run.checkpoint)
    return file.params, file.info


def starting_point(run: RunDirectory) -> tuple[StartingPoint, int]:
    """The latest model of a run, and its iteration."""
    params, info = load_model(run, "latest")
    learner = stored_experiment(run, None).few_shot_learner
    return StartingPoint(params, learner.network.adapted), info["iteration"]


def stored_evaluations(runs: Sequence[str]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Description and evaluation of each run."""
    if not runs:
        raise ConfigError("runs is empty; name at least one run directory")
    result = []
    for place in runs:
        run = RunDirectory.open(place)
        rows = run.path / "evaluation.json"
        if not rows.exists():
            raise ConfigError(f"{place} is not evaluated; run: {shell_line('supervised', 'evaluate', place)}")
        result.append((run.description(), json.loads(rows.read_text())))
    return result


def resumed_config(
    run: RunDirectory, preset: str | None, method: str | None, output: str | None, given: dict[str, Any]
) -> tuple[ExperimentConfig, Path | None, str]:
    """A stored configuration, with a new number of iterations if one is given; all else must agree."""
    if output is not None:
        raise ConfigError(f"output is {output}, but a resumed run stays in its directory {run.place}")
    experiment = stored_experiment(run, None)
    stored = run.description()["preset"]
    if preset not in (None, stored):
        raise ConfigError(f"preset is {preset!r}, but {run.place} holds a run of {stored!r}")
    values = dataclasses.asdict(experiment.config)
    for name, value in {**given, **({"method": method} if method else {})}.items():
        if name != "iterations" and value != values[name]:
            raise ConfigError(
                f"{name} is {value!r}, but the run in {run.place} was started with {values[name]!r}: "
                "a resumed run keeps its configuration"
            )
    iterations = given.get("iterations", experiment.config.iterations)
    if experiment.config.meta_lr_decay and iterations != experiment.config.iterations:
        raise ConfigError(
            f"iterations is {iterations}, but the step size of this run decays over "
            f"{experiment.config.iterations} iterations"
        )
    return dataclasses.replace(experiment.config, iterations=iterations), experiment.data, stored
