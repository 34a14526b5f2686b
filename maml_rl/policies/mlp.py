"""Gaussian MLP policy: the layout of its parameters, and the torch form that the learner uses.

Parameters are values (``dict[str, Tensor]``) in ``torch.nn.Linear`` layout, never state hidden in a
module. The torch form takes parameters *stacked over tasks*, so one batched matrix product serves all
tasks of a meta-batch, each with its own adapted weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from maml_rl.policies.distributions import Gaussian

Params = dict[str, Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}
LOG_STD = "log_std"
CONTEXT = "context"


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
        sizes = (self.observation_size, self.action_size, *self.hidden_sizes)
        if not all(type(size) is int and size >= 1 for size in sizes):
            raise ValueError(f"the policy's sizes are {sizes}; they must be positive integers")
        if type(self.context_size) is not int or self.context_size < 0:
            raise ValueError(f"context_size is {self.context_size!r}; it must be an integer >= 0")

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
