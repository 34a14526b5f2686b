"""The 95 % intervals of every table, over tasks and over seeds, and how they are printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

RESAMPLES = 2000
Statistic: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Of the values of runs and tasks, the last two axes; a number for each of any axes before."""


def interval_95(values: np.ndarray) -> np.ndarray:
    """Half width of the 95 % confidence interval of the mean over the last axis: 1.96 s / sqrt(n).

    s is the sample's standard deviation (ddof 1). With a single value it is NaN: the spread is not known.
    """
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], np.nan)
    return 1.96 * values.std(axis=-1, ddof=1) / np.sqrt(n)


def mean(scores: np.ndarray) -> np.ndarray:
    """Of all values ``[..., runs, tasks]``."""
    return _flat(scores).mean(axis=-1)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of the values ``[..., runs, tasks]`` (Agarwal et al. 2021, arXiv 2108.13264: IQM)."""
    from scipy.stats import trim_mean  # slow to import, and only tables need it

    return np.asarray(trim_mean(_flat(scores), proportiontocut=0.25, axis=-1))


def _flat(scores: np.ndarray) -> np.ndarray:
    return scores.reshape(*scores.shape[:-2], -1)


def bootstrap_interval(
    scores: np.ndarray, statistic: Statistic = interquartile_mean, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic over runs, by the stratified bootstrap of Agarwal et al. 2021.

    Each task is a stratum: its values are drawn with replacement from its runs, apart from other tasks'.

    Args:
        scores: ``[runs, tasks]``; with a single run the spread over runs is not known, and the ends are NaN.
    """
    runs, tasks = scores.shape
    if runs < 2:
        return float("nan"), float("nan")
    chosen = np.random.default_rng(seed).integers(runs, size=(RESAMPLES, runs, tasks))
    low, high = np.percentile(statistic(scores[chosen, np.arange(tasks)]), (2.5, 97.5))
    return float(low), float(high)


def with_bootstrap(scores: np.ndarray, statistic: Statistic, digits: int) -> str:
    """A statistic over runs, ``[runs, tasks]``, and the ends of its interval."""
    low, high = bootstrap_interval(scores, statistic)
    return f"{statistic(scores):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def with_interval(mean: float, interval: float | None, digits: int) -> str:
    """Mean and, where there is one, half width of its interval."""
    return f"{mean:.{digits}f}" + ("" if interval is None else f" ± {interval:.{digits}f}")
