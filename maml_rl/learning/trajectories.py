"""Episodes as runners send them to the learner: numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from maml_rl.policies.normalizer import Moments

LARGEST_ACTION = 1e6
"""In policy units, whose box is [-1, 1]: a policy that goes beyond has diverged, though clipping hides it."""


@dataclass(frozen=True)
class Trajectories:
    """K episodes of one task, padded to the longest; what a runner sends to the learner.

    ``observations [K, T, obs]`` (as the policy saw them), ``actions [K, T, act]`` (policy units, before scaling and
    clipping; numbers of categories) and ``rewards [K, T]`` are float32; episode k holds ``lengths[k]`` valid steps,
    and the rest is zero.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray

    @property
    def mean_return(self) -> float:
        """Undiscounted sum of rewards, mean over episodes; NaN if there is a ``fault``."""
        if self.fault():
            return math.nan
        return float(self.rewards.sum(axis=1, dtype=np.float64).mean())

    def return_moments(self, gamma: float) -> Moments:
        """Of the discounted return from each step on."""
        running = np.zeros(len(self.rewards))
        returns = np.zeros(self.rewards.shape)
        for t in reversed(range(self.rewards.shape[1])):
            running = self.rewards[:, t] + gamma * running
            returns[:, t] = running
        valid = np.arange(self.rewards.shape[1]) < self.lengths[:, None]
        return Moments.of(returns[valid][:, None])

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    @property
    def env_steps(self) -> int:
        return int(self.lengths.sum())

    @property
    def observation_square(self) -> float:
        """Sum over steps of the mean square of an observation's components."""
        flat = self.observations.ravel()
        return float(np.dot(flat, flat)) / max(1, self.observations.shape[-1])

    def fault(self) -> str | None:
        """What no update can be made of: which array is not finite, or that the policy has diverged; or None."""
        for name in ("observations", "actions", "rewards"):
            if not np.isfinite(getattr(self, name)).all():
                return f"{name} hold a NaN or an infinity"
        if np.abs(self.actions).max() > LARGEST_ACTION:
            return f"actions lie {LARGEST_ACTION:g} times outside the action box"
        return None


class Extent(NamedTuple):
    """How large the data of several tasks are: steps of the longest episode, and of the task that has most."""

    longest: int
    most: int

    @staticmethod
    def of(trajectories: Sequence[Trajectories]) -> Extent:
        """Of tasks by themselves."""
        return Extent(max(t.rewards.shape[1] for t in trajectories), max(t.env_steps for t in trajectories))

    @staticmethod
    def around(parts: Sequence[Extent]) -> Extent:
        """Of all tasks, from those of some."""
        return Extent(max(part.longest for part in parts), max(part.most for part in parts))


def padded(trajectories: Sequence[Trajectories], horizon: int | None = None) -> dict[str, list[np.ndarray]]:
    """The arrays of several tasks by name, as long as ``horizon`` or the longest episode of all."""
    longest = horizon or max(t.rewards.shape[1] for t in trajectories)
    arrays = {field.name: [getattr(t, field.name) for t in trajectories] for field in fields(Trajectories)}
    return {name: [x if name == "lengths" else _pad(x, longest) for x in arrays[name]] for name in arrays}


def pool(trajectories: Sequence[Trajectories]) -> Trajectories:
    """The episodes of several tasks as those of a single one."""
    return Trajectories(**{name: np.concatenate(arrays) for name, arrays in padded(trajectories).items()})


def _pad(x: np.ndarray, steps: int) -> np.ndarray:
    missing = steps - x.shape[1]
    return np.pad(x, [(0, missing if axis == 1 else 0) for axis in range(x.ndim)]) if missing else x
