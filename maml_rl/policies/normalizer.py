"""Running mean and variance of observations and returns: part of the meta-state, and of a policy's file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Observations = TypeVar("Observations")
"""Arrays, or tensors of torch, which is not imported here: runners of numpy policies do without it."""

NORMALIZER = "normalizer/"
"""Prefix of its arrays among those of a policy."""
LIMIT = 10.0
"""Normalised observations lie within so many standard deviations."""
LEAST = 1e-8
"""Added to variances."""


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations (float64) of vectors that came one after the other."""

    count: float
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def none(cls, size: int) -> Moments:
        """Of no vectors."""
        return cls(0.0, np.zeros(size), np.zeros(size))

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of ``values [n, size]``."""
        wide = values.astype(np.float64)
        mean = wide.mean(axis=0) if len(wide) else np.zeros(wide.shape[1])
        return cls(float(len(wide)), mean, np.square(wide - mean).sum(axis=0))

    def merged(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub & LeVeque 1979)."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        squares = self.squares + other.squares + delta**2 * (self.count * other.count / count)
        return Moments(count, mean, squares)

    @property
    def variance(self) -> np.ndarray:
        """1 before anything came."""
        return self.squares / self.count if self.count else np.ones_like(self.mean)


@dataclass(frozen=True)
class Normalizer:
    """What observations and rewards are normalised by, constant while a meta-batch is collected.

    Attributes:
        observations: of every number of an observation, over steps; None leaves observations as they are.
        returns: of the discounted return from each step on, ``[1]``: rewards are divided by its deviation; None
            leaves rewards as they are.
    """

    observations: Moments | None = None
    returns: Moments | None = None

    @classmethod
    def fresh(cls, observation_size: int, *, observations: bool, rewards: bool) -> Normalizer | None:
        """One that has seen nothing; None if nothing is normalised."""
        if not (observations or rewards):
            return None
        return cls(
            Moments.none(observation_size) if observations else None, Moments.none(1) if rewards else None
        )

    @property
    def has_seen_nothing(self) -> bool:
        return all(moments is None or moments.count == 0 for moments in (self.observations, self.returns))

    def merged(self, others: Iterable[Normalizer]) -> Normalizer:
        """With what others have seen, in their order."""
        observations, returns = self.observations, self.returns
        for other in others:
            if observations is not None and other.observations is not None:
                observations = observations.merged(other.observations)
            if returns is not None and other.returns is not None:
                returns = returns.merged(other.returns)
        return Normalizer(observations, returns)

    # --- use

    @property
    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of observations, float32."""
        assert self.observations is not None
        moments = self.observations
        return moments.mean.astype(np.float32), np.sqrt(moments.variance + LEAST).astype(np.float32)

    @property
    def reward_scale(self) -> float:
        """What rewards are divided by."""
        deviation = 0.0 if self.returns is None else float(np.sqrt(self.returns.variance[0]))
        return deviation or 1.0  # where all returns are the same there is no scale

    # --- arrays

    def as_arrays(self) -> dict[str, np.ndarray]:
        """All numbers, by names with the prefix."""
        parts = {"observations": self.observations, "returns": self.returns}
        return {
            f"{NORMALIZER}{name}.{field}": np.array(value)
            for name, moments in parts.items()
            if moments is not None
            for field, value in vars(moments).items()
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Normalizer | None:
        """What ``as_arrays`` returned, among other arrays; None if there is nothing of it.

        Raises:
            ValueError: part of it is missing.
        """
        own = {name.removeprefix(NORMALIZER): x for name, x in arrays.items() if name.startswith(NORMALIZER)}
        if not own:
            return None

        def moments(name: str) -> Moments | None:
            found = {field: own.pop(f"{name}.{field}", None) for field in ("count", "mean", "squares")}
            if all(value is None for value in found.values()):
                return None
            if any(value is None for value in found.values()):
                raise ValueError(f"statistics of {name} are incomplete")
            count, mean, squares = (np.asarray(value, np.float64) for value in found.values())
            if count.shape != ():
                raise ValueError(f"the count of {name} has shape {count.shape}")
            return Moments(float(count), mean, squares)

        normalizer = cls(moments("observations"), moments("returns"))
        if own:
            raise ValueError(f"unknown statistics: {', '.join(own)}")
        return normalizer


class ObservationScale:
    """Observations in units of their deviation, around their mean: arrays of rollouts, or the learner's tensors."""

    def __init__(self, normalizer: Normalizer | None) -> None:
        self._scale = None
        if normalizer is not None and normalizer.observations is not None:
            self._scale = normalizer.scale

    def __call__(self, observations: Observations) -> Observations:
        """``[..., observation]``; as they are without a normalizer."""
        if self._scale is None:
            return observations
        mean, std = self._like(observations)
        scaled: Any = observations - mean
        return (scaled / std).clip(-LIMIT, LIMIT)

    def inverse(self, observations: Observations) -> Observations:
        """What was normalised, but for the limit."""
        if self._scale is None:
            return observations
        mean, std = self._like(observations)
        scaled: Any = observations * std
        return scaled + mean

    def _like(self, observations: Any) -> Any:
        """Mean and deviation, of the observations' kind."""
        assert self._scale is not None
        if isinstance(observations, np.ndarray):
            return self._scale
        return [observations.new_tensor(x) for x in self._scale]
