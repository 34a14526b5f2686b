"""Policies of all other built-in architectures: convolutions, layer normalisation, recurrence, activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maml_rl.policies.autograd_network import AutogradNetwork, Switches
from maml_rl.policies.distributions import Distribution, distribution
from maml_rl.policies.heads import Head
from maml_rl.policies.layers import (
    ACTIVATIONS,
    activate,
    convolution,
    gru,
    layer_norm,
    linear,
    lstm,
    out_size,
)
from maml_rl.policies.mlp_derivatives import append_context
from maml_rl.policies.policy import (
    CONTEXT,
    Blocks,
    Params,
    Scratch,
    from_blocks,
    init_weights,
    initial_values,
)
from maml_rl.policies.structure import Image
from maml_rl.policies.torch_policy import TorchPolicy

GATES = {"gru": 3, "lstm": 4}
STATES = {"gru": 1, "lstm": 2}
"""Vectors that a cell remembers."""


Filter = tuple[int, int, int]
"""Channels, kernel size and stride of a convolution."""


@dataclass(frozen=True)
class NetworkPolicy(TorchPolicy):
    """Pictures through convolutions; with the rest of the observation through dense layers; then a recurrent cell.

    Attributes:
        images: the pictures in an observation, each with convolutions of its own.
        conv_filters: the convolutions of each picture, without padding, an activation after each.
        layer_norm: normalise every hidden layer before its activation.
        recurrent_cell: ``gru`` or ``lstm`` after the hidden layers, with zero state at the start of an episode.
        recurrent_size: units of the cell.
    """

    observation_size: int
    head: Head
    hidden_sizes: tuple[int, ...] = (100, 100)
    activation: str = "relu"
    context_size: int = 0
    adapt_only: tuple[str, ...] = ()
    layer_norm: bool = False
    images: tuple[Image, ...] = ()
    conv_filters: tuple[Filter, ...] = ()
    recurrent_cell: str | None = None
    recurrent_size: int = 64

    kind = "network"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; allowed: {', '.join(ACTIVATIONS)}")
        if self.recurrent_cell not in (None, *GATES):
            raise ValueError(f"recurrent is {self.recurrent_cell!r}; allowed: None, {', '.join(GATES)}")
        for image in self.images:
            _, *sizes = image.chw
            for channels, kernel, stride in self.conv_filters:
                if min(sizes) < kernel:
                    raise ValueError(
                        f"conv_filters is {self.conv_filters}, but an image of {image.chw[1]} x {image.chw[2]} is "
                        f"only {sizes[0]} x {sizes[1]} where [{channels}, {kernel}, {stride}] comes"
                    )
                sizes = [out_size(size, kernel, stride) for size in sizes]
        self.check_adapt_only()

    @property
    def recurrent(self) -> bool:  # type: ignore[override]
        return self.recurrent_cell is not None

    # --- parameters

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        size = self.observation_size + self.context_size
        for k, image in enumerate(self.images):
            channels, height, width = image.chw
            size -= image.size
            for i, (filters, kernel, stride) in enumerate(self.conv_filters):
                shapes |= _layer(f"conv.{k}.{i}", (filters, channels, kernel, kernel))
                channels = filters
                height, width = out_size(height, kernel, stride), out_size(width, kernel, stride)
            size += channels * height * width
        for i, units in enumerate(self.hidden_sizes):
            shapes |= _layer(f"hidden.{i}", (units, size))
            if self.layer_norm:
                shapes |= {f"norm.{i}.weight": (units,), f"norm.{i}.bias": (units,)}
            size = units
        if self.recurrent_cell is not None:
            gates = GATES[self.recurrent_cell] * self.recurrent_size
            shapes |= _layer("recurrent.inputs", (gates, size))
            shapes |= _layer("recurrent.state", (gates, self.recurrent_size))
            size = self.recurrent_size
        shapes |= _layer(self.head.layer, (self.head.outputs, size)) | self.head.shapes
        if self.context_size:
            shapes[CONTEXT] = (self.context_size,)
        return shapes

    def init_params(self, seed: int) -> Params:
        """Xavier-uniform weights, zero biases and context, scales of 1."""
        return init_weights(self.shapes, seed) | initial_values(self.head)

    # --- the function

    def __call__(
        self,
        params: Mapping[str, Float[Tensor, "tasks ..."]],
        observations: Float[Tensor, "tasks ... observation"],
    ) -> Distribution:
        return self._evaluate(params, observations, Switches())

    def _evaluate(
        self, params: Mapping[str, Tensor], observations: Tensor, switches: Switches
    ) -> Distribution:
        outputs, _ = self._outputs(params, observations, switches, None)
        return distribution(self.head, outputs, params)

    def _outputs(
        self,
        params: Mapping[str, Tensor],
        observations: Tensor,
        switches: Switches,
        state: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs of all samples, and the state after the last step of a recurrent policy."""
        tasks, *samples, _ = observations.shape
        x = self._encoded(params, observations.reshape(tasks, -1, self.observation_size), switches)
        if self.context_size:
            x = append_context(x, params[CONTEXT])
        for i in range(len(self.hidden_sizes)):
            x = linear(params, f"hidden.{i}", x)
            if self.layer_norm:
                x = layer_norm(params, f"norm.{i}", x)
            x = activate(self.activation, x, switches)
        if self.recurrent_cell is not None:
            x = x.unflatten(1, samples)
            if state is None:
                state = self.initial_state(params, samples[0]).expand(tasks, -1, -1)
            x, state = (gru if self.recurrent_cell == "gru" else lstm)(params, x, state)
            x = x.flatten(1, 2)
        return linear(params, self.head.layer, x).unflatten(1, samples), state

    @property
    def state_size(self) -> int:
        """Numbers that a recurrent policy remembers."""
        return 0 if self.recurrent_cell is None else STATES[self.recurrent_cell] * self.recurrent_size

    def _encoded(self, params: Mapping[str, Tensor], observations: Tensor, switches: Switches) -> Tensor:
        """The numbers that are no picture, then the last maps of every picture."""
        parts, end = [], 0
        for image in self.images:
            parts.append(observations[..., end : image.start])
            end = image.start + image.size
        parts.append(observations[..., end:])
        for k, image in enumerate(self.images):
            maps = image.of(observations)
            for i, (_, kernel, stride) in enumerate(self.conv_filters):
                maps = convolution(params, f"conv.{k}.{i}", maps, kernel, stride)
                maps = activate(self.activation, maps, switches)
            parts.append(maps.flatten(2))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    # --- its two uses

    def initial_state(self, params: Mapping[str, Tensor], n: int) -> Tensor:
        return next(iter(params.values())).new_zeros(n, self.state_size)

    def unroll(
        self, params: Mapping[str, Tensor], observations: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        stacked = {name: value[None] for name, value in params.items()}
        before = None if state is None else state[None]
        outputs, after = self._outputs(stacked, observations[None], Switches(), before)
        return outputs[0], None if after is None else after[0]

    def network(
        self, blocks: Blocks, observations: Tensor, scratch: Scratch, *, keep: bool, pattern: Any = None
    ) -> AutogradNetwork:
        def evaluate(attached: Blocks, switches: Switches) -> Distribution:
            return self._evaluate(from_blocks(self, attached), observations, switches)

        return AutogradNetwork(evaluate, blocks, pattern)

    def as_dict(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        images = [asdict(image) for image in self.images]
        return {"kind": self.kind, **fields, "head": self.head.as_dict(), "images": images}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> NetworkPolicy:
        """The policy that ``as_dict`` described, with its head."""
        images = [Image(**{**image, "shape": tuple(image["shape"])}) for image in fields["images"]]
        lists = {
            "hidden_sizes": tuple(fields["hidden_sizes"]),
            "conv_filters": tuple(map(tuple, fields["conv_filters"])),
            "adapt_only": tuple(fields["adapt_only"]),
        }
        return cls(**{**fields, **lists, "images": tuple(images)})


def _layer(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
