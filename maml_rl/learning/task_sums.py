"""The meta-objective's part that one learner computes: sums over its tasks.

The objective re-adapts from the trial parameters on the stored pre-adaptation data and measures outer loss and
KL on the post-adaptation data. Everything here is a function of parameters and samples; Ray is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from operator import methodcaller
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from maml_rl.learning.adaptation import (
    InnerUpdateSettings,
    adapted_policy,
    in_chunks,
    with_old_log_probs,
)
from maml_rl.learning.batch import Samples
from maml_rl.learning.curvature import ChunkCurvature
from maml_rl.learning.losses import OuterLoss, surrogate_and_kl
from maml_rl.learning.meta_learner import Params
from maml_rl.learning.task_tree import Share, Sums
from maml_rl.learning.trpo import Vector
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.meta_params import INNER_LR, split_meta_params, theta_of
from maml_rl.policies.policy import Blocks, Policy, Scratch, from_blocks, to_blocks
from maml_rl.tools.threads import Map


class Chunk(NamedTuple):
    """Data of a few tasks: the samples of each inner step, and the post-adaptation samples."""

    pre: tuple[Samples, ...]
    post: Samples

    def thinned(self, fraction: float) -> Chunk:
        """A fraction of the samples of every phase."""
        return Chunk(tuple(samples.thinned(fraction) for samples in self.pre), self.post.thinned(fraction))


class FlatParams:
    """Meta-parameters as one vector, for the trust-region step: that of the meta-blocks of ``curvature.py``."""

    def __init__(self, spec: Policy, meta_params: Params) -> None:
        self._spec = spec
        self.learns_inner_lr = any(name.startswith(INNER_LR) for name in meta_params)
        self._shapes = [block.shape for block in self._to_blocks(meta_params)]

    def _to_blocks(self, meta_params: Params) -> Blocks:
        theta = theta_of(meta_params)
        blocks = to_blocks(self._spec, theta)
        if not self.learns_inner_lr:
            return blocks
        return blocks + to_blocks(self._spec, {k: meta_params[INNER_LR + k] for k in theta})

    def vector(self, meta_params: Params) -> Vector:
        """All of them, one after the other."""
        return flattened(self._to_blocks(meta_params))

    def blocks(self, vector: Vector) -> Blocks:
        """As ``ChunkCurvature`` takes them."""
        parts = vector.split([shape.numel() for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def params(self, vector: Vector) -> Params:
        """The meta-parameters that a vector stands for."""
        blocks = self.blocks(vector)
        count = len(self._spec.shapes)
        params = from_blocks(self._spec, blocks[:count])
        if self.learns_inner_lr:
            learned = from_blocks(self._spec, blocks[count:])
            params |= {INNER_LR + name: value for name, value in learned.items()}
        return params


def flattened(blocks: Iterable[Tensor]) -> Vector:
    """Tensors as one vector."""
    return torch.cat([block.flatten() for block in blocks])


class TaskSums:
    """What the meta-update asks of the tasks of one learner: sums over them, by node of the tree of tasks.

    Args:
        meta_params: those that collected the samples.
        pre: the samples each inner step adapts on, in order.
        post: the samples drawn with the adapted policies.
        inner: the adaptation on ``pre``.
        outer_loss: of the adapted policies on ``post``.
        parallel_map: how chunks of tasks are mapped: see ``threads.py``.
        share: which tasks these are, if there are other learners; ``samples_per_task`` as in ``Share.chunks``.
    """

    def __init__(
        self,
        spec: Policy,
        meta_params: Params,
        pre: Sequence[Samples],
        post: Samples,
        inner: InnerUpdateSettings,
        *,
        outer_loss: OuterLoss = surrogate_and_kl,
        parallel_map: Map = map,
        share: Share | None = None,
        samples_per_task: int | None = None,
    ) -> None:
        self._spec, self._inner, self._outer_loss = spec, inner, outer_loss
        self.map = parallel_map
        self.flat = FlatParams(spec, meta_params)
        self.start = self.flat.vector(meta_params)
        self.share, nodes = in_chunks(post, share, samples_per_task)
        self.samples_per_task = samples_per_task or post.weights[0].numel()
        self.units = post.weights.shape[1]
        places = [self.share.place(node) for node in nodes]
        self._chunks = {
            node: Chunk(tuple(s.tasks(p.start, p.stop) for s in pre), post.tasks(p.start, p.stop))
            for node, p in zip(nodes, places, strict=True)
        }
        if inner.inner_loss == "likelihood_ratio":
            drawn = self.map(partial(self._with_old_log_probs, meta_params), self._chunks.values())
            self._chunks = dict(zip(nodes, drawn, strict=True))
        adapted = self.map(partial(self._adapted_policy, meta_params), self._chunks.values())
        self._old = dict(zip(nodes, adapted, strict=True))
        self._curvatures: list[ChunkCurvature] = []

    def _with_old_log_probs(self, meta_params: Params, chunk: Chunk) -> Chunk:
        return chunk._replace(
            pre=with_old_log_probs(self._spec, meta_params, chunk.pre, self._inner.inner_lr)
        )

    def _adapted_policy(self, meta_params: Params, chunk: Chunk) -> Distribution:
        with torch.no_grad():  # the adaptation enables what it needs
            return adapted_policy(
                self._spec, meta_params, chunk.pre, chunk.post, self._inner.inner_lr, first_order=True
            )

    def _summed(self, of_chunks: Iterable[Tensor]) -> Sums:
        return self.share.summed(dict(zip(self._chunks, of_chunks, strict=True)))

    def loss_and_kl(self, vector: Vector | None = None) -> Sums:
        """Outer loss and KL ``[2]`` at the meta-parameters ``vector``, or at those that collected the samples."""
        policies: Iterable[Distribution] = self._old.values()
        if vector is not None:  # at the start the policies are the old ones, bit for bit
            policies = self.map(
                partial(self._adapted_policy, self.flat.params(vector)), self._chunks.values()
            )
        sums = []
        for policy, (node, chunk) in zip(policies, self._chunks.items(), strict=True):
            loss, kl = self._outer_loss(policy, self._old[node], chunk.post)
            sums.append(torch.stack([loss.sum(), kl.sum()]))
        return self._summed(sums)

    def gradient(self, curvature_fraction: float = 1.0) -> Sums:
        """Of the outer loss, where the samples were collected; after this there are products, too.

        Args:
            curvature_fraction: of the samples, for the products.
        """
        scratch = Scratch()
        curvature_of = partial(self._curvature, scratch)
        self._curvatures = list(self.map(curvature_of, self._chunks.values()))
        gradients = self.map(ChunkCurvature.loss_gradient, self._curvatures)
        sums = self._summed(flattened(blocks) for blocks in gradients)
        if curvature_fraction < 1:
            # The old policies are adapted from the same thinned samples: only then is the KL's gradient zero
            # at the centre, which both kinds of product rely on.
            thin = [chunk.thinned(curvature_fraction) for chunk in self._chunks.values()]
            self._curvatures = list(self.map(curvature_of, thin))
        return sums

    def product(self, v: Vector, finite_difference_step: float | None = None) -> Sums:
        """``Hessian of the KL x v``, exact or by a finite difference along ``step v``."""
        blocks = self.flat.blocks(v)
        of_chunk = (
            methodcaller("exact_product", blocks)
            if finite_difference_step is None
            else methodcaller("finite_difference_product", blocks, finite_difference_step)
        )
        return self._summed(flattened(product) for product in self.map(of_chunk, self._curvatures))

    def minibatch_gradient(self, vector: Vector, index: Int[Tensor, " chosen"]) -> Sums:
        """Of the outer loss at ``vector`` on some of the tasks; on some samples if there is one task."""
        work = [(node, self._chosen(node, index)) for node in self._chunks]
        return self._summed(self.map(partial(self._chosen_gradient, self.flat.params(vector)), work))

    def _chosen(self, node: range, index: Tensor) -> Tensor:
        if len(self.share.tasks) > 1:
            index = index[(index >= node.start) & (index < node.stop)] - node.start
        return index.to(self.start.device)

    def _chosen_gradient(self, meta_params: Params, work: tuple[range, Tensor]) -> Vector:
        node, index = work
        if len(index) == 0:
            return torch.zeros_like(self.start)
        (pre, post), old = self._chunks[node], self._old[node]
        if len(self.share.tasks) == 1:
            post, old = post.select(index), old.at(index)
        else:
            pre = tuple(samples.of_tasks(index) for samples in pre)
            post, old = post.of_tasks(index), old.of_tasks(index)
        leaves = {name: value.detach().requires_grad_() for name, value in meta_params.items()}
        with torch.enable_grad():
            policy = adapted_policy(
                self._spec, leaves, pre, post, self._inner.inner_lr, first_order=self._inner.first_order
            )
            loss = self._outer_loss(policy, old, post)[0].sum()
            gradients = torch.autograd.grad(
                loss, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        return self.flat.vector(dict(zip(leaves, gradients, strict=True)))

    def _curvature(self, scratch: Scratch, chunk: Chunk) -> ChunkCurvature:
        _, inner_lr = split_meta_params(self._spec, self.flat.params(self.start), self._inner.inner_lr)
        fixed = inner_lr if isinstance(inner_lr, float) else list(inner_lr.values())
        return ChunkCurvature(
            self._spec,
            self.flat.blocks(self.start),
            chunk.pre,
            chunk.post,
            None if self.flat.learns_inner_lr else fixed,
            scratch,
            first_order=self._inner.first_order,
            outer_loss=self._outer_loss,
        )
