"""Packing of trajectories into samples: order, weights, padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import fields_of, random_params, random_samples, small_spec
from torch import Tensor

from maml_rl.learning.advantages import discounted_returns, generalized_advantages, linear_feature_baseline
from maml_rl.learning.batch import Samples, make_samples, pack
from maml_rl.learning.losses import policy_gradient_loss, surrogate_and_kl
from maml_rl.learning.meta_learner import stack_params
from maml_rl.learning.trajectories import Trajectories

LENGTHS = [[3, 1, 5], [2, 2, 1]]


def padded(lengths: list[list[int]], horizon: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Observations, actions and advantages that name their place: 100 task + 10 episode + step."""
    tasks, episodes = len(lengths), len(lengths[0])
    index = torch.cartesian_prod(
        *(100 * torch.arange(tasks), 10 * torch.arange(episodes), torch.arange(horizon))
    )
    name = index.sum(-1).reshape(tasks, episodes, horizon).float()
    mask = torch.arange(horizon) < torch.tensor(lengths)[..., None]
    return torch.stack([name, -name], dim=-1), name[..., None] + 0.5, name + 0.25, mask


def trajectories(seed: int, lengths: list[int], horizon: int = 5) -> Trajectories:
    rng = np.random.default_rng(seed)
    valid = np.arange(horizon) < np.array(lengths)[:, None]

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal((len(lengths), horizon, *size)).astype(np.float32)

    return Trajectories(
        observations=normal(2) * valid[..., None],
        actions=normal(3) * valid[..., None],
        rewards=normal() * valid,
        lengths=np.array(lengths),
    )


def samples_of(*data: Trajectories) -> Samples:
    return make_samples(data, gamma=0.9, gae_lambda=0.8)


# --- pack


def test_pack_keeps_the_order_of_the_valid_transitions() -> None:
    observations, actions, advantages, mask = padded(LENGTHS)
    samples = pack(observations, actions, advantages, mask)
    expected = [[0, 1, 2, 10, 20, 21, 22, 23, 24], [100, 101, 110, 111, 120]]
    for task, names in enumerate(expected):
        wanted = torch.tensor(names).float()
        count = len(names)
        torch.testing.assert_close(samples.observations[task, :count, 0], wanted)
        torch.testing.assert_close(samples.observations[task, :count, 1], -wanted)
        torch.testing.assert_close(samples.actions[task, :count, 0], wanted + 0.5)
        torch.testing.assert_close(samples.advantages[task, :count], wanted + 0.25)


def test_pack_drops_padding_down_to_the_longest_task() -> None:
    samples = pack(*padded(LENGTHS))
    assert samples.observations.shape == (2, 9, 2)
    assert samples.actions.shape == (2, 9, 1)
    assert samples.advantages.shape == samples.weights.shape == (2, 9)


def test_weights_sum_to_one_per_task_and_vanish_on_padding() -> None:
    samples = pack(*padded(LENGTHS))
    torch.testing.assert_close(samples.weights.sum(-1), torch.ones(2))
    torch.testing.assert_close(samples.weights[0], torch.full((9,), 1 / 9))
    torch.testing.assert_close(samples.weights[1], torch.tensor([0.2] * 5 + [0.0] * 4))


def test_pack_with_no_padding_is_a_reshape() -> None:
    observations, actions, advantages, mask = padded([[5, 5], [5, 5]])
    samples = pack(observations, actions, advantages, mask)
    torch.testing.assert_close(samples.observations, observations.flatten(1, 2))
    torch.testing.assert_close(samples.weights, torch.full((2, 10), 0.1))


def test_a_weighted_sum_is_the_mean_over_the_valid_transitions() -> None:
    observations, actions, advantages, mask = padded(LENGTHS)
    samples = pack(observations, actions, advantages, mask)
    means = torch.stack([advantages[task][mask[task]].mean() for task in range(2)])
    torch.testing.assert_close((samples.advantages * samples.weights).sum(-1), means)


# --- tasks and every


def test_tasks_takes_a_range_and_trims_it_to_its_longest() -> None:
    samples = random_samples(small_spec(), [4, 7, 2])
    part = samples.tasks(0, 1)
    assert part.weights.shape == (1, 4)
    torch.testing.assert_close(part.actions, samples.actions[:1, :4])
    assert samples.tasks(1, 3).weights.shape == (2, 7)
    assert samples.tasks(2, 9).weights.shape == (1, 2)  # a last chunk may be short
    torch.testing.assert_close(samples.tasks(1, 3).observations, samples.observations[1:])


