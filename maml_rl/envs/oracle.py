"""A task family whose observation tells the task: what the paper's oracle policy sees (sec. 5.3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.spaces import with_more_numbers
from maml_rl.envs.wrapped import WrappedEnv


class TaskInObservation(WrappedEnv):
    """Another task family, with the features of the present task appended to every observation.

    The features are what the reward depends on: see ``TaskVectorEnv.task_features``.
    """

    def __init__(self, env: TaskVectorEnv) -> None:
        example = env.sample_tasks(1, np.random.default_rng(0))[0]
        self._features = env.task_features(example)
        space = with_more_numbers(env.single_observation_space, len(self._features))
        super().__init__(env, space, env.max_episode_steps)

    def _set_task(self, task: Any) -> None:
        super()._set_task(task)
        self._features = self._env.task_features(task)

    def _observe(self) -> np.ndarray:
        observations = self._env._observe()
        features = np.broadcast_to(self._features, (self.num_envs, len(self._features)))
        return np.concatenate([observations, features], axis=1, dtype=observations.dtype)
