"""Search over fields of a configuration with Ray Tune."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from typing import Any

import torch
from rich.console import Console

from maml_rl.tools.checks import COUNT, checked
from supervised.experiments.config import ExperimentConfig
from supervised.experiments.experiment import Experiment
from supervised.experiments.training import TrainingRun
from supervised.learning.settings import ConfigError

Space = dict[str, tuple[float, float] | list[Any]]
"""Per field a log-uniform range or a list to choose from."""


def search_space(config: ExperimentConfig, texts: tuple[str, ...]) -> Space:
    """From ``FIELD=LOW..HIGH`` and ``FIELD=A,B,C``.

    Raises:
        ConfigError: an unknown field, or values that do not fit it.
    """
    space: Space = {}
    names = [field.name for field in dataclasses.fields(config)]
    for text in texts:
        name, _, values = text.partition("=")
        if name not in names:
            raise ConfigError(f"search names the field {name!r}; it must be one of: {', '.join(names)}")
        if ".." in values:
            try:
                low, high = map(float, values.split(".."))
            except ValueError:
                low = high = math.nan
            if not 0 < low < high:
                raise ConfigError(f"{name} is {values!r}; a range must be LOW..HIGH with 0 < LOW < HIGH")
            space[name] = (low, high)
        else:
            space[name] = [_value(part) for part in values.split(",")]
        for value in space[name]:
            changes: dict[str, Any] = {name: value}
            dataclasses.replace(config, **changes)  # refuses what no trial could run with
    if not space:
        raise ConfigError("search is empty; name at least one FIELD=LOW..HIGH or FIELD=A,B,C")
    return space


def run_trial(experiment: Experiment, values: dict[str, Any]) -> float:
    """The best validation score (accuracy, or minus the loss) of one configuration; -inf if it diverged."""
    config = dataclasses.replace(experiment.config, **values)
    trial = Experiment(config, experiment.data)
    run = TrainingRun(
        trial.trainer(torch.device("cpu")), trial.problem.validate, config, console=Console(quiet=True)
    )
    try:
        run()
    except ArithmeticError:
        return -math.inf
    return run.best_score


def tune_config(experiment: Experiment, space: Space, samples: int) -> list[dict[str, Any]]:
    """Train ``samples`` configurations drawn from ``space``; score and searched values of each, best first.

    A trial that failed has the score -inf and its error's last line.

    Ray runs as many at once as the machine has cores. The draw is a function of the configuration's seed.
    """
    samples = checked("samples", samples, COUNT, ConfigError)
    from ray import tune

    from maml_rl.tools.ray_start import start_ray

    start_ray(None)
    parameters = {
        name: tune.loguniform(*values) if isinstance(values, tuple) else tune.choice(values)
        for name, values in space.items()
    }
    search = tune.search.BasicVariantGenerator(random_state=experiment.config.seed)
    tuner = tune.Tuner(
        lambda values: {"score": run_trial(experiment, values)},
        param_space=parameters,
        tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=samples, search_alg=search),
        run_config=tune.RunConfig(verbose=0),
    )
    trials = []
    # Standard output is for the result: Ray's account of the search goes elsewhere.
    with contextlib.redirect_stdout(sys.stderr):
        results = tuner.fit()
    for result in results:
        trial = {"score": -math.inf, "config": result.config, "error": None}
        if result.error is None:
            trial["score"] = result.metrics["score"]
        else:
            trial["error"] = str(result.error).strip().splitlines()[-1]
        trials.append(trial)
    if all(trial["error"] for trial in trials):
        raise RuntimeError(f"every trial failed; the first: {trials[0]['error']}")
    return sorted(trials, key=lambda trial: -trial["score"])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
