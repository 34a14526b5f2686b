"""What rollouts need to know of a policy; no torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from maml_rl.policies.heads import Head


class Actor(ABC):
    """A policy in rollouts, all episodes of one task at once; it may remember the steps before."""

    @abstractmethod
    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Outputs of the network ``[episodes, outputs]``; the next call may overwrite the array."""


class ActingPolicy(ABC):
    """A function from parameters and observations to actions.

    Attributes:
        observation_size: numbers of an observation.
        head: what the network's outputs mean.
    """

    observation_size: int
    head: Head

    @property
    def action_size(self) -> int:
        """Numbers of an action."""
        return self.head.action_size

    @abstractmethod
    def actor(self, params: Mapping[str, np.ndarray], episodes: int) -> Actor:
        """The policy with parameters that are not stacked, at the beginning of ``episodes`` episodes."""
