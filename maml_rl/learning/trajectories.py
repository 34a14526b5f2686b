"""Episodes as runners send them to the learner: numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Trajectories:
    """K episodes of one task, padded to the horizon; what a runner sends to the learner.

    ``observations [K, H, obs]``, ``actions [K, H, act]`` (policy units, before scaling and clipping) and
    ``rewards [K, H]`` are float32; episode k holds ``lengths[k]`` valid steps, and the rest is zero.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray

    @property
    def mean_return(self) -> float:
        """Undiscounted sum of rewards, mean over episodes."""
        return float(self.rewards.sum(axis=1, dtype=np.float64).mean())

    @property
    def env_steps(self) -> int:
        return int(self.lengths.sum())

    def nonfinite_field(self) -> str | None:
        """Name of the first array that holds a NaN or an infinity, or None."""
        for name in ("observations", "actions", "rewards"):
            if not np.isfinite(getattr(self, name)).all():
                return name
        return None


def pool(trajectories: Sequence[Trajectories]) -> Trajectories:
    """The episodes of several tasks as those of a single one."""
    return Trajectories(
        **{
            field.name: np.concatenate([getattr(t, field.name) for t in trajectories])
            for field in fields(Trajectories)
        }
    )
