"""Distributions of actions, batched over tasks."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Gaussian(NamedTuple):
    """Diagonal Gaussians: one mean per sample, one standard deviation per task."""

    mean: Float[Tensor, "tasks samples actions"]
    log_std: Float[Tensor, "tasks actions"]

    def log_prob(self, actions: Float[Tensor, "tasks samples actions"]) -> Float[Tensor, "tasks samples"]:
        """Log-density of each action vector, *summed* over the action dimensions."""
        z = (actions - self.mean) * torch.exp(-self.log_std)[:, None]
        constant = self.log_std.sum(-1) + 0.5 * actions.shape[-1] * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - constant[:, None]

    def kl(self, other: Gaussian) -> Float[Tensor, "tasks samples"]:
        """KL(self || other) of each sample, summed over the action dimensions."""
        inverse_variance = torch.exp(-2 * other.log_std)
        shift = ((self.mean - other.mean).square() * inverse_variance[:, None]).sum(-1)
        ratio = 2 * (self.log_std - other.log_std)
        spread = (torch.exp(ratio) - ratio - 1).sum(-1)
        return 0.5 * (shift + spread[:, None])

    def detach(self) -> Gaussian:
        return Gaussian(self.mean.detach(), self.log_std.detach())
