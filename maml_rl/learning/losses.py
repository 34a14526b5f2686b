"""The inner policy-gradient losses, and each outer loss with the KL from one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from maml_rl.learning.batch import Samples
from maml_rl.policies.distributions import Distribution

LossAndKL: TypeAlias = tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]
OuterLoss: TypeAlias = Callable[[Distribution, Distribution, Samples], LossAndKL]
"""``(policy, old policy, post-adaptation samples) -> (loss, mean KL(old || new))`` of each task."""

INNER_LOSSES = ("log_prob", "likelihood_ratio")


def policy_gradient_loss(policy: Distribution, samples: Samples) -> Float[Tensor, " tasks"]:
    """The inner loss of each task, a likelihood ratio where the samples have ``old_log_probs``.

    ``log_prob``: -mean(log pi(a|s) A), REINFORCE with a baseline (Finn et al. 2017, eq. 4 and sec. 5.3).
    ``likelihood_ratio``: -mean(pi / pi_old A) (Rothfuss et al. 2019, "ProMP", sec. 5: low-variance curvature).

    Where the samples were drawn both have the same gradient, so adaptation is the same. Their Hessians, which the
    meta-gradient needs, are not: the expected return's has the outer product of grad log pi with itself, by which
    the policy before adaptation is credited with what it finds out. The first loss lacks it; the second has it of
    each step, and leaves out the noisy products of different steps.
    """
    log_probs = policy.log_prob(samples.actions)
    if samples.old_log_probs is not None:
        return surrogate(log_probs, samples.old_log_probs, samples)
    return -weighted_sum(log_probs * samples.advantages, samples)


def surrogate(
    log_probs: Float[Tensor, "tasks ..."], old_log_probs: Float[Tensor, "tasks ..."], samples: Samples
) -> Float[Tensor, " tasks"]:
    """-mean(pi / pi_old A) of each task (Schulman et al. 2015, eq. 14)."""
    return -weighted_sum((log_probs - old_log_probs).exp() * samples.advantages, samples)


def surrogate_and_kl(policy: Distribution, old_policy: Distribution, samples: Samples) -> LossAndKL:
    """-mean(pi / pi_old A) and mean KL(old || new) of each task on its post-adaptation samples.

    The single definition of both: the gradient, the curvature and the line search all use it.
    """
    log_probs = policy.log_prob(samples.actions), old_policy.log_prob(samples.actions)
    return surrogate(*log_probs, samples), mean_kl(old_policy, policy, samples)


def clipped_surrogate_and_kl(clip: float, entropy_coeff: float = 0.0) -> OuterLoss:
    """The outer loss -mean(min(r A, clip(r, 1 - clip, 1 + clip) A) + c H) with r = pi / pi_old, H the entropy.

    Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 7 and 9.
    """

    def loss_and_kl(policy: Distribution, old_policy: Distribution, samples: Samples) -> LossAndKL:
        ratio = (policy.log_prob(samples.actions) - old_policy.log_prob(samples.actions)).exp()
        clipped = ratio.clamp(1 - clip, 1 + clip)
        gain = torch.min(ratio * samples.advantages, clipped * samples.advantages)
        if entropy_coeff:
            gain = gain + entropy_coeff * policy.entropy()
        return -weighted_sum(gain, samples), mean_kl(old_policy, policy, samples)

    return loss_and_kl


def imitation_and_kl(shared: Sequence[Float[Tensor, ...]]) -> OuterLoss:
    """The outer loss mean KL(expert || pi), for samples whose ``actions`` are the outputs of the expert's network.

    In place of the surrogate, for an expert whose distribution is known: see ``guidance.py``.

    Args:
        shared: the other parts of its distributions, not stacked over tasks.
    """

    def loss_and_kl(policy: Distribution, old_policy: Distribution, samples: Samples) -> LossAndKL:
        of_tasks = [x.expand(len(samples.weights), *x.shape) for x in shared]
        expert = policy.with_parts([samples.actions, *of_tasks])
        return weighted_sum(expert.kl(policy), samples), mean_kl(old_policy, policy, samples)

    return loss_and_kl


def mean_kl(old_policy: Distribution, policy: Distribution, samples: Samples) -> Float[Tensor, " tasks"]:
    """Mean KL(old || new) of each task over its samples."""
    return weighted_sum(old_policy.kl(policy), samples)


def weighted_sum(values: Float[Tensor, "tasks ..."], samples: Samples) -> Float[Tensor, " tasks"]:
    """The mean of each task's values over its valid transitions."""
    return (values * samples.weights).flatten(1).sum(-1)
