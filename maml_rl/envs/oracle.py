"""A task family whose observation tells the task: what the paper's oracle policy sees (sec. 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Tuple

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.spaces import VectorBox
from maml_rl.policies.structure import Leaf


class TaskInObservation(TaskVectorEnv):
    """Another task family, with the features of the present task appended to every observation.

    The features are what the reward depends on: see ``TaskVectorEnv.task_features``. Everything else, random
    draws included, is the other family's own.
    """

    def __init__(self, env: TaskVectorEnv) -> None:
        example = env.sample_tasks(1, np.random.default_rng(0))[0]
        self._features = env.task_features(example)
        space = env.single_observation_space
        bound = np.full(space.shape[0] + len(self._features), np.inf, space.dtype)
        told: Box = Box(-bound, bound, dtype=bound.dtype.type)
        if isinstance(space, VectorBox):
            size = len(self._features)
            both = Tuple([space.original, Box(-np.inf, np.inf, (size,), np.float32)])
            structure = (space.structure, Leaf(space.shape[0], (size,), size))
            told = VectorBox(-bound, bound, space.dtype, both, structure, space.images)
        self.metadata = env.metadata
        super().__init__(
            env.num_envs,
            max_episode_steps=env.max_episode_steps,
            observation_space=told,
            action_space=env.single_action_space,
            task_space=env.task_space,
            autoreset_mode=env.metadata["autoreset_mode"],
            render_mode=env.render_mode,
        )
        self._env = env

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
        self._features = self._env.task_features(task)

    def _reset(self, mask: np.ndarray) -> None:
        self._env._generators = self._generators
        self._env._reset(mask)

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._env._step(actions, active)

    def _observe(self) -> np.ndarray:
        observations = self._env._observe()
        features = np.broadcast_to(self._features, (self.num_envs, len(self._features)))
        return np.concatenate([observations, features], axis=1, dtype=observations.dtype)

    def describe_task(self) -> str:
        return self._env.describe_task()

    def _render(self, copy: int) -> np.ndarray:
        self._env.render_size = self.render_size
        return self._env._render(copy)

    def close_extras(self, **kwargs: Any) -> None:
        self._env.close()
