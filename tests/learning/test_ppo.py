"""PPO: the clipped loss, one update against autograd, the learned critic, and that it trains an oracle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_samples
from meta_update_helpers import INNER, ppo_update

from maml_rl import MAML, MAMLConfig
from maml_rl.envs import TASK_IN_OBSERVATION
from maml_rl.experiments.presets import point_nav
from maml_rl.learning.adaptation import InnerUpdateSettings, adapt_policy
from maml_rl.learning.batch import Samples
from maml_rl.learning.critic import Critic, ValueFunction
from maml_rl.learning.losses import clipped_surrogate_and_kl, surrogate_and_kl
from maml_rl.learning.meta_learner import stack_params
from maml_rl.learning.meta_update import MetaObjective
from maml_rl.learning.ppo import PPO, PPOSettings
from maml_rl.learning.task_sums import TaskSums
from maml_rl.learning.trajectories import Trajectories
from maml_rl.learning.trpo import LineSearch, StepResult
from maml_rl.policies.distributions import Gaussian
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Params
from maml_rl.rllib.learner_share import NonFiniteError

SPEC = MLP.gaussian(observation_size=3, action_size=2, hidden_sizes=(8,), initial_std=0.5)
SETTINGS = PPOSettings(num_epochs=4, minibatch_size=50, max_kl=10.0)
LOSS = clipped_surrogate_and_kl(0.2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy_samples(params: Params, counts: Sequence[int], seed: int = 0) -> Samples:
    """Samples whose actions are the policy's."""
    samples = random_samples(SPEC, counts, seed, torch.float32)
    policy = SPEC(stack_params(params, len(counts)), samples.observations)
    noise = torch.randn(samples.actions.shape, generator=generator(seed))
    return samples._replace(actions=policy.mean + policy.log_std.exp()[:, None] * noise)


def update(
    settings: PPOSettings = SETTINGS,
    counts: Sequence[int] = (400,),
    pre: Sequence[Samples] = (),
    inner: InnerUpdateSettings = INNER,
    seed: int = 1,
) -> tuple[Params, StepResult]:
    params = SPEC.init_params(0)
    post = policy_samples(params, counts)
    objective = MetaObjective(TaskSums(SPEC, params, pre, post, inner, outer_loss=LOSS))
    return ppo_update(PPO(params, settings), objective, params, generator(seed))


def test_a_step_that_finds_nothing_leaves_the_policy_and_says_so() -> None:
    before = SPEC.init_params(0)
    params, result = update(replace(SETTINGS, lr=0.1, max_kl=1e-12, line_search=LineSearch(steps=1)))
    assert (result.accepted, result.kl, result.backtracks) == (False, 0.0, 1)
    assert result.loss_after == result.loss_before
    assert all(torch.equal(value, before[name]) for name, value in params.items())


# --- the loss


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "has_gradient"),
    [
        (1.0, 2.0, -2.0, True),
        (1.1, 2.0, -2.2, True),
        (1.5, 2.0, -2.4, False),  # enough gained: clipped at 1.2
        (0.5, 2.0, -1.0, True),  # a loss is never clipped away
        (1.5, -2.0, 3.0, True),
        (0.5, -2.0, 1.6, False),
    ],
)
def test_clipped_surrogate(ratio: float, advantage: float, loss: float, has_gradient: bool) -> None:
    # One action of 1 under N(mean, 1); log ratio = (1 - old)^2 / 2 - (1 - new)^2 / 2 with old mean 0.
    new = torch.tensor(1 - math.sqrt(1 - 2 * math.log(ratio)), requires_grad=True)
    one = torch.ones(1, 1, 1)
    samples = Samples(one, one, torch.full((1, 1), advantage), torch.ones(1, 1))
    policy, old = (Gaussian(mean * one, torch.zeros(1, 1)) for mean in (new, torch.tensor(0.0)))
    value, kl = LOSS(policy, old, samples)
    value.sum().backward()
    assert value.item() == pytest.approx(loss)
    assert (new.grad.item() != 0) == has_gradient
    assert torch.equal(kl, surrogate_and_kl(policy, old, samples)[1])


# --- one update


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [0, 1, 2])
def test_first_step_is_adams_on_the_meta_gradient(inner_steps: int, first_order: bool) -> None:
    params, counts = SPEC.init_params(0), [30, 50, 40]
    pre = [policy_samples(params, counts, seed) for seed in range(inner_steps)]
    settings = replace(SETTINGS, num_epochs=1, minibatch_size=10**6, line_search=LineSearch(1))
    inner = InnerUpdateSettings(inner_lr=0.1, first_order=first_order)
    new, result = update(settings, counts, pre, inner)
    assert result.accepted
    start = {name: value.requires_grad_() for name, value in SPEC.init_params(0).items()}
    adapted = stack_params(start, len(counts))
    if pre:
        adapted = adapt_policy(SPEC, start, pre, inner.inner_lr, first_order=first_order)
    post = policy_samples(params, counts)
    policy = SPEC(adapted, post.observations)
    loss = surrogate_and_kl(policy, policy.detach(), post)[0].mean()
    gradients = torch.autograd.grad(loss, list(start.values()))
    for (name, value), gradient in zip(start.items(), gradients, strict=True):
        step = (new[name] - value.detach()).flatten()
        large = gradient.flatten().abs() > 1e-3  # Adam's first step has the length lr in every coordinate
        torch.testing.assert_close(step[large], -1e-3 * gradient.flatten()[large].sign(), rtol=0.05, atol=0)
        assert large.any()


