"""What a meta-learner is fed: a batch of tasks, each with support and query examples; and its random streams."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Purpose(enum.IntEnum):
    """What random numbers are drawn for: each has streams of its own."""

    INITIALISATION = 0
    TRAINING = 1
    VALIDATION = 2
    TEST = 3
    TUNING = 4
    SINGLE_TASKS = 5


class Examples(NamedTuple):
    """Examples of several tasks: ``inputs [tasks, n, ...]`` and ``targets [tasks, n, ...]``."""

    inputs: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Examples:
        """The same examples on another device."""
        return Examples(self.inputs.to(device), self.targets.to(device))


class Episodes(NamedTuple):
    """A batch of tasks: adaptation sees ``support``, the meta-objective ``query``."""

    support: Examples
    query: Examples

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.support.inputs)

    def to(self, device: torch.device) -> Episodes:
        """The same episodes on another device."""
        return Episodes(self.support.to(device), self.query.to(device))

    def chunks(self, size: int) -> Iterator[Episodes]:
        """The tasks in blocks of at most ``size``."""
        if size >= self.tasks:
            yield self
            return
        for start in range(0, self.tasks, size):
            part = slice(start, start + size)
            yield Episodes(*(Examples(x[part], y[part]) for x, y in self))


Sampler = Callable[[np.random.Generator, int], Episodes]
"""Draws a batch of that many tasks: ``(rng, tasks) -> Episodes``."""


def stream(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """The random stream named by its arguments: the same in every process and on every machine."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *key)))


def check_episodes(episodes: Episodes, tasks: int) -> None:
    """Refuse what a sampler got wrong before it becomes a puzzling error of a network.

    Raises:
        ValueError: naming the field, what it is and what it must be.
    """
    if not isinstance(episodes, Episodes):
        raise ValueError(
            f"the sampler returned {type(episodes).__name__}; it must return supervised.Episodes(support, query)"
        )
    for role, (inputs, targets) in zip(episodes._fields, episodes, strict=True):
        if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
            raise ValueError(f"{role}: inputs and targets must be torch tensors")
        if len(inputs) != tasks or len(targets) != tasks:
            raise ValueError(
                f"{role}: inputs and targets hold {len(inputs)} and {len(targets)} tasks; {tasks} were asked for"
            )
        if inputs.ndim < 2 or targets.ndim < 2 or inputs.shape[1] != targets.shape[1] or not inputs.shape[1]:
            raise ValueError(
                f"{role}: inputs {list(inputs.shape)} and targets {list(targets.shape)} must both begin with "
                "[tasks, examples], with at least one example"
            )
