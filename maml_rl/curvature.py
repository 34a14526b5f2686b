"""Fast curvature products of the meta-objective: the derivatives of the policy network, written out.

Conjugate gradient needs the product of a vector with the Hessian of the mean KL ten times per update, at one
and the same point. At that point the KL's gradient in the distribution is zero, so the Hessian is exactly
``mean_i J_i^T P_i^T F P_i J_i`` with, for each task i,

* ``J_i`` the Jacobian of the adaptation theta -> theta'_i (for one step ``I - alpha H_i``, ``H_i`` the Hessian
  of the inner loss on the pre-adaptation samples),
* ``P_i`` the Jacobian of the adapted policy's distribution on the post-adaptation samples,
* ``F`` the Hessian of the KL in the distribution (the Fisher information of a Gaussian).

In passes of all samples through the widest layer, ``J`` costs 6, ``P`` 2, ``P^T`` 2, ``J^T`` 6, once activations
and back-propagated errors are kept from product to product, as here. A symmetric finite difference of the KL
gradient through ``P J`` alone, pulled back by the exact ``J^T``, costs 12 + 6: because the KL gradient is zero at
the centre, the derivative of ``J^T`` does not enter.

Only the network is differentiated by hand; the formulas of loss and KL stay in ``losses.py``, whose derivatives
in mean and log_std are left to autograd. The tests compare everything with plain autograd in float64.

Inside this module parameters are *blocks*: the tensors of ``GaussianMLP.shapes`` in that order, as a list.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from maml_rl.batch import Samples
from maml_rl.losses import OuterLoss, mean_kl, policy_gradient_loss, surrogate_and_kl
from maml_rl.meta_learner import Params
from maml_rl.policy import Gaussian, GaussianMLP, append_context

Blocks = list[Tensor]


def to_blocks(spec: GaussianMLP, params: Params) -> Blocks:
    """Parameters, stacked over tasks or not, as blocks."""
    return [params[name] for name in spec.shapes]


def from_blocks(spec: GaussianMLP, blocks: Blocks) -> Params:
    """Inverse of ``to_blocks``."""
    return dict(zip(spec.shapes, blocks, strict=True))


class Scratch(threading.local):
    """Work arrays of one thread, shared by all chunks: a fresh large array costs a page fault per 4 KiB."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, int, int, int], Tensor] = {}

    def __call__(self, name: str, like: Tensor, width: int) -> Tensor:
        tasks, samples = like.shape[:2]
        key = (name, tasks, samples, width)
        if key not in self._arrays:
            self._arrays[key] = like.new_ones((tasks, samples, width))
        return self._arrays[key]


class Network:
    """The policy network of some tasks at fixed parameters and observations.

    Args:
        blocks: parameters stacked over tasks.
        keep: keep the activations in arrays of their own. Otherwise they live in ``scratch``, and only
            ``vjp`` may be called, before the next network is made.
    """

    def __init__(
        self, spec: GaussianMLP, blocks: Blocks, observations: Tensor, scratch: Scratch, *, keep: bool
    ) -> None:
        self._tanh = spec.activation == "tanh"
        self._scratch = scratch
        self._layers, self._observation_size = len(spec.layers), spec.observation_size
        self._has_context = spec.context_size > 0
        weights, biases, log_std, context = self._split(blocks)
        self._weights = weights
        self._inputs = [append_context(observations, *context) if context else observations]
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            out = None if keep else self._array(f"hidden{i}", bias.shape[-1])
            z = torch.bmm(self._inputs[-1], weight.mT, out=out).add_(bias[:, None])
            if i < len(self._weights) - 1:
                self._inputs.append(z.tanh_() if self._tanh else z.clamp_(min=0))
        min_log_std = math.log(spec.min_std)
        self._log_std_is_live = (log_std >= min_log_std).to(observations.dtype)
        self.outputs = Gaussian(z, log_std.clamp(min=min_log_std))
        self._tangents: list[Tensor] = []
        self._errors: list[Tensor] = []
        self._first_bias_gradient = log_std

    def _split(self, blocks: Blocks) -> tuple[Blocks, Blocks, Tensor, Blocks]:
        """Weights, biases, log_std, and the context if there is one."""
        end = 2 * self._layers
        return blocks[:end:2], blocks[1:end:2], blocks[end], blocks[end + 1 :]

    def _context_gradient(self, first_bias: Tensor, first_weight: Tensor) -> Tensor:
        """What a gradient in the first layer's bias is in the context, which enters beside it."""
        context_weight = first_weight[..., self._observation_size :]
        return torch.bmm(first_bias[:, None], context_weight)[:, 0]

    def _array(self, name: str, width: int) -> Tensor:
        return self._scratch(name, self._inputs[0], width)

    def _times_slope(self, x: Tensor, layer: int) -> Tensor:
        """Multiply x by the activation's derivative at hidden ``layer``, in place."""
        h = self._inputs[layer + 1]
        if self._tanh:
            return x.sub_(x * h * h)
        return torch.ops.aten.threshold_backward.grad_input(x, h, 0, grad_input=x)

    def _sum_over_samples(self, error: Tensor) -> Tensor:
        # A product with ones is several times faster than sum(1).
        ones = self._array("ones", 1).mT
        return torch.bmm(ones, error).squeeze(1)

    def jvp(self, tangents: Blocks) -> Gaussian:
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
        return Gaussian(z, d_log_std * self._log_std_is_live)

    def vjp(self, cotangents: Gaussian, *, keep_errors: bool = False) -> Blocks:
        """Gradient of ``<cotangents, outputs>`` with respect to the blocks: 2 passes."""
        error = cotangents.mean
        errors = [error]
        gradients = [cotangents.log_std * self._log_std_is_live]
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

    def second_vjp(self, tangents: Blocks, cotangents: Gaussian) -> Blocks:
        """Directional derivative of the result of ``vjp``: 4 passes.

        Args:
            tangents: the direction; ``jvp(tangents)`` must have been called last.
            cotangents: the directional derivative of the cotangents that were given to the last
                ``vjp(..., keep_errors=True)``.
        """
        error = cotangents.mean
        gradients = [cotangents.log_std * self._log_std_is_live]
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


