"""The one 95 % interval of every table, and how it is printed."""

from __future__ import annotations

import numpy as np


def interval_95(values: np.ndarray) -> np.ndarray:
    """Half width of the 95 % confidence interval of the mean over the last axis: 1.96 s / sqrt(n).

    s is the sample's standard deviation (ddof 1). With a single value it is NaN: the spread is not known.
    """
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], np.nan)
    return 1.96 * values.std(axis=-1, ddof=1) / np.sqrt(n)


def with_interval(mean: float, interval: float | None, digits: int) -> str:
    """Mean and, where there is one, half width of its interval."""
    return f"{mean:.{digits}f}" + ("" if interval is None else f" ± {interval:.{digits}f}")
