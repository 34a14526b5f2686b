"""The MLP policy of the paper: the layout of its parameters, and the torch form that the learner uses.

Parameters are in ``torch.nn.Linear`` layout; one batched matrix product serves all tasks of a meta-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from maml_rl.policies.distributions import Distribution, distribution
from maml_rl.policies.heads import GaussianHead, Head
from maml_rl.policies.layers import ACTIVATIONS, linear
from maml_rl.policies.mlp_derivatives import MLPNetwork, MLPShape, append_context
from maml_rl.policies.numpy_mlp import ActingMLP, NumpyMLP
from maml_rl.policies.policy import CONTEXT, Blocks, Params, Policy, Scratch, init_weights, initial_values

WRITTEN_OUT = {name: ACTIVATIONS[name] for name in ("relu", "tanh")}
"""The activations whose derivatives are written out in ``mlp_derivatives``."""


@dataclass(frozen=True)
class MLP(Policy):
    """Hidden layers of ReLU or tanh units and a linear output: that of Finn et al. 2017, sec. 5.3, has two of 100.

    Its derivatives are written out (``mlp_derivatives``) and its rollouts are numpy's. All other architectures are
    in ``network_policy``.

    With ``context_size`` > 0 as many free parameters are appended to every observation, and they are all that
    is adapted: the context vector of Rei 2015, the paper's baseline (sec. 6.2 of arXiv 1703.03400).
    """

    observation_size: int
    head: Head
    hidden_sizes: tuple[int, ...] = (100, 100)
    activation: str = "relu"
    context_size: int = 0
    adapt_only: tuple[str, ...] = ()

    kind = "mlp"

    def __post_init__(self) -> None:
        if self.activation not in WRITTEN_OUT:
            raise ValueError(f"activation is {self.activation!r}; allowed: {', '.join(WRITTEN_OUT)}")
        sizes = (self.observation_size, self.head.outputs, *self.hidden_sizes)
        if not all(type(size) is int and size >= 1 for size in sizes):
            raise ValueError(f"the policy's sizes are {sizes}; they must be positive integers")
        if type(self.context_size) is not int or self.context_size < 0:
            raise ValueError(f"context_size is {self.context_size!r}; it must be an integer >= 0")
        self.check_adapt_only()

    @classmethod
    def gaussian(
        cls,
        observation_size: int,
        action_size: int,
        hidden_sizes: tuple[int, ...] = (100, 100),
        activation: str = "relu",
        initial_std: float = 1.0,
        min_std: float = 1e-6,
        context_size: int = 0,
    ) -> MLP:
        """The policy for actions of a box."""
        head = GaussianHead(action_size, initial_std, min_std)
        return cls(observation_size, head, hidden_sizes, activation, context_size)

    @property
    def layers(self) -> list[str]:
        return [*(f"hidden.{i}" for i in range(len(self.hidden_sizes))), self.head.layer]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        sizes = (self.observation_size + self.context_size, *self.hidden_sizes, self.head.outputs)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, fan_in, fan_out in zip(self.layers, sizes, sizes[1:], strict=False):
            shapes[f"{name}.weight"] = (fan_out, fan_in)
            shapes[f"{name}.bias"] = (fan_out,)
        shapes |= self.head.shapes
        if self.context_size:
            shapes[CONTEXT] = (self.context_size,)
        return shapes

    def init_params(self, seed: int) -> Params:
        """Xavier-uniform weights, zero biases and context, ``initial_std`` (the published initialisation)."""
        return init_weights(self.shapes, seed) | initial_values(self.head)

    def __call__(
        self,
        params: Mapping[str, Float[Tensor, "tasks ..."]],
        observations: Float[Tensor, "tasks samples observation"],
    ) -> Distribution:
        activation = WRITTEN_OUT[self.activation]
        x = observations
        if self.context_size:
            x = append_context(x, params[CONTEXT])
        for name in self.layers:
            x = linear(params, name, x)
            if name != self.head.layer:
                x = activation(x)
        return distribution(self.head, x, params)

    def actor(self, params: Mapping[str, np.ndarray], episodes: int) -> NumpyMLP:
        return self.in_rollouts().actor(params, episodes)

    def in_rollouts(self) -> ActingMLP:
        context = CONTEXT if self.context_size else None
        layers = tuple(self.layers)
        return ActingMLP(self.observation_size, self.head, layers, context, self.activation == "relu")

    def network(
        self, blocks: Blocks, observations: Tensor, scratch: Scratch, *, keep: bool, pattern: Any = None
    ) -> MLPNetwork:
        shape = MLPShape(
            len(self.layers), self.observation_size, self.activation == "tanh", self.context_size > 0
        )
        return MLPNetwork(shape, self.head, blocks, observations, scratch, keep=keep, pattern=pattern)

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "observation_size": self.observation_size,
            "head": self.head.as_dict(),
            "hidden_sizes": list(self.hidden_sizes),
            "activation": self.activation,
            "context_size": self.context_size,
            "adapt_only": list(self.adapt_only),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> MLP:
        """The policy that ``as_dict`` described, with its head."""
        lists = {name: tuple(fields[name]) for name in ("hidden_sizes", "adapt_only")}
        return cls(**{**fields, **lists})