def test_the_step_is_cut_to_the_trust_region() -> None:
    wide, narrow = (replace(SETTINGS, lr=0.02, max_kl=max_kl) for max_kl in (10.0, 0.01))
    (_, free), (_, cut) = update(wide), update(narrow)
    assert free.backtracks == 0
    assert free.kl > 0.03
    assert 0.005 < cut.kl <= 0.01
    assert cut.backtracks > 0
    assert cut.loss_after < cut.loss_before


def test_what_is_no_improvement_is_not_taken() -> None:
    params = SPEC.init_params(0)
    post = policy_samples(params, [60])
    ppo = PPO(params, SETTINGS)
    flat = post._replace(advantages=torch.zeros_like(post.advantages))
    objective = MetaObjective(TaskSums(SPEC, params, (), flat, INNER, outer_loss=LOSS))
    same, result = ppo_update(ppo, objective, params, generator())
    assert not result.accepted
    assert same is params


def test_epochs_end_when_the_kl_is_exceeded() -> None:
    tiny = {"lr": 1e-6, "max_kl": 1e-12}
    ended, _ = update(replace(SETTINGS, num_epochs=10, **tiny))
    one, _ = update(replace(SETTINGS, num_epochs=1, **tiny))
    more, _ = update(replace(SETTINGS, num_epochs=2, lr=1e-6))
    for name in SPEC.shapes:
        assert torch.equal(ended[name], one[name])
    assert not torch.equal(one["mean.weight"], more["mean.weight"])


@pytest.mark.parametrize("counts", [(400,), (40, 60, 50)])
def test_an_update_is_a_function_of_its_arguments(counts: tuple[int, ...]) -> None:
    pre = [policy_samples(SPEC.init_params(0), counts, 5)] if len(counts) > 1 else []
    for seed, equal in ((1, True), (2, False)):
        a, b = (update(counts=counts, pre=pre, seed=s)[0] for s in (1, seed))
        assert torch.equal(a["mean.bias"], b["mean.bias"]) == equal


# --- the critic


def episodes(count: int = 200, horizon: int = 12, seed: int = 0) -> Trajectories:
    """Episodes of different lengths; a step's reward is minus the first observation, plus noise."""
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((count, 1, 3)) + 0.3 * rng.standard_normal((count, horizon, 3))
    lengths = rng.integers(horizon // 2, horizon + 1, count)
    valid = np.arange(horizon) < lengths[:, None]
    rewards = -observations[..., 0] + 0.1 * rng.standard_normal((count, horizon))
    return Trajectories(
        observations=(observations * valid[..., None]).astype(np.float32),
        actions=(rng.standard_normal((count, horizon, 2)) * valid[..., None]).astype(np.float32),
        rewards=(rewards * valid).astype(np.float32),
        lengths=lengths,
    )


def critic(seed: int = 0) -> Critic:
    return Critic(MLP.gaussian(3, 2), horizon=12, gamma=0.9, gae_lambda=0.8, seed=seed)


def test_advantages_by_brute_force() -> None:
    data = episodes(20)
    judge = critic()
    samples, _ = judge.judge(data, generator())
    reference = critic()._value
    inputs = reference.inputs(torch.from_numpy(data.observations))
    valid = torch.arange(12) < torch.from_numpy(data.lengths)[:, None]
    reference.fit_scale(inputs[valid])
    values = reference(inputs).detach().double().numpy()
    advantages = []
    for k, length in enumerate(data.lengths):
        following, episode = 0.0, []
        for t in reversed(range(length)):
            next_value = values[k, t + 1] if t + 1 < length else 0.0
            following = data.rewards[k, t] + 0.9 * next_value - values[k, t] + 0.9 * 0.8 * following
            episode.append(following)
        advantages += reversed(episode)
    expected = (np.array(advantages) - np.mean(advantages)) / np.std(advantages)
    np.testing.assert_allclose(samples.advantages[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(samples.actions[0], data.actions[valid.numpy()])


def test_critic_learns_to_predict_returns_that_can_be_predicted() -> None:
    judges = critic(), critic()
    for i in range(12):
        data = episodes(seed=i)
        shuffled = np.random.default_rng(i).permutation(len(data.lengths))
        _, explained = judges[0].judge(data, generator(i))
        # Negative control: the observations of other episodes.
        wrong = replace(data, observations=data.observations[shuffled])
        _, unexplained = judges[1].judge(wrong, generator(i))
    assert explained > 0.7
    assert unexplained < 0.2


def test_critic_keeps_the_scale_of_the_first_batch() -> None:
    value = ValueFunction(2, 10)
    first = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 7.0]])
    value.fit_scale(first)
    value.fit_scale(100 * first)
    torch.testing.assert_close(value.mean, torch.tensor([1.0, 1.0, 6.0]))
    torch.testing.assert_close(value.std, torch.tensor([1.0, 0.05, 1.0]))  # a constant does not divide by 0


