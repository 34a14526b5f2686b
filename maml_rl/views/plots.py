"""Pictures of training and adaptation. Every function returns a figure; ``tools.pictures.save`` writes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the backend must be chosen before

from maml_rl.experiments.methods import METHODS
from maml_rl.tools.intervals import interval_95
from maml_rl.tools.pictures import banded, color_of

Progress = Sequence[Mapping[str, float]]
"""Rows of ``progress.csv``."""
Against = Literal["iteration", "env_steps"]
"""What learning curves are drawn against."""
Measure = Literal["return", "success_rate"]
"""What they show."""
_PAPERS = "--"
_LINE_STYLES: tuple[Any, ...] = ("-", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
"""Of several curves of one method."""


@dataclass(frozen=True)
class Panel:
    """Returns after 0, 1, ... gradient steps, as (mean, 95 % interval or None), by name of the curve."""

    title: str
    curves: Mapping[str, Sequence[tuple[float, float | None]]]
    paper: Mapping[str, Sequence[tuple[float, float | None]]] = field(default_factory=dict)


def learning_curve(
    progress: Progress, title: str = "", *, against: Against = "iteration", measure: Measure = "return"
) -> Figure:
    """One run: the training tasks' mean before and after adaptation.

    Args:
        against: ``"env_steps"`` are those since the beginning.
    """
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    places = [row[against] for row in progress]
    for phase, label in (("pre", "before adaptation"), ("post", "after adaptation")):
        axes.plot(places, [row[f"{measure}_{phase}"] for row in progress], label=label)
    _label_learning(axes, title, against, measure)
    return figure


def learning_curves(
    runs: Mapping[str, Sequence[Progress]],
    title: str = "",
    *,
    against: Against = "iteration",
    measure: Measure = "return",
) -> Figure:
    """The training tasks' mean after adaptation per method: the mean over runs and its 95 % interval.

    Where the runs of a method differ in length, the curve ends with the shortest.

    Args:
        against: ``"env_steps"`` are those since the beginning.
    """
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    looks = _looks(runs)
    for name, group in runs.items():
        length = min(map(len, group))
        places = [row[against] for row in group[0][:length]]
        values = np.array([[row[f"{measure}_post"] for row in progress[:length]] for progress in group])
        mean = values.mean(axis=0)
        count = len(group)
        label = name if count == 1 else f"{name} ({count} runs)"
        widths = interval_95(values.T) if count > 1 else [None] * length
        banded(axes, places, mean, widths, label=label, **looks[name])
    _label_learning(axes, title, against, measure)
    return figure


def _looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The colour of the method that a name begins with, and a line style where another of that method has it."""
    looks: dict[str, dict[str, Any]] = {}
    methods: list[str] = []
    for name in names:
        method = name.partition(" (")[0]
        style = _LINE_STYLES[methods.count(method) % len(_LINE_STYLES)]
        looks[name] = {"color": color_of(method, METHODS), "linestyle": style}
        methods.append(method)
    return looks


def _label_learning(axes: Axes, title: str, against: Against, measure: Measure) -> None:
    axes.set(
        xlabel={"iteration": "iteration", "env_steps": "environment steps"}[against],
        ylabel={"return": "mean return", "success_rate": "success rate"}[measure] + " of the training tasks",
        title=title,
    )
    if measure == "success_rate":
        axes.set_ylim(0, 1)
    axes.legend()


def adaptation_curves(panels: Sequence[Panel]) -> Figure:
    """Mean return of the test tasks against gradient steps, the paper's values dashed (Figures 4 and 5)."""
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(6 * columns, 4 * rows), layout="constrained", squeeze=False
    )
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    steps = max(len(curve) for curve in [*panel.curves.values(), *panel.paper.values()])
    looks = _looks(panel.curves)
    faint = {name: {**look, "linestyle": _PAPERS, "alpha": 0.5} for name, look in _looks(panel.paper).items()}
    for suffix, curves, styles in (("", panel.curves, looks), (" (paper)", panel.paper, faint)):
        for name, curve in curves.items():
            means = [mean for mean, _ in curve]
            widths = [width for _, width in curve]
            if len(curve) == 1:  # a policy that is not adapted: the same after any number of steps
                means, widths = means * steps, widths * steps
            banded(axes, range(len(means)), means, widths, label=name + suffix, **styles[name])
    remembers = "; of rl2 episodes before" if any(name.startswith("rl2") for name in panel.curves) else ""
    axes.set(xlabel="gradient steps" + remembers, ylabel="mean return of the test tasks", title=panel.title)
    axes.set_xticks(range(steps))
    axes.legend(fontsize="small")


def plane_trajectories(
    paths: Mapping[str, tuple[Sequence[np.ndarray], Sequence[np.ndarray]]], goal: np.ndarray
) -> Figure:
    """Positions in the plane before and after one gradient step, a panel per policy (Figure 4, right).

    Args:
        paths: name -> (episodes before, episodes after), each ``[steps, 2]``.
        goal: ``[2]``.
    """
    figure, grid = plt.subplots(
        1, len(paths), figsize=(4.5 * len(paths), 4.5), layout="constrained", squeeze=False
    )
    for axes, (name, phases) in zip(grid.flat, paths.items(), strict=True):
        for episodes, color, label in zip(phases, ("C1", "C0"), ("before", "after one step"), strict=True):
            for k, path in enumerate(episodes):
                axes.plot(*np.asarray(path).T, color=color, linewidth=1, label=label if k == 0 else None)
        axes.plot(*goal, marker="*", markersize=14, color="C3", linestyle="none", label="goal")
        axes.set(title=name, xlabel="x", ylabel="y", aspect="equal")
        axes.legend(fontsize="small")
    return figure


def success_by_group(rates: Mapping[str, tuple[float, float]], title: str) -> Figure:
    """Success rate before and after adaptation, a pair of bars per group of tasks.

    Args:
        rates: group -> (before, after), from 0 to 1.
    """
    figure, axes = plt.subplots(figsize=(2 + 1.1 * len(rates), 4), layout="constrained")
    places = np.arange(len(rates))
    for shift, color, label, index in ((-0.2, "C1", "before adaptation", 0), (0.2, "C0", "after", 1)):
        axes.bar(
            places + shift, [100 * rate[index] for rate in rates.values()], 0.4, color=color, label=label
        )
    axes.set(ylabel="success, percent", ylim=(0, 100), title=title)
    axes.set_xticks(places, list(rates), rotation=30, ha="right")
    axes.legend(fontsize="small")
    return figure
