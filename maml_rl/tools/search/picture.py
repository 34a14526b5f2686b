"""The picture of a search: parallel coordinates, and the learning curves of its trials."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from maml_rl.tools.pictures import save, side_by_side
from maml_rl.tools.run_directory import RunDirectory, RunError
from maml_rl.tools.search.searched import SCORE, Searched, TrialResult
from maml_rl.tools.search.space import Dimension


def draw_search(
    trials: Sequence[TrialResult], searched: Searched, space: Sequence[Dimension], folder: Path
) -> list[Path]:
    """Write ``search.png``, ``.svg`` and ``.pdf`` into ``folder``."""
    curves = [learning_curve(trial, searched) for trial in trials]
    return save(search_figure(trials, curves, space, searched.score_name), folder / "search")


def learning_curve(trial: TrialResult, searched: Searched) -> tuple[list[float], list[float]]:
    """Iterations, and the score at each: none of a trial without rows."""
    results = []
    with contextlib.suppress(RunError):
        results = searched.results(RunDirectory.open(trial.place).progress())
    return [result["iteration"] for result in results], [result[SCORE] for result in results]


def search_figure(
    trials: Sequence[TrialResult],
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
    space: Sequence[Dimension],
    score_name: str,
) -> Figure:
    """A line per trial through its values to its score, and its learning curve; none without a finite score."""
    kept = [(t, curve) for t, curve in zip(trials, curves, strict=True) if math.isfinite(t.score)]
    kept.sort(key=lambda pair: pair[0].score)  # the best is drawn last, above all others
    scores = [trial.score for trial, _ in kept] or [0.0]
    norm = Normalize(min(scores), max(scores) if max(scores) > min(scores) else min(scores) + 1)
    figure, (left, right) = side_by_side((1 + len(space), 3), width=6 + 1.2 * len(space))
    for trial, (iterations, curve) in kept:
        color = mpl.colormaps["viridis"](norm(trial.score))
        heights = [*(_height(d, trial.values[d.name]) for d in space), norm(trial.score)]
        left.plot(range(len(heights)), heights, color=color)
        right.plot(iterations, curve, color=color, linewidth=1)
    _label_axes(left, space, norm)
    right.set(xlabel="iteration", ylabel=score_name)
    return figure


def _height(dimension: Dimension, value: Any) -> float:
    """Where a value is between the ends of its axis, as 0 to 1."""
    if dimension.kind == "choice":
        return dimension.values.index(value) / max(1, len(dimension.values) - 1)
    low, high = dimension.values
    if dimension.kind == "loguniform":
        low, high, value = map(math.log, (low, high, value))
    return float((value - low) / (high - low))


def _label_axes(axes: Axes, space: Sequence[Dimension], norm: Normalize) -> None:
    ends = [(f"{d.values[0]}", f"{d.values[-1]}") for d in space]
    ends.append((f"{norm.vmin:.2f}", f"{norm.vmax:.2f}"))
    for position, (low, high) in enumerate(ends):
        axes.axvline(position, color="0.7", linewidth=1, zorder=0)
        for height, text, offset, side in ((0, low, -4, "top"), (1, high, 4, "bottom")):
            axes.annotate(
                text,
                (position, height),
                (0, offset),
                textcoords="offset points",
                ha="center",
                va=side,
                fontsize="small",
            )
    names = [d.name + (" (log)" if d.kind == "loguniform" else "") for d in space]
    axes.set_xticks(range(len(space) + 1), [*names, "score"], rotation=20, ha="right")
    axes.tick_params(axis="x", pad=14)
    axes.set(yticks=[], ylim=(-0.1, 1.1))
    for spine in axes.spines.values():
        spine.set_visible(False)
