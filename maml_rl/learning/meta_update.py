"""Line 10 of Algorithm 3: the meta-objective, its gradient and curvature, and one trust-region step.

The objective re-adapts from the trial parameters on the stored pre-adaptation data and measures outer loss and
KL on the post-adaptation data. Everything here is a function of parameters and samples; Ray is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from maml_rl.learning.batch import Samples
from maml_rl.learning.curvature import ChunkCurvature
from maml_rl.learning.losses import OuterLoss, policy_gradient_loss, surrogate_and_kl
from maml_rl.learning.meta_learner import LossFn, Params, adapt, stack_params
from maml_rl.learning.trpo import LinearOperator, LineSearch, StepResult, trust_region_step
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.meta_params import INNER_LR, split_meta_params, theta_of
from maml_rl.policies.policy import Blocks, Policy, Scratch, from_blocks, to_blocks
from maml_rl.tools.threads import Map

HVPS = ("finite_difference", "exact")


@dataclass(frozen=True)
class MetaUpdateSettings:
    """What the meta-update needs to know; ``MAMLConfig.training`` gives meanings and sources."""

    inner_lr: float
    max_kl: float = 0.01
    first_order: bool = False
    hvp: str = "finite_difference"
    hvp_step: float = 0.005
    curvature_fraction: float = 1.0
    cg_iterations: int = 10
    cg_residual_tol: float = 1e-10
    cg_damping: float = 1e-5
    line_search: LineSearch = field(default_factory=LineSearch)


class Chunk(NamedTuple):
    """Data of a few tasks: the samples of each inner step, and the post-adaptation samples."""

    pre: tuple[Samples, ...]
    post: Samples

    def thinned(self, fraction: float) -> Chunk:
        """A fraction of the samples of every phase."""
        return Chunk(tuple(samples.thinned(fraction) for samples in self.pre), self.post.thinned(fraction))


def inner_loss(spec: Policy) -> LossFn[Samples]:
    """The inner loss of a policy, as ``meta_learner.adapt`` takes it."""

    def loss(params: Params, samples: Samples) -> Float[Tensor, " tasks"]:
        return policy_gradient_loss(spec(params, samples.observations), samples)

    return loss


def adapt_policy(
    spec: Policy,
    meta_params: Params,
    pre: Sequence[Samples],
    inner_lr: float,
    *,
    first_order: bool = False,
) -> Params:
    """theta'_i of every task (lines 6-7 of Algorithm 3), stacked over tasks."""
    theta, step_size = split_meta_params(spec, meta_params, inner_lr)
    start = stack_params(theta, len(pre[0].weights))
    return adapt(inner_loss(spec), start, pre, step_size, first_order=first_order)


def adapted_policy(
    spec: Policy,
    meta_params: Params,
    pre: Sequence[Samples],
    post: Samples,
    inner_lr: float,
    *,
    first_order: bool = False,
) -> Distribution:
    """Every task's policy at its own ``post`` observations, adapted to ``pre`` if there is any."""
    if pre:
        params = adapt_policy(spec, meta_params, pre, inner_lr, first_order=first_order)
    else:
        params = stack_params(theta_of(meta_params), len(post.weights))
    return spec(params, post.observations)


