"""Fast curvature products of the meta-objective, from the derivatives of the policy network.

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

The formulas of loss and KL stay in ``losses.py``; their derivatives in the network's outputs are autograd's.
Parameters are *blocks* here: see ``policies.policy``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maml_rl.learning.batch import Samples
from maml_rl.learning.losses import OuterLoss, mean_kl, policy_gradient_loss, surrogate_and_kl
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.policy import Blocks, Network, Policy, Scratch


class InnerStep:
    """One step theta -> theta - alpha grad L of some tasks, with products by its Jacobian and the transpose.

    Args:
        blocks: where the step starts, stacked over tasks.
        inner_lr: one alpha, or one per block: a number, or a tensor like the (unstacked) block.
        keep: False when only ``adapted`` is wanted.
        pattern: the step at theta, whose ReLU units are on and off here, too.
    """

    def __init__(
        self,
        spec: Policy,
        blocks: Blocks,
        samples: Samples,
        inner_lr: float | Sequence[float | Tensor],
        scratch: Scratch,
        *,
        keep: bool = True,
        pattern: InnerStep | None = None,
    ) -> None:
        self._inner_lr: Sequence[float | Tensor] = (
            [inner_lr] * len(blocks) if isinstance(inner_lr, float) else inner_lr
        )
        frozen = None if pattern is None else pattern._network
        self._network: Network = spec.network(
            blocks, samples.observations, scratch, keep=keep, pattern=frozen
        )
        with torch.enable_grad():
            self._outputs = self._network.outputs.leaf()
            loss = policy_gradient_loss(self._outputs, samples).sum()
            # Its graph spans the outputs only: it is the second derivative of the loss formula.
            self._cotangents = _gradients(loss, self._outputs, create_graph=keep)
        self.gradient = self._network.vjp([x.detach() for x in self._cotangents], keep_errors=keep)
        self.adapted = self._step(blocks, self.gradient)

    def _step(self, start: Blocks, change: Blocks) -> Blocks:
        return [x - lr * g for x, lr, g in zip(start, self._inner_lr, change, strict=True)]

    def hessian_product(self, v: Blocks) -> Blocks:
        """H v with the Hessian of the inner loss: 6 passes."""
        tangents = self._network.jvp(v)
        return self._network.second_vjp(v, _derivatives(self._cotangents, self._outputs, tangents))

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
        spec: Policy,
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
        self._steps, self._adapted = self._adapt(meta)
        self._network = spec.network(self._adapted, self._post.observations, scratch, keep=True)
        self._old = self._network.outputs
        with torch.enable_grad():
            self._outputs = self._old.leaf()
            kl = mean_kl(self._old, self._outputs, post)
            self._kl_cotangents = _gradients(kl.sum(), self._outputs, create_graph=True)

    def _adapt(self, meta: Blocks) -> tuple[list[InnerStep], Blocks]:
        inner_lr = meta[self._blocks :] if self._inner_lr is None else self._inner_lr
        adapted = self._stacked(meta)
        steps: list[InnerStep] = []
        for samples in self._pre:
            step = InnerStep(self._spec, adapted, samples, inner_lr, self._scratch)
            steps.append(step)
            adapted = step.adapted
        return steps, adapted

    def _adapt_with_the_same_pattern(self, meta: Blocks) -> Blocks:
        """The adapted parameters at ``meta``, beside theta."""
        inner_lr = meta[self._blocks :] if self._inner_lr is None else self._inner_lr
        adapted = self._stacked(meta)
        for samples, at_theta in zip(self._pre, self._steps, strict=True):
            adapted = InnerStep(
                self._spec, adapted, samples, inner_lr, self._scratch, keep=False, pattern=at_theta
            ).adapted
        return adapted

    def _stacked(self, meta: Blocks) -> Blocks:
        tasks = len(self._post.weights)
        return [block.expand(tasks, *block.shape) for block in meta[: self._blocks]]

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
            outputs = self._old.leaf()
            loss, _ = self._outer_loss(outputs, self._old, self._post)
            cotangents = _gradients(loss.sum(), outputs)
        return self.pull_back(self._network.vjp(cotangents))

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
        fisher = _derivatives(self._kl_cotangents, self._outputs, tangents)
        return self.pull_back(self._network.vjp(fisher))

    def finite_difference_product(self, v: Blocks, step: float) -> Blocks:
        """The same from the KL gradients in the adapted parameters at theta + step v and theta - step v.

        The ReLU units are on and off as they are at theta, where the Hessian is: else each that switches within the
        displacement makes the gradient jump, which in directions of little curvature is more than the curvature.
        """
        above, below = self._kl_gradient(v, step), self._kl_gradient(v, -step)
        return self.pull_back([(a - b) / (2 * step) for a, b in zip(above, below, strict=True)])

    def _kl_gradient(self, v: Blocks, step: float) -> Blocks:
        if self._first_order:  # the inner gradients are constants: the displacement passes unchanged
            displaced = [x + step * d for x, d in zip(self._adapted, self._push_forward(v), strict=True)]
        else:
            moved = [x + step * d for x, d in zip(self._meta, v, strict=True)]
            displaced = self._adapt_with_the_same_pattern(moved)
        network = self._spec.network(
            displaced, self._post.observations, self._scratch, keep=False, pattern=self._network
        )
        with torch.enable_grad():
            outputs = network.outputs.leaf()
            kl = mean_kl(self._old, outputs, self._post)
            cotangents = _gradients(kl.sum(), outputs)
        return network.vjp(cotangents)


def _gradients(value: Tensor, outputs: Distribution, *, create_graph: bool = False) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, outputs.parts, create_graph=create_graph)


def _derivatives(
    cotangents: tuple[Tensor, ...], outputs: Distribution, tangents: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Directional derivatives of a formula's gradient: its Hessian is symmetric."""
    return torch.autograd.grad(cotangents, outputs.parts, tangents, retain_graph=True, materialize_grads=True)