def test_a_fraction_is_evenly_spaced_and_keeps_means() -> None:
    samples = random_samples(small_spec(), [4, 7, 1])
    thin = samples.thinned(1 / 3)
    torch.testing.assert_close(thin.observations, samples.observations[:, ::3])
    torch.testing.assert_close(thin.actions, samples.actions[:, ::3])
    torch.testing.assert_close(thin.advantages, samples.advantages[:, ::3])
    expected = torch.tensor([[1 / 2, 1 / 2, 0], [1 / 3] * 3, [1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(thin.weights, expected)


def test_a_fraction_keeps_its_places_in_a_long_batch() -> None:
    """In single precision three tenths of 4000 samples would be others."""
    samples = random_samples(small_spec(), [4000])
    thin = samples.thinned(0.3)
    places = [int(i / 0.3) for i in range(1200)]
    torch.testing.assert_close(thin.actions, samples.actions[:, places])


def test_the_whole_fraction_is_all_samples() -> None:
    samples = random_samples(small_spec(), [4, 7])
    for thinned, whole in zip(*map(fields_of, (samples.thinned(1.0), samples)), strict=True):
        torch.testing.assert_close(thinned, whole)


def test_a_fraction_leaves_at_least_one_sample() -> None:
    thin = random_samples(small_spec(), [4, 1]).thinned(0.01)
    torch.testing.assert_close(thin.weights, torch.ones(2, 1, dtype=torch.float64))


# --- padding has no influence


def test_padding_has_no_influence_on_losses_and_their_gradients() -> None:
    spec = small_spec()
    samples = random_samples(spec, [4, 7])
    padding = samples.weights == 0
    assert padding.any()
    other = samples._replace(
        observations=torch.where(padding[..., None], -1.0, samples.observations),
        actions=torch.where(padding[..., None], 5.0, samples.actions),
        advantages=torch.where(padding, 1e3, samples.advantages),
    )
    results = []
    for data in (samples, other):
        params = {k: v.requires_grad_() for k, v in random_params(spec).items()}
        policy = spec(stack_params(params, 2), data.observations)
        old = spec(stack_params(random_params(spec, 1), 2), data.observations)
        values = [policy_gradient_loss(policy, data), *surrogate_and_kl(policy, old, data)]
        gradient = torch.autograd.grad(sum(x.sum() for x in values), list(params.values()))
        results.append([*values, *gradient])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-14, atol=1e-14)


# --- from trajectories


def test_samples_are_those_of_the_advantage_functions() -> None:
    data = [trajectories(0, [3, 1, 5]), trajectories(1, [2, 5, 4])]
    samples = samples_of(*data)
    for task, one in enumerate(data):
        mask = torch.arange(5) < torch.from_numpy(one.lengths)[:, None]
        rewards, observations = torch.from_numpy(one.rewards), torch.from_numpy(one.observations)
        values = linear_feature_baseline(
            observations[None], discounted_returns(rewards, 0.9)[None], mask[None]
        )
        valid = generalized_advantages(rewards, values[0], mask, 0.9, 0.8)[mask]
        count = len(valid)
        expected = (valid - valid.mean()) / (valid.std(correction=0) + 1e-8)
        torch.testing.assert_close(samples.advantages[task, :count], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(samples.observations[task, :count], observations[mask])
        torch.testing.assert_close(samples.actions[task, :count], torch.from_numpy(one.actions)[mask])
        assert float(samples.weights[task].sum()) == pytest.approx(1)
        assert (samples.weights[task, count:] == 0).all()


@pytest.mark.parametrize("setting", ["gamma", "gae_lambda", "baseline_ridge"])
def test_discount_lambda_and_ridge_are_used(setting: str) -> None:
    settings = {"gamma": 0.9, "gae_lambda": 0.8, "baseline_ridge": 10.0}
    data = [trajectories(0, [3, 4, 5])]
    first = make_samples(data, **settings)  # type: ignore[arg-type]
    second = make_samples(data, **(settings | {setting: 0.1}))  # type: ignore[arg-type]
    assert not torch.allclose(first.advantages, second.advantages, atol=1e-3)


def test_tasks_do_not_influence_each_other() -> None:
    a, b, c = (trajectories(seed, [3, 4, 5]) for seed in range(3))
    torch.testing.assert_close(samples_of(a, b).advantages[0], samples_of(a, c).advantages[0], rtol=0, atol=0)
    swapped, straight = samples_of(b, a), samples_of(a, b)
    for x, y in zip(*map(fields_of, (swapped, straight)), strict=True):
        torch.testing.assert_close(x, y.flip(0), rtol=0, atol=0)


@pytest.mark.parametrize("lengths", [[1, 1, 1], [1, 5, 1], [1]])
def test_finite_on_one_step_episodes(lengths: list[int]) -> None:
    samples = samples_of(trajectories(0, lengths))
    assert all(torch.isfinite(field).all() for field in fields_of(samples))


def test_finite_on_constant_observations_and_rewards() -> None:
    data = trajectories(0, [5, 5])
    data.observations[:] = 1
    data.rewards[:] = -1
    assert all(torch.isfinite(field).all() for field in fields_of(samples_of(data)))


def test_everything_is_float32_as_the_runners_send_it() -> None:
    assert {field.dtype for field in fields_of(samples_of(trajectories(0, [3, 2])))} == {torch.float32}


def test_summary_numbers_of_trajectories() -> None:
    data = trajectories(0, [3, 1])
    assert data.env_steps == 4
    assert data.mean_return == pytest.approx(data.rewards.sum() / 2, rel=1e-6)