class InnerStep:
    """One step theta -> theta - alpha grad L of some tasks, with products by its Jacobian and the transpose.

    Args:
        blocks: where the step starts, stacked over tasks.
        inner_lr: one alpha, or one per block: a number, or a tensor like the (unstacked) block.
        keep: False when only ``adapted`` is wanted.
    """

    def __init__(
        self,
        spec: GaussianMLP,
        blocks: Blocks,
        samples: Samples,
        inner_lr: float | Sequence[float | Tensor],
        scratch: Scratch,
        *,
        keep: bool = True,
    ) -> None:
        self._inner_lr: Sequence[float | Tensor] = (
            [inner_lr] * len(blocks) if isinstance(inner_lr, float) else inner_lr
        )
        self._network = Network(spec, blocks, samples.observations, scratch, keep=keep)
        with torch.enable_grad():
            self._outputs = Gaussian(*(x.detach().requires_grad_() for x in self._network.outputs))
            loss = policy_gradient_loss(self._outputs, samples).sum()
            # Its graph spans the outputs only: it is the second derivative of the loss formula.
            self._cotangents = torch.autograd.grad(loss, self._outputs, create_graph=keep)
        self.gradient = self._network.vjp(Gaussian(*self._cotangents).detach(), keep_errors=keep)
        self.adapted = self._step(blocks, self.gradient)

    def _step(self, start: Blocks, change: Blocks) -> Blocks:
        return [x - lr * g for x, lr, g in zip(start, self._inner_lr, change, strict=True)]

    def hessian_product(self, v: Blocks) -> Blocks:
        """H v with the Hessian of the inner loss: 6 passes."""
        tangents = self._network.jvp(v)
        second = torch.autograd.grad(
            self._cotangents, self._outputs, tangents, retain_graph=True, materialize_grads=True
        )
        return self._network.second_vjp(v, Gaussian(*second))

    def jvp(self, v: Blocks) -> Blocks:
        """(I - alpha H) v."""
        return self._step(v, self.hessian_product(v))

    def vjp(self, w: Blocks) -> Blocks:
        """(I - alpha H)^T w = w - H (alpha w)."""
        scaled = [lr * x for lr, x in zip(self._inner_lr, w, strict=True)]
        return [x - h for x, h in zip(w, self.hessian_product(scaled), strict=True)]


