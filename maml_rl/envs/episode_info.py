"""What environments tell in ``info``, as numbers about episodes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.rollout import State

SUCCESS = ("success", "is_success")
"""Names of the flag that a goal is reached."""
SUCCESS_RATE = "success_rate"


class EpisodeInfo:
    """Gathers the numbers in ``info`` over the episodes of one rollout; one of its observers.

    An episode is a success if its flag was up at any step, as Meta-World counts. Every other number is averaged
    over the steps of an episode that tell it.
    """

    def __init__(self, env: TaskVectorEnv) -> None:
        self._env = env
        self._sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(env.num_envs))
        self._counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(env.num_envs))
        self._succeeded: np.ndarray | None = None

    def __call__(self, state: State) -> None:
        if state.step is None:
            return
        infos = self._env.infos
        for k in np.flatnonzero(state.step.active).tolist():
            for name, value in infos[k].items():
                if name in SUCCESS:
                    if self._succeeded is None:
                        self._succeeded = np.zeros(self._env.num_envs, bool)
                    self._succeeded[k] |= bool(value)
                elif (number := _number(value)) is not None:
                    self._sums[name][k] += number
                    self._counts[name][k] += 1

    def means(self) -> dict[str, float]:
        """Share of successful episodes, if there is a flag, and the mean over episodes of every other number."""
        told = {name: count > 0 for name, count in self._counts.items()}
        means = {
            name: float((self._sums[name][known] / self._counts[name][known]).mean())
            for name, known in told.items()
        }
        return means if self._succeeded is None else {SUCCESS_RATE: float(self._succeeded.mean()), **means}


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
