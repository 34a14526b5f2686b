"""PPO: the clipped loss, one update against autograd, the learned critic, and that it trains an oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maml_rl import MAML, MAMLConfig
from maml_rl.batch import Trajectories
from maml_rl.envs import TASK_IN_OBSERVATION
from maml_rl.learner import NonFiniteError
from maml_rl.losses import clipped_surrogate
from maml_rl.policy import GaussianMLP, Params
from maml_rl.ppo import PPO, PPOSettings, ValueFunction

SPEC = GaussianMLP(observation_size=3, action_size=2, hidden_sizes=(8,), initial_std=0.5)
SETTINGS = PPOSettings(gamma=0.9, gae_lambda=0.8, num_epochs=4, minibatch_size=50, max_kl=10.0)


def episodes(count: int = 20, horizon: int = 12, seed: int = 0, policy: Params | None = None) -> Trajectories:
    """Episodes of different lengths, whose reward is the first action minus the first observation."""
    rng = np.random.default_rng(seed)
    params = policy or SPEC.init_params(0)
    observations = rng.standard_normal((count, horizon, 3)).astype(np.float32)
    mean = SPEC(
        {k: v[None] for k, v in params.items()}, torch.from_numpy(observations.reshape(1, -1, 3))
    ).mean
    actions = mean.numpy().reshape(count, horizon, 2) + 0.5 * rng.standard_normal((count, horizon, 2))
    lengths = rng.integers(horizon // 2, horizon + 1, count)
    valid = np.arange(horizon) < lengths[:, None]
    return Trajectories(
        observations=observations * valid[..., None],
        actions=(actions * valid[..., None]).astype(np.float32),
        rewards=((actions[..., 0] - observations[..., 0]) * valid).astype(np.float32),
        lengths=lengths,
    )


def update(settings: PPOSettings, times: int = 1, seed: int = 1) -> tuple[Params, list[float]]:
    ppo, params = PPO(SPEC, settings, seed=0), SPEC.init_params(0)
    explained = []
    for i in range(times):
        params, result = ppo.update(params, episodes(200, seed=i, policy=params), seed + i)
        explained.append(result.explained_variance)
    return params, explained


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
    log_ratio = torch.tensor([ratio]).log().requires_grad_()
    value = clipped_surrogate(log_ratio, torch.tensor([advantage]), 0.2)
    value.backward()
    assert value.item() == pytest.approx(loss)
    assert (log_ratio.grad.item() != 0) == has_gradient


# --- one update


def test_first_step_is_adams_on_the_policy_gradient() -> None:
    data = episodes()
    params, _ = PPO(SPEC, replace(SETTINGS, num_epochs=1, minibatch_size=10**6), 0).update(
        SPEC.init_params(0), data, 1
    )
    # The reference: -mean(log pi A), with advantages summed step by step from an untouched critic's values.
    critic = PPO(SPEC, SETTINGS, 0)._value
    inputs = critic.inputs(torch.from_numpy(data.observations))
    valid = torch.arange(12) < torch.from_numpy(data.lengths)[:, None]
    critic.fit_scale(inputs[valid])
    values = critic(inputs).detach().double().numpy()
    advantages = []
    for k, length in enumerate(data.lengths):
        following, episode = 0.0, []
        for t in reversed(range(length)):
            next_value = values[k, t + 1] if t + 1 < length else 0.0
            following = data.rewards[k, t] + 0.9 * next_value - values[k, t] + 0.9 * 0.8 * following
            episode.append(following)
        advantages += reversed(episode)
    standard = torch.from_numpy((np.array(advantages) - np.mean(advantages)) / np.std(advantages))
    start = {name: value[None].requires_grad_() for name, value in SPEC.init_params(0).items()}
    policy = SPEC(start, torch.from_numpy(data.observations)[valid][None])
    log_prob = policy.log_prob(torch.from_numpy(data.actions)[valid][None])[0]
    gradients = torch.autograd.grad(-(log_prob * standard).mean(), list(start.values()))
    for (name, value), gradient in zip(start.items(), gradients, strict=True):
        step = (params[name] - value.detach()[0]).flatten()
        large = gradient.flatten().abs() > 1e-3  # Adam's first step has the length lr in every coordinate
        torch.testing.assert_close(step[large], -1e-3 * gradient.flatten()[large].sign(), rtol=0.05, atol=0)
        assert large.any()


def test_epochs_end_when_the_kl_is_exceeded() -> None:
    ended, _ = update(replace(SETTINGS, num_epochs=10, max_kl=1e-9))
    one, _ = update(replace(SETTINGS, num_epochs=1))
    more, _ = update(replace(SETTINGS, num_epochs=2))
    for name in SPEC.shapes:
        assert torch.equal(ended[name], one[name])
    assert not torch.equal(one["mean.weight"], more["mean.weight"])


def test_an_update_is_a_function_of_state_and_seed() -> None:
    for seed, equal in ((1, True), (2, False)):
        assert (
            torch.equal(update(SETTINGS)[0]["mean.bias"], update(SETTINGS, seed=seed)[0]["mean.bias"])
            == equal
        )


def test_padding_does_not_count() -> None:
    data = episodes()
    padded = replace(
        data, **{n: np.concatenate([getattr(data, n)] * 2, 1) for n in ("observations", "actions", "rewards")}
    )
    a, b = (PPO(SPEC, SETTINGS, 0).update(SPEC.init_params(0), d, 1)[1] for d in (data, padded))
    # The critic's input is the fraction of the horizon: another horizon is another scale, and nothing else.
    assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=0.05)


# --- the critic


def test_critic_learns_to_predict_returns() -> None:
    _, explained = update(replace(SETTINGS, num_epochs=10), times=12)
    assert explained[0] < 0.1
    assert explained[-1] > 0.3


def test_critic_keeps_the_scale_of_the_first_batch() -> None:
    critic = ValueFunction(2)
    first = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 7.0]])
    critic.fit_scale(first)
    critic.fit_scale(100 * first)
    torch.testing.assert_close(critic.mean, torch.tensor([1.0, 1.0, 6.0]))
    torch.testing.assert_close(critic.std, torch.tensor([1.0, 0.05, 1.0]))  # a constant does not divide by 0


def test_state_is_all_there_is() -> None:
    ppo, params = PPO(SPEC, SETTINGS, seed=0), SPEC.init_params(0)
    params, _ = ppo.update(params, episodes(), 1)
    other = PPO(SPEC, SETTINGS, seed=5)
    other.load_state_dict(ppo.state_dict())
    for a, b in zip(*(p.update(params, episodes(seed=2), 3)[0].values() for p in (ppo, other)), strict=True):
        assert torch.equal(a, b)


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


@pytest.mark.usefixtures("local_ray")
def test_an_oracle_learns_and_a_policy_that_is_not_told_the_goal_does_not() -> None:
    iterations = 25
    told, untold = (np.array(returns(oracle(told=told), iterations)) for told in (True, False))
    assert told[0] < -35
    assert told[-5:].mean() > -16
    assert untold[-5:].mean() < -18  # the negative control: staying where one is gives about -19


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
    state = algo.learner_group.get_state()["learner"]["ppo"]
    assert algo.train()["update_refused"] == 1
    for name, value in algo.meta_params().items():
        np.testing.assert_array_equal(value, before[name])
    after = algo.learner_group.get_state()["learner"]["ppo"]
    for name, value in after["value"].items():
        torch.testing.assert_close(value, state["value"][name], equal_nan=True)
    algo.train()
    with pytest.raises(NonFiniteError, match="after PPO"):
        algo.train()
    algo.stop()


def test_settings_that_do_not_go_together() -> None:
    for config, message in (
        (oracle(inner_steps=1), "outer_update is 'ppo', but inner_steps is 1"),
        (oracle(outer_update="trpo"), "minibatch_size is 250, but outer_update is 'trpo'"),
        (oracle(outer_update="adam"), "outer_update is 'adam'; it must be trpo or ppo"),
        (oracle(clip_param=1.5), "clip_param is 1.5"),
        (oracle(expert_std_scale=0.5), "expert_std_scale is 0.5, but there is no expert"),
    ):
        with pytest.raises(ValueError, match=message):
            config.validate()
