"""The 95 % intervals of every table, over tasks and over seeds, and how they are printed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000


def interval_95(values: np.ndarray) -> np.ndarray:
    """Half width of the 95 % confidence interval of the mean over the last axis: 1.96 s / sqrt(n).

    s is the sample's standard deviation (ddof 1). With a single value it is NaN: the spread is not known.
    """
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], np.nan)
    return 1.96 * values.std(axis=-1, ddof=1) / np.sqrt(n)


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all values (Agarwal et al. 2021, arXiv 2108.13264, "IQM")."""
    from scipy.stats import trim_mean  # slow to import, and only tables need it

    return float(trim_mean(scores, proportiontocut=0.25, axis=None))


def bootstrap_interval(
    scores: np.ndarray, statistic: Callable[[np.ndarray], float] = interquartile_mean, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic over runs, by the stratified bootstrap of Agarwal et al. 2021.

    Each task is a stratum: its values are drawn with replacement from its runs, apart from other tasks'.

    Args:
        scores: ``[runs, tasks]``; with a single run the spread over runs is not known, and the ends are NaN.
    """
    runs, tasks = scores.shape
    if runs < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    values = [
        statistic(scores[rng.integers(runs, size=(runs, tasks)), np.arange(tasks)]) for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def mean(scores: np.ndarray) -> float:
    """Of all values."""
    return float(scores.mean())


def with_bootstrap(scores: np.ndarray, statistic: Callable[[np.ndarray], float], digits: int) -> str:
    """A statistic over runs, ``[runs, tasks]``, and the ends of its interval."""
    low, high = bootstrap_interval(scores, statistic)
    return f"{statistic(scores):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def with_interval(mean: float, interval: float | None, digits: int) -> str:
    """Mean and, where there is one, half width of its interval."""
    return f"{mean:.{digits}f}" + ("" if interval is None else f" ± {interval:.{digits}f}")
