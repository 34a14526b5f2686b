"""A search with Ray Tune in which every trial is a run directory.

::

    config.json          the search: enough to go on with it
    trial-00000/         a run, as `maml-rl train` writes it, of the first configuration
    results.csv          a row per trial, best first
    search.png, .svg     parallel coordinates and learning curves

A search that is gone on with draws the same configurations again, by the same seed. Trials that have rows report
them at once, so that scheduler and search algorithm see what they saw, and then train on from their checkpoints. No
pickle of Ray Tune's is read.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator

from maml_rl.experiments.plan import Plan
from maml_rl.experiments.run import Run
from maml_rl.experiments.training import describe
from maml_rl.experiments.trial import (
    ERROR,
    SCORE,
    Shared,
    Trial,
    decoded,
    trial_config,
    trial_name,
    trial_place,
)
from maml_rl.rllib.maml import MAML
from maml_rl.tools.checks import COUNT, checked, one_of
from maml_rl.tools.files import write_atomically
from maml_rl.tools.run_directory import RunDirectory, RunError, RunFailedError
from maml_rl.tools.search_space import Dimension
from maml_rl.tools.storage import Place, child

Scheduler = Literal["asha", "pbt", "none"]
Algorithm = Literal["random", "optuna"]

REDUCTION = 3
"""ASHA keeps one trial in three at each of its rungs."""
ROUNDS = 5
"""PBT exchanges parameters this many times in a full run."""


@dataclass
class Search:
    """What is searched, and how.

    Attributes:
        plan: the run that every trial is but for the searched fields.
    """

    plan: Plan
    space: Sequence[Dimension]
    samples: int
    scheduler: Scheduler = "asha"
    algorithm: Algorithm = "random"

    def check(self) -> None:
        """Refuse what no trial could run with, before anything starts.

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        checked("samples", self.samples, COUNT)
        checked("scheduler", self.scheduler, one_of(get_args(Scheduler)))
        checked("algorithm", self.algorithm, one_of(get_args(Algorithm)))
        if self.scheduler == "pbt" and self.algorithm != "random":
            raise ValueError(f"algorithm is {self.algorithm!r}, but pbt chooses configurations itself")
        if self.algorithm == "optuna":
            try:
                import optuna  # noqa: F401
            except ImportError as error:
                raise ValueError(
                    "algorithm is 'optuna', which is not installed: pip install optuna"
                ) from error
        for dimension in self.space:
            for value in dimension.values:
                try:
                    trial_config(self.plan.config, {dimension.name: value}).validate()
                except ValueError as error:
                    raise ValueError(f"space: {dimension}: {error}") from error
        self.plan.check().close()

    def description(self) -> dict[str, Any]:
        """``config.json``'s content."""
        plan = self.plan
        run = describe(plan.config, plan.preset, plan.method, plan.iterations, plan.checkpoint_every)
        return {
            **run,
            "space": [str(dimension) for dimension in self.space],
            "samples": self.samples,
            "scheduler": self.scheduler,
            "algorithm": self.algorithm,
        }


@dataclass(frozen=True)
class TrialResult:
    """What became of one trial.

    Attributes:
        score: at its last iteration; -inf if it has none or diverged.
        finished: not interrupted.
        error: why it failed, or nothing.
    """

    number: int
    place: Place
    values: Mapping[str, Any]
    score: float = -math.inf
    iteration: int = 0
    finished: bool = False
    error: str = ""


Show = Callable[[Mapping[int, TrialResult], int | None], None]
"""Is called with the trials by number, and the one that has just ended."""


