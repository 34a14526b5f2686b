"""Learning curves, adaptation curves (paper, Figures 3 and 6) and fitted sinusoids (Figures 2 and 7).

Every function returns a figure; ``tools.pictures.save`` writes it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the backend must be chosen before

from maml_rl.learning.meta_learner import Params
from maml_rl.tools.pictures import banded, color_of
from supervised.data.episodes import Examples, Purpose, stream
from supervised.data.sinusoid import INPUT, SinusoidSampler, draw_sinusoids
from supervised.experiments.config import Method
from supervised.learning.meta_step import Learner, adapted_params, split

FIT_SHOTS = (5, 10)  # paper, Figure 2
FIT_STEPS = (1, 10)
FIT_TASKS = 3


def draw_learning_curve(progress: Sequence[dict[str, float]]) -> Figure:
    """Query loss, or accuracy where there is one, in training and validation."""
    quantity = "loss" if math.isnan(progress[-1]["query_accuracy"]) else "accuracy"
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for column, label in ((f"query_{quantity}", "training"), (f"validation_{quantity}", "validation")):
        points = [(row["iteration"], row[column]) for row in progress if math.isfinite(row[column])]
        axes.plot(*np.array(points).reshape(-1, 2).T, label=label)
    axes.set(xlabel="meta-iteration", ylabel=f"query {quantity} after adaptation")
    axes.legend()
    return figure


def draw_adaptation(rows: Sequence[Mapping[str, Any]], *, regression: bool) -> Figure:
    """A run's evaluation: a curve per row against the number of gradient steps."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for row in rows:
        _curve(axes, row, row["name"])
    axes.set(xlabel="gradient steps", ylabel="mean squared error" if regression else "accuracy, percent")
    axes.legend()
    return figure


def draw_comparison(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """A panel per row name (number of shots), a curve per method.

    Args:
        curves: what ``evaluation.json`` holds, by method.
    """
    names = list(dict.fromkeys(row["name"] for rows in curves.values() for row in rows))
    figure, panels = plt.subplots(
        1, len(names), figsize=(4.5 * len(names), 4), layout="constrained", squeeze=False, sharey=True
    )
    for name, axes in zip(names, panels[0], strict=True):
        for method, rows in curves.items():
            for row in rows:
                if row["name"] == name:
                    _curve(axes, row, method, color_of(method, get_args(Method)))
        axes.set(title=name, xlabel="gradient steps")
    panels[0, 0].set_ylabel("mean ± 95 % interval over test tasks")
    panels[0, -1].legend()
    return figure


def draw_fits(learner: Learner, params: Params, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Test sinusoids and what the model makes of them before and after some gradient steps.

    Args:
        rows: the run's evaluation, for its step sizes.
    """
    step_sizes = {row["name"]: row["step_size"] for row in rows}
    figure, panels = plt.subplots(
        len(FIT_SHOTS), FIT_TASKS, figsize=(4 * FIT_TASKS, 3 * len(FIT_SHOTS)), layout="constrained"
    )
    for shots, line in zip(FIT_SHOTS, panels, strict=True):
        step_size = step_sizes[f"{shots}-shot"]
        tuned = learner if step_size is None else dataclasses.replace(learner, inner_lr=step_size)
        for task, axes in enumerate(line):
            _fit(axes, tuned, params, shots, task)
            axes.set_title(f"{shots}-shot")
    panels[0, 0].legend(fontsize="small")
    return figure


def _fit(axes: Axes, learner: Learner, params: Params, shots: int, task: int) -> None:
    rng = stream(0, Purpose.TEST, task)
    sinusoid = draw_sinusoids(rng, 1)
    inputs = learner.network.init_params(rng)["dense.0.weight"].shape[0]
    sampler = SinusoidSampler(shots, 1, tell_task=inputs == 3)
    x = np.linspace(*INPUT, 200)[None]
    grid = sampler.inputs(sinusoid, x)
    axes.plot(x[0], sinusoid(x)[0], color="red", label="truth")
    support = sampler.episodes(sinusoid, rng).support
    axes.plot(support.inputs[0, :, 0], support.targets[0, :, 0], "^", color="purple", label="support")
    for steps in (0, *FIT_STEPS):
        axes.plot(x[0], _predict(learner, params, support, grid, steps), "--", label=f"{steps} steps")


def _predict(
    learner: Learner, params: Params, support: Examples, grid: torch.Tensor, steps: int
) -> np.ndarray:
    adapted = adapted_params(learner, split(learner, params, 1), support, steps, first_order=True)
    with torch.no_grad():
        return learner.outputs(adapted, grid)[0, :, 0].numpy()


def _curve(axes: Axes, row: Mapping[str, Any], label: str, color: str | None = None) -> None:
    banded(axes, range(len(row["mean"])), row["mean"], row["interval_95"], label=label, color=color)
