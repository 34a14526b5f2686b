"""The derivatives of the MLP, written out: forward, backward and second products, batched over tasks.

Only the network is differentiated by hand; formulas of its outputs are left to autograd. The tests compare
everything with plain autograd in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from maml_rl.policies.distributions import from_parts
from maml_rl.policies.heads import GaussianHead, Head
from maml_rl.policies.policy import Blocks, Network, Scratch


class MLPShape(NamedTuple):
    """What the derivatives need to know of an MLP.

    Attributes:
        layers: hidden ones and the last.
        tanh: its activation, or else ReLU.
        has_context: free parameters are appended to the observation.
    """

    layers: int
    observation_size: int
    tanh: bool
    has_context: bool


class MLPNetwork(Network):
    """The policy network of some tasks at fixed parameters and observations.

    Args:
        blocks: parameters stacked over tasks: weight and bias of every layer, then ``log_std`` if the head has one,
            then the context if there is one.
        keep: keep the activations in arrays of their own. Otherwise they live in ``scratch``, and only
            ``vjp`` may be called, before the next network is made.
        pattern: a network at the same observations whose ReLU units are on and off here, too, and whose live
            standard deviations are: the smooth function that its derivatives are those of.
    """

    def __init__(
        self,
        shape: MLPShape,
        head: Head,
        blocks: Blocks,
        observations: Tensor,
        scratch: Scratch,
        *,
        keep: bool,
        pattern: MLPNetwork | None = None,
    ) -> None:
        self._layers, self._observation_size, self._tanh, self._has_context = shape
        self._scratch = scratch
        weights, biases, log_std, context = self._split(blocks)
        self._weights = weights
        self._inputs = [append_context(observations, *context) if context else observations]
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            out = None if keep else self._array(f"hidden{i}", bias.shape[-1])
            z = torch.bmm(self._inputs[-1], weight.mT, out=out).add_(bias[:, None])
            if i < len(self._weights) - 1:
                self._inputs.append(self._activated(z, i, pattern))
        # Of ReLU units: what says which are on.
        self._switches = self._inputs if pattern is None else pattern._inputs
        # Standard deviations above their least one: the others are constants.
        self._live: list[Tensor] = []
        shared: list[Tensor] = []
        least = math.log(head.min_std) if isinstance(head, GaussianHead) else -math.inf
        for value in log_std:
            live = value >= least if pattern is None else pattern._live[0] > 0
            self._live.append(live.to(observations.dtype))
            shared.append(torch.where(live, value, least))
        self.outputs = from_parts(head, [z, *shared])
        self._tangents: list[Tensor] = []
        self._errors: list[Tensor] = []
        self._first_bias_gradient = z

    def _activated(self, z: Tensor, layer: int, pattern: MLPNetwork | None) -> Tensor:
        """The activation of hidden ``layer``, in place."""
        if self._tanh:
            return z.tanh_()
        if pattern is None:
            return z.clamp_(min=0)
        return _where_positive(pattern._inputs[layer + 1], z)

    def _split(self, blocks: Blocks) -> tuple[Blocks, Blocks, Blocks, Blocks]:
        """Weights, biases, log_std and the context, if there are any."""
        end, context = 2 * self._layers, len(blocks) - self._has_context
        return blocks[:end:2], blocks[1:end:2], blocks[end:context], blocks[context:]

    def _context_gradient(self, first_bias: Tensor, first_weight: Tensor) -> Tensor:
        """What a gradient in the first layer's bias is in the context, which enters beside it."""
        context_weight = first_weight[..., self._observation_size :]
        return torch.bmm(first_bias[:, None], context_weight)[:, 0]

    def _array(self, name: str, width: int) -> Tensor:
        return self._scratch(name, self._inputs[0], width)

    def _times_slope(self, x: Tensor, layer: int) -> Tensor:
        """Multiply x by the activation's derivative at hidden ``layer``, in place."""
        if self._tanh:
            h = self._inputs[layer + 1]
            return x.sub_(x * h * h)
        return _where_positive(self._switches[layer + 1], x)

    def _sum_over_samples(self, error: Tensor) -> Tensor:
        # A product with ones is several times faster than sum(1).
        ones = self._array("ones", 1).mT
        return torch.bmm(ones, error).squeeze(1)

    def jvp(self, tangents: Blocks) -> tuple[Tensor, ...]:
        """Directional derivative of the outputs: 2 passes. Keeps the hidden tangents for ``second_vjp``."""
        self._tangents = []
        d_weights, d_biases, d_log_std, d_context = self._split(tangents)
        for d in d_context:
            context_weight = self._weights[0][..., self._observation_size :]
            d_biases[0] = d_biases[0] + torch.bmm(d[:, None], context_weight.mT)[:, 0]
        layers = zip(self._inputs, d_weights, d_biases, strict=True)
        for i, (inputs, d_weight, d_bias) in enumerate(layers):
            z = torch.bmm(inputs, d_weight.mT, out=self._array(f"tangent{i}", d_bias.shape[-1]))
            z.add_(d_bias[:, None])
            if i > 0:
                z.baddbmm_(self._tangents[-1], self._weights[i].mT)
            if i < len(self._inputs) - 1:
                self._tangents.append(self._times_slope(z, i))
        return z, *self._of_live(d_log_std)

    def _of_live(self, log_std: Sequence[Tensor]) -> Blocks:
        return [x * live for x, live in zip(log_std, self._live, strict=True)]

    def vjp(self, cotangents: Sequence[Tensor], *, keep_errors: bool = False) -> Blocks:
        """Gradient of ``<cotangents, outputs>`` with respect to the blocks: 2 passes."""
        error, *of_log_std = cotangents
        errors = [error]
        gradients = self._of_live(of_log_std)
        for i in reversed(range(len(self._inputs))):
            gradients += [self._sum_over_samples(error), torch.bmm(error.mT, self._inputs[i])]
            if i > 0:
                width = self._weights[i].shape[-1]
                out = None if keep_errors and i > 1 else self._array(f"error{i}", width)
                error = self._times_slope(torch.bmm(error, self._weights[i], out=out), i - 1)
                errors.append(error)
        if keep_errors:
            self._errors = errors[:-1][::-1]
            self._first_bias_gradient = gradients[-2]
        gradients.reverse()
        if self._has_context:
            gradients.append(self._context_gradient(gradients[1], self._weights[0]))
        return gradients

    def second_vjp(self, tangents: Blocks, cotangents: Sequence[Tensor]) -> Blocks:
        """Directional derivative of the result of ``vjp``: 4 passes.

        Args:
            tangents: the direction; ``jvp(tangents)`` must have been called last.
            cotangents: the directional derivative of the cotangents that were given to the last
                ``vjp(..., keep_errors=True)``.
        """
        error, *of_log_std = cotangents
        gradients = self._of_live(of_log_std)
        for i in reversed(range(len(self._inputs))):
            gradient = torch.bmm(error.mT, self._inputs[i])
            gradients += [self._sum_over_samples(error), gradient]
            if i > 0:
                hidden, kept = self._tangents[i - 1], self._errors[i - 1]
                gradient.baddbmm_(kept.mT, hidden)
                upstream = self._array(f"error{i}", self._weights[i].shape[-1])
                torch.bmm(error, self._weights[i], out=upstream)
                upstream.baddbmm_(kept, tangents[2 * i])
                error = self._times_slope(upstream, i - 1)
                if self._tanh:  # the slope 1 - h^2 changes too: by -2 h times the tangent of h
                    error.sub_(2 * self._inputs[i] * hidden * torch.bmm(kept, self._weights[i]))
        gradients.reverse()
        if self._has_context:
            kept = self._first_bias_gradient
            of_context = gradients[0][..., self._observation_size :]
            of_context.baddbmm_(kept[..., None], tangents[-1][:, None])
            moved = self._context_gradient(kept, tangents[0])
            gradients.append(moved + self._context_gradient(gradients[1], self._weights[0]))
        return gradients


def _where_positive(switch: Tensor, x: Tensor) -> Tensor:
    """Zero what of ``x`` has no positive switch, in place."""
    return torch.ops.aten.threshold_backward.grad_input(x, switch, 0, grad_input=x)


def append_context(
    observations: Float[Tensor, "tasks samples observation"], context: Float[Tensor, "tasks context"]
) -> Float[Tensor, "tasks samples inputs"]:
    """Each task's context beside each of its observations."""
    tasks, samples, _ = observations.shape
    return torch.cat([observations, context[:, None].expand(tasks, samples, -1)], dim=-1)
