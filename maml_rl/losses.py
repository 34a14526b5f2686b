"""The inner policy-gradient loss, and the outer surrogate and KL from one function."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from maml_rl.batch import Samples
from maml_rl.policy import Gaussian


def policy_gradient_loss(policy: Gaussian, samples: Samples) -> Float[Tensor, " tasks"]:
    """-mean(log pi(a|s) A) of each task: REINFORCE with a baseline (Finn et al. 2017, eq. 4 and sec. 5.3)."""
    return -(policy.log_prob(samples.actions) * samples.advantages * samples.weights).sum(-1)


def surrogate_and_kl(
    policy: Gaussian, old_policy: Gaussian, samples: Samples
) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
    """-mean(pi / pi_old A) and mean KL(old || new) of each task on its post-adaptation samples.

    The single definition of both: the gradient, the curvature and the line search all use it
    (Schulman et al. 2015, eq. 14).
    """
    ratio = (policy.log_prob(samples.actions) - old_policy.log_prob(samples.actions)).exp()
    surrogate = -(ratio * samples.advantages * samples.weights).sum(-1)
    kl = (old_policy.kl(policy) * samples.weights).sum(-1)
    return surrogate, kl
