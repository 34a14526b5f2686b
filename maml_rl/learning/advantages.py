"""Returns, linear feature baseline, generalised advantages: batched over tasks and episodes.

All functions take padded ``[..., episodes, horizon]`` arrays; padding carries zero reward and is marked by
``mask``.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def discounted_returns(
    rewards: Float[Tensor, "*batch horizon"], gamma: float
) -> Float[Tensor, "*batch horizon"]:
    """R_t = sum_{k >= t} gamma^(k - t) r_k, with bootstrap value 0 at the end."""
    return _discounted_sums(rewards, gamma)


def generalized_advantages(
    rewards: Float[Tensor, "*batch horizon"],
    values: Float[Tensor, "*batch horizon"],
    mask: Bool[Tensor, "*batch horizon"],
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "*batch horizon"]:
    """GAE(gamma, lambda) of Schulman et al. 2016, eq. 16; the value after an episode's last step is 0."""
    values = values * mask
    next_values = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
    residuals = rewards + gamma * next_values - values
    return _discounted_sums(residuals, gamma * gae_lambda) * mask


def _discounted_sums(x: Float[Tensor, "*batch horizon"], factor: float) -> Float[Tensor, "*batch horizon"]:
    sums = torch.empty_like(x)
    running = torch.zeros_like(x[..., 0])
    for t in reversed(range(x.shape[-1])):
        running = x[..., t] + factor * running
        sums[..., t] = running
    return sums


def standardize(
    advantages: Float[Tensor, "tasks episodes horizon"],
    mask: Bool[Tensor, "tasks episodes horizon"],
    epsilon: float = 1e-8,
) -> Float[Tensor, "tasks episodes horizon"]:
    """(A - mean) / (std + epsilon) over the valid transitions of each task (population std); 0 on padding."""
    count = mask.sum((-1, -2), keepdim=True)
    mean = (advantages * mask).sum((-1, -2), keepdim=True) / count
    centred = (advantages - mean) * mask
    std = (centred.square().sum((-1, -2), keepdim=True) / count).sqrt()
    return centred / (std + epsilon)


def baseline_features(
    observations: Float[Tensor, "*batch horizon observation"],
) -> Float[Tensor, "*batch horizon features"]:
    """[o, o^2, t, t^2, t^3, 1] with o clipped to [-10, 10] and t in hundreds of steps (Duan et al. 2016)."""
    clipped = observations.clamp(-10, 10)
    time = torch.arange(clipped.shape[-2], dtype=clipped.dtype, device=clipped.device) / 100
    polynomial = torch.stack([time, time**2, time**3, torch.ones_like(time)], dim=-1)
    return torch.cat(
        [clipped, clipped**2, polynomial.expand(*clipped.shape[:-1], polynomial.shape[-1])], dim=-1
    )


def linear_feature_baseline(
    observations: Float[Tensor, "tasks episodes horizon observation"],
    returns: Float[Tensor, "tasks episodes horizon"],
    mask: Bool[Tensor, "tasks episodes horizon"],
    *,
    ridge: float = 1e-5,
    tries: int = 5,
) -> Float[Tensor, "tasks episodes horizon"]:
    """Values predicted by ridge regression of the returns on ``baseline_features``, one fit per task.

    ``ridge`` is added to the diagonal of the features' Gram matrix, which is a sum over transitions. The normal
    equations are solved in float64: constant observations or one-step episodes make them singular but for
    the ridge. Where a solution is not finite, the ridge grows tenfold, up to ``tries`` times, as in Duan et
    al. 2016; a task whose data are themselves not finite gets NaN values.
    """
    values = []
    for task_observations, task_returns, task_mask in zip(observations, returns, mask, strict=True):
        features = baseline_features(task_observations.double())
        masked = features[task_mask]
        gram = masked.mT @ masked
        target = masked.mT @ task_returns[task_mask].double()
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        penalty = ridge
        for _ in range(tries):
            coefficients, _ = torch.linalg.solve_ex(gram + penalty * identity, target)
            if torch.isfinite(coefficients).all():
                break
            penalty *= 10
        values.append((features @ coefficients).to(returns.dtype))
    return torch.stack(values)
