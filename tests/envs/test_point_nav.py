"""Point navigation: a Gymnasium environment, its dynamics, rewards and tasks."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from point_helpers import moves, started

from maml_rl.envs import PointNav

PAPER_TEST_GOALS = np.random.RandomState(1).uniform(-0.5, 0.5, size=(40, 2))


# --- as a Gymnasium environment


def test_make_vec() -> None:
    env = gymnasium.make_vec("maml_rl/PointNav-v0", num_envs=20)
    assert isinstance(env.unwrapped, PointNav)
    assert env.num_envs == 20
    assert env.single_observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert env.single_action_space == gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float32)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observations, info = env.reset(seed=0)
    assert env.observation_space.contains(observations)
    assert info == {}
    env.action_space.seed(0)
    for _ in range(3):
        observations, rewards, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(observations)
        assert rewards.shape == terminated.shape == truncated.shape == (20,)
        assert np.issubdtype(rewards.dtype, np.floating)
        assert terminated.dtype == truncated.dtype == np.bool_
        assert info == {}
    env.close()


def test_make_vec_passes_options_on() -> None:
    env = gymnasium.make_vec(
        "maml_rl/PointNav-v0",
        num_envs=1,
        reward="squared_distance",
        max_episode_steps=7,
        autoreset_mode="Disabled",
    )
    base = env.unwrapped
    assert isinstance(base, PointNav)
    assert base.max_episode_steps == 7
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    base.set_task(np.array([0.5, 0.0]))
    env.reset(seed=0)
    assert env.step(np.zeros((1, 2), np.float32))[1][0] == pytest.approx(-0.25)


def test_gymnasiums_vector_wrappers_work() -> None:
    env = RecordEpisodeStatistics(PointNav(3, max_episode_steps=4))
    env.reset(seed=0)
    for _ in range(4):
        *_, infos = env.step(np.zeros((3, 2), np.float32))
    np.testing.assert_array_equal(infos["episode"]["l"], [4, 4, 4])


# --- dynamics and rewards


def test_episodes_start_at_the_origin() -> None:
    observations, _ = PointNav(3).reset(seed=0)
    np.testing.assert_array_equal(observations, np.zeros((3, 2)))
    assert observations.dtype == np.float32


@pytest.mark.parametrize(
    ("reward", "expected"), [("distance", [-0.5, -0.4]), ("squared_distance", [-0.25, -0.16])]
)
def test_reward_is_given_after_the_move(reward: str, expected: list[float]) -> None:
    # From the origin, the goal (0.3, -0.4) is 0.5 away; from (0.1, -0.0) with a move to (0.3, 0) 0.4.
    env = started(2, reward=reward, goal=(0.3, -0.4))
    env.step(moves((0, 0), (0.1, 0)))
    env.step(moves((0, 0), (0.1, 0)))
    _, rewards, *_ = env.step(moves((0, 0), (0.1, 0)))
    np.testing.assert_allclose(rewards, expected, rtol=1e-5)


def test_distance_is_the_default_reward() -> None:
    assert started(1).step(moves((0, 0)))[1][0] == pytest.approx(-0.5)


def test_unknown_reward_is_refused() -> None:
    # A TypeError where the test run checks annotations.
    with pytest.raises((ValueError, TypeError), match="reward"):
        PointNav(1, reward="sparse")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0.11, -5, np.nan])
def test_an_action_outside_the_box_is_refused(bad: float) -> None:
    env = started(2)
    with pytest.raises(ValueError, match=r"PointNav.step: actions must lie in Box\(-0.1, 0.1, \(2,\)"):
        env.step(moves((0, 0), (0.1, bad)))
    # The bounds themselves are inside, in either precision.
    env.step(moves((0.1, -0.1), (-0.1, 0.1)))
    env.step(np.array([[0.1, -0.1], [-0.1, 0.1]], np.float64))


def test_step_leaves_the_callers_actions_alone() -> None:
    env, actions = started(2), moves((0.1, 0.1), (0.01, 0))
    env.step(actions)
    np.testing.assert_array_equal(actions, moves((0.1, 0.1), (0.01, 0)))


def test_earlier_observations_are_not_overwritten() -> None:
    env = started(1)
    first, *_ = env.step(moves((0.1, 0)))
    env.step(moves((0.1, 0)))
    np.testing.assert_allclose(first, [[0.1, 0]])


def test_terminates_when_both_coordinates_are_within_the_radius() -> None:
    goal = (0.05, 0.05)
    env = started(4, goal=goal)
    # Offsets: both inside; x outside; y outside; a corner that is inside per coordinate though 0.0127 away.
    targets = moves((0.05, 0.055), (0.061, 0.05), (0.05, 0.039), (0.059, 0.041))
    _, _, terminated, truncated, _ = env.step(targets)
    np.testing.assert_array_equal(terminated, [True, False, False, True])
    assert not truncated.any()


def test_truncates_at_the_horizon_and_not_before() -> None:
    env = started(1, max_episode_steps=3)
    ends = [env.step(moves((0, 0)))[2:4] for _ in range(3)]
    assert [bool(terminated[0]) for terminated, _ in ends] == [False] * 3
    assert [bool(truncated[0]) for _, truncated in ends] == [False, False, True]


def test_reaching_the_goal_at_the_horizon_is_a_termination() -> None:
    env = started(1, goal=(0.1, 0.0), max_episode_steps=1)
    _, _, terminated, truncated, _ = env.step(moves((0.1, 0)))
    assert (terminated[0], truncated[0]) == (True, False)


@pytest.mark.parametrize("name", ["num_envs", "max_episode_steps"])
@pytest.mark.parametrize("value", [0, -1, True])
def test_sizes_must_be_positive(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}; it must be a positive integer"):
        PointNav(**{name: value})


@pytest.mark.parametrize("name", ["num_envs", "max_episode_steps"])
def test_sizes_must_be_integers(name: str) -> None:
    # A TypeError where the test run checks annotations.
    with pytest.raises((ValueError, TypeError), match=name):
        PointNav(**{name: 1.5})


# --- tasks


def test_sampled_goals_fill_the_square() -> None:
    goals = PointNav(1).sample_tasks(2000, np.random.default_rng(0))
    assert goals.shape == (2000, 2)
    assert np.abs(goals).max() <= 0.5
    assert (goals.min(0) < -0.49).all()
    assert (goals.max(0) > 0.49).all()
    np.testing.assert_allclose(goals.mean(0), 0, atol=0.03)


def test_sampled_goals_are_a_function_of_the_generator() -> None:
    env = PointNav(1)
    goals = [env.sample_tasks(3, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(goals[0], goals[1])
    assert not np.array_equal(goals[0], goals[2])


def test_the_papers_test_goals_are_tasks() -> None:
    np.testing.assert_allclose(PAPER_TEST_GOALS[0], [-0.082978, 0.220324], atol=1e-6)
    env = PointNav(1)
    for goal in PAPER_TEST_GOALS:
        env.set_task(goal)
        np.testing.assert_array_equal(env.task, goal)
        env.reset(seed=0)
        assert env.step(moves((0, 0)))[1][0] == pytest.approx(-np.linalg.norm(goal), rel=1e-5)


@pytest.mark.parametrize("task", [(0.51, 0), (0, -0.6), (np.nan, 0), (0.1,), (0.1, 0.1, 0.1), 0.1])
def test_a_task_outside_the_family_is_refused_and_the_old_one_stays(task: Any) -> None:
    env = started(1, goal=(0.3, -0.4))
    with pytest.raises(ValueError, match=r"PointNav.set_task: task is .* allowed: Box"):
        env.set_task(task)
    np.testing.assert_array_equal(env.task, [0.3, -0.4])
    assert env.step(moves((0, 0)))[1][0] == pytest.approx(-0.5)


def test_the_task_changes_the_reward_and_nothing_else() -> None:
    results = []
    for goal in [(0.5, 0.5), (-0.5, 0.25)]:
        env = started(3, goal=goal)
        actions = np.random.default_rng(0).uniform(-0.1, 0.1, (5, 3, 2)).astype(np.float32)
        results.append([env.step(a) for a in actions])
    for first, second in zip(*results, strict=True):
        for i in (0, 2, 3):
            np.testing.assert_array_equal(first[i], second[i])
        assert (first[1] != second[1]).all()


def test_a_new_task_holds_from_the_next_step_on() -> None:
    env = started(1, goal=(0.5, 0.0))
    env.set_task(np.array([0.0, 0.25]))
    assert env.step(moves((0, 0)))[1][0] == pytest.approx(-0.25)


def test_a_task_is_drawn_where_none_was_set() -> None:
    env = PointNav(1)
    assert env.task is None
    env.reset(seed=4)
    drawn = env.task
    assert env.task_space.contains(drawn)
    other = PointNav(1)
    other.reset(seed=4)
    np.testing.assert_array_equal(other.task, drawn)
    env.reset(seed=5)
    np.testing.assert_array_equal(env.task, drawn)
