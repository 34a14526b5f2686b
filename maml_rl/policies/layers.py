"""Layers over parameters stacked over tasks: one call computes the layer of every task, and all can be
differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from maml_rl.policies.autograd_network import Switches

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
}
_SLOPES = {"relu": 0.0, "leaky_relu": 0.01}
"""Of piecewise linear activations below zero."""


def activate(name: str, x: Tensor, switches: Switches) -> Tensor:
    """An activation; piecewise linear ones ask which units are on."""
    if name in _SLOPES:
        return x * torch.where(switches(x), 1.0, _SLOPES[name]).to(x.dtype)
    return ACTIVATIONS[name](x)


def linear(
    params: Mapping[str, Tensor], name: str, x: Float[Tensor, "tasks samples inputs"]
) -> Float[Tensor, "tasks samples outputs"]:
    """A dense layer in ``torch.nn.Linear`` layout."""
    return torch.baddbmm(params[f"{name}.bias"][:, None], x, params[f"{name}.weight"].mT)


def layer_norm(
    params: Mapping[str, Tensor], name: str, x: Float[Tensor, "tasks samples units"]
) -> Float[Tensor, "tasks samples units"]:
    """Layer normalisation (Ba et al. 2016) with a scale that is 1 + ``weight``: it starts at zero, as biases do."""
    normal = F.layer_norm(x, x.shape[-1:])
    return normal * (1 + params[f"{name}.weight"])[:, None] + params[f"{name}.bias"][:, None]


def convolution(
    params: Mapping[str, Tensor],
    name: str,
    images: Float[Tensor, "tasks samples channels height width"],
    kernel: int,
    stride: int,
) -> Float[Tensor, "tasks samples outputs out_height out_width"]:
    """A convolution without padding, in ``torch.nn.Conv2d`` layout, as a matrix product with patches."""
    tasks, samples, _, height, width = images.shape
    patches = F.unfold(
        images.flatten(0, 1), kernel, stride=stride
    )  # [tasks * samples, channels * k * k, places]
    places = patches.shape[-1]
    rows = patches.mT.reshape(tasks, samples * places, -1)
    weight = params[f"{name}.weight"].flatten(2)
    maps = torch.baddbmm(params[f"{name}.bias"][:, None], rows, weight.mT)
    size = out_size(height, kernel, stride), out_size(width, kernel, stride)
    return maps.unflatten(1, (samples, places)).mT.unflatten(-1, size)


def out_size(size: int, kernel: int, stride: int) -> int:
    """Height or width of a map after ``convolution``."""
    return (size - kernel) // stride + 1


def gru(
    params: Mapping[str, Tensor],
    x: Float[Tensor, "tasks episodes steps inputs"],
    state: Float[Tensor, "tasks episodes units"],
) -> tuple[Float[Tensor, "tasks episodes steps units"], Float[Tensor, "tasks episodes units"]]:
    """A gated recurrent unit (Cho et al. 2014) in ``torch.nn.GRU`` layout: all states, and the last one."""
    states = []
    for of_input in _of_inputs(params, x):
        reset, update, new = of_input.chunk(3, -1)
        of_state = linear(params, "recurrent.state", state)
        r, z, n = of_state.chunk(3, -1)
        update = torch.sigmoid(update + z)
        new = torch.tanh(new + torch.sigmoid(reset + r) * n)
        state = new + update * (state - new)
        states.append(state)
    return torch.stack(states, dim=2), state


def lstm(
    params: Mapping[str, Tensor],
    x: Float[Tensor, "tasks episodes steps inputs"],
    state: Float[Tensor, "tasks episodes twice_units"],
) -> tuple[Float[Tensor, "tasks episodes steps units"], Float[Tensor, "tasks episodes twice_units"]]:
    """Long short-term memory (Hochreiter & Schmidhuber 1997) in ``torch.nn.LSTM`` layout.

    Args:
        state: hidden state and cell, one after the other.
    """
    hidden, cell = state.chunk(2, -1)
    states = []
    for of_input in _of_inputs(params, x):
        gates = of_input + linear(params, "recurrent.state", hidden)
        i, f, g, o = gates.chunk(4, -1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        states.append(hidden)
    return torch.stack(states, dim=2), torch.cat([hidden, cell], dim=-1)


def _of_inputs(params: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
    """The part of all gates that needs no state, by step, of all steps at once.

    The gradient of ``unbind`` is one stack. That of an index is a tensor of all steps, as often as there are steps.
    """
    return linear(params, "recurrent.inputs", x.flatten(1, 2)).unflatten(1, x.shape[1:3]).unbind(2)
