"""The final measurement: loss or accuracy on test tasks after 0 .. k gradient steps, with 95 % intervals."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maml_rl.learning.meta_learner import Params
from maml_rl.tools.checks import COUNT, COUNT_OR_ZERO, SEED, checked
from maml_rl.tools.files import strict_json, write_atomically
from maml_rl.tools.intervals import interval_95, with_interval
from supervised.data.episodes import Episodes, Purpose, Sampler, stream
from supervised.experiments.config import MULTI_TASK
from supervised.experiments.experiment import Experiment
from supervised.experiments.sizes import check_sizes
from supervised.learning.classifier import nearest_neighbour, with_new_head
from supervised.learning.meta_step import Learner, Measurement, adaptation_curve
from supervised.learning.problem import chunk_size

SINUSOID_SHOTS = (5, 10, 20)  # paper, Figure 6
STEP_SIZES = (0.0003, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4)
"""Candidates for methods whose step size is tuned on validation tasks."""


@dataclass(frozen=True)
class Row:
    """One measured curve.

    Attributes:
        name: of the row of a table.
        values: of each task after each number of gradient steps ``[steps + 1, tasks]``: squared error, or
            accuracy in percent.
        step_size: alpha, or None where there is none or it is learned.
    """

    name: str
    values: np.ndarray
    step_size: float | None = None

    @property
    def mean(self) -> list[float]:
        """Mean over tasks after each step."""
        return self.values.mean(1).tolist()

    @property
    def interval(self) -> list[float | None]:
        """Half width of the 95 % confidence interval over tasks; None for one task."""
        return [None if math.isnan(width) else width for width in interval_95(self.values).tolist()]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "mean": self.mean,
            "interval_95": self.interval,
            "step_size": self.step_size,
            "tasks": self.values.shape[1],
        }


def evaluate(
    experiment: Experiment,
    params: Params,
    *,
    steps: int,
    episodes: int,
    seed: int,
    shots: Sequence[int] = SINUSOID_SHOTS,
    on_progress: Callable[[str, int, int], None] = lambda row, done, total: None,
) -> list[Row]:
    """Every row that the paper reports for the experiment's method.

    Args:
        shots: of sinusoids; of images the experiment's count.
        on_progress: called with the name of a row or of a step size that is tried, the tasks done, and all.

    Raises:
        ValueError: no episodes, a negative number of steps, or more than fits into the memory.
    """
    episodes, steps = checked("episodes", episodes, COUNT), checked("steps", steps, COUNT_OR_ZERO)
    seed = checked("seed", seed, SEED)
    check_sizes(dataclasses.replace(experiment.config, test_episodes=episodes), experiment.inputs)
    measure = _Measure(experiment, params, steps, episodes, seed, on_progress)
    if experiment.config.problem == "sinusoid":
        return [measure.sinusoids(count) for count in shots]
    if experiment.config.method == "classifier":
        return [measure.fine_tuning(), measure.nearest_neighbour()]
    return [measure.images()]


@dataclass(frozen=True)
class _Measure:
    experiment: Experiment
    params: Params
    steps: int
    episodes: int
    seed: int
    on_progress: Callable[[str, int, int], None]

    def sinusoids(self, shots: int) -> Row:
        name, method = f"{shots}-shot", self.experiment.config.method
        sampler, learner = self.experiment.sampler(shots=shots), self.experiment.learner
        if method in ("pretrained", *MULTI_TASK):
            learner = self._tuned(learner, self.params, sampler)
        steps = 0 if method == "oracle" else self.steps
        curve = self._curve(name, learner, self.params, self._draw(sampler), steps)
        values = curve.losses.cpu().numpy()
        if method == "oracle":  # told the task, it has nothing to adapt to: a flat line
            values = values.repeat(self.steps + 1, axis=0)
        return Row(name, values, None if method == "oracle" else _step_size(learner))

    def images(self) -> Row:
        experiment = self.experiment
        episodes = self._draw(experiment.test_sampler)
        curve = self._curve(experiment.config.method, experiment.learner, self.params, episodes, self.steps)
        return Row(experiment.config.method, _percent(curve), _step_size(experiment.learner))

    def fine_tuning(self) -> Row:
        learner = self.experiment.few_shot_learner
        params = with_new_head(learner, self.params)
        learner = self._tuned(learner, params, self.experiment.validation_sampler)
        episodes = self._draw(self.experiment.test_sampler)
        curve = self._curve("fine-tuning", learner, params, episodes, self.steps)
        return Row("fine-tuning", _percent(curve), learner.inner_lr)

    def nearest_neighbour(self) -> Row:
        self.on_progress("nearest neighbour", 0, self.episodes)
        config = self.experiment.config
        result = nearest_neighbour(
            self.experiment.learner,
            self.params,
            self._draw(self.experiment.test_sampler),
            chunk_size(config),
        )
        curve = Measurement(result.losses.expand(self.steps + 1, -1), result.accuracies)
        return Row("nearest neighbour", np.broadcast_to(_percent(curve), curve.losses.shape))

    def _draw(self, sampler: Sampler, purpose: Purpose = Purpose.TEST, tasks: int | None = None) -> Episodes:
        device = next(iter(self.params.values())).device
        return sampler(stream(self.seed, purpose), tasks or self.episodes).to(device)

    def _curve(
        self, name: str, learner: Learner, params: Params, episodes: Episodes, steps: int
    ) -> Measurement:
        def show(done: int) -> None:
            self.on_progress(name, done, episodes.tasks)

        show(0)
        return adaptation_curve(learner, params, episodes, steps, chunk_size(self.experiment.config), show)

    def _tuned(self, learner: Learner, params: Params, sampler: Sampler) -> Learner:
        """With the step size of the lowest loss on tuning tasks, averaged over the gradient steps."""
        tasks = self.experiment.config.validation_episodes
        episodes = self._draw(sampler, Purpose.TUNING, tasks)

        def loss(step_size: float) -> float:
            candidate = dataclasses.replace(learner, inner_lr=step_size)
            name = f"step size {step_size:g}"
            mean = self._curve(name, candidate, params, episodes, max(self.steps, 1)).losses[1:].mean()
            return float(mean) if torch.isfinite(mean) else math.inf

        return dataclasses.replace(learner, inner_lr=min(STEP_SIZES, key=loss))


def _percent(curve: Measurement) -> np.ndarray:
    assert curve.accuracies is not None
    return 100 * curve.accuracies.cpu().numpy()


def _step_size(learner: Learner) -> float | None:
    return learner.inner_lr if learner.learn_inner_lr == "no" else None


def save_rows(rows: list[Row], folder: Path, name: str = "evaluation") -> None:
    """Write ``evaluation.csv`` (a line per row and number of steps) and ``evaluation.json``."""
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "gradient_steps", "mean", "interval_95", "step_size", "tasks"])
        for row in rows:
            for step, (mean, interval) in enumerate(zip(row.mean, row.interval, strict=True)):
                writer.writerow([row.name, step, mean, interval, row.step_size, row.values.shape[1]])
    content = [row.as_dict() for row in rows]
    write_atomically(folder / f"{name}.json", (strict_json(content) + "\n").encode())


def markdown_table(rows: list[Row], digits: int) -> str:
    """A line per row, a column per number of gradient steps."""
    steps = range(len(rows[0].values))
    lines = ["| after gradient steps | " + " | ".join(map(str, steps)) + " | step size |"]
    lines.append("|---" * (len(steps) + 2) + "|")
    for row in rows:
        cells = [
            with_interval(mean, width, digits) for mean, width in zip(row.mean, row.interval, strict=True)
        ]
        step_size = "-" if row.step_size is None else f"{row.step_size:g}"
        lines.append(f"| {row.name} | " + " | ".join(cells) + f" | {step_size} |")
    return "\n".join(lines)