def adapt_in_chunks(
    spec: Policy,
    meta_params: Params,
    pre: Sequence[Samples],
    inner_lr: float,
    parallel_map: Map = map,
) -> Params:
    """The values of ``adapt_policy``, computed chunk by chunk and without a graph."""
    size = _tasks_per_chunk(pre[0])

    def adapt_chunk(start: int) -> Params:
        chunk = [samples.tasks(start, start + size) for samples in pre]
        return adapt_policy(spec, meta_params, chunk, inner_lr, first_order=True)

    parts = list(parallel_map(adapt_chunk, range(0, len(pre[0].weights), size)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class MetaObjective:
    """Mean over tasks of the outer loss and of the KL to the policies adapted from ``meta_params``.

    Args:
        pre: the samples each inner step adapts on, in order.
        post: the samples drawn with the adapted policies.
        parallel_map: how chunks of tasks are mapped: see ``parallel.py``.
        outer_loss: of the adapted policies on ``post``.
    """

    def __init__(
        self,
        spec: Policy,
        meta_params: Params,
        pre: Sequence[Samples],
        post: Samples,
        settings: MetaUpdateSettings,
        parallel_map: Map = map,
        outer_loss: OuterLoss = surrogate_and_kl,
    ) -> None:
        self._outer_loss = outer_loss
        self._spec, self._settings, self._tasks = spec, settings, len(post.weights)
        self._map = parallel_map
        self._learns_inner_lr = any(name.startswith(INNER_LR) for name in meta_params)
        size = _tasks_per_chunk(post)
        self._chunks = [
            Chunk(tuple(s.tasks(i, i + size) for s in pre), post.tasks(i, i + size))
            for i in range(0, self._tasks, size)
        ]
        _, inner_lr = split_meta_params(spec, meta_params, settings.inner_lr)
        self._fixed_inner_lr = inner_lr if isinstance(inner_lr, float) else list(inner_lr.values())
        self._blocks = self._to_blocks(meta_params)
        self.start = torch.cat([block.flatten() for block in self._blocks])
        self._old = list(self._map(partial(self._adapted_policy, meta_params), self._chunks))
        # At the start the policies are the old ones, bit for bit.
        self.loss_before, _ = self._mean_loss_and_kl(zip(self._chunks, self._old, self._old, strict=True))

    # The flat vector of the trust-region step holds the meta-blocks of ``curvature.py``.

    def _to_blocks(self, meta_params: Params) -> Blocks:
        theta = theta_of(meta_params)
        blocks = to_blocks(self._spec, theta)
        if not self._learns_inner_lr:
            return blocks
        return blocks + to_blocks(self._spec, {k: meta_params[INNER_LR + k] for k in theta})

    def _unflatten(self, vector: Float[Tensor, " params"]) -> Blocks:
        parts = vector.split([block.numel() for block in self._blocks])
        return [part.view_as(block) for part, block in zip(parts, self._blocks, strict=True)]

    def meta_params(self, vector: Float[Tensor, " params"]) -> Params:
        """The meta-parameters that a flat vector stands for."""
        blocks = self._unflatten(vector)
        count = len(self._spec.shapes)
        params = from_blocks(self._spec, blocks[:count])
        if self._learns_inner_lr:
            learned = from_blocks(self._spec, blocks[count:])
            params |= {INNER_LR + name: value for name, value in learned.items()}
        return params

    def _adapted_policy(self, meta_params: Params, chunk: Chunk) -> Distribution:
        with torch.no_grad():  # the adaptation enables what it needs
            return adapted_policy(
                self._spec, meta_params, chunk.pre, chunk.post, self._settings.inner_lr, first_order=True
            )

    def loss_and_kl(self, vector: Float[Tensor, " params"]) -> tuple[float, float]:
        """Outer loss and KL at the meta-parameters ``vector``, means over tasks."""
        new = self._map(partial(self._adapted_policy, self.meta_params(vector)), self._chunks)
        return self._mean_loss_and_kl(zip(self._chunks, new, self._old, strict=True))

    def _mean_loss_and_kl(
        self, chunks: Iterable[tuple[Chunk, Distribution, Distribution]]
    ) -> tuple[float, float]:
        sums = []
        for chunk, policy, old in chunks:
            loss, kl = self._outer_loss(policy, old, chunk.post)
            sums.append(torch.stack([loss.sum(), kl.sum()]))
        loss, kl = (torch.stack(sums).sum(0) / self._tasks).tolist()
        return loss, kl

    def linearize(self) -> tuple[Float[Tensor, " params"], LinearOperator]:
        """Gradient of the loss at ``start``, and ``v -> (Hessian of the KL + damping) v`` there."""
        settings, scratch = self._settings, Scratch()
        curvature_of = partial(self._curvature, scratch)
        curvatures = list(self._map(curvature_of, self._chunks))
        gradient = self._mean(self._map(ChunkCurvature.loss_gradient, curvatures))
        if settings.curvature_fraction < 1:
            # The old policies are adapted from the same thinned samples: only then is the KL's gradient zero
            # at the centre, which both kinds of product rely on.
            thin = [chunk.thinned(settings.curvature_fraction) for chunk in self._chunks]
            curvatures = list(self._map(curvature_of, thin))

        def product(v: Float[Tensor, " params"]) -> Float[Tensor, " params"]:
            blocks = self._unflatten(v)
            if settings.hvp == "exact":
                of_chunk = methodcaller("exact_product", blocks)
            else:
                step = settings.hvp_step / float(v.norm())
                of_chunk = methodcaller("finite_difference_product", blocks, step)
            return self._mean(self._map(of_chunk, curvatures)) + settings.cg_damping * v

        return gradient, product

    def _mean(self, chunk_sums: Iterable[Blocks]) -> Float[Tensor, " params"]:
        vectors = [torch.cat([x.flatten() for x in blocks]) for blocks in chunk_sums]
        return torch.stack(vectors).sum(0) / self._tasks

    def _curvature(self, scratch: Scratch, chunk: Chunk) -> ChunkCurvature:
        return ChunkCurvature(
            self._spec,
            self._blocks,
            chunk.pre,
            chunk.post,
            None if self._learns_inner_lr else self._fixed_inner_lr,
            scratch,
            first_order=self._settings.first_order,
            outer_loss=self._outer_loss,
        )


def _tasks_per_chunk(post: Samples) -> int:
    """All tasks at once on a GPU; on a CPU as many as keep the work arrays near the processor's cache.

    Not a matter of the number of threads, or results would depend on it.
    """
    tasks = len(post.weights)
    return tasks if post.weights.is_cuda else max(1, 4000 // post.weights[0].numel())


def meta_update(
    spec: Policy,
    meta_params: Params,
    pre: Sequence[Samples],
    post: Samples,
    settings: MetaUpdateSettings,
    parallel_map: Map = map,
    outer_loss: OuterLoss = surrogate_and_kl,
) -> tuple[Params, StepResult]:
    """One TRPO step on the meta-objective (Finn et al. 2017, Algorithm 3, line 10).

    Args:
        meta_params: theta, and the learned step sizes if any (not stacked over tasks).
        pre: the samples each inner step adapts on, in order; none of them is plain TRPO on ``post``.
        post: the samples drawn with the adapted policies.
        outer_loss: the surrogate of Algorithm 3, or imitation of an expert.

    Returns:
        The new meta-parameters and what the step did; they are the old ones when it was not accepted.
    """
    objective = MetaObjective(spec, meta_params, pre, post, settings, parallel_map, outer_loss)
    gradient, product = objective.linearize()
    result = trust_region_step(
        objective.start,
        gradient,
        product,
        objective.loss_and_kl,
        loss_before=objective.loss_before,
        max_kl=settings.max_kl,
        cg_iterations=settings.cg_iterations,
        cg_residual_tol=settings.cg_residual_tol,
        search=settings.line_search,
    )
    return (objective.meta_params(result.params) if result.accepted else meta_params), result
