"""Navigation that is seen: a picture of a small world, moves in four directions, a goal only the reward reveals."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.spaces import FlatObservations
from maml_rl.tools.checks import checked, integer_of_at_least

MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
"""Up, down, left, right, as rows and columns."""


class VisualNav(TaskVectorEnv):
    """A walker on a square of ``size`` x ``size`` places, seen from above.

    The observation is a grey picture with the walker in white. It starts anywhere and moves by one place; at the
    border it stays. The goal is a place that the picture does not show. The reward is minus the number of moves
    that the goal is away, as a fraction of ``size``; at the goal the episode ends.

    Args:
        size: places in each direction.
        kwargs: see ``TaskVectorEnv``.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]
    render_size = (360, 360)

    def __init__(
        self, num_envs: int = 1, *, size: int = 8, max_episode_steps: int = 20, **kwargs: Any
    ) -> None:
        checked("size", size, integer_of_at_least(3))
        picture = gymnasium.spaces.Box(0, 255, (size, size), np.uint8)
        super().__init__(
            num_envs,
            max_episode_steps=max_episode_steps,
            observation_space=FlatObservations(picture).box,
            action_space=gymnasium.spaces.Discrete(len(MOVES)),
            task_space=gymnasium.spaces.Box(0, size - 1, (2,), np.int64),
            **kwargs,
        )
        self._size = size
        self._places = np.zeros((num_envs, 2), np.int64)
        self._goal = np.zeros(2, np.int64)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Goals ``[n, 2]``, as row and column."""
        return rng.integers(0, self._size, (n, 2))

    def _set_task(self, task: np.ndarray) -> None:
        self._goal = task

    def task_features(self, task: Any) -> np.ndarray:
        """The goal, in [0, 1]."""
        return np.asarray(task, np.float64) / (self._size - 1)

    def describe_task(self) -> str:
        """The goal."""
        return f"goal at row {self._goal[0]}, column {self._goal[1]}"

    def _reset(self, mask: np.ndarray) -> None:
        for k in np.flatnonzero(mask):
            self._places[k] = self._generators[k].integers(0, self._size, 2)

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved = np.clip(self._places + MOVES[actions], 0, self._size - 1)
        self._places = np.where(active[:, None], moved, self._places)
        away = np.abs(self._places - self._goal).sum(-1)
        return -away / self._size, away == 0

    def _observe(self) -> np.ndarray:
        pictures = np.zeros((self.num_envs, self._size, self._size), np.float32)
        pictures[np.arange(self.num_envs), self._places[:, 0], self._places[:, 1]] = 1
        return pictures.reshape(self.num_envs, -1)

    def _render(self, copy: int) -> np.ndarray:
        """The world, the goal (green) and the walker (white)."""
        from PIL import Image  # runners draw nothing

        picture = np.full((self._size, self._size, 3), 40, np.uint8)
        picture[tuple(self._goal)] = (44, 160, 44)
        picture[tuple(self._places[copy])] = 255
        return np.asarray(Image.fromarray(picture).resize(self.render_size, Image.Resampling.NEAREST))