# --- as an outer update


def oracle(num_env_runners: int = 0, told: bool = True, **training: Any) -> MAMLConfig:
    fields = {
        "inner_steps": 0,
        "outer_update": "ppo",
        "meta_batch_size": 10,
        "episodes_per_task": 5,
        "horizon": 50,
        "hidden_sizes": (32, 32),
        "gae_lambda": 0.95,
        "max_kl": 0.05,
        "minibatch_size": 250,
    }
    return (
        MAMLConfig()
        .environment("maml_rl/PointNav-v0", env_config={TASK_IN_OBSERVATION: True} if told else {})
        .env_runners(num_env_runners=num_env_runners)
        .training(**{**fields, **training})
    )


def returns(config: MAMLConfig, iterations: int) -> list[float]:
    algo = config.build_algo()
    try:
        return [algo.train()["return_post"] for _ in range(iterations)]
    finally:
        algo.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_an_oracle_learns_and_a_policy_that_is_not_told_the_goal_does_not() -> None:
    iterations = 25
    told, untold = (np.array(returns(oracle(told=told), iterations)) for told in (True, False))
    assert told[0] < -35
    assert told[-5:].mean() > -16
    assert untold[-5:].mean() < -18  # the negative control: staying where one is gives about -19


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_meta_policy_learns_to_adapt() -> None:
    config = point_nav().training(
        hidden_sizes=(32, 32), outer_update="ppo", lr=3e-3, minibatch_size=8000, num_epochs=5, max_kl=0.05
    )
    algo = config.build_algo()
    results = [algo.train() for _ in range(8)]
    algo.stop()
    assert results[0]["return_post"] < -50
    assert results[-1]["return_post"] > -25
    assert results[-1]["return_post"] - results[-1]["return_pre"] > 12
    assert all(result["kl"] <= 0.05 for result in results)


@pytest.mark.usefixtures("local_ray")
def test_resume_is_exact_and_runners_do_not_matter(tmp_path: Path) -> None:
    algo = oracle().build_algo()
    algo.train()
    algo.save_to_path(str(tmp_path / "checkpoint"))
    algo.train()
    expected = algo.meta_params()
    algo.stop()
    resumed = oracle(num_env_runners=2).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    resumed.train()
    for name, value in resumed.meta_params().items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    resumed.stop()


@pytest.mark.usefixtures("local_ray")
def test_an_update_that_diverges_is_refused_and_leaves_no_trace() -> None:
    algo: MAML = oracle(lr=1e30).build_algo()
    before = algo.meta_params()
    state = algo.training_state().learned
    assert algo.train()["update_refused"] == 1
    for name, value in algo.meta_params().items():
        np.testing.assert_array_equal(value, before[name])
    assert algo.training_state().learned.keys() == state.keys()
    for name, value in algo._on_learner("training_state").items():
        np.testing.assert_array_equal(value, state[name])
    algo.train()
    with pytest.raises(NonFiniteError, match="meta-gradient is not finite"):
        algo.train()
    algo.stop()


def test_settings_that_do_not_go_together() -> None:
    for config, message in (
        (oracle(outer_update="trpo"), "minibatch_size is 250, but outer_update is 'trpo'"),
        (oracle(outer_update="adam"), "outer_update is 'adam'; it must be trpo or ppo"),
        (oracle(clip_param=1.5), "clip_param is 1.5"),
        (oracle(expert_std_scale=0.5), "expert_std_scale is 0.5, but there is no expert"),
        (oracle(expert_clip=True), "expert_clip is True, but there is no expert"),
    ):
        with pytest.raises(ValueError, match=message):
            config.validate()


def test_the_critic_tells_time_by_the_horizon_and_not_by_the_longest_episode() -> None:
    data = episodes(20, horizon=12)
    short = replace(data, **{n: getattr(data, n)[:, :8] for n in ("observations", "actions", "rewards")})
    short = replace(short, lengths=np.minimum(data.lengths, 8))
    padding = ((0, 0), (0, 4))
    long = replace(
        short,
        observations=np.pad(short.observations, (*padding, (0, 0))),
        actions=np.pad(short.actions, (*padding, (0, 0))),
        rewards=np.pad(short.rewards, padding),
    )
    found, expected = (critic().judge(x, generator())[0].advantages for x in (short, long))
    torch.testing.assert_close(found, expected)
