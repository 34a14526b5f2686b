"""Random tabular MDPs (Duan et al. 2016, "RL^2", arXiv 1611.02779, sec. 3.2)."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.tools.checks import COUNT, checked


class TabularMDP(TaskVectorEnv):
    """Transitions of every state and action from a flat Dirichlet distribution, mean rewards from N(1, 1).

    A reward is drawn from N(mean, 1). Episodes begin in state 0; the observation is the state, one-hot.

    A task is a vector: transition probabilities ``[states, actions, states]``, then mean rewards
    ``[states, actions]``.

    Args:
        states, actions: their numbers.
        kwargs: see ``TaskVectorEnv``.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        states: int = 10,
        actions: int = 5,
        max_episode_steps: int = 10,
        **kwargs: Any,
    ) -> None:
        checked("states", states, COUNT)
        checked("actions", actions, COUNT)
        numbers = states * actions * (states + 1)
        super().__init__(
            num_envs,
            max_episode_steps=max_episode_steps,
            observation_space=gymnasium.spaces.Box(0, 1, (states,), np.float32),
            action_space=gymnasium.spaces.Discrete(actions),
            task_space=gymnasium.spaces.Box(-np.inf, np.inf, (numbers,), np.float64),
            **kwargs,
        )
        self._shape = (states, actions)
        self._states = np.zeros(num_envs, np.int64)
        self._steps = np.zeros(num_envs, np.int64)
        self._luck = np.zeros((num_envs, max_episode_steps))
        self._noise = np.zeros((num_envs, max_episode_steps))
        self._cumulative = np.ones((states, actions, states))
        self._means = np.zeros(self._shape)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Tasks ``[n, states * actions * (states + 1)]``."""
        transitions = rng.dirichlet(np.ones(self._shape[0]), (n, *self._shape))
        means = rng.normal(1, 1, (n, *self._shape))
        return np.concatenate([transitions.reshape(n, -1), means.reshape(n, -1)], axis=1)

    def _set_task(self, task: np.ndarray) -> None:
        states, actions = self._shape
        transitions = task[: states * actions * states].reshape(states, actions, states)
        self._cumulative = transitions.cumsum(-1)
        self._means = task[states * actions * states :].reshape(self._shape)

    def describe_task(self) -> str:
        """The mean reward of the best action in state 0."""
        return f"best mean reward at the start {self._means[0].max():.2f}"

    def _reset(self, mask: np.ndarray) -> None:
        self._states[mask] = 0
        self._steps[mask] = 0
        for k in np.flatnonzero(mask):
            self._luck[k] = self._generators[k].random(self.max_episode_steps)
            self._noise[k] = self._generators[k].standard_normal(self.max_episode_steps)

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        here = self._states, actions
        now = np.arange(self.num_envs), np.minimum(self._steps, self.max_episode_steps - 1)
        rewards = self._means[here] + self._noise[now]
        # The last state catches what rounding leaves over.
        following = (self._luck[now][:, None] >= self._cumulative[here][:, :-1]).sum(-1)
        self._states = np.where(active, following, self._states)
        self._steps += active
        return rewards, np.zeros(self.num_envs, bool)

    def _observe(self) -> np.ndarray:
        return np.eye(self._shape[0], dtype=np.float32)[self._states]
