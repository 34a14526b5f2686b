"""Bandits, tabular MDPs and visual navigation: their distributions and rules, copy by copy."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from maml_rl.envs import make_task_env
from maml_rl.envs.bandit import Bandit
from maml_rl.envs.tabular_mdp import TabularMDP
from maml_rl.envs.visual_nav import MOVES, VisualNav

FAMILIES = ("Bandit", "TabularMDP", "VisualNav")


def made(name: str, episodes: int, horizon: int, **settings: Any) -> Any:
    return make_task_env(f"maml_rl/{name}-v0", episodes, horizon, settings)


def episode(env: Any, task: Any, seed: int, actions: np.ndarray) -> list[np.ndarray]:
    env.set_task(task)
    seen = [env.reset(seed=seed)[0]]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen += [observation, reward, terminated, truncated]
    return seen


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_of_copies_is_as_many_single_ones(name: str) -> None:
    batch, rng = made(name, 3, 6), np.random.default_rng(0)
    task = batch.sample_tasks(1, rng)[0]
    actions = rng.integers(0, batch.single_action_space.n, (6, 3))
    together = episode(batch, task, 5, actions)
    for k in range(3):
        alone = episode(made(name, 1, 6), task, 5 + k, actions[:, k : k + 1])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_array_equal(a[k : k + 1], b)
    assert len({tuple(x.ravel()) for x in np.array(together[2::4]).T}) > 1, (
        "copies draw from streams of their own"
    )
    again = episode(batch, task, 5, actions)
    for a, b in zip(together, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_oracle_sees_the_same_episodes_and_the_task(name: str) -> None:
    plain, told = made(name, 2, 5), made(name, 2, 5, task_in_observation=True)
    rng = np.random.default_rng(0)
    task = plain.sample_tasks(1, rng)[0]
    actions = rng.integers(0, plain.single_action_space.n, (5, 2))
    for a, b in zip(episode(plain, task, 3, actions), episode(told, task, 3, actions), strict=True):
        if a.ndim == 2:
            np.testing.assert_allclose(
                b[:, a.shape[1] :], np.tile(plain.task_features(task), (2, 1)), rtol=1e-6
            )
            b = b[:, : a.shape[1]]
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", FAMILIES)
def test_gymnasium_makes_them(name: str) -> None:
    env: Any = gymnasium.make_vec(f"maml_rl/{name}-v0", num_envs=2)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(30):
        observations, rewards, *_ = env.step(env.action_space.sample())
        assert observations in env.observation_space
        assert rewards.shape == (2,)
    with pytest.raises(ValueError, match="actions must lie in Discrete"):
        env.step(np.full(2, env.single_action_space.n))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("Bandit", {"arms": 0}), ("TabularMDP", {"states": 2.5}), ("VisualNav", {"size": 2})],
)
def test_wrong_sizes_are_named(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is"):
        made(name, 1, 5, **settings)


def test_arms_pay_as_often_as_the_task_says() -> None:
    env: Bandit = made("Bandit", 500, 40, arms=3)
    tasks = env.sample_tasks(2000, np.random.default_rng(0))
    assert tasks.shape == (2000, 3)
    np.testing.assert_allclose(tasks.mean(0), 0.5, atol=0.03)
    assert tasks.min() >= 0
    assert tasks.max() <= 1
    pays = np.array([0.1, 0.5, 0.95])
    env.set_task(pays)
    env.reset(seed=0)
    found = []
    for t in range(40):
        observations, rewards, terminated, truncated, _ = env.step(np.full(500, t % 3))
        assert (observations == 1).all()
        assert not terminated.any()
        assert truncated.all() == (t == 39)
        found.append(rewards.mean())
    for arm in range(3):
        assert np.mean(found[arm::3]) == pytest.approx(pays[arm], abs=0.02)


def test_a_random_player_of_the_bandit_earns_half_and_the_best_arm_ten_elevenths() -> None:
    """The random row of Duan et al. 2016, and the mean of the largest of ten uniform numbers."""
    tasks = made("Bandit", 1, 1).sample_tasks(20000, np.random.default_rng(0))
    assert 100 * tasks.mean() == pytest.approx(50, abs=0.3)
    assert 100 * tasks.max(1).mean() == pytest.approx(100 * 10 / 11, abs=0.3)


def test_transitions_and_rewards_are_those_of_the_task() -> None:
    env: TabularMDP = made("TabularMDP", 4000, 3, states=3, actions=2)
    tasks = env.sample_tasks(500, np.random.default_rng(0))
    transitions = tasks[:, :18].reshape(-1, 3, 2, 3)
    np.testing.assert_allclose(transitions.sum(-1), 1)
    np.testing.assert_allclose(transitions.mean(0), 1 / 3, atol=0.05)
    np.testing.assert_allclose(
        transitions.var(0), 1 / 18, atol=0.01
    )  # of a flat Dirichlet distribution of three
    np.testing.assert_allclose(tasks[:, 18:].mean(0), 1, atol=0.15)
    np.testing.assert_allclose(tasks[:, 18:].std(0), 1, atol=0.15)
    task = tasks[0]
    env.set_task(task)
    observations, _ = env.reset(seed=1)
    assert (observations == [1, 0, 0]).all()
    states = np.zeros(4000, int)
    for _ in range(2):
        observations, rewards, *_ = env.step(np.ones(4000, int))
        means = task[18:].reshape(3, 2)[states, 1]
        np.testing.assert_allclose((rewards - means).mean(), 0, atol=0.06)
        np.testing.assert_allclose((rewards - means).std(), 1, atol=0.05)
        for state in np.unique(states):
            share = observations[states == state].mean(0)
            np.testing.assert_allclose(share, transitions[0, state, 1], atol=0.05)
        states = observations.argmax(1)


def test_the_walker_is_seen_and_moves() -> None:
    env: VisualNav = made("VisualNav", 50, 30, size=5)
    env.set_task(np.array([4, 0]))
    observations, _ = env.reset(seed=0)
    places = np.array([np.argwhere(o.reshape(5, 5))[0] for o in observations])
    assert len(np.unique(places, axis=0)) > 10
    assert (observations.sum(1) == 1).all()
    rng = np.random.default_rng(0)
    over = np.zeros(50, bool)
    for _ in range(20):
        actions = rng.integers(0, 4, 50)
        places = np.where(over[:, None], places, np.clip(places + MOVES[actions], 0, 4))
        observations, rewards, terminated, _, _ = env.step(actions)
        away = np.abs(places - [4, 0]).sum(1)
        np.testing.assert_allclose(rewards[~over], -away[~over] / 5)
        over |= away == 0
        np.testing.assert_array_equal(terminated, over)
        np.testing.assert_array_equal(observations.reshape(-1, 5, 5).argmax(1).argmax(1) >= 0, True)
        np.testing.assert_array_equal([np.argwhere(o.reshape(5, 5))[0] for o in observations], places)
    assert over.any()


def test_the_walkers_world_can_be_filmed() -> None:
    env = make_task_env("maml_rl/VisualNav-v0", 2, 5, render_mode="rgb_array")
    env.set_task(np.array([0, 0]))
    env.reset(seed=0)
    (picture, _) = env.render()
    assert picture.shape == (360, 360, 3)
    assert (picture[5, 5] == (44, 160, 44)).all() or (picture[5, 5] == 255).all()
    assert (picture == 255).all(-1).any()
    assert env.describe_task() == "goal at row 0, column 0"
