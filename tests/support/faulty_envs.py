"""Task families that break in a chosen way; named by import path, so that runner processes find them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from maml_rl.envs.point_nav import PointNav


class NanPointNav(PointNav):
    """Returns NaN rewards or an infinite observation from a chosen number of steps on."""

    def __init__(self, num_envs: int = 1, *, bad: str, after: int, **kwargs: Any) -> None:
        super().__init__(num_envs, **kwargs)
        self._bad, self._after, self._count = bad, after, 0

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rewards, terminated = super()._step(actions, active)
        self._count += 1
        if self._count > self._after:
            if self._bad == "rewards":
                rewards = rewards * np.nan
            else:
                self._positions[0, 0] = np.inf
        return rewards, terminated


class HangingPointNav(PointNav):
    """Never returns from a step."""

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(3600)
        return super()._step(actions, active)


class RaisingPointNav(PointNav):
    """Raises from a step."""

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise ZeroDivisionError("the simulator broke")
