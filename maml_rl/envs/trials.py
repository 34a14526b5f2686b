"""Several episodes of a task as one, for policies that remember (Duan et al. 2016, "RL^2", arXiv 1611.02779)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.spaces import ActionScale, head_of, with_more_numbers
from maml_rl.envs.vector_adapter import VectorTaskEnv
from maml_rl.envs.wrapped import WrappedEnv
from maml_rl.policies.heads import CategoricalHead

TRIAL_EPISODES = "trial_episodes"
"""Key of ``env_config`` that every environment takes: episodes are trials of so many."""


class TrialEnv(WrappedEnv):
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
        more = self._actions + 2
        space = with_more_numbers(env.single_observation_space, more)
        super().__init__(env, space, episodes * env.max_episode_steps)
        self._before = np.zeros((self.num_envs, more), np.float32)
        self._steps = np.zeros(self.num_envs, np.int64)
        self._running = np.zeros(self.num_envs, np.int64)
        self._last = self._running.copy()
        self._infos: list[dict[str, Any]] = [{}] * self.num_envs

    @property
    def episode_numbers(self) -> np.ndarray:
        return self._last

    @property
    def running_episodes(self) -> np.ndarray:
        return self._running

    @property
    def infos(self) -> Sequence[dict[str, Any]]:
        return self._infos

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
        observations = self._env._observe()
        return np.concatenate([observations, self._before], axis=1, dtype=observations.dtype)
