"""Ray Tune, and what it is told."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator

from maml_rl.tools.checks import COUNT, checked, one_of
from maml_rl.tools.run_directory import RunDirectory, RunError, RunFailedError
from maml_rl.tools.search.searched import (
    ERROR,
    SCORE,
    Algorithm,
    Scheduler,
    Searched,
    Show,
    TrialResult,
    decoded,
    trial_name,
    trial_place,
)
from maml_rl.tools.search.space import FORMS, Dimension, parse_space
from maml_rl.tools.search.trial import Shared, Trial
from maml_rl.tools.storage import Place, child

REDUCTION = 3
"""ASHA keeps one trial in three at each of its rungs."""
MAX_DEATHS = 2
"""A trial goes on in another process after so many deaths of its own."""
ROUNDS = 5
"""PBT exchanges parameters this many times in a full run."""


@dataclass
class Search:
    """What is searched, and how."""

    searched: Searched
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
                    self.searched.check({dimension.name: value})
                except ValueError as error:
                    raise ValueError(f"space: {dimension}: {error}") from error
        self.searched.check_all()

    def description(self) -> dict[str, Any]:
        """``config.json``'s content."""
        return {
            **self.searched.description(),
            "space": [str(dimension) for dimension in self.space],
            "samples": self.samples,
            "scheduler": self.scheduler,
            "algorithm": self.algorithm,
        }

    @classmethod
    def stored(cls, folder: RunDirectory, searched: Searched) -> Self:
        """The search in a folder that ``check_goes_on`` has seen."""
        stored = folder.description()
        space = parse_space(stored["space"], searched.fields)
        return cls(searched, space, stored["samples"], stored["scheduler"], stored["algorithm"])


def new_search(
    searched: Searched,
    space: Sequence[str],
    samples: int | None,
    scheduler: Scheduler | None,
    algorithm: Algorithm | None,
) -> Search:
    """From options of a command line; None is what is usual."""
    return Search(
        searched,
        parse_space(space, searched.fields),
        16 if samples is None else samples,
        scheduler or "asha",
        algorithm or "random",
    )


def check_goes_on(folder: RunDirectory, told: Mapping[str, Any]) -> None:
    """Refuse the folder of a run, and to be told again what a search keeps when it is gone on with.

    Args:
        told: by the command line; what it was not told is None or empty.

    Raises:
        RunError: saying what was told, or what the folder's description lacks.
    """
    for name, value in told.items():
        if value not in (None, ()):
            raise RunError(
                f"{name} is {value!r}, but the search in {folder.place} is gone on with as it was begun"
            )
    stored, file = folder.description(), folder.shown("config.json")
    missing = {"space", "samples", "scheduler", "algorithm"} - stored.keys()
    if missing:
        raise RunError(f"{file} lacks {min(missing)}: it is not of a search")
    if not isinstance(stored["space"], list) or not all(isinstance(text, str) for text in stored["space"]):
        raise RunError(f"{file}: space must be a list of NAME={FORMS}")


def run_search(search: Search, output: RunDirectory, show: Show) -> list[TrialResult]:
    """Search, or go on with the search in ``output``; every trial that was begun, best first.

    Ctrl-C ends it; trials keep a checkpoint.

    Raises:
        RunFailedError: every trial failed.
    """
    place = output.place if isinstance(output.place, str) else output.place.absolute()
    watch, numbers = _Watch(place, search.space, show), itertools.count()
    shared = Shared(search.searched, search.space, search.scheduler == "pbt", place)
    trainable = tune.with_resources(tune.with_parameters(Trial, shared=shared), search.searched.resources())
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
                stop={"iteration": search.searched.iterations},
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run has its own
                # Errors are results: what fails here is a process or a node, and a run goes on from its checkpoint.
                failure_config=tune.FailureConfig(max_failures=MAX_DEATHS),
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
    iterations = search.searched.iterations
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
    seed = search.searched.seed
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
            stored = RunDirectory.open(trial_place(place, number)).description()["config"]
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
        error = f"it was begun {1 + MAX_DEATHS} times, and failed each time"
        if told := trial.error_file:  # tracebacks, of which the last line says what it is
            lines = Path(told).read_text().strip().splitlines()
            error += f"; the last: {lines[-1].partition('. ')[0].strip()}"
        self._note(trial, ended=True, finished=True, score=-math.inf, error=error)
