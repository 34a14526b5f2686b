"""The data of one phase as the learner uses them: torch samples, packed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maml_rl.learning.advantages import (
    discounted_returns,
    generalized_advantages,
    linear_feature_baseline,
    standardize,
)
from maml_rl.learning.trajectories import Trajectories, padded
from maml_rl.policies.policy import Policy


class Samples(NamedTuple):
    """The valid transitions of several tasks, packed to the front and padded to the longest task.

    For recurrent policies they are whole episodes, ``*samples`` being the dimensions ``episodes`` and ``steps``.

    ``weights`` are 1 / (number of valid transitions of the task), and 0 on padding: a weighted sum is the
    mean over the task's valid transitions. ``old_log_probs`` are those of the actions under the policy that drew
    them, where the inner loss is a likelihood ratio.
    """

    observations: Float[Tensor, "tasks ... observation"]
    actions: Float[Tensor, "tasks ... action"]
    advantages: Float[Tensor, "tasks ..."]
    weights: Float[Tensor, "tasks ..."]
    old_log_probs: Float[Tensor, "tasks ..."] | None = None

    def each(self, part: Callable[[Tensor], Tensor]) -> Samples:
        """The same with a part of every field, or with every field in another form."""
        return Samples._make(None if field is None else part(field) for field in self)

    def tasks(self, start: int, stop: int) -> Samples:
        """The samples of tasks ``start .. stop - 1``, trimmed to the longest of them or of their episodes."""
        valid = self.weights[start:stop] != 0
        longest = int(valid.sum(-1).max())
        if valid.ndim > 2:
            return self.each(lambda field: field[start:stop, :, :longest])
        return self.each(lambda field: field[start:stop, :longest])

    def of_tasks(self, index: Int[Tensor, " chosen"]) -> Samples:
        """The samples of some tasks, in the order of ``index``."""
        return self.each(lambda field: field[index])

    def thinned(self, fraction: float) -> Samples:
        """An evenly spaced ``fraction`` of each task's samples or episodes, the weights scaled to remain a mean."""
        count = math.ceil(self.weights.shape[1] * fraction)
        return self.select(
            (torch.arange(count, device=self.weights.device, dtype=torch.double) / fraction).long()
        )

    def merged(self) -> Samples:
        """All tasks as a single one; whole episodes only. Every task counts alike."""
        joined = self.each(lambda field: field.flatten(0, 1)[None])
        return joined._replace(weights=joined.weights / len(self.weights))

    def select(self, index: Int[Tensor, " selected"]) -> Samples:
        """Some of each task's samples or episodes, the weights scaled to remain a mean."""
        chosen = self.each(lambda field: field[:, index])
        every = tuple(range(1, chosen.weights.ndim))
        total = chosen.weights.sum(every, keepdim=True).clamp(min=torch.finfo(chosen.weights.dtype).tiny)
        return chosen._replace(weights=chosen.weights / total)


def to_tensors(
    trajectories: Sequence[Trajectories], device: torch.device | str = "cpu", horizon: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Observations, actions, rewards and the mask of valid steps, ``[tasks, episodes, horizon, ...]`` each.

    The horizon is that of the longest episode, unless one is given.
    """
    arrays = padded(trajectories, horizon)

    def stack(name: str) -> Tensor:
        return torch.from_numpy(np.stack(arrays[name])).to(device)

    observations, actions, rewards, lengths = map(stack, ("observations", "actions", "rewards", "lengths"))
    return observations, actions, rewards, torch.arange(rewards.shape[-1], device=device) < lengths[..., None]


def shuffled(
    count: int, parts: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> tuple[Tensor, ...]:
    """The numbers below ``count`` in random order, in ``parts`` parts (no more than numbers) of equal size."""
    order = torch.randperm(count, generator=generator, device="cpu")
    return order.to(device).tensor_split(min(count, parts))


def make_samples(
    trajectories: Sequence[Trajectories],
    policy: Policy | None = None,
    *,
    gamma: float,
    gae_lambda: float,
    baseline_ridge: float = 1e-5,
    reward_scale: float = 1.0,
    device: torch.device | str = "cpu",
    horizon: int | None = None,
) -> Samples:
    """Advantages of each task's episodes, standardised per task, as samples.

    The baseline is refitted to each task and phase on the very batch it then predicts, as in the published
    code (Finn et al. 2017, sec. 5.3: "fitted separately at each iteration for each sampled task"). It does not see
    the pictures in observations: with a feature for every pixel it would explain any return of so few episodes.

    Args:
        reward_scale: what rewards are divided by.
        policy: which it is for: whether episodes are to stay whole, and where pictures lie.
        horizon: of the longest episode of all tasks, where these are some of them: sums over a task's steps have
            the same order then.
    """
    observations, actions, rewards, mask = to_tensors(trajectories, device, horizon)
    rewards = rewards / reward_scale
    returns = discounted_returns(rewards, gamma)
    numbers = None if policy is None else policy.numbers
    seen = observations if numbers is None else observations[..., numbers]
    values = linear_feature_baseline(seen, returns, mask, ridge=baseline_ridge)
    advantages = generalized_advantages(rewards, values, mask, gamma, gae_lambda)
    return arrange(observations, actions, standardize(advantages, mask), mask, policy)


def arrange(
    observations: Float[Tensor, "tasks episodes horizon observation"],
    actions: Float[Tensor, "tasks episodes horizon action"],
    advantages: Float[Tensor, "tasks episodes horizon"],
    mask: Bool[Tensor, "tasks episodes horizon"],
    policy: Policy | None = None,
) -> Samples:
    """Samples of whole episodes for a recurrent policy, packed ones for any other."""
    if policy is None or not policy.recurrent:
        return pack(observations, actions, advantages, mask)
    weights = mask.to(advantages.dtype) / mask.sum((1, 2), keepdim=True)
    return Samples(observations, actions, advantages, weights)


def pack(
    observations: Float[Tensor, "tasks episodes horizon observation"],
    actions: Float[Tensor, "tasks episodes horizon action"],
    advantages: Float[Tensor, "tasks episodes horizon"],
    mask: Bool[Tensor, "tasks episodes horizon"],
) -> Samples:
    """Drop the padding inside each task, so that no matrix product is spent on it."""
    valid = mask.flatten(1)
    counts = valid.sum(-1, keepdim=True)
    # A stable sort keeps the time order of the valid transitions, and with it the summation order.
    order = torch.argsort((~valid).to(torch.uint8), dim=-1, stable=True)[:, : int(counts.max())]

    def gather(x: Tensor) -> Tensor:
        return torch.take_along_dim(x, order[..., None], dim=1)

    in_range = torch.arange(order.shape[-1], device=valid.device) < counts
    return Samples(
        observations=gather(observations.flatten(1, 2)),
        actions=gather(actions.flatten(1, 2)),
        advantages=torch.take_along_dim(advantages.flatten(1), order, dim=1),
        weights=in_range.to(advantages.dtype) / counts,
    )
