"""Gaussian MLP policy: one parameter layout, a torch form for the learner, a numpy form for rollouts.

Parameters are values (``dict[str, Tensor]``) in ``torch.nn.Linear`` layout, never state hidden in a
module. The torch form takes parameters *stacked over tasks*, so one batched matrix product serves all
tasks of a meta-batch, each with its own adapted weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Params = dict[str, Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}
LOG_STD = "log_std"
CONTEXT = "context"


class Gaussian(NamedTuple):
    """Diagonal Gaussians: one mean per sample, one standard deviation per task."""

    mean: Float[Tensor, "tasks samples actions"]
    log_std: Float[Tensor, "tasks actions"]

    def log_prob(self, actions: Float[Tensor, "tasks samples actions"]) -> Float[Tensor, "tasks samples"]:
        """Log-density of each action vector, *summed* over the action dimensions."""
        z = (actions - self.mean) * torch.exp(-self.log_std)[:, None]
        constant = self.log_std.sum(-1) + 0.5 * actions.shape[-1] * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - constant[:, None]

    def kl(self, other: Gaussian) -> Float[Tensor, "tasks samples"]:
        """KL(self || other) of each sample, summed over the action dimensions."""
        inverse_variance = torch.exp(-2 * other.log_std)
        shift = ((self.mean - other.mean).square() * inverse_variance[:, None]).sum(-1)
        ratio = 2 * (self.log_std - other.log_std)
        spread = (torch.exp(ratio) - ratio - 1).sum(-1)
        return 0.5 * (shift + spread[:, None])

    def detach(self) -> Gaussian:
        return Gaussian(self.mean.detach(), self.log_std.detach())


@dataclass(frozen=True)
class GaussianMLP:
    """Shape of the policy of Finn et al. 2017, sec. 5.3: two hidden layers of 100 ReLU units, an identity
    output for the mean, and a state-independent ``log_std`` that is adapted like any other parameter.

    Actions live in [-1, 1] per dimension; scaling to the environment's box is the rollout's business.

    With ``context_size`` > 0 as many free parameters are appended to every observation, and they are all that
    is adapted: the context vector of Rei 2015, the paper's baseline (sec. 6.2 of arXiv 1703.03400).
    """

    observation_size: int
    action_size: int
    hidden_sizes: tuple[int, ...] = (100, 100)
    activation: str = "relu"
    initial_std: float = 1.0
    min_std: float = 1e-6
    context_size: int = 0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; allowed: {', '.join(ACTIVATIONS)}")

    @property
    def layers(self) -> list[str]:
        return [*(f"hidden.{i}" for i in range(len(self.hidden_sizes))), "mean"]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every parameter, in the order of the flat parameter vector."""
        sizes = (self.observation_size + self.context_size, *self.hidden_sizes, self.action_size)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, fan_in, fan_out in zip(self.layers, sizes, sizes[1:], strict=False):
            shapes[f"{name}.weight"] = (fan_out, fan_in)
            shapes[f"{name}.bias"] = (fan_out,)
        shapes[LOG_STD] = (self.action_size,)
        if self.context_size:
            shapes[CONTEXT] = (self.context_size,)
        return shapes

    def init_params(self, seed: int) -> Params:
        """Xavier-uniform weights, zero biases and context, ``initial_std`` (the published initialisation)."""
        generator = torch.Generator().manual_seed(seed)
        params: Params = {}
        for name, shape in self.shapes.items():
            params[name] = torch.zeros(shape)
            if name.endswith(".weight"):
                torch.nn.init.xavier_uniform_(params[name], generator=generator)
        params[LOG_STD].fill_(math.log(self.initial_std))
        return params

    def __call__(
        self,
        params: Mapping[str, Float[Tensor, "tasks ..."]],
        observations: Float[Tensor, "tasks samples observation"],
    ) -> Gaussian:
        """Action distribution of every task's policy at its own observations."""
        activation = ACTIVATIONS[self.activation]
        x = observations
        if self.context_size:
            x = append_context(x, params[CONTEXT])
        for name in self.layers:
            x = torch.baddbmm(params[f"{name}.bias"][:, None], x, params[f"{name}.weight"].mT)
            if name != "mean":
                x = activation(x)
        return Gaussian(x, params[LOG_STD].clamp(min=math.log(self.min_std)))


def append_context(
    observations: Float[Tensor, "tasks samples observation"], context: Float[Tensor, "tasks context"]
) -> Float[Tensor, "tasks samples inputs"]:
    """Each task's context beside each of its observations."""
    tasks, samples, _ = observations.shape
    return torch.cat([observations, context[:, None].expand(tasks, samples, -1)], dim=-1)


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