def run_search(search: Search, output: RunDirectory, show: Show) -> list[TrialResult]:
    """Search, or go on with the search in ``output``; every trial that was begun, best first.

    Ctrl-C ends it; trials keep a checkpoint.

    Raises:
        RunFailedError: every trial failed.
    """
    place = output.place if isinstance(output.place, str) else output.place.absolute()
    watch, numbers = _Watch(place, search.space, show), itertools.count()
    config = search.plan.config
    shared = Shared(search.plan, search.space, search.scheduler == "pbt", place)
    trainable = tune.with_resources(
        tune.with_parameters(Trial, shared=shared), MAML.default_resource_request(config)
    )
    with tempfile.TemporaryDirectory(prefix="maml_rl-") as scratch:
        # Parameters on their way from trial to trial: all nodes must find them.
        exchange = child(place, ".exchange")
        storage = str(exchange) if search.scheduler == "pbt" else scratch
        tuner = tune.Tuner(
            trainable,
            param_space={dimension.name: dimension.domain() for dimension in search.space},
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                num_samples=search.samples,
                scheduler=scheduler_of(search),
                search_alg=_algorithm(search, place),
                # A paused trial's actor would keep its run, which goes on in another.
                reuse_actors=search.scheduler != "pbt",
                trial_name_creator=lambda trial: trial_name(next(numbers)),
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=storage,
                stop={"iteration": search.plan.iterations},
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run has its own
                callbacks=[watch],
            ),
        )
        with _quiet_tune():
            tuner.fit()
        if isinstance(exchange, Path):
            shutil.rmtree(exchange, ignore_errors=True)
    trials = sorted(watch.trials.values(), key=lambda trial: -trial.score)
    if trials and all(trial.error for trial in trials):
        raise RunFailedError(f"every trial failed; the first: {watch.trials[min(watch.trials)].error}")
    return trials


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """What Tune prints, logs and writes of its own would say the same again; afterwards it does as before."""
    logger, variable = logging.getLogger("ray.tune"), "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"
    level, value = logger.level, os.environ.get(variable)
    logger.setLevel(logging.CRITICAL)
    os.environ[variable] = "1"
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    finally:
        logger.setLevel(level)
        del os.environ[variable]
        if value is not None:
            os.environ[variable] = value


def scheduler_of(search: Search) -> Any:
    """Ray Tune's scheduler; None lets all trials run to the end."""
    iterations = search.plan.iterations
    if search.scheduler == "asha":
        grace = max(1, iterations // REDUCTION**2)
        return ASHAScheduler("iteration", max_t=iterations, grace_period=grace, reduction_factor=REDUCTION)
    if search.scheduler == "pbt":
        return PopulationBasedTraining(
            "iteration",
            perturbation_interval=max(1, iterations // ROUNDS),
            hyperparam_mutations={
                d.name: d.choices() if d.kind == "choice" else d.domain() for d in search.space
            },
            custom_explore_fn=partial(_within, space=search.space),
        )
    return None


def _within(values: dict[str, Any], space: Sequence[Dimension]) -> dict[str, Any]:
    """PBT multiplies numbers by 0.8 or 1.2, also beyond their bounds."""
    return values | {dimension.name: dimension.clipped(values[dimension.name]) for dimension in space}


def _algorithm(search: Search, place: Place) -> Any:
    seed = search.plan.config.seed
    if search.algorithm == "random":
        # What a trial has taken over from others no seed draws again.
        known = _known_values(search, place) if search.scheduler == "pbt" else []
        return BasicVariantGenerator(random_state=seed, points_to_evaluate=known or None)
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    known = _known_values(search, place)
    return OptunaSearch(metric=SCORE, mode="max", seed=seed, points_to_evaluate=known or None)


def _known_values(search: Search, place: Place) -> list[dict[str, Any]]:
    """The searched fields of the trials that are there, in order: what is asked for again."""
    known = []
    for number in range(search.samples):
        try:
            stored = Run.open(trial_place(place, number)).description()["config"]
        except RunError:
            break
        known.append({d.name: d.encoded(stored[d.name]) for d in search.space})
    return known


class _Watch(tune.Callback):
    """What is known of each trial."""

    def __init__(self, output: Place, space: Sequence[Dimension], show: Show) -> None:
        self.trials: dict[int, TrialResult] = {}
        self._output, self._space, self._show = output, space, show

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune writes its callbacks to a file that nobody reads, and a display cannot be written."""
        return {}

    def _note(self, trial: Any, *, ended: bool = False, **changes: Any) -> None:
        number = int(str(trial).rpartition("-")[2])
        known = self.trials.get(number) or TrialResult(number, trial_place(self._output, number), {})
        self.trials[number] = replace(known, values=decoded(trial.config, self._space), **changes)
        self._show(self.trials, number if ended else None)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        error = result.get(ERROR, "")
        self._note(trial, score=result[SCORE], iteration=int(result["iteration"]), error=error)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note(trial, ended=True, finished=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note(trial, ended=True, finished=True, score=-math.inf, error="its process or its node died")


def save_results(trials: Sequence[TrialResult], space: Sequence[Dimension], folder: Path) -> Path:
    """Write ``results.csv``: a row per trial, best first."""
    names = [dimension.name for dimension in space]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["trial", SCORE, "iteration", *names, "error"])
    for trial in trials:
        values = [trial.values[name] for name in names]
        writer.writerow([trial.number, trial.score, trial.iteration, *values, trial.error])
    path = folder / "results.csv"
    write_atomically(path, text.getvalue().encode())
    return path