class ChunkCurvature:
    """The adaptation and the adapted policies of a few tasks at theta: pull-backs and KL-Hessian products.

    Vectors over the meta-parameters are *meta-blocks*: the blocks of theta, followed, when the inner step size
    is meta-learned, by the blocks of alpha. All results are sums over the chunk's tasks.

    Args:
        meta: theta (and alpha) as meta-blocks, without a task dimension.
        pre: the samples of each inner step.
        inner_lr: the fixed step size, one or one per block, or None when ``meta`` holds learned ones.
        first_order: treat the inner gradient as a constant, so that ``J = I`` (for a fixed step size).
        outer_loss: what ``loss_gradient`` is the gradient of.
    """

    def __init__(
        self,
        spec: GaussianMLP,
        meta: Blocks,
        pre: Sequence[Samples],
        post: Samples,
        inner_lr: float | Sequence[float | Tensor] | None,
        scratch: Scratch,
        *,
        first_order: bool,
        outer_loss: OuterLoss = surrogate_and_kl,
    ) -> None:
        self._spec, self._meta, self._scratch = spec, meta, scratch
        self._outer_loss = outer_loss
        self._inner_lr, self._first_order = inner_lr, first_order
        self._blocks = len(spec.shapes)
        self._pre, self._post = pre, post
        self._steps, self._adapted = self._adapt(meta, keep=True)
        self._network = Network(spec, self._adapted, self._post.observations, scratch, keep=True)
        self._old = self._network.outputs
        with torch.enable_grad():
            self._outputs = Gaussian(*(x.detach().requires_grad_() for x in self._old))
            kl = mean_kl(self._old, self._outputs, post)
            self._kl_cotangents = torch.autograd.grad(kl.sum(), self._outputs, create_graph=True)

    def _adapt(self, meta: Blocks, *, keep: bool) -> tuple[list[InnerStep], Blocks]:
        inner_lr = meta[self._blocks :] if self._inner_lr is None else self._inner_lr
        tasks = len(self._post.weights)
        adapted = [block.expand(tasks, *block.shape) for block in meta[: self._blocks]]
        steps: list[InnerStep] = []
        for samples in self._pre:
            step = InnerStep(self._spec, adapted, samples, inner_lr, self._scratch, keep=keep)
            steps.append(step)
            adapted = step.adapted
        return steps, adapted

    def pull_back(self, w: Blocks) -> Blocks:
        """``sum_i J_i^T w_i``: what a gradient in the adapted parameters is in the meta-parameters."""
        lr_gradient: Blocks = [torch.zeros_like(block) for block in self._meta[self._blocks :]]
        for step in reversed(self._steps):
            lr_gradient = [
                total - (g * x).sum(0) for total, g, x in zip(lr_gradient, step.gradient, w, strict=False)
            ]
            w = w if self._first_order else step.vjp(w)
        return [*(x.sum(0) for x in w), *lr_gradient]

    def loss_gradient(self) -> Blocks:
        """Gradient of the sum over tasks of the outer loss."""
        with torch.enable_grad():
            outputs = Gaussian(*(x.detach().requires_grad_() for x in self._old))
            loss, _ = self._outer_loss(outputs, self._old, self._post)
            cotangents = torch.autograd.grad(loss.sum(), outputs)
        return self.pull_back(self._network.vjp(Gaussian(*cotangents)))

    def _push_forward(self, v: Blocks) -> Blocks:
        """``J_i v`` of every task."""
        tasks = len(self._post.weights)
        lr_tangent = v[self._blocks :]
        moved = [x.expand(tasks, *x.shape) for x in v[: self._blocks]]
        for step in self._steps:
            moved = moved if self._first_order else step.jvp(moved)
            if lr_tangent:
                moved = [x - g * d for x, g, d in zip(moved, step.gradient, lr_tangent, strict=True)]
        return moved

    def exact_product(self, v: Blocks) -> Blocks:
        """``sum_i J_i^T P_i^T F P_i J_i v``."""
        tangents = self._network.jvp(self._push_forward(v))
        fisher = torch.autograd.grad(
            self._kl_cotangents, self._outputs, tangents, retain_graph=True, materialize_grads=True
        )
        return self.pull_back(self._network.vjp(Gaussian(*fisher)))

    def finite_difference_product(self, v: Blocks, step: float) -> Blocks:
        """The same from the KL gradients in the adapted parameters at theta + step v and theta - step v."""
        above, below = self._kl_gradient(v, step), self._kl_gradient(v, -step)
        return self.pull_back([(a - b) / (2 * step) for a, b in zip(above, below, strict=True)])

    def _kl_gradient(self, v: Blocks, step: float) -> Blocks:
        if self._first_order:  # the inner gradients are constants: the displacement passes unchanged
            displaced = [x + step * d for x, d in zip(self._adapted, self._push_forward(v), strict=True)]
        else:
            moved = [x + step * d for x, d in zip(self._meta, v, strict=True)]
            _, displaced = self._adapt(moved, keep=False)
        network = Network(self._spec, displaced, self._post.observations, self._scratch, keep=False)
        with torch.enable_grad():
            outputs = Gaussian(*(x.detach().requires_grad_() for x in network.outputs))
            kl = mean_kl(self._old, outputs, self._post)
            cotangents = torch.autograd.grad(kl.sum(), outputs)
        return network.vjp(Gaussian(*cotangents))
