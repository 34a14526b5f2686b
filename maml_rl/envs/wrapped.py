"""A task family around another one: what it does not change is the other's own, random draws included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from maml_rl.envs.base import TaskVectorEnv


class WrappedEnv(TaskVectorEnv):
    """Hands everything on but steps and observations.

    Args:
        env: the other family.
        observation_space: of the observations that the wrapper makes of the other's.
        max_episode_steps: horizon.
    """

    def __init__(
        self, env: TaskVectorEnv, observation_space: gymnasium.spaces.Box, max_episode_steps: int
    ) -> None:
        self._env = env
        self.metadata = env.metadata
        super().__init__(
            env.num_envs,
            max_episode_steps=max_episode_steps,
            observation_space=observation_space,
            action_space=env.single_action_space,
            task_space=env.task_space,
            autoreset_mode=env.metadata["autoreset_mode"],
            render_mode=env.render_mode,
        )

    @property
    def diverged_episodes(self) -> int:  # type: ignore[override]
        """See ``TaskVectorEnv``."""
        return self._env.diverged_episodes

    @property
    def reports_info(self) -> bool:  # type: ignore[override]
        """See ``TaskVectorEnv``."""
        return self._env.reports_info

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return self._env.sample_tasks(n, rng)

    def task_features(self, task: Any) -> np.ndarray:
        return self._env.task_features(task)

    @property
    def infos(self) -> Sequence[dict[str, Any]]:
        return self._env.infos

    def _set_task(self, task: Any) -> None:
        self._env.set_task(task)

    def _reset(self, mask: np.ndarray) -> None:
        self._env._generators = self._generators
        self._env._reset(mask)

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._env._step(actions, active)

    def describe_task(self) -> str:
        return self._env.describe_task()

    def _render(self, copy: int) -> np.ndarray:
        self._env.render_size = self.render_size
        return self._env._render(copy)

    def close_extras(self, **kwargs: Any) -> None:
        self._env.close()
