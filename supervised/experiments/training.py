"""A training run: progress, validation, checkpoints, interruption, exact resume."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from maml_rl.learning.meta_learner import Params
from maml_rl.tools.command_line import shell_line
from maml_rl.tools.event_log import EventLog
from maml_rl.tools.interruption import interruptible
from maml_rl.tools.memory import keep_freed_memory
from maml_rl.tools.progress import progress_display
from maml_rl.tools.run_directory import CHECKPOINT, RunDirectory, RunError, RunFailedError
from supervised.learning.problem import Validate
from supervised.learning.settings import TrainingSettings
from supervised.learning.trainer import StepReport, Trainer
from supervised.models.model_file import MODEL, load, save


@dataclass
class TrainingRun:
    """One run of a trainer for ``settings.iterations`` iterations.

    Attributes:
        validate: measures meta-parameters on held-out tasks.
        run: where progress, checkpoints and the best model go; None keeps the best model in memory only.
        resume: continue from ``run``'s latest checkpoint.
    """

    trainer: Trainer
    validate: Validate
    settings: TrainingSettings
    run: RunDirectory | None = None
    resume: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True))
    best_params: Params = field(default_factory=dict, init=False)
    best_score: float = field(default=-math.inf, init=False)
    _window: list[list[float]] = field(default_factory=list, init=False)
    _saved: int = field(default=0, init=False)
    _events: EventLog | None = field(default=None, init=False)

    def __call__(self) -> dict[str, float]:
        """Train; returns the last row of ``progress.csv``.

        An interrupt (Ctrl-C or SIGTERM) ends the run after the present iteration, with a checkpoint.

        Raises:
            NonFiniteLossError: the checkpoint of the last good iteration has been written.
        """
        keep_freed_memory()
        with ExitStack() as stack:
            if self.run is not None:
                stack.enter_context(self.run.stored())
                stack.enter_context(self.run.writing())
            if self.resume:
                assert self.run is not None, "only a run on disk can be resumed"
                self.restore(self.run.checkpoint, same=True)
            interrupted = stack.enter_context(interruptible())
            show = stack.enter_context(
                progress_display(
                    self.console, self.settings.iterations, self.trainer.iteration, progress_line
                )
            )
            try:
                return self._loop(interrupted, show)
            except OSError as error:
                if error.filename is None:
                    raise
                raise RunFailedError(f"{error.filename} cannot be written: {error.strerror}") from error

    def _loop(self, interrupted: threading.Event, show: Any) -> dict[str, float]:
        row: dict[str, float] = {}
        self._saved, settings = self.trainer.iteration, self.settings
        try:
            while self.trainer.iteration < settings.iterations and not interrupted.is_set():
                if ended := self.iterate():
                    row = ended
                    show(row)
        except Exception as error:
            # The failed iteration changed nothing: keep those before it, unless it is the disk that failed.
            if not isinstance(error, OSError):
                self.save()
            raise
        finally:
            self.close()
        # Here and not in the loop: an interrupt may arrive anywhere in it.
        self.save()
        if self.trainer.iteration < settings.iterations:
            self._say_interrupted()
        return row

    def iterate(self) -> dict[str, float] | None:
        """One iteration; the row of ``progress.csv`` that it ended, if it did."""
        settings = self.settings
        self._window.append(list(self.trainer.step()))
        iteration = self.trainer.iteration
        last = iteration == settings.iterations
        if iteration % settings.report_every and not last:
            return None
        row = self._row()
        validates = iteration % settings.validate_every == 0 or last
        is_best = validates and self._validate(row)
        self._record(row)
        if is_best and self.run:
            save(self.run.path / MODEL, self.trainer.params, {"iteration": iteration})
        if validates:
            self.save()
        return row

    def save(self) -> None:
        """Write the checkpoint, unless it is there already."""
        if self.run is not None and self.trainer.iteration > self._saved:
            self.write_checkpoint(self.run.path / CHECKPOINT)
            self.run.store()
        self._saved = self.trainer.iteration

    def close(self) -> None:
        """Finish the event file."""
        if self._events is not None:
            self._events.close()

    def _row(self) -> dict[str, float]:
        """Means over the iterations since the last row, which is thereby closed."""
        means = dict(zip(StepReport._fields, np.mean(self._window, axis=0).tolist(), strict=True))
        self._window.clear()
        validation = {"validation_loss": math.nan, "validation_accuracy": math.nan}
        return {"iteration": self.trainer.iteration, **means, **validation}

    def _validate(self, row: dict[str, float]) -> bool:
        """Fill in the validation's results; whether this is the best model so far."""
        measured = self.validate(self.trainer.params)
        row["validation_loss"] = float(measured.losses.mean())
        if measured.accuracies is not None:
            row["validation_accuracy"] = float(measured.accuracies.mean())
        score = validation_score(row)
        if not score > self.best_score:
            return False
        self.best_score = score
        self.best_params = {name: value.clone() for name, value in self.trainer.params.items()}
        return True

    def _record(self, row: dict[str, float]) -> None:
        if self.run is None:
            return
        self.run.append_progress(row)
        if self._events is None:
            self._events = EventLog(self.run.path, "supervised", self._saved + 1)
        self._events.append(row, int(row["iteration"]))

    def write_checkpoint(self, path: Path) -> None:
        """All that later iterations depend on."""
        info = {
            "iteration": self.trainer.iteration,
            "best_score": self.best_score if math.isfinite(self.best_score) else None,
            "window": [[x if math.isfinite(x) else None for x in report] for report in self._window],
            "settings": _as_json(self.settings),
        }
        save(path, self.trainer.params, info, self.trainer.state())

    def restore(self, path: Path, *, same: bool) -> None:
        """Go on from a checkpoint; ``progress.csv`` ends where it was written.

        Args:
            same: refuse a checkpoint of another configuration.

        Raises:
            RunError: so, or it does not fit.
        """
        assert self.run is not None, "only a run on disk can be resumed"
        checkpoint = load(path)
        try:
            info = checkpoint.info
            if same:
                _check_same(self.run.shown("config.json"), self.settings, info["settings"])
            self.trainer.load(checkpoint.params, checkpoint.state, info["iteration"])
            self.best_score = -math.inf if info["best_score"] is None else info["best_score"]
            self._window = [[math.nan if x is None else x for x in report] for report in info["window"]]
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"checkpoint {path} does not fit this run: {error}") from error
        if damage := self.run.repair_progress(self.trainer.iteration):
            self.console.print(f"warning: {damage}; it goes on from here", soft_wrap=True, highlight=False)
        self._saved = self.trainer.iteration
        if (self.run.path / MODEL).exists():
            self.best_params = load(self.run.path / MODEL).params

    def _say_interrupted(self) -> None:
        hint = ""
        if self.run:
            hint = f"; continue with: {shell_line('supervised', 'train', '--resume', self.run.place)}"
        self.console.print(
            f"interrupted after iteration {self.trainer.iteration} of {self.settings.iterations}{hint}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )


def _as_json(settings: TrainingSettings) -> dict[str, Any]:
    """All that the result depends on but the length of the run, as JSON holds it."""
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    del fields["iterations"]
    return fields


def _check_same(file: str, settings: TrainingSettings, trained: Mapping[str, Any]) -> None:
    """Refuse a configuration that is not the checkpoint's: results would be of neither."""
    for name, value in _as_json(settings).items():
        if name not in trained or trained[name] != value:
            raise RunError(
                f"{name} is {value!r} in {file}, but the checkpoint there was trained with "
                f"{trained.get(name)!r}: a resumed run keeps its configuration"
            )


def validation_score(row: Mapping[str, float]) -> float:
    """By which the best model is chosen: the accuracy, or minus the loss where there is none; NaN unmeasured."""
    accuracy = row["validation_accuracy"]
    return -row["validation_loss"] if math.isnan(accuracy) else accuracy


def progress_line(row: dict[str, float]) -> str:
    """Query loss and accuracy in training, the same on the validation tasks, milliseconds per iteration."""
    parts = [f"query loss {row['query_loss']:.3f}"]
    if not math.isnan(row["query_accuracy"]):
        parts.append(f"accuracy {row['query_accuracy']:.3f}")
    if not math.isnan(row["validation_loss"]):
        parts.append(f"validation loss {row['validation_loss']:.3f}")
    if not math.isnan(row["validation_accuracy"]):
        parts.append(f"accuracy {row['validation_accuracy']:.3f}")
    return ", ".join(parts) + f", {1000 * row['seconds']:.1f} ms"
