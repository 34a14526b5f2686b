"""Environments of a user, to be filmed."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Dot(gymnasium.Env[np.ndarray, np.ndarray]):
    """A dot on a line, drawn on a wide picture."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float64)

    def __init__(self, render_mode: str | None = None, picture: str = "good") -> None:
        self.render_mode, self._picture = render_mode, picture
        self._x = self._goal = 0.0

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, n)

    def set_task(self, task: float) -> None:
        self._goal = float(task)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self._x = 0.0
        return np.array([self._x]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._x += 0.1 * float(action[0])
        return np.array([self._x]), -abs(self._x - self._goal), False, False, {}

    def render(self) -> Any:
        if self._picture == "bad":
            return np.zeros((2, 2))
        picture = np.zeros((50, 200, 3), np.uint8)
        picture[:, 100 + int(20 * self._x)] = 255
        return picture


class Unseen(Dot):
    """Cannot be rendered, and says so."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012


class Closed(Dot):
    """Takes no ``render_mode``."""

    def __init__(self) -> None:
        super().__init__()
