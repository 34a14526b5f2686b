"""Learning and adaptation curves as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the backend must be chosen before


def plot_learning_curve(progress: Sequence[dict[str, float]], path: Path) -> None:
    """Mean return before and after adaptation against meta-iterations."""
    iterations = [row["iteration"] for row in progress]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(iterations, [row["return_pre"] for row in progress], label="before adaptation")
    axes.plot(iterations, [row["return_post"] for row in progress], label="after adaptation")
    axes.set(xlabel="meta-iteration", ylabel="mean return of the training tasks")
    axes.legend()
    _save(figure, path)


def plot_adaptation(
    mean: Sequence[float],
    interval: Sequence[float | None],
    path: Path,
    paper: Sequence[tuple[float, float]] = (),
) -> None:
    """Mean return with its 95 % interval against the number of gradient steps; the paper's row if given."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    widths = np.array([np.nan if x is None else x for x in interval])
    axes.errorbar(range(len(mean)), mean, yerr=np.nan_to_num(widths), capsize=4, label="maml_rl")
    if paper:
        means, intervals = zip(*paper, strict=True)
        axes.errorbar(
            range(len(means)), means, yerr=intervals, capsize=4, linestyle="--", label="Finn et al. 2017"
        )
    axes.set(xlabel="gradient steps", ylabel="mean return of the test tasks")
    axes.set_xticks(range(max(len(mean), len(paper))))
    axes.legend()
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=150)
    plt.close(figure)
