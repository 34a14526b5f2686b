"""PPO's update and its critic against plain loops that share no formula with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    random_inner_lr,
    random_params,
    random_samples,
    reference_adapt,
    reference_policy,
    small_spec,
    to_dtype,
    valid_samples,
)
from meta_update_helpers import ppo_update
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from maml_rl.learning.adaptation import InnerUpdateSettings
from maml_rl.learning.batch import Samples
from maml_rl.learning.critic import Critic
from maml_rl.learning.losses import clipped_surrogate_and_kl
from maml_rl.learning.meta_update import MetaObjective
from maml_rl.learning.ppo import PPO, PPOSettings
from maml_rl.learning.task_sums import TaskSums
from maml_rl.learning.trajectories import Trajectories
from maml_rl.learning.trpo import LineSearch
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Params

SPEC = small_spec()
CLIP = 0.05
SETTINGS = PPOSettings(lr=0.02, num_epochs=2, minibatch_size=18, max_kl=10.0, line_search=LineSearch(12, 0.6))
INNER = InnerUpdateSettings(inner_lr=0.2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads wait for each other longer than they work on matrices of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class PlainAdam:
    """Kingma & Ba 2015, with the length of the gradient cut to 0.5."""

    def __init__(self, lr: float) -> None:
        self.lr, self.steps = lr, 0
        self.first: Any = 0.0
        self.second: Any = 0.0

    def step(self, params: Params, gradient: Params) -> Params:
        length = torch.stack([g.square().sum() for g in gradient.values()]).sum().sqrt()
        flat = torch.cat([g.flatten() for g in gradient.values()]) * min(1.0, 0.5 / (float(length) + 1e-6))
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * flat
        self.second = 0.999 * self.second + 0.001 * flat**2
        mean, square = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        moves = (self.lr * mean / (square.sqrt() + 1e-5)).split([v.numel() for v in params.values()])
        return {k: v - m.view_as(v) for (k, v), m in zip(params.items(), moves, strict=True)}


class PlainPPO:
    """The update, one task and one sample after the other."""

    def __init__(self, settings: PPOSettings, inner: InnerUpdateSettings) -> None:
        self.s, self.inner, self.adam = settings, inner, PlainAdam(settings.lr)

    def policies(self, params: Params, pre: list[Samples], post: Samples) -> list[Independent]:
        found = []
        for task in range(len(post.weights)):
            inner_lr, first_order = self.inner.inner_lr, self.inner.first_order
            own = reference_adapt(SPEC, params, pre, task, inner_lr, first_order=first_order)
            found.append(reference_policy(SPEC, own, valid_samples(post, task)[0]))
        return found

    def terms(self, new: Independent, old: Independent, post: Samples, task: int) -> tuple[Tensor, Tensor]:
        """Of every sample of a task: what is lost, and how far it is from the old policy."""
        _, actions, advantages = valid_samples(post, task)
        frozen = Independent(Normal(old.mean.detach(), old.stddev.detach()), 1)
        ratio = (new.log_prob(actions) - frozen.log_prob(actions)).exp()
        gain = torch.minimum(ratio * advantages, ratio.clip(1 - CLIP, 1 + CLIP) * advantages)
        return -gain, kl_divergence(frozen, new)

    def judge(
        self, params: Params, pre: list[Samples], post: Samples, old: list[Independent]
    ) -> tuple[float, float]:
        new = self.policies(params, pre, post)
        terms = [self.terms(new[i], old[i], post, i) for i in range(len(new))]
        loss, kl = (float(np.mean([float(x[k].detach().mean()) for x in terms])) for k in (0, 1))
        return loss, kl

    def gradient(
        self, params: Params, pre: list[Samples], post: Samples, old: list[Independent], part: list[int]
    ) -> Params:
        params = {k: v.detach().requires_grad_() for k, v in params.items()}
        new = self.policies(params, pre, post)
        if len(new) == 1:  # some samples of the only task
            loss = self.terms(new[0], old[0], post, 0)[0][part].mean()
        else:
            loss = torch.stack([self.terms(new[i], old[i], post, i)[0].mean() for i in part]).mean()
        found = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
        return dict(zip(params, found, strict=True))

    def parts(self, post: Samples, generator: torch.Generator) -> list[list[int]]:
        tasks, samples = post.weights.shape
        things = samples if tasks == 1 else tasks
        number = min(things, max(1, tasks * samples // self.s.minibatch_size))
        order = torch.randperm(things, generator=generator)
        return [part.tolist() for part in torch.tensor_split(order, number)]

    def update(
        self, params: Params, pre: list[Samples], post: Samples, generator: torch.Generator
    ) -> tuple[Params, int, float, float]:
        start = {k: v.detach().requires_grad_() for k, v in params.items()}
        old = self.policies(start, pre, post)
        before, _ = self.judge(start, pre, post, old)
        for _ in range(self.s.num_epochs):
            for part in self.parts(post, generator):
                params = self.adam.step(params, self.gradient(params, pre, post, old, part))
            if self.judge_at(params, pre, post, old)[1] > self.s.max_kl:
                break
        for k in range(self.s.line_search.steps):
            share = self.s.line_search.ratio**k
            trial = {n: start[n].detach() + share * (params[n] - start[n].detach()) for n in params}
            loss, kl = self.judge_at(trial, pre, post, old)
            if loss < before and kl <= self.s.max_kl:
                return trial, k, loss, kl
        raise AssertionError("the example must improve")

    def judge_at(
        self, params: Params, pre: list[Samples], post: Samples, old: list[Independent]
    ) -> tuple[float, float]:
        return self.judge({k: v.detach().requires_grad_() for k, v in params.items()}, pre, post, old)


def on_policy(params: Params, pre: list[Samples], counts: list[int], seed: int, inner_lr: float) -> Samples:
    """Samples whose actions are those of the adapted policies."""
    samples = random_samples(SPEC, counts, seed)
    actions = samples.actions.clone()
    start = {k: v.detach().requires_grad_() for k, v in params.items()}
    generator = torch.Generator().manual_seed(seed)
    for task, count in enumerate(counts):
        policy = reference_policy(
            SPEC, reference_adapt(SPEC, start, pre, task, inner_lr), valid_samples(samples, task)[0]
        )
        noise = torch.randn(policy.mean.shape, generator=generator, dtype=policy.mean.dtype)
        actions[task, :count] = (policy.mean + policy.stddev * noise).detach()
    return samples._replace(actions=actions)


@pytest.mark.parametrize("settings", [{}, {"max_kl": 0.002}], ids=["free", "cut back"])
@pytest.mark.parametrize("kind", ["one policy", "first order", "learned step sizes"])
def test_an_update_is_the_plain_loop(kind: str, settings: dict[str, Any]) -> None:
    counts = [40] if kind == "one policy" else [9, 12, 7]
    s, inner = replace(SETTINGS, **settings), replace(INNER, first_order=kind == "first order")
    params = random_params(SPEC)
    if kind == "learned step sizes":
        params |= random_inner_lr(SPEC)
    ppo, plain = PPO(params, s), PlainPPO(s, inner)
    expected = params
    generators = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for iteration in range(2):  # what the optimiser knows stays from one update to the next
        steps = {"one policy": 0, "first order": 2}.get(kind, 1)
        pre: list[Samples] = []
        for step in range(steps):
            pre.append(on_policy(expected, pre, counts, 10 * iteration + step, inner.inner_lr))
        post = on_policy(expected, pre, counts, 10 * iteration + 5, inner.inner_lr)
        objective = MetaObjective(
            TaskSums(SPEC, params, pre, post, inner, outer_loss=clipped_surrogate_and_kl(CLIP))
        )
        params, result = ppo_update(ppo, objective, params, generators[0])
        expected, backtracks, loss, kl = plain.update(expected, pre, post, generators[1])
        assert (result.accepted, result.backtracks) == (True, backtracks)
        assert backtracks > 0 or not settings
        assert (result.loss_after, result.kl) == pytest.approx((loss, kl), rel=1e-4)
        for name, value in expected.items():
            torch.testing.assert_close(params[name], value, rtol=1e-4, atol=1e-6, msg=name)


# --- the critic


def episodes(seed: int, count: int = 90, horizon: int = 25) -> Trajectories:
    """Observations of very different scales: one hardly moves at first, and one has outliers."""
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((count, horizon, 3)) * (1.0, 0.01 + seed, 3.0) + (5.0, 0.0, -2.0)
    observations[0, 0, 2] = 1000.0
    lengths = rng.integers(horizon - 5, horizon + 1, count)
    valid = np.arange(horizon) < lengths[:, None]
    rewards = observations[..., 0] - 5 + 0.1 * np.arange(horizon)
    return Trajectories(
        observations=(observations * valid[..., None]).astype(np.float32),
        actions=np.zeros((count, horizon, 2), np.float32),
        rewards=(rewards * valid).astype(np.float32),
        lengths=lengths,
    )


class PlainCritic:
    """Two layers of 128 tanh units; Adam at 1e-3, four passes over about a thousand samples at a time."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        layers = (torch.nn.Linear(4, 128), torch.nn.Linear(128, 128), torch.nn.Linear(128, 1))
        self.layers = torch.nn.ModuleList(layers)
        self.adam = torch.optim.Adam(self.layers.parameters(), lr=1e-3)
        self.scale: tuple[Tensor, Tensor] | None = None

    def values(self, x: Tensor) -> Tensor:
        assert self.scale is not None
        x = ((x - self.scale[0]) / self.scale[1]).clip(-10, 10)
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return self.layers[-1](x)[:, 0]

    def judge(self, data: Trajectories, gamma: float, lam: float, generator: torch.Generator) -> np.ndarray:
        horizon = data.rewards.shape[1]
        rows, targets, advantages = [], [], []
        for k, length in enumerate(data.lengths):
            time = np.arange(length)[:, None] / horizon
            rows.append(torch.from_numpy(np.c_[data.observations[k, :length], time].astype(np.float32)))
        if self.scale is None:
            every = torch.cat(rows)
            self.scale = every.mean(0), every.std(0, correction=0).clip(0.05)
        for k, length in enumerate(data.lengths):
            values = self.values(rows[k]).detach().numpy()
            following, found = 0.0, np.zeros(length)
            for t in reversed(range(length)):
                next_value = values[t + 1] if t + 1 < length else 0.0
                following = data.rewards[k, t] + gamma * next_value - values[t] + gamma * lam * following
                found[t] = following
            advantages.append(found)
            targets.append(torch.from_numpy((found + values).astype(np.float32)))
        inputs, goals = torch.cat(rows), torch.cat(targets)
        for _ in range(4):
            order = torch.randperm(len(goals), generator=generator)
            for part in torch.tensor_split(order, len(goals) // 1000):
                self.adam.zero_grad()
                torch.nn.functional.mse_loss(self.values(inputs[part]), goals[part]).backward()
                self.adam.step()
        flat = np.concatenate(advantages)
        return (flat - flat.mean()) / flat.std()


def test_the_critic_is_the_plain_loop() -> None:
    critic, plain = Critic(MLP.gaussian(3, 2), horizon=25, gamma=0.9, gae_lambda=0.8, seed=4), None
    with torch.random.fork_rng():
        plain = PlainCritic(4)
    generators = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    for iteration in range(2):
        data = episodes(iteration)
        samples, _ = critic.judge(data, generators[0])
        expected = plain.judge(data, 0.9, 0.8, generators[1])
        found = to_dtype(samples, torch.float64).advantages[0, : len(expected)].numpy()
        np.testing.assert_allclose(found, expected, atol=5e-3, err_msg=f"batch {iteration}")


def test_explained_variance_is_of_the_returns_before_learning_from_them() -> None:
    critic = Critic(MLP.gaussian(3, 2), horizon=25, gamma=0.9, gae_lambda=1.0, seed=4)
    data = episodes(1)
    _, first = critic.judge(data, torch.Generator().manual_seed(1))
    value = Critic(MLP.gaussian(3, 2), horizon=25, gamma=0.9, gae_lambda=1.0, seed=4)._value
    inputs = value.inputs(torch.from_numpy(data.observations))
    valid = torch.arange(inputs.shape[1]) < torch.from_numpy(data.lengths)[:, None]
    value.fit_scale(inputs[valid])
    returns = np.zeros_like(data.rewards)
    following = np.zeros(len(data.lengths))
    for t in reversed(range(inputs.shape[1])):
        following = data.rewards[:, t] + 0.9 * following
        returns[:, t] = following
    goals = returns[valid.numpy()]
    left = goals - value(inputs[valid]).detach().numpy()
    assert first == pytest.approx(1 - left.var() / goals.var(), abs=1e-3)
    _, second = critic.judge(data, torch.Generator().manual_seed(1))
    assert second > first
