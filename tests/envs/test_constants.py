"""The constants of the published environments, each by what it does (Finn et al. 2017, the code)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maml_rl.envs.locomotion import AntDir, AntVel, HalfCheetahDir, HalfCheetahVel, Locomotion
from maml_rl.envs.point_nav import PointNav

FAMILIES = (HalfCheetahVel, HalfCheetahDir, AntVel, AntDir)


def started(family: type[Any], num_envs: int = 1, task: Any = 1.0, **kwargs: Any) -> Any:
    env = family(num_envs, autoreset_mode="Disabled", **kwargs)
    env.set_task(task)
    env.reset(seed=0)
    return env


def readings(env: Locomotion) -> Any:
    return env._simulations


# --- tasks


@pytest.mark.parametrize(
    ("family", "high"), [(HalfCheetahVel, 2.0), (HalfCheetahDir, 2.0), (AntVel, 3.0), (AntDir, 3.0)]
)
def test_goals_are_uniform_from_zero(family: type[Locomotion], high: float) -> None:
    goals = family(1).sample_tasks(20_000, np.random.default_rng(0))
    assert goals.min() >= 0
    assert goals.max() <= high
    np.testing.assert_allclose(
        np.quantile(goals, [0.01, 0.5, 0.99]), high * np.array([0.01, 0.5, 0.99]), atol=0.04
    )


def test_point_goals_are_uniform_in_the_square() -> None:
    goals = PointNav(1).sample_tasks(20_000, np.random.default_rng(0))
    assert goals.shape == (20_000, 2)
    for axis in range(2):
        quantiles = np.quantile(goals[:, axis], [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(quantiles, [-0.5, -0.25, 0, 0.25, 0.5], atol=0.01)
    assert np.abs(goals).max() <= 0.5
    assert abs(np.corrcoef(goals.T)[0, 1]) < 0.03


# --- point navigation


def test_point_starts_at_the_origin_and_moves_by_its_action_of_a_tenth_at_most() -> None:
    env = PointNav(1, autoreset_mode="Disabled")
    np.testing.assert_array_equal(env.single_action_space.low, np.float32([-0.1, -0.1]))
    np.testing.assert_array_equal(env.single_action_space.high, np.float32([0.1, 0.1]))
    env.set_task([0.5, 0.5])
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation, [[0, 0]])
    observation, rewards, *_ = env.step(np.float32([[0.1, -0.05]]))
    np.testing.assert_allclose(observation, [[0.1, -0.05]], atol=1e-7)
    assert rewards[0] == pytest.approx(-np.hypot(0.4, 0.55), rel=1e-6)


@pytest.mark.parametrize(
    ("goal", "ends"),
    [((0.0099, 0.0), True), ((0.0, -0.0099), True), ((0.0101, 0.0), False), ((0.0, 0.0101), False)],
)
def test_point_is_there_within_a_hundredth_of_both_coordinates(goal: tuple[float, float], ends: bool) -> None:
    env = PointNav(1, autoreset_mode="Disabled")
    env.set_task(goal)
    env.reset(seed=0)
    assert env.step(np.zeros((1, 2), np.float32))[2][0] == ends


def test_horizons() -> None:
    assert PointNav(1).max_episode_steps == 100
    assert {family(1).max_episode_steps for family in FAMILIES} == {200}


# --- half-cheetah and ant


@pytest.mark.parametrize(
    ("family", "timestep", "size", "actions"),
    [
        (HalfCheetahVel, 0.01, 20, 6),
        (HalfCheetahDir, 0.01, 20, 6),
        (AntVel, 0.02, 125, 8),
        (AntDir, 0.02, 125, 8),
    ],
)
def test_time_steps_and_sizes(family: type[Locomotion], timestep: float, size: int, actions: int) -> None:
    env = family(1)
    assert readings(env).model.opt.timestep == timestep
    assert env.single_observation_space.shape == (size,)
    assert env.single_action_space.shape == (actions,)
    assert (env.single_action_space.low == -1).all()
    assert (env.single_action_space.high == 1).all()
    assert env.metadata["render_fps"] == round(1 / timestep)  # one simulation step per action


@pytest.mark.parametrize("family", FAMILIES)
def test_resets_have_the_published_noise(family: type[Locomotion]) -> None:
    """0.01 N on positions, 0.1 N on velocities."""
    env = started(family, 300)
    observations, _ = env.reset(seed=1)
    if family in (HalfCheetahVel, HalfCheetahDir):
        positions, velocities = observations[:, :8], observations[:, 8:17]
    else:
        positions, velocities = observations[:, :15], observations[:, 15:29]
        positions = np.delete(positions, [3, 4, 5, 6], axis=1)  # MuJoCo normalises the quaternion
    np.testing.assert_allclose(positions.std(0), 0.01, rtol=0.25)
    np.testing.assert_allclose(velocities.std(0), 0.1, rtol=0.25)


def test_the_ant_starts_in_the_models_own_pose_and_not_in_the_resting_one() -> None:
    env = started(AntVel, 300)
    observations, _ = env.reset(seed=1)
    model = readings(env).model
    (numeric,) = (i for i in range(model.nnumeric) if model.numeric(i).name == "init_qpos")
    pose = model.numeric(numeric).data
    np.testing.assert_allclose(observations[:, 7:15].mean(0), pose[7:15], atol=0.005)
    assert observations[:, 2].mean() == pytest.approx(pose[2], abs=0.005)
    assert np.abs(pose[7:15] - model.qpos0[7:15]).max() > 0.1


@pytest.mark.parametrize("family", [HalfCheetahVel, HalfCheetahDir])
def test_half_cheetah_pays_a_twentieth_of_its_squared_actions(family: type[Locomotion]) -> None:
    env = started(family)
    none = env._penalize(np.zeros(1), np.zeros((1, 6)))
    full = env._penalize(np.zeros(1), np.full((1, 6), 0.5))
    assert none[0] == 0
    assert full[0] == pytest.approx(-0.05 * 6 * 0.25)


def test_half_cheetah_never_ends_early() -> None:
    env = started(HalfCheetahVel, 3)
    for _ in range(30):
        assert not env.step(np.ones((3, 6)))[2].any()


@pytest.mark.parametrize("family", [AntVel, AntDir])
def test_the_ant_pays_for_actions_and_contacts_and_earns_by_living(family: type[Locomotion]) -> None:
    """0.005 sum(a^2) + 0.0005 sum(clip(contact forces, -1, 1)^2), bonus 0.05."""
    env = started(family, 2)
    for _ in range(20):  # down to the ground
        observations, *_ = env.step(np.zeros((2, 8)))
    contacts = np.square(np.clip(observations[:, 29:113], -1, 1)).sum(1)
    assert (np.abs(observations[:, 29:113]) <= 1).all()
    assert contacts.max() > 0.5
    still = env._penalize(np.zeros(2), np.zeros((2, 8)))
    moving = env._penalize(np.zeros(2), np.full((2, 8), 0.5))
    np.testing.assert_allclose(still, 0.05 - 0.0005 * contacts)
    np.testing.assert_allclose(still - moving, 0.005 * 8 * 0.25)


@pytest.mark.parametrize(
    ("height", "ends"), [(0.19, True), (0.21, False), (0.99, False), (1.01, True)], ids=lambda x: str(x)
)
@pytest.mark.parametrize("family", [AntVel, AntDir])
def test_the_ant_has_fallen_below_a_fifth_and_above_one(
    family: type[Locomotion], height: float, ends: bool
) -> None:
    env = started(family, 2)
    env._rows = env._rows.copy()
    env._rows[0, 2] = height
    env._rows[1, 2] = 0.5
    assert env._fallen().tolist() == [ends, False]


@pytest.mark.parametrize(
    ("family", "goal", "velocity", "reward"),
    [
        (HalfCheetahVel, 1.5, 0.7, -0.8),
        (HalfCheetahVel, 0.5, 0.7, -0.2),
        (HalfCheetahDir, 1.5, 0.7, 0.7),
        (HalfCheetahDir, 0.5, 0.7, -0.7),
        (HalfCheetahDir, 1.0, 0.7, 0.7),
        (HalfCheetahDir, 0.999, 0.7, -0.7),
        (AntVel, 2.5, 0.7, 1.0 - 1.8),
        (AntVel, 0.5, 0.7, 1.0 - 0.2),
        (AntDir, 1.5, 0.7, 0.7),
        (AntDir, 1.499, 0.7, -0.7),
    ],
)
def test_goal_rewards(family: type[Locomotion], goal: float, velocity: float, reward: float) -> None:
    env = started(family, task=goal)
    assert env._goal_reward(np.array([velocity]))[0] == pytest.approx(reward)


def test_the_ants_contacts_are_as_soft_as_the_published_ones() -> None:
    model = readings(started(AntVel)).model
    np.testing.assert_array_equal(model.geom_solimp[:, :3], np.tile([0.8, 0.8, 0.01], (model.ngeom, 1)))
    assert model.opt.integrator == 1  # RK4
