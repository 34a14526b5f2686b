"""Lines 6-7 of Algorithm 3: the policies adapted to each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from maml_rl.learning.batch import Samples
from maml_rl.learning.losses import policy_gradient_loss
from maml_rl.learning.meta_learner import LossFn, Params, adapt, stack_params
from maml_rl.learning.task_tree import Share, share_out
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.meta_params import split_meta_params, theta_of
from maml_rl.policies.policy import Policy
from maml_rl.tools.threads import Map


@dataclass(frozen=True)
class InnerUpdateSettings:
    """What the adaptation to a task needs to know; ``MAMLConfig.training`` gives meanings and sources."""

    inner_lr: float
    first_order: bool = False
    inner_loss: str = "log_prob"


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


def with_old_log_probs(
    spec: Policy, meta_params: Params, pre: Sequence[Samples], inner_lr: float
) -> tuple[Samples, ...]:
    """The samples of each inner step, with the log-probabilities under the policies that drew them."""
    drawn: list[Samples] = []
    for step, samples in enumerate(pre):
        with torch.no_grad():  # the adaptation enables what it needs
            policy = adapted_policy(spec, meta_params, pre[:step], samples, inner_lr, first_order=True)
            drawn.append(samples._replace(old_log_probs=policy.log_prob(samples.actions)))
    return tuple(drawn)


def adapt_in_chunks(
    spec: Policy,
    meta_params: Params,
    pre: Sequence[Samples],
    inner_lr: float,
    parallel_map: Map = map,
    share: Share | None = None,
    samples_per_task: int | None = None,
) -> Params:
    """The values of ``adapt_policy``, computed chunk by chunk and without a graph.

    Args:
        share: whose samples ``pre`` are, if there are other learners; ``samples_per_task`` as in ``Share.chunks``.
    """
    share, chunks = in_chunks(pre[0], share, samples_per_task)

    def adapt_chunk(node: range) -> Params:
        place = share.place(node)
        chunk = [samples.tasks(place.start, place.stop) for samples in pre]
        return adapt_policy(spec, meta_params, chunk, inner_lr, first_order=True)

    parts = list(parallel_map(adapt_chunk, chunks))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def in_chunks(
    samples: Samples, share: Share | None, samples_per_task: int | None
) -> tuple[Share, list[range]]:
    """The share, which is all tasks where there is none, and its chunks."""
    weights = samples.weights
    share = share or share_out(len(weights))[0]
    return share, share.chunks(samples_per_task or weights[0].numel(), at_once=weights.is_cuda)
