"""Pictures of training and adaptation. Every function returns a figure; ``save`` writes it as PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the backend must be chosen before

from maml_rl.tools.intervals import interval_95

Progress = Sequence[Mapping[str, float]]
"""Rows of ``progress.csv``."""


@dataclass(frozen=True)
class Panel:
    """Returns after 0, 1, ... gradient steps, as (mean, 95 % interval or None), by name of the curve."""

    title: str
    curves: Mapping[str, Sequence[tuple[float, float | None]]]
    paper: Mapping[str, Sequence[tuple[float, float | None]]] = field(default_factory=dict)


def learning_curve(progress: Progress, title: str = "") -> Figure:
    """One run: mean return before and after adaptation against meta-iterations."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    iterations = [row["iteration"] for row in progress]
    axes.plot(iterations, [row["return_pre"] for row in progress], label="before adaptation")
    axes.plot(iterations, [row["return_post"] for row in progress], label="after adaptation")
    _label_learning(axes, title)
    return figure


def learning_curves(runs: Mapping[str, Sequence[Progress]], title: str = "") -> Figure:
    """Return after adaptation against meta-iterations: per method the mean over runs and its 95 % interval.

    Where the runs of a method differ in length, the curve ends with the shortest.
    """
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, group in runs.items():
        length = min(map(len, group))
        iterations = [row["iteration"] for row in group[0][:length]]
        returns = np.array([[row["return_post"] for row in progress[:length]] for progress in group])
        mean = returns.mean(axis=0)
        count = len(group)
        (line,) = axes.plot(iterations, mean, label=name if count == 1 else f"{name} ({count} runs)")
        if count > 1:
            width = interval_95(returns.T)
            axes.fill_between(iterations, mean - width, mean + width, alpha=0.2, color=line.get_color())
    _label_learning(axes, title)
    return figure


def _label_learning(axes: Axes, title: str) -> None:
    axes.set(xlabel="iteration", ylabel="mean return of the training tasks", title=title)
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
    colors: dict[str, str] = {}
    for suffix, curves, style in (("", panel.curves, "-"), (" (paper)", panel.paper, "--")):
        for name, curve in curves.items():
            means = [mean for mean, _ in curve]
            widths = [0.0 if width is None or np.isnan(width) else width for _, width in curve]
            if len(curve) == 1:  # a policy that is not adapted: the same after any number of steps
                means, widths = means * steps, widths * steps
            line = axes.errorbar(
                range(len(means)),
                means,
                yerr=widths,
                linestyle=style,
                color=colors.get(name),
                alpha=1 if style == "-" else 0.5,
                capsize=4,
                label=name + suffix,
            )
            colors[name] = line[0].get_color()
    remembers = "; of rl2 episodes before" if "rl2" in panel.curves else ""
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


def side_by_side(widths: tuple[float, float], width: float) -> tuple[Figure, tuple[Axes, Axes]]:
    """A figure of two axes whose widths are in this ratio; ``width`` in inches."""
    figure, axes = plt.subplots(1, 2, figsize=(width, 4), width_ratios=widths, layout="constrained")
    return figure, tuple(axes)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg``, and close the figure."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    plt.close(figure)
    return files
