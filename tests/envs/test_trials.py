"""Trials: several episodes as one, with what came before in the observation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import ToyEnv, small_spec
from user_envs import Many, Reach

from maml_rl.envs import make_task_env
from maml_rl.envs.episode_info import Measures
from maml_rl.envs.rollout import rollout, stream
from maml_rl.envs.spaces import head_of
from maml_rl.envs.trials import TrialEnv
from maml_rl.policies.heads import GaussianHead
from maml_rl.policies.network_policy import NetworkPolicy


def trial(lifetimes: list[int], episodes: int, horizon: int = 6) -> TrialEnv:
    return TrialEnv(ToyEnv(len(lifetimes), max_episode_steps=horizon, lifetimes=lifetimes), episodes)


def test_a_trial_is_its_episodes_one_after_the_other() -> None:
    """Copies end their episodes at different steps; each goes on with a fresh one until it has had them all."""
    env = trial([2, 3, 9], 3, horizon=4)
    assert env.max_episode_steps == 12
    env.set_task(0.5)
    observations, _ = env.reset(seed=7)
    size = ToyEnv(1).single_observation_space.shape[0]
    assert (observations[:, size:] == 0).all(), "nothing came before"
    rng = np.random.default_rng(0)
    numbers, ends = [], []
    low, high = env.single_action_space.low, env.single_action_space.high
    for _ in range(12):
        actions = rng.uniform(low, high, (3, len(low))).astype(np.float32)
        observations, rewards, terminated, truncated, _ = env.step(actions)
        numbers.append(env.episode_numbers.copy())
        ends.append(terminated | truncated)
        active = ~ends[-2] if len(ends) > 1 else np.ones(3, bool)
        told = observations[:, size:]
        scaled = (actions - (high + low) / 2) / ((high - low) / 2)
        np.testing.assert_allclose(told[active, : len(low)], scaled[active], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(told[active, -2], rewards[active], rtol=1e-5)
    by_copy, ends = np.array(numbers).T, np.array(ends).T
    assert by_copy[0][:6].tolist() == [0, 0, 1, 1, 2, 2]
    assert by_copy[1][:9].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert by_copy[2].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [int(np.argmax(e)) for e in ends] == [5, 8, 11]


def test_the_end_of_an_episode_is_told_with_the_first_observation_of_the_next() -> None:
    env = trial([2, 2], 2)
    env.set_task(0.0)
    starts = [env.reset(seed=3)[0]]
    size = ToyEnv(1).single_observation_space.shape[0]
    zeros = np.zeros((2, *env.single_action_space.shape), np.float32)
    flags = []
    for _ in range(3):
        observations, *_ = env.step(np.clip(zeros, env.single_action_space.low, env.single_action_space.high))
        flags.append(observations[:, -1].tolist())
        starts.append(observations)
    assert flags == [[0, 0], [1, 1], [0, 0]]
    own = ToyEnv(2, lifetimes=[2, 2])
    own.set_task(0.0)
    first, _ = own.reset(seed=3)
    np.testing.assert_array_equal(first, starts[0][:, :size])
    assert not np.array_equal(starts[2][:, :size], first), "the generators go on"


@pytest.mark.parametrize("name", ["Bandit", "TabularMDP", "VisualNav", "PointNav"])
def test_rollouts_of_trials_and_the_return_of_each_episode(name: str) -> None:
    env = make_task_env(f"maml_rl/{name}-v0", 4, 5, {"trial_episodes": 3})
    size = env.single_observation_space.shape[0]
    policy = small_spec(
        NetworkPolicy,
        observation_size=size,
        head=head_of(env.single_action_space),
        recurrent_cell="gru",
        recurrent_size=4,
    )
    params = {key: value.numpy() for key, value in policy.init_params(0).items()}
    task = env.sample_tasks(1, np.random.default_rng(0))[0]
    measures = Measures(env)
    data = rollout(env, task, policy, params, stream(0, 1), *measures.observers)
    ended = np.concatenate([np.zeros((4, 1)), data.observations[:, 1:, -1]], axis=1).cumsum(1)
    expected = [float((data.rewards * (ended == episode)).sum(1).mean()) for episode in range(3)]
    assert measures.returns(data) == pytest.approx(expected, rel=1e-5)
    assert sum(expected) == pytest.approx(data.mean_return, rel=1e-5)
    if name == "Bandit":
        taken = data.observations[:, 1:, 1:-2]
        np.testing.assert_array_equal(taken.argmax(-1), data.actions[:, :-1, 0])
        assert (taken.sum(-1) == 1).all()
        np.testing.assert_array_equal(data.observations[:, 1:, -2], data.rewards[:, :-1])


def test_what_each_episode_tells_counts_by_itself() -> None:
    env = make_task_env("user_envs:Telling", 2, 5, {"trial_episodes": 2})
    policy = small_spec(
        NetworkPolicy,
        observation_size=env.single_observation_space.shape[0],
        recurrent_cell="gru",
        initial_std=1.0,
    )
    policy = replace(policy, head=GaussianHead(1))
    params = {key: value.numpy() for key, value in policy.init_params(0).items()}
    measures = Measures(env)
    rollout(env, 3.0, policy, params, stream(0, 1), *measures.observers)
    first, second = measures.infos
    assert first["success_rate"] == second["success_rate"] == 1
    assert first["steps"] == second["steps"] == 3, "mean of 1 to 5, of each episode"


def test_vector_environments_of_users_have_no_trials() -> None:
    assert make_task_env("user_envs:Many", 2, 5, {"trial_episodes": 1}).trial_episodes == 1
    with pytest.raises(ValueError, match="trial_episodes is 2, but the copies of a vector environment"):
        make_task_env(Many, 2, 5, {"trial_episodes": 2})


@pytest.mark.parametrize("wrong", [0, 1.5, "2"])
def test_the_number_of_episodes_is_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"trial_episodes is .*; it must be a positive integer"):
        make_task_env(Reach, 1, 5, {"trial_episodes": wrong})
