"""The paper's networks as functions of parameters stacked over tasks (Finn et al. 2017, sec. 5.1, 5.2, app. A.1).

A network makes its parameters (``init_params``: theta, not stacked), names those that the inner loop changes
(``adapted``), and maps stacked parameters and inputs ``[tasks, n, ...]`` to outputs ``[tasks, n, outputs]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import relu

from maml_rl.learning.meta_learner import Params
from supervised.models.layers import batch_norm, conv3x3, linear, max_pool2x2, out_size


class Network(Protocol):
    """What the meta-learner needs of a model."""

    def init_params(self, rng: np.random.Generator) -> Params:
        """Theta at the start of training."""
        ...

    def adapted(self, name: str) -> bool:
        """Whether the inner loop changes this parameter; the others are meta-learned only."""
        ...

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        """Outputs ``[tasks, n, ...]`` of parameters ``[tasks, *shape]``."""
        ...


@dataclass(frozen=True)
class MLP:
    """Dense layers with ReLU; with ``norm``, batch normalisation before each ReLU.

    Attributes:
        sizes: inputs, hidden layers, outputs.
        adapt_norm: batch normalisation has a scale besides its offset, and the inner loop changes both. In
            the code there is no scale and the offset is meta-learned only.
    """

    sizes: tuple[int, ...]
    norm: bool = False
    adapt_norm: bool = False

    def init_params(self, rng: np.random.Generator) -> Params:
        """Weights from a normal distribution of deviation 0.01 cut at two deviations, zero biases (code)."""
        params: Params = {}
        for i, (inputs, outputs) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            params[f"dense.{i}.weight"] = _truncated_normal(rng, 0.01, inputs, outputs)
            params[f"dense.{i}.bias"] = torch.zeros(outputs)
            if self.norm and i < len(self.sizes) - 2:
                params |= _norm_params(i, outputs, self.adapt_norm)
        return params

    def adapted(self, name: str) -> bool:
        return self.adapt_norm or not name.startswith("norm.")

    @property
    def head(self) -> str:
        """Prefix of the last layer's parameters."""
        return f"dense.{len(self.sizes) - 2}"

    def embed(self, params: Params, inputs: Tensor) -> Tensor:
        """The last layer's inputs ``[tasks, n, features]``."""
        hidden = inputs.flatten(2)
        for i in range(len(self.sizes) - 2):
            hidden = linear(hidden, params[f"dense.{i}.weight"], params[f"dense.{i}.bias"])
            hidden = relu(_normalise(params, i, hidden) if self.norm else hidden)
        return hidden

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        hidden = self.embed(params, inputs)
        return linear(hidden, params[f"{self.head}.weight"], params[f"{self.head}.bias"])


@dataclass(frozen=True)
class ConvNet:
    """Four blocks of 3x3 convolution, batch normalisation and ReLU, then a dense layer.

    Convolutions have no bias: the normalisation that follows would cancel it.

    Attributes:
        channels, size: of the images.
        filters: of every block.
        pool: blocks end in 2x2 max-pooling and the last maps are flattened (MiniImagenet); otherwise the
            convolutions have stride 2 and the last maps are averaged (Omniglot).
        adapt_norm: see ``MLP``.
    """

    channels: int
    size: int
    filters: int
    outputs: int
    pool: bool
    adapt_norm: bool = False

    BLOCKS = 4
    head = "dense"
    """Prefix of the last layer's parameters."""

    @property
    def features(self) -> int:
        """Inputs of the dense layer."""
        size = self.size
        for _ in range(self.BLOCKS):
            size = size // 2 if self.pool else out_size(size, 2)
        return self.filters * size**2 if self.pool else self.filters

    def init_params(self, rng: np.random.Generator) -> Params:
        """Xavier-uniform weights (code), zero offsets and biases."""
        params: Params = {}
        for i in range(self.BLOCKS):
            inputs = self.filters if i else self.channels
            # Fans count all nine taps on both sides.
            weight = _xavier_uniform(rng, (9 * inputs, self.filters), 9 * inputs, 9 * self.filters)
            params[f"conv.{i}.weight"] = weight
            params |= _norm_params(i, self.filters, self.adapt_norm)
        fans = (self.features, self.outputs)
        params["dense.weight"] = _xavier_uniform(rng, fans, *fans)
        params["dense.bias"] = torch.zeros(self.outputs)
        return params

    def adapted(self, name: str) -> bool:
        return self.adapt_norm or not name.startswith("norm.")

    def embed(self, params: Params, images: Tensor) -> Tensor:
        """The dense layer's inputs ``[tasks, n, features]``."""
        hidden, stride = images, 1 if self.pool else 2
        for i in range(self.BLOCKS):
            tasks, n, height, width, _ = hidden.shape
            rows = relu(_normalise(params, i, conv3x3(hidden, params[f"conv.{i}.weight"], stride)))
            hidden = rows.view(tasks, n, out_size(height, stride), out_size(width, stride), -1)
            hidden = max_pool2x2(hidden) if self.pool else hidden
        return hidden.flatten(2) if self.pool else hidden.mean((2, 3))

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        return linear(self.embed(params, inputs), params["dense.weight"], params["dense.bias"])


@dataclass(frozen=True)
class WithContext:
    """A network with free parameters beside its input, which alone are adapted (Rei 2015; paper, app. B).

    Attributes:
        network: takes ``shape[-1]`` more channels than the inputs have.
        shape: of the context: the inputs' shape but for the number of channels, which come last.
    """

    network: Network
    shape: tuple[int, ...]

    def init_params(self, rng: np.random.Generator) -> Params:
        """The network's, and a zero context."""
        return {**self.network.init_params(rng), "context": torch.zeros(self.shape)}

    def adapted(self, name: str) -> bool:
        return name == "context"

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        context = params["context"][:, None].expand(*inputs.shape[:2], *self.shape)
        return self.network(params, torch.cat([inputs, context], -1))


@dataclass(frozen=True)
class HeadOnly:
    """A network of which the inner loop changes the last layer alone (ANIL, Raghu et al. 2020).

    It maps what ``embed`` makes of the inputs, which an inner loop need compute only once.
    """

    network: MLP | ConvNet

    @property
    def head(self) -> str:
        """Prefix of the last layer's parameters."""
        return self.network.head

    def init_params(self, rng: np.random.Generator) -> Params:
        """The network's."""
        return self.network.init_params(rng)

    def adapted(self, name: str) -> bool:
        return name.startswith(f"{self.head}.")

    def embed(self, params: Params, inputs: Tensor) -> Tensor:
        """The last layer's inputs ``[tasks, n, features]``."""
        return self.network.embed(params, inputs)

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        return linear(inputs, params[f"{self.head}.weight"], params[f"{self.head}.bias"])


def _norm_params(layer: int, channels: int, scale: bool) -> Params:
    offset = {f"norm.{layer}.offset": torch.zeros(channels)}
    return {**offset, f"norm.{layer}.scale": torch.ones(channels)} if scale else offset


def _normalise(params: Params, layer: int, rows: Tensor) -> Tensor:
    return batch_norm(rows, params[f"norm.{layer}.offset"], params.get(f"norm.{layer}.scale"))


def _truncated_normal(rng: np.random.Generator, deviation: float, *shape: int) -> Tensor:
    values = rng.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(outside.sum())
    return torch.from_numpy(deviation * values).float()


def _xavier_uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    bound = np.sqrt(6 / (fan_in + fan_out))
    return torch.from_numpy(rng.uniform(-bound, bound, shape)).float()
