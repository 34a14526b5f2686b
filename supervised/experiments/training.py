"""A training run: progress, validation, checkpoints, interruption, exact resume."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from tensorboardX import SummaryWriter

from maml_rl.learning.meta_learner import Params
from maml_rl.tools.interruption import interruptible
from maml_rl.tools.memory import keep_freed_memory
from maml_rl.tools.progress import progress_display
from maml_rl.tools.run_directory import RunDirectory, RunError
from supervised.learning.problem import Validate
from supervised.learning.settings import TrainingSettings
from supervised.learning.trainer import StepReport, Trainer
from supervised.models.model_file import load, save

MODEL = "model.safetensors"
STATE = "state.safetensors"


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

    def __call__(self) -> dict[str, float]:
        """Train; returns the last row of ``progress.csv``.

        An interrupt (Ctrl-C or SIGTERM) ends the run after the present iteration, with a checkpoint.

        Raises:
            NonFiniteLossError: the checkpoint of the last good iteration has been written.
        """
        keep_freed_memory()
        if self.resume:
            self._restore()
        with (
            interruptible() as interrupted,
            progress_display(
                self.console, self.settings.iterations, self.trainer.iteration, progress_line
            ) as show,
        ):
            return self._loop(interrupted, show)

    def _loop(self, interrupted: threading.Event, show: Any) -> dict[str, float]:
        row: dict[str, float] = {}
        saved, settings = self.trainer.iteration, self.settings
        writer = SummaryWriter(str(self.run.path), purge_step=saved + 1) if self.run else None
        try:
            while self.trainer.iteration < settings.iterations and not interrupted.is_set():
                self._window.append(list(self.trainer.step()))
                iteration = self.trainer.iteration
                last = iteration == settings.iterations
                if iteration % settings.report_every and not last:
                    continue
                names = []
                row = self._row()
                if iteration % settings.validate_every == 0 or last:
                    names = ["latest", "best"] if self._validate(row) else ["latest"]
                self._record(row, writer)
                if names:
                    self._checkpoint(names)
                    saved = iteration
                show(row)
        except Exception:
            if self.trainer.iteration > saved:  # the failed iteration changed nothing: keep those before it
                self._checkpoint(["latest"])
            raise
        finally:
            if writer:
                writer.close()
        # Here and not in the loop: an interrupt may arrive anywhere in it.
        if self.trainer.iteration > saved:
            self._checkpoint(["latest"])
        if self.trainer.iteration < settings.iterations:
            self._say_interrupted()
        return row

    def _row(self) -> dict[str, float]:
        """Means over the iterations since the last row, which is thereby closed."""
        means = dict(zip(StepReport._fields, np.mean(self._window, axis=0).tolist(), strict=True))
        self._window.clear()
        validation = {"validation_loss": math.nan, "validation_accuracy": math.nan}
        return {"iteration": self.trainer.iteration, **means, **validation}

    def _validate(self, row: dict[str, float]) -> bool:
        """Fill in the validation's results; whether this is the best model so far."""
        measured = self.validate(self.trainer.params)
        row["validation_loss"] = score = float(measured.losses.mean())
        score = -score
        if measured.accuracies is not None:
            row["validation_accuracy"] = score = float(measured.accuracies.mean())
        if not score > self.best_score:
            return False
        self.best_score = score
        self.best_params = {name: value.clone() for name, value in self.trainer.params.items()}
        return True

    def _record(self, row: dict[str, float], writer: SummaryWriter | None) -> None:
        if self.run is None or writer is None:
            return
        self.run.append_progress(row)
        for name, value in row.items():
            if math.isfinite(value):
                writer.add_scalar(f"supervised/{name}", value, int(row["iteration"]))

    def _checkpoint(self, names: list[str]) -> None:
        if self.run is None:
            return
        iteration = self.trainer.iteration
        info = {"iteration": iteration, "best_score": self.best_score, "window": self._window}
        written = self.run.new_checkpoint(iteration)
        save(written / STATE, self.trainer.state(), info)
        save(written / MODEL, self.trainer.params, {"iteration": iteration})
        if "best" in names:
            save(self.run.path / MODEL, self.trainer.params, {"iteration": iteration})
        self.run.publish(written, iteration, names)

    def _restore(self) -> None:
        assert self.run is not None, "only a run on disk can be resumed"
        path = self.run.checkpoint("latest") / STATE
        state, info = load(path)
        try:
            self.trainer.load(state, info["iteration"])
            self.best_score, self._window = info["best_score"], info["window"]
        except (KeyError, ValueError) as error:
            raise RunError(f"checkpoint {path} does not fit this run: {error}") from error
        self.run.truncate_progress(info["iteration"])
        if (self.run.path / MODEL).exists():
            self.best_params, _ = load(self.run.path / MODEL)

    def _say_interrupted(self) -> None:
        hint = f"; continue with: supervised train --resume {self.run.path}" if self.run else ""
        self.console.print(
            f"interrupted after iteration {self.trainer.iteration} of {self.settings.iterations}{hint}",
            soft_wrap=True,
        )


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
