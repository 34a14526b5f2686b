"""A straightforward single-machine port of the algorithm: what most published re-implementations look like.

One Python environment object per episode behind Gymnasium's ``SyncVectorEnv``, policy inference in torch, a loop
over tasks, and exact Hessian-vector products by differentiating the whole KL twice. It exists to be timed by
``meta_iteration.py``; its update is checked there against the package's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Params

Task = tuple[Tensor, Tensor, Tensor]
"""Observations, actions and advantages of one task."""


class PointEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Point navigation, one episode."""

    def __init__(self, goal: np.ndarray) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float32)
        self._goal = goal.astype(np.float32)
        self._position = np.zeros(2, np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self._position = np.zeros(2, np.float32)
        return self._position, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._position = self._position + np.clip(action, -0.1, 0.1)
        offset = self._position - self._goal
        done = bool(np.all(np.abs(offset) < 0.01))
        return self._position, -float(np.linalg.norm(offset)), done, False, {}


def distribution(params: Params, observations: Tensor) -> Independent[Normal]:
    """Action distribution of one policy."""
    x = torch.relu(
        torch.nn.functional.linear(observations, params["hidden.0.weight"], params["hidden.0.bias"])
    )
    x = torch.relu(torch.nn.functional.linear(x, params["hidden.1.weight"], params["hidden.1.bias"]))
    mean = torch.nn.functional.linear(x, params["mean.weight"], params["mean.bias"])
    return Independent(Normal(mean, params["log_std"].exp()), 1)


def rollouts(params: Params, goals: np.ndarray, episodes: int, horizon: int) -> int:
    """All episodes of all tasks; returns the number of environment steps."""
    steps = 0
    for goal in goals:
        envs = SyncVectorEnv([partial(PointEnv, goal)] * episodes, autoreset_mode=AutoresetMode.NEXT_STEP)
        observations: np.ndarray = envs.reset()[0]
        for _ in range(horizon):
            with torch.no_grad():
                actions = distribution(params, torch.as_tensor(observations)).sample()
            observations, *_ = envs.step(0.1 * actions.numpy())
            steps += episodes
        envs.close()
    return steps


def adapt(params: Params, task: Task, inner_lr: float) -> Params:
    """One differentiable gradient step on one task."""
    observations, actions, advantages = task
    loss = -(distribution(params, observations).log_prob(actions) * advantages).mean()
    grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    return {name: x - inner_lr * g for (name, x), g in zip(params.items(), grads, strict=True)}


def meta_update(
    spec: MLP,
    params: Params,
    pre: list[Task],
    post: list[Task],
    *,
    inner_lr: float,
    max_kl: float,
    cg_iterations: int,
    damping: float,
) -> Params:
    """TRPO on the meta-objective, task after task."""
    params = {name: params[name].clone().requires_grad_() for name in spec.shapes}
    leaves = list(params.values())

    def detached(dist: Independent[Normal]) -> Independent[Normal]:
        base: Any = dist.base_dist
        return Independent(Normal(base.loc.detach(), base.scale.detach()), 1)

    def policies(at: Params) -> list[Independent[Normal]]:
        return [
            distribution(adapt(at, before, inner_lr), after[0])
            for before, after in zip(pre, post, strict=True)
        ]

    old = [detached(policy) for policy in policies(params)]

    def loss_and_kl(at: Params) -> tuple[Tensor, Tensor]:
        losses, kls = [], []
        for policy, old_policy, (_, actions, advantages) in zip(policies(at), old, post, strict=True):
            ratio = (policy.log_prob(actions) - old_policy.log_prob(actions)).exp()
            losses.append(-(ratio * advantages).mean())
            kls.append(kl_divergence(old_policy, policy).mean())
        return torch.stack(losses).mean(), torch.stack(kls).mean()

    def flat(tensors: Any) -> Tensor:
        return torch.cat([t.reshape(-1) for t in tensors])

    def product(v: Tensor) -> Tensor:
        _, kl = loss_and_kl(params)
        gradient = flat(torch.autograd.grad(kl, leaves, create_graph=True))
        return flat(torch.autograd.grad(gradient @ v, leaves)) + damping * v

    loss, _ = loss_and_kl(params)
    gradient = flat(torch.autograd.grad(loss, leaves))
    x, r = torch.zeros_like(gradient), gradient.clone()
    p, rr = r.clone(), r @ r
    for _ in range(cg_iterations):
        z = product(p)
        alpha = rr / (p @ z)
        x, r = x + alpha * p, r - alpha * z
        rr, last = r @ r, rr
        p = r + rr / last * p
    step = torch.sqrt(2 * max_kl / (x @ product(x) + 1e-8)) * x
    start = flat(leaves).detach()
    for k in range(15):
        parts = (start - 0.8**k * step).split([leaf.numel() for leaf in leaves])
        trial = {
            name: part.view_as(leaf).detach().requires_grad_()
            for (name, leaf), part in zip(params.items(), parts, strict=True)
        }
        trial_loss, kl = loss_and_kl(trial)
        if trial_loss < loss and kl <= max_kl:
            return {name: value.detach() for name, value in trial.items()}
    return {name: value.detach() for name, value in params.items()}
