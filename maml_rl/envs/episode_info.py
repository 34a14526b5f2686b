"""What environments tell in ``info``, as numbers about episodes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.rollout import State
from maml_rl.learning.trajectories import Trajectories

SUCCESS = ("success", "is_success")
"""Names of the flag that a goal is reached."""
SUCCESS_RATE = "success_rate"


class EpisodeInfo:
    """Gathers the numbers in ``info`` over the episodes of one rollout; one of its observers.

    An episode is a success if its flag was up at any step, as Meta-World counts. Every other number is averaged
    over the steps of an episode that tell it. Of trials, each episode counts by itself.
    """

    def __init__(self, env: TaskVectorEnv) -> None:
        self._env = env
        shape = (env.trial_episodes, env.num_envs)
        self._sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(shape))
        self._counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(shape))
        self._succeeded: np.ndarray | None = None

    def __call__(self, state: State) -> None:
        if state.step is None:
            return
        infos, episodes = self._env.infos, self._env.episode_numbers
        for k in np.flatnonzero(state.step.active).tolist():
            here = episodes[k], k
            for name, value in infos[k].items():
                if name in SUCCESS:
                    if self._succeeded is None:
                        self._succeeded = np.zeros((self._env.trial_episodes, self._env.num_envs), bool)
                    self._succeeded[here] |= bool(value)
                elif (number := _number(value)) is not None:
                    self._sums[name][here] += number
                    self._counts[name][here] += 1

    def means(self) -> list[dict[str, float]]:
        """Of each episode of a trial: the share of successes, if there is a flag, and means of other numbers."""
        return [self._means(episode) for episode in range(self._env.trial_episodes)]

    def _means(self, episode: int) -> dict[str, float]:
        told = {name: count[episode] > 0 for name, count in self._counts.items()}
        means = {
            name: float((self._sums[name][episode][known] / self._counts[name][episode][known]).mean())
            for name, known in told.items()
            if known.any()
        }
        if self._succeeded is None:
            return means
        return {SUCCESS_RATE: float(self._succeeded[episode].mean()), **means}


class EpisodeReturns:
    """The return of every episode of a trial, over one rollout; one of its observers."""

    def __init__(self, env: TaskVectorEnv) -> None:
        self._env = env
        self._sums = np.zeros((env.trial_episodes, env.num_envs))

    def __call__(self, state: State) -> None:
        if state.step is not None:
            active = np.flatnonzero(state.step.active)
            rewards = state.step.rewards.astype(np.float32)  # as trajectories keep them
            self._sums[self._env.episode_numbers[active], active] += rewards[active]

    def means(self) -> list[float]:
        """Mean over copies of each episode's undiscounted sum of rewards."""
        return [float(returns.mean()) for returns in self._sums]


class Measures:
    """What one rollout gave, over its copies: of each episode, where an episode is a trial of several."""

    def __init__(self, env: TaskVectorEnv) -> None:
        self._info = EpisodeInfo(env) if env.reports_info else None
        self._returns = EpisodeReturns(env) if env.trial_episodes > 1 else None

    @property
    def observers(self) -> list[Callable[[State], None]]:
        """To be given to the rollout."""
        return [observer for observer in (self._info, self._returns) if observer is not None]

    def returns(self, trajectories: Trajectories) -> list[float]:
        """Mean returns; NaN if the trajectories have a fault."""
        whole = trajectories.mean_return
        if self._returns is None or math.isnan(whole):
            return [whole] * (1 if self._returns is None else len(self._returns.means()))
        return self._returns.means()

    @property
    def infos(self) -> list[dict[str, float]]:
        """Means of the numbers in ``info``; nothing of environments that tell none."""
        return [] if self._info is None else self._info.means()


def mean_over_tasks(tasks: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each number over the tasks that have it."""
    names = dict.fromkeys(name for task in tasks for name in task)
    return {name: float(np.mean([task[name] for task in tasks if name in task])) for name in names}


def _number(value: Any) -> float | None:
    """A finite number or a truth value, also of numpy and of one element; else None."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, Real | np.bool_) and math.isfinite(value):
        return float(value)
    return None
