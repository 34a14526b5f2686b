"""The inner policy-gradient loss, and each outer loss with the KL from one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from maml_rl.learning.batch import Samples
from maml_rl.policies.distributions import Gaussian

LossAndKL: TypeAlias = tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]
OuterLoss: TypeAlias = Callable[[Gaussian, Gaussian, Samples], LossAndKL]
"""``(policy, old policy, post-adaptation samples) -> (loss, mean KL(old || new))`` of each task."""


def policy_gradient_loss(policy: Gaussian, samples: Samples) -> Float[Tensor, " tasks"]:
    """-mean(log pi(a|s) A) of each task: REINFORCE with a baseline (Finn et al. 2017, eq. 4 and sec. 5.3)."""
    return -(policy.log_prob(samples.actions) * samples.advantages * samples.weights).sum(-1)


def surrogate_and_kl(policy: Gaussian, old_policy: Gaussian, samples: Samples) -> LossAndKL:
    """-mean(pi / pi_old A) and mean KL(old || new) of each task on its post-adaptation samples.

    The single definition of both: the gradient, the curvature and the line search all use it
    (Schulman et al. 2015, eq. 14).
    """
    ratio = (policy.log_prob(samples.actions) - old_policy.log_prob(samples.actions)).exp()
    surrogate = -(ratio * samples.advantages * samples.weights).sum(-1)
    return surrogate, mean_kl(old_policy, policy, samples)


def clipped_surrogate_and_kl(clip: float) -> OuterLoss:
    """The outer loss -mean(min(r A, clip(r, 1 - clip, 1 + clip) A)) with r = pi / pi_old.

    Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 7.
    """

    def loss_and_kl(policy: Gaussian, old_policy: Gaussian, samples: Samples) -> LossAndKL:
        ratio = (policy.log_prob(samples.actions) - old_policy.log_prob(samples.actions)).exp()
        clipped = ratio.clamp(1 - clip, 1 + clip)
        gain = torch.min(ratio * samples.advantages, clipped * samples.advantages)
        return -(gain * samples.weights).sum(-1), mean_kl(old_policy, policy, samples)

    return loss_and_kl


def imitation_and_kl(expert_log_std: Float[Tensor, " actions"]) -> OuterLoss:
    """The outer loss mean KL(expert || pi), for samples whose ``actions`` are the expert's means.

    In place of the surrogate, for an expert whose distribution is known: see ``guidance.py``.
    """

    def loss_and_kl(policy: Gaussian, old_policy: Gaussian, samples: Samples) -> LossAndKL:
        expert = Gaussian(samples.actions, expert_log_std.expand_as(policy.log_std))
        loss = (expert.kl(policy) * samples.weights).sum(-1)
        return loss, mean_kl(old_policy, policy, samples)

    return loss_and_kl


def mean_kl(old_policy: Gaussian, policy: Gaussian, samples: Samples) -> Float[Tensor, " tasks"]:
    """Mean KL(old || new) of each task over its samples."""
    return (old_policy.kl(policy) * samples.weights).sum(-1)
