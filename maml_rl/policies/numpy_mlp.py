"""The MLP in numpy, for rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from maml_rl.policies.acting import ActingPolicy, Actor
from maml_rl.policies.heads import Head


@dataclass(frozen=True)
class ActingMLP(ActingPolicy):
    """What rollouts need to know of an ``MLP``.

    Attributes:
        layers: beginnings of the names of the weights and biases, in order.
        context: name of the free parameters beside the observation, or None.
        relu: the activation, or else tanh.
    """

    observation_size: int
    head: Head
    layers: tuple[str, ...]
    context: str | None
    relu: bool

    def actor(self, params: Mapping[str, np.ndarray], episodes: int) -> NumpyMLP:
        weights = [params[f"{name}.weight"] for name in self.layers]
        biases = [params[f"{name}.bias"] for name in self.layers]
        context = params[self.context] if self.context else None
        return NumpyMLP(weights, biases, context, episodes, relu=self.relu)


class NumpyMLP(Actor):
    """Batched numpy inference with no allocation per step.

    For tiny networks a numpy matrix product costs about half of what a torch call does.

    Args:
        weights: of every layer, in ``torch.nn.Linear`` layout.
        context: constant inputs beside the observation, or None.
    """

    def __init__(
        self,
        weights: Sequence[np.ndarray],
        biases: Sequence[np.ndarray],
        context: np.ndarray | None,
        batch_size: int,
        *,
        relu: bool,
    ) -> None:
        self._weights = [np.ascontiguousarray(weight.T) for weight in weights]
        self._biases = list(biases)
        if context is not None:  # constant over an episode: its part of the first layer is a bias
            size = len(self._weights[0]) - len(context)
            self._biases[0] = self._biases[0] + context @ self._weights[0][size:]
            self._weights[0] = self._weights[0][:size]
        self._buffers = [np.empty((batch_size, len(bias)), np.float32) for bias in self._biases]
        self._relu = relu

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Outputs ``[batch, outputs]``; the array is overwritten by the next call."""
        x = observations
        last = len(self._weights) - 1
        for i, (weight, bias, out) in enumerate(zip(self._weights, self._biases, self._buffers, strict=True)):
            np.dot(x, weight, out=out)
            out += bias
            if i < last:
                np.maximum(out, 0.0, out=out) if self._relu else np.tanh(out, out=out)
            x = out
        return x
