"""2-D point navigation (Finn et al. 2017, sec. 5.3): reach a goal that only the reward reveals."""

from __future__ import annotations

from typing import Any, Literal, get_args

import gymnasium
import numpy as np

from maml_rl.envs.base import TaskVectorEnv

Reward = Literal["distance", "squared_distance"]


class PointNav(TaskVectorEnv):
    """A point moves from the origin to a goal drawn uniformly from [-0.5, 0.5]^2.

    Observation: position (x, y). Action: displacement per step in [-0.1, 0.1]^2. The reward is given
    after the move, and the episode terminates when both coordinates are within 0.01 of the goal.

    Args:
        reward: ``distance`` is minus the distance to the goal, as in the published code that produced the
            paper's numbers; ``squared_distance`` is minus its square, as in the paper's text.
        max_episode_steps: horizon H.
        kwargs: see ``TaskVectorEnv``.
    """

    max_step = 0.1
    goal_radius = 0.01
    goal_range = 0.5

    def __init__(
        self,
        num_envs: int = 1,
        *,
        reward: Reward = "distance",
        max_episode_steps: int = 100,
        **kwargs: Any,
    ) -> None:
        if reward not in get_args(Reward):
            raise ValueError(f"reward is {reward!r}; allowed: {', '.join(get_args(Reward))}")
        super().__init__(
            num_envs,
            max_episode_steps=max_episode_steps,
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
            action_space=gymnasium.spaces.Box(-self.max_step, self.max_step, (2,), np.float32),
            task_space=gymnasium.spaces.Box(-self.goal_range, self.goal_range, (2,), np.float64),
            **kwargs,
        )
        self._squared = reward == "squared_distance"
        self._positions = np.zeros((num_envs, 2), np.float32)
        self._goal = np.zeros(2, np.float32)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Goals ``[n, 2]``."""
        return rng.uniform(-self.goal_range, self.goal_range, (n, 2))

    def _set_task(self, task: np.ndarray) -> None:
        self._goal = task.astype(np.float32)

    def _reset(self, mask: np.ndarray) -> None:
        self._positions[mask] = 0

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._positions += actions if active.all() else np.where(active[:, None], actions, 0)
        offsets = self._positions - self._goal
        squares = np.einsum("ij,ij->i", offsets, offsets)
        rewards = np.negative(squares if self._squared else np.sqrt(squares))
        return rewards, np.abs(offsets).max(axis=1) < self.goal_radius

    def _observe(self) -> np.ndarray:
        return self._positions.copy()
