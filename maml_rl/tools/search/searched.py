"""What a package tells of its runs so that they can be searched, and what a search tells of its trials; no Ray."""

from __future__ import annotations

import csv
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from maml_rl.tools.files import write_atomically
from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.search.space import Dimension
from maml_rl.tools.storage import Place, child

Scheduler = Literal["asha", "pbt", "none"]
Algorithm = Literal["random", "optuna"]

SCORE = "score"
"""What is maximised."""
ERROR = "error"
"""Why a trial failed, in its last result."""

RESULTS = "results.csv"
"""The file with a row per trial, best first."""

Result = dict[str, Any]
"""Of a trial's step: ``iteration``, ``SCORE`` and any other numbers."""


class Training(ABC):
    """The training of one configuration in a run directory, step by step."""

    description: Mapping[str, Any]
    """``config.json``'s content; what was searched is among its ``config``."""

    @abstractmethod
    def begin(self, run: RunDirectory, checkpoint: Path | None, *, same: bool) -> None:
        """Take over a run that is this process's to write.

        Args:
            checkpoint: to go on from at the first step.
            same: refuse a checkpoint of another configuration.
        """

    @abstractmethod
    def kept(self, checkpoint: Path) -> tuple[int, float]:
        """The iteration of a checkpoint, and the score there."""

    @property
    @abstractmethod
    def iteration(self) -> int:
        """Iterations done; 0 before the first step."""

    @abstractmethod
    def step(self) -> Result:
        """Train until there is a further result."""

    @abstractmethod
    def save(self) -> None:
        """Write the run's checkpoint if there is something new."""

    @abstractmethod
    def write_checkpoint(self, path: Path) -> None:
        """For another trial, or for this one after a pause."""

    @abstractmethod
    def load_checkpoint(self, path: Path) -> None:
        """Go on from another trial's parameters, or this one's."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""


class Searched(ABC):
    """A configuration whose fields a search varies.

    Attributes:
        iterations: of a trial that is not stopped.
        seed: of the drawn values.
        fields: the names that may be varied.
        score_name: of the score, in pictures.
    """

    iterations: int
    seed: int
    fields: Sequence[str]
    score_name: str

    @abstractmethod
    def check(self, values: Mapping[str, Any]) -> None:
        """Refuse values that no trial could run with.

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """

    @abstractmethod
    def check_all(self) -> None:
        """Refuse what no trial could run with, whatever the values."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """``config.json``'s content, without the search."""

    @abstractmethod
    def training(self, values: Mapping[str, Any]) -> Training:
        """Of one trial, not begun."""

    @abstractmethod
    def resources(self) -> Any:
        """What a trial reserves, as Ray Tune knows it."""

    @abstractmethod
    def results(self, rows: Sequence[Mapping[str, Any]]) -> list[Result]:
        """What a training with these rows of ``progress.csv`` has reported."""


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

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "place": str(self.place), "values": dict(self.values)}


Show = Callable[[Mapping[int, TrialResult], int | None], None]
"""Is called with the trials by number, and the one that has just ended."""


def trial_place(output: Place, number: int) -> Place:
    """Where a trial's run is."""
    return child(output, trial_name(number))


def trial_name(number: int) -> str:
    """The name of a trial and of its run directory."""
    return f"trial-{number:05d}"


def decoded(drawn: Mapping[str, Any], space: Sequence[Dimension]) -> dict[str, Any]:
    """The searched fields, from what was drawn."""
    return {dimension.name: dimension.decoded(drawn[dimension.name]) for dimension in space}


def save_results(trials: Sequence[TrialResult], space: Sequence[Dimension], folder: Path) -> Path:
    """Write ``results.csv``: a row per trial, best first."""
    names = [dimension.name for dimension in space]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["trial", SCORE, "iteration", *names, "error"])
    for trial in trials:
        values = [trial.values[name] for name in names]
        writer.writerow([trial.number, trial.score, trial.iteration, *values, trial.error])
    path = folder / RESULTS
    write_atomically(path, text.getvalue().encode())
    return path
