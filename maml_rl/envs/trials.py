"""Several episodes of a task as one, for policies that remember (Duan et al. 2016, "RL^2", arXiv 1611.02779)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Tuple
from gymnasium.vector import AutoresetMode

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.spaces import ActionScale, VectorBox, head_of
from maml_rl.envs.vector_adapter import VectorTaskEnv
from maml_rl.policies.heads import CategoricalHead
from maml_rl.policies.structure import Leaf

TRIAL_EPISODES = "trial_episodes"
"""Key of ``env_config`` that every environment takes: episodes are trials of so many."""


class TrialEnv(TaskVectorEnv):
    """Another task family whose episodes are trials: ``episodes`` of its episodes, one after the other.

    To the observation is appended what came before it: the action (categories one-hot), the reward, and whether an
    episode ended there; all zero at the start of a trial. The observation after an episode's end is the first of
    the next one.

    Args:
        env: with autoreset disabled.
        episodes: of a trial.
    """

    def __init__(self, env: TaskVectorEnv, episodes: int) -> None:
        self._env, self.trial_episodes = env, episodes
        if isinstance(env, VectorTaskEnv) and episodes > 1:
            raise ValueError(
                f"{TRIAL_EPISODES} is {episodes}, but the copies of a vector environment are reset together, "
                "and not each at the end of its episode"
            )
        self._head = head_of(env.single_action_space)
        self._actions = (
            self._head.outputs if isinstance(self._head, CategoricalHead) else self._head.action_size
        )
        space, more = env.single_observation_space, self._actions + 2
        self._observation_size = space.shape[0]
        bound = np.full(self._observation_size + more, np.inf, np.float32)
        original = getattr(space, "original", space)
        structure = getattr(space, "structure", Leaf(0, space.shape, self._observation_size))
        before = Box(-np.inf, np.inf, (more,), np.float32)
        self.metadata = env.metadata
        super().__init__(
            env.num_envs,
            max_episode_steps=episodes * env.max_episode_steps,
            observation_space=VectorBox(
                -bound,
                bound,
                np.float32,
                Tuple([original, before]),
                (structure, Leaf(self._observation_size, (more,), more)),
                getattr(space, "images", ()),
            ),
            action_space=env.single_action_space,
            task_space=env.task_space,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=env.render_mode,
        )
        self._before = np.zeros((self.num_envs, more), np.float32)
        self._steps = np.zeros(self.num_envs, np.int64)
        self._running = np.zeros(self.num_envs, np.int64)
        self._last = self._running.copy()
        self._infos: list[dict[str, Any]] = [{}] * self.num_envs

    @property
    def episode_numbers(self) -> np.ndarray:
        return self._last

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
        return self._infos

    def _set_task(self, task: Any) -> None:
        self._env.set_task(task)

    def _reset(self, mask: np.ndarray) -> None:
        self._before[mask] = 0
        self._running[mask] = 0
        self._begin_episodes(mask)
        self._infos = list(self._env.infos)

    def _begin_episodes(self, mask: np.ndarray) -> None:
        self._steps[mask] = 0
        self._env._generators = self._generators
        self._env._begin(mask)

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._last = self._running.copy()
        rewards, terminated = self._env._step(actions, active)
        self._infos = list(self._env.infos)
        self._steps += active
        over = active & (terminated | (self._steps >= self._env.max_episode_steps))
        self._before[active] = self._told(actions, rewards, over)[active]
        self._running += over
        finished = self._running >= self.trial_episodes
        if (again := over & ~finished).any():
            self._begin_episodes(again)
        return rewards, finished

    def _told(self, actions: np.ndarray, rewards: np.ndarray, over: np.ndarray) -> np.ndarray:
        told = ActionScale(self.single_action_space).inverse(actions)
        if isinstance(self._head, CategoricalHead):
            told = np.concatenate(
                [
                    np.eye(count, dtype=np.float32)[told[:, i].astype(int)]
                    for i, count in enumerate(self._head.counts)
                ],
                axis=1,
            )
        return np.concatenate([told, rewards[:, None], over[:, None]], axis=1, dtype=np.float32)

    def _observe(self) -> np.ndarray:
        return np.concatenate([self._env._observe(), self._before], axis=1, dtype=np.float32)

    def describe_task(self) -> str:
        return self._env.describe_task()

    def _render(self, copy: int) -> np.ndarray:
        self._env.render_size = self.render_size
        return self._env._render(copy)

    def close_extras(self, **kwargs: Any) -> None:
        self._env.close()
