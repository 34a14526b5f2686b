"""Figures and their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the backend must be chosen before

Numbers = Sequence[float | None] | np.ndarray
SUFFIXES = (".png", ".svg", ".pdf")
"""A picture for the screen, one that scales, and one that a paper prints."""


def side_by_side(widths: tuple[float, float], width: float) -> tuple[Figure, tuple[Axes, Axes]]:
    """A figure of two axes whose widths are in this ratio; ``width`` in inches."""
    figure, axes = plt.subplots(1, 2, figsize=(width, 4), width_ratios=widths, layout="constrained")
    return figure, tuple(axes)


def color_of(name: str, names: Iterable[str]) -> str | None:
    """The colour that one of several names has in every figure; None of what is not among them."""
    order = list(names)
    return f"C{order.index(name)}" if name in order else None


def banded(axes: Axes, places: Sequence[float], means: Numbers, widths: Numbers, **style: Any) -> Line2D:
    """A line with the interval of ``widths`` on both sides of it shaded; NaN and None where there is none."""
    middle = np.array(means, np.float64)
    half = np.nan_to_num(np.array(widths, np.float64))
    (line,) = axes.plot(places, middle, **style)
    if half.any():
        shade = 0.2 * (line.get_alpha() or 1)
        axes.fill_between(
            places, middle - half, middle + half, alpha=shade, color=line.get_color(), linewidth=0
        )
    return line


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write the figure as a file of each of ``SUFFIXES``, and close it."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    return save_as(figure, *(stem.with_name(stem.name + suffix) for suffix in SUFFIXES))


def save_as(figure: Figure, *files: Path) -> list[Path]:
    """Write the figure into files, whose suffixes say how, and close it."""
    with plt.rc_context({"pdf.fonttype": 42}):  # letters remain letters: journals refuse matplotlib's default
        for file in files:
            figure.savefig(file, dpi=150)
    plt.close(figure)
    return list(files)
