"""Rollouts of policies that have no form in numpy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.acting import Actor
from maml_rl.policies.policy import Params, Policy


class TorchPolicy(Policy):
    """A policy that runs in torch wherever it runs."""

    @abstractmethod
    def unroll(
        self, params: Mapping[str, Tensor], observations: Tensor, state: Any = None
    ) -> tuple[Tensor, Any]:
        """Outputs of the network with parameters that are not stacked, and the state after the last step.

        Args:
            observations: ``[n, observation]``, or ``[n, steps, observation]`` of a recurrent policy.
            state: before the first step; None is that at the start of an episode.
        """

    def initial_state(self, params: Mapping[str, Tensor], n: int) -> Any:
        """The state at the start of ``n`` episodes, of a recurrent policy: tensors with ``n`` first."""
        raise NotImplementedError

    def actor(self, params: Mapping[str, np.ndarray], episodes: int) -> TorchActor:
        return TorchActor(self, params)


class TorchActor(Actor):
    """One batch per step over all episodes of a task."""

    def __init__(self, policy: TorchPolicy, params: Mapping[str, np.ndarray]) -> None:
        self._policy = policy
        self._params: Params = {
            name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in params.items()
        }
        self._state: Any = None

    @torch.no_grad()
    def __call__(self, observations: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(observations)
        if not self._policy.recurrent:
            return self._policy.unroll(self._params, given)[0].numpy()
        outputs, self._state = self._policy.unroll(self._params, given[:, None], self._state)
        return outputs[:, 0].numpy()
