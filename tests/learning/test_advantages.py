"""Returns, baseline, advantages: hand-computed values, brute force, and degenerate data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from maml_rl.envs import make_task_env
from maml_rl.envs.rollout import rollout, stream
from maml_rl.learning.advantages import (
    baseline_features,
    discounted_returns,
    generalized_advantages,
    linear_feature_baseline,
    standardize,
)
from maml_rl.policies.mlp import MLP

DOUBLE = torch.float64


def batch(
    seed: int = 0, tasks: int = 2, episodes: int = 3, horizon: int = 7
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Observations, rewards (zero on padding), values (garbage on padding) and a ragged mask."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, horizon + 1, (tasks, episodes), generator=generator)
    lengths[0, 0] = horizon
    mask = torch.arange(horizon) < lengths[..., None]
    observations = torch.randn(tasks, episodes, horizon, 2, generator=generator, dtype=DOUBLE)
    rewards = torch.randn(tasks, episodes, horizon, generator=generator, dtype=DOUBLE) * mask
    values = torch.randn(tasks, episodes, horizon, generator=generator, dtype=DOUBLE)
    return observations, rewards, values, mask


# --- returns


def test_returns_known_answer() -> None:
    returns = discounted_returns(torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]]), 0.5)
    torch.testing.assert_close(returns, torch.tensor([[3.0, 4.0, 4.0], [2.0, 4.0, 8.0]]))


def test_returns_without_discount_are_sums_of_what_is_left() -> None:
    torch.testing.assert_close(
        discounted_returns(torch.tensor([[1.0, 2.0, 3.0]]), 1.0), torch.tensor([[6.0, 5.0, 3.0]])
    )


def test_returns_leave_the_rewards_alone() -> None:
    rewards = torch.ones(1, 3)
    discounted_returns(rewards, 0.9)
    assert (rewards == 1).all()


# --- generalised advantages


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_lambda_one_is_returns_minus_values(gamma: float) -> None:
    _, rewards, values, mask = batch()
    advantages = generalized_advantages(rewards, values, mask, gamma, 1.0)
    torch.testing.assert_close(advantages, (discounted_returns(rewards, gamma) - values) * mask)


def test_lambda_zero_is_the_one_step_residual() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 30.0]])
    advantages = generalized_advantages(rewards, values, torch.ones(1, 3, dtype=torch.bool), 0.5, 0.0)
    torch.testing.assert_close(advantages, torch.tensor([[1 + 10 - 10.0, 2 + 15 - 20.0, 3 - 30.0]]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_gae_by_brute_force(seed: int, gae_lambda: float) -> None:
    _, rewards, values, mask = batch(seed)
    gamma = 0.9
    advantages = generalized_advantages(rewards, values, mask, gamma, gae_lambda)
    for task in range(2):
        for episode in range(3):
            length = int(mask[task, episode].sum())
            r, v = rewards[task, episode].tolist(), values[task, episode].tolist()
            for t in range(length):
                expected = 0.0
                for k in range(t, length):
                    next_value = v[k + 1] if k + 1 < length else 0.0
                    expected += (gamma * gae_lambda) ** (k - t) * (r[k] + gamma * next_value - v[k])
                assert float(advantages[task, episode, t]) == pytest.approx(expected)
            assert (advantages[task, episode, length:] == 0).all()


def test_values_on_padding_have_no_influence() -> None:
    _, rewards, values, mask = batch()
    other = torch.where(mask, values, 1e6)
    torch.testing.assert_close(
        generalized_advantages(rewards, other, mask, 0.9, 0.7),
        generalized_advantages(rewards, values, mask, 0.9, 0.7),
        rtol=0,
        atol=0,
    )


# --- standardisation


def test_standardised_advantages_have_mean_0_and_deviation_1_per_task() -> None:
    _, rewards, _, mask = batch()
    scaled = rewards * torch.tensor([1.0, 100.0])[:, None, None] + 5 * mask
    result = standardize(scaled, mask)
    for task in range(2):
        valid = result[task][mask[task]]
        assert float(valid.mean()) == pytest.approx(0, abs=1e-12)
        assert float(valid.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_standardise_known_answer_over_valid_transitions_only() -> None:
    advantages = torch.tensor([[[1.0, 3.0, 99.0], [5.0, 7.0, 99.0]]])
    mask = torch.tensor([[[True, True, False], [True, True, False]]])
    # Mean 4, population variance (9 + 1 + 1 + 9) / 4 = 5.
    expected = torch.tensor([[[-3.0, -1.0, 0.0], [1.0, 3.0, 0.0]]]) / 5**0.5
    torch.testing.assert_close(standardize(advantages, mask), expected)


def test_standardising_keeps_tasks_apart() -> None:
    _, rewards, _, mask = batch()
    changed = rewards.clone()
    changed[1] *= 50
    torch.testing.assert_close(standardize(changed, mask)[0], standardize(rewards, mask)[0], rtol=0, atol=0)


def test_equal_advantages_become_zero() -> None:
    mask = torch.ones(1, 2, 4, dtype=torch.bool)
    assert (standardize(torch.full((1, 2, 4), 3.0), mask) == 0).all()
    assert (standardize(torch.full((1, 1, 1), 3.0), torch.ones(1, 1, 1, dtype=torch.bool)) == 0).all()


# --- baseline


def test_features_known_answer() -> None:
    observations = torch.zeros(1, 51, 2, dtype=DOUBLE)
    observations[0, 50] = torch.tensor([3.0, -20.0])
    features = baseline_features(observations)
    assert features.shape == (1, 51, 8)
    expected = torch.tensor([3.0, -10.0, 9.0, 100.0, 0.5, 0.25, 0.125, 1.0], dtype=DOUBLE)
    torch.testing.assert_close(features[0, 50], expected)
    torch.testing.assert_close(features[0, 0], torch.tensor([0.0] * 7 + [1.0], dtype=DOUBLE))


def test_fit_is_exact_on_returns_that_are_linear_in_the_features() -> None:
    observations, _, _, mask = batch(horizon=60)
    coefficients = torch.tensor([[1.0, -2, 0.5, 3, 4, -1, 2, 7], [5.0, 1, 1, -1, 0, 0, 3, -2]], dtype=DOUBLE)
    returns = torch.einsum("nehf,nf->neh", baseline_features(observations), coefficients)
    values = linear_feature_baseline(observations, returns, mask)
    # Exact but for the ridge of 1e-5.
    torch.testing.assert_close(values[mask], returns[mask], rtol=1e-3, atol=1e-3)
    free = linear_feature_baseline(observations, returns, mask, ridge=0.0)
    torch.testing.assert_close(free[mask], returns[mask], rtol=1e-8, atol=1e-8)


def test_fit_is_the_ridge_regression_of_each_task() -> None:
    observations, rewards, _, mask = batch(seed=1, horizon=20)
    returns = discounted_returns(rewards, 0.99)
    values = linear_feature_baseline(observations, returns, mask, ridge=0.1)
    for task in range(2):
        features = baseline_features(observations[task])
        x, y = features[mask[task]], returns[task][mask[task]]
        # Ridge regression as ordinary least squares on augmented data: no normal equations.
        augmented = torch.cat([x, 0.1**0.5 * torch.eye(8, dtype=DOUBLE)])
        solution = torch.linalg.lstsq(
            augmented, torch.cat([y, torch.zeros(8, dtype=DOUBLE)])[:, None]
        ).solution
        torch.testing.assert_close(values[task], (features @ solution)[..., 0])


def test_a_larger_ridge_fits_less_of_what_is_noise() -> None:
    # 20 episodes with a constant return each and constant observations that have nothing to do with it: the
    # published ridge explains almost all of it, as 20 episodes of 12 numbers and their squares do.
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(1, 20, 1, 12, generator=generator).expand(1, 20, 100, 12)
    noise = torch.randn(1, 20, 1, generator=generator).expand(1, 20, 100)
    mask = torch.ones(1, 20, 100, dtype=torch.bool)

    def unexplained(ridge: float) -> float:
        values = linear_feature_baseline(observations, noise, mask, ridge=ridge)
        return float((noise - values).square().mean() / noise.square().mean())

    published, small, large = (unexplained(ridge) for ridge in (1e-5, 30.0, 3000.0))
    assert published < 0.01
    assert published < small < large
    assert large > 0.3


def test_what_stands_on_padding_does_not_enter_the_fit() -> None:
    observations, rewards, _, mask = batch(horizon=20)
    returns = discounted_returns(rewards, 0.99)
    values = linear_feature_baseline(observations, returns, mask)
    dirty = linear_feature_baseline(
        torch.where(mask[..., None], observations, 8.0), torch.where(mask, returns, 1e6), mask
    )
    assert not mask.all()
    torch.testing.assert_close(dirty[mask], values[mask], rtol=0, atol=0)


def test_one_tasks_data_do_not_enter_anothers_fit() -> None:
    observations, rewards, _, mask = batch(horizon=20)
    changed = rewards.clone()
    changed[1] += 10
    first, second = (linear_feature_baseline(observations, r, mask) for r in (rewards, changed))
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)
    assert not torch.allclose(first[1], second[1])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_finite_on_one_step_episodes(dtype: torch.dtype) -> None:
    # The time features are all zero then, and the Gram matrix is singular.
    observations = torch.randn(2, 3, 5, 2, dtype=dtype)
    mask = (torch.arange(5) < 1).expand(2, 3, 5)
    returns = torch.randn(2, 3, 5, dtype=dtype) * mask
    values = linear_feature_baseline(observations, returns, mask)
    assert values.dtype == dtype
    assert torch.isfinite(values).all()
    assert torch.isfinite(standardize(returns - values * mask, mask)).all()


@pytest.mark.parametrize("constant", [0.0, 3.0, 50.0])
def test_finite_on_constant_observations(constant: float) -> None:
    observations = torch.full((1, 4, 6, 2), constant)
    mask = torch.ones(1, 4, 6, dtype=torch.bool)
    returns = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    values = linear_feature_baseline(observations, returns, mask)
    assert torch.isfinite(values).all()
    # Identical inputs must get identical values, and a sensible fit: no worse than the mean.
    assert (values == values[:, :1]).all()
    assert (returns - values).square().mean() <= returns.var(correction=0) + 1e-6


def test_the_ridge_grows_until_the_solution_is_finite() -> None:
    # Observations, their squares and the constant feature are all 1: the normal equations are exactly singular.
    observations = torch.ones(1, 2, 1, 2)
    mask, returns = torch.ones(1, 2, 1, dtype=torch.bool), torch.ones(1, 2, 1)
    singular = linear_feature_baseline(observations, returns, mask, ridge=0.0)
    assert not torch.isfinite(singular).all()
    # 2 + 1e-17 is 2 in float64, and so is 2 + 1e-16; two tenfolds later the ridge is there.
    once, thrice = (
        linear_feature_baseline(observations, returns, mask, ridge=1e-17, tries=tries) for tries in (1, 3)
    )
    assert not torch.isfinite(once).all()
    torch.testing.assert_close(thrice, returns)


def test_data_that_are_not_finite_give_nan_for_that_task_alone() -> None:
    observations, rewards, _, mask = batch(horizon=20)
    observations[1, 0, 0, 0] = torch.nan
    values = linear_feature_baseline(observations, rewards, mask)
    assert torch.isfinite(values[0]).all()
    assert torch.isnan(values[1]).all()


def test_fit_on_the_ants_early_terminations() -> None:
    # 254 features, episodes that end anywhere between a few steps and the horizon.
    env = make_task_env("maml_rl/AntVel-v0", 20, 100)
    spec = MLP.gaussian(125, 8, initial_std=3.0)
    params = {name: value.numpy() for name, value in spec.init_params(0).items()}
    episodes = rollout(env, np.array(1.0), spec, params, stream(0, 1))
    lengths = torch.from_numpy(episodes.lengths)
    assert (lengths < 100).sum() >= 5, "few episodes end early: this test sees nothing"
    mask = torch.arange(100) < lengths[None, :, None]
    returns = discounted_returns(torch.from_numpy(episodes.rewards)[None], 0.99)
    values = linear_feature_baseline(torch.from_numpy(episodes.observations)[None], returns, mask)
    assert values.isfinite().all()
    assert (returns - values)[mask].var() < 0.8 * returns[mask].var()
    assert (returns - values)[mask].mean().abs() < 0.05 * returns[mask].std()
