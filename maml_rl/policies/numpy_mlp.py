"""The Gaussian MLP in numpy, for rollouts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from maml_rl.policies.mlp import CONTEXT, LOG_STD, GaussianMLP


class NumpyPolicy:
    """The same policy for rollouts: batched numpy inference with no allocation per step.

    For tiny networks a numpy matrix product costs about half of what a torch call does.
    """

    def __init__(self, spec: GaussianMLP, params: Mapping[str, np.ndarray], batch_size: int) -> None:
        self._weights = [np.ascontiguousarray(params[f"{name}.weight"].T) for name in spec.layers]
        self._biases = [params[f"{name}.bias"] for name in spec.layers]
        if spec.context_size:  # constant over an episode: its part of the first layer is a bias
            context_weights = self._weights[0][spec.observation_size :]
            self._weights[0] = self._weights[0][: spec.observation_size]
            self._biases[0] = self._biases[0] + params[CONTEXT] @ context_weights
        self._buffers = [np.empty((batch_size, len(bias)), np.float32) for bias in self._biases]
        self._relu = spec.activation == "relu"
        self.std = np.exp(np.maximum(params[LOG_STD], np.float32(math.log(spec.min_std))))

    def mean(self, observations: np.ndarray) -> np.ndarray:
        """Mean actions ``[batch, actions]``; the array is overwritten by the next call."""
        x = observations
        last = len(self._weights) - 1
        for i, (weight, bias, out) in enumerate(zip(self._weights, self._biases, self._buffers, strict=True)):
            np.dot(x, weight, out=out)
            out += bias
            if i < last:
                np.maximum(out, 0.0, out=out) if self._relu else np.tanh(out, out=out)
            x = out
        return x
