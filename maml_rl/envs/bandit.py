"""Bernoulli bandits (Duan et al. 2016, "RL^2", arXiv 1611.02779, sec. 3.1): find the arm that pays most."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.tools.checks import COUNT, checked


class Bandit(TaskVectorEnv):
    """Each of ``arms`` arms pays 1 with a probability of its own, drawn uniformly from [0, 1], or else 0.

    The observation says nothing: it is always 1. An episode is ``max_episode_steps`` pulls.

    Args:
        arms: k.
        kwargs: see ``TaskVectorEnv``.
    """

    def __init__(
        self, num_envs: int = 1, *, arms: int = 10, max_episode_steps: int = 100, **kwargs: Any
    ) -> None:
        checked("arms", arms, COUNT)
        super().__init__(
            num_envs,
            max_episode_steps=max_episode_steps,
            observation_space=gymnasium.spaces.Box(0, 1, (1,), np.float32),
            action_space=gymnasium.spaces.Discrete(arms),
            task_space=gymnasium.spaces.Box(0, 1, (arms,), np.float64),
            **kwargs,
        )
        self._pulls = np.zeros(num_envs, np.int64)
        self._luck = np.zeros((num_envs, max_episode_steps))
        self._pays = np.zeros(arms)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Probabilities ``[n, arms]``."""
        return rng.uniform(0, 1, (n, len(self._pays)))

    def _set_task(self, task: np.ndarray) -> None:
        self._pays = task

    def _reset(self, mask: np.ndarray) -> None:
        self._pulls[mask] = 0
        for k in np.flatnonzero(mask):
            self._luck[k] = self._generators[k].random(self.max_episode_steps)

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        luck = self._luck[np.arange(self.num_envs), np.minimum(self._pulls, self.max_episode_steps - 1)]
        self._pulls += active
        return (luck < self._pays[actions]).astype(np.float64), np.zeros(self.num_envs, bool)

    def _observe(self) -> np.ndarray:
        return np.ones((self.num_envs, 1), np.float32)
