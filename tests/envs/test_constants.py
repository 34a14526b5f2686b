"""The constants of the published environments, each by an answer known beforehand."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from maml_rl.envs import PointNav, make_task_env
from maml_rl.envs.locomotion import (
    Ant,
    AntDir,
    AntVel,
    HalfCheetah,
    HalfCheetahDir,
    HalfCheetahVel,
    Locomotion,
)

CHEETAHS = (HalfCheetahVel, HalfCheetahDir)
ANTS = (AntVel, AntDir)


def make(family: type[Any], num_envs: int = 1, **kwargs: Any) -> Any:
    env = family(num_envs, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
    env.reset(seed=0)
    return env


# --- tasks


@pytest.mark.parametrize(
    ("family", "low", "high", "shape"),
    [
        (PointNav, -0.5, 0.5, (2,)),
        (HalfCheetahVel, 0, 2, ()),
        (HalfCheetahDir, 0, 2, ()),
        (AntVel, 0, 3, ()),
        (AntDir, 0, 3, ()),
    ],
)
def test_goals_are_uniform_over_the_published_range(
    family: type[Any], low: float, high: float, shape: tuple[int, ...]
) -> None:
    env = make(family)
    tasks = env.sample_tasks(7, np.random.default_rng(3))
    np.testing.assert_array_equal(tasks, np.random.default_rng(3).uniform(low, high, (7, *shape)))
    assert (env.task_space.low == low).all()
    assert (env.task_space.high == high).all()
    assert env.task_space.shape == shape


@pytest.mark.parametrize(("family", "threshold"), [(HalfCheetahDir, 1.0), (AntDir, 1.5)])
def test_directions_part_at_the_middle_of_the_range(family: type[Any], threshold: float) -> None:
    env = make(family)
    for task, direction in ((0.0, -1), (np.nextafter(threshold, 0), -1), (threshold, 1), (env.max_goal, 1)):
        env.set_task(task)
        np.testing.assert_array_equal(env._goal_reward(np.array([2.0])), [2.0 * direction])
        np.testing.assert_array_equal(env.task_features(task), [direction])


@pytest.mark.parametrize(("family", "horizon"), [(PointNav, 100), *((f, 200) for f in (*CHEETAHS, *ANTS))])
def test_default_horizons(family: type[Any], horizon: int) -> None:
    assert family(1).max_episode_steps == horizon


# --- the point


def test_a_point_takes_steps_of_a_tenth() -> None:
    env = make(PointNav)
    np.testing.assert_array_equal(env.single_action_space.low, np.float32([-0.1, -0.1]))
    np.testing.assert_array_equal(env.single_action_space.high, np.float32([0.1, 0.1]))
    env.set_task(np.array([-0.5, 0.5]))
    observations, *_ = env.step(np.array([[0.1, -0.07]], np.float32))
    np.testing.assert_array_equal(observations, np.float32([[0.1, -0.07]]))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("distance", "done"), [(0.0099, True), (0.0101, False)])
def test_a_point_is_done_within_a_hundredth(axis: int, sign: int, distance: float, done: bool) -> None:
    env = make(PointNav)
    env.set_task(np.array([0.05, -0.05]))
    move = np.array([[0.05, -0.05]])
    move[0, axis] += sign * distance
    _, rewards, terminated, *_ = env.step(move.astype(np.float32))
    assert terminated[0] == done
    assert rewards[0] == pytest.approx(-distance, rel=1e-3)


# --- both robots


@pytest.mark.parametrize(
    ("family", "variant", "timestep", "time_of_a_step"),
    [
        (HalfCheetahVel, "paper", 0.01, 0.01),
        (HalfCheetahVel, "gymnasium", 0.01, 0.05),
        (AntVel, "paper", 0.02, 0.02),
        (AntVel, "gymnasium", 0.01, 0.05),
    ],
)
def test_time_steps(family: type[Any], variant: str, timestep: float, time_of_a_step: float) -> None:
    env = make(family, variant=variant)
    assert env._simulations.model.opt.timestep == timestep
    assert env._dt == pytest.approx(time_of_a_step)
    assert env.metadata["render_fps"] == round(1 / time_of_a_step)
    env.step(np.zeros((1, env.action_size), np.float32))
    if family is AntVel:
        assert env._simulations._data[0].time == pytest.approx(time_of_a_step)
    else:
        assert env._simulations._frame_skip == round(time_of_a_step / timestep)


@pytest.mark.parametrize(
    ("family", "integrator"),
    [(HalfCheetahVel, mujoco.mjtIntegrator.mjINT_EULER), (AntVel, mujoco.mjtIntegrator.mjINT_RK4)],
)
def test_integrators(family: type[Any], integrator: mujoco.mjtIntegrator) -> None:
    assert make(family)._simulations.model.opt.integrator == integrator


@pytest.mark.parametrize("family", [HalfCheetahVel, AntVel])
def test_actions_are_motor_commands_in_the_unit_box(family: type[Any]) -> None:
    env = make(family)
    np.testing.assert_array_equal(env.single_action_space.high, np.ones(env.action_size))
    np.testing.assert_array_equal(env.single_action_space.low, -np.ones(env.action_size))
    actions = np.linspace(-1, 1, env.action_size, dtype=np.float32)[None]
    env.step(actions)
    np.testing.assert_array_equal(env._simulations._ctrl[0], actions[0].astype(np.float64))
    np.testing.assert_array_equal(env._simulations.model.actuator_ctrlrange, [[-1, 1]] * env.action_size)


def test_the_ants_contacts_are_the_published_ones_in_its_own_variant_only() -> None:
    paper, gymnasium = (make(AntVel, variant=v)._simulations.model for v in ("paper", "gymnasium"))
    np.testing.assert_array_equal(paper.geom_solimp[:, :3], np.tile([0.8, 0.8, 0.01], (paper.ngeom, 1)))
    assert not np.array_equal(paper.geom_solimp, gymnasium.geom_solimp)
    np.testing.assert_array_equal(paper.geom_solimp[:, 3:], gymnasium.geom_solimp[:, 3:])
    np.testing.assert_array_equal(paper.actuator_gear, gymnasium.actuator_gear)
    np.testing.assert_array_equal(paper.actuator_gear[:, 0], [150] * 8)


@pytest.mark.parametrize(
    ("family", "variant"), [(f, v) for f in (HalfCheetahVel, AntVel) for v in ("paper", "gymnasium")]
)
def test_episodes_start_near_the_pose_of_the_model(family: type[Any], variant: str) -> None:
    """The published noise is normal with 0.01 and 0.1; Gymnasium's is uniform in +-0.1, and normal with 0.1."""
    env = make(family, variant=variant)
    model = env._simulations.model
    qpos, qvel = env._initial_state(np.random.default_rng(4))
    rng = np.random.default_rng(4)
    if variant == "paper":
        pose = model.numeric("init_qpos").data if family is AntVel else model.qpos0
        noise = 0.01 * rng.standard_normal(model.nq)
    else:
        pose, noise = model.qpos0, rng.uniform(-0.1, 0.1, model.nq)
    np.testing.assert_array_equal(qpos, pose + noise)
    np.testing.assert_array_equal(qvel, 0.1 * rng.standard_normal(model.nv))


def test_the_ant_starts_on_bent_legs() -> None:
    env = make(AntVel)
    rest = [0, 0, 0.55, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1]
    np.testing.assert_allclose(env._rest_pose(), rest)
    np.testing.assert_allclose(env.reset(seed=0)[0][0, :15], rest, atol=0.05)


@pytest.mark.parametrize("variant", ["paper", "gymnasium"])
@pytest.mark.parametrize("family", [*CHEETAHS, *ANTS])
def test_the_first_observation_is_the_state(family: type[Locomotion], variant: str) -> None:
    env = make(family, variant=variant)
    model, qpos = env._simulations.model, env._simulations.qpos(0)
    skipped = {HalfCheetah: 1, Ant: 0 if variant == "paper" else 2}[HalfCheetah if model.nq == 9 else Ant]
    observation = env._observe()[0]
    positions = model.nq - skipped
    np.testing.assert_array_equal(observation[:positions], qpos[skipped:])
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = qpos, observation[positions : positions + model.nv]
    mujoco.mj_forward(model, data)
    if variant == "paper":
        np.testing.assert_allclose(observation[-3:], data.subtree_com[1])
    if variant == "paper" and model.nq == 15:
        np.testing.assert_allclose(observation[-12:-3], data.xmat[1])


# --- when an ant has fallen, and what a step costs


@pytest.mark.parametrize("variant", ["paper", "gymnasium"])
@pytest.mark.parametrize("family", ANTS)
@pytest.mark.parametrize(
    ("height", "over"),
    [(0.15, True), (0.1999, True), (0.2, False), (0.21, False), (0.99, False), (1.0, False), (1.0001, True)],
)
def test_an_ant_lives_between_a_fifth_of_a_metre_and_one(
    family: type[Any], variant: str, height: float, over: bool
) -> None:
    env = make(family, 2, variant=variant)
    env._rows[:, 2 if variant == "paper" else 0] = 0.5, height
    np.testing.assert_array_equal(env._fallen(), [False, over])


@pytest.mark.parametrize(("variant", "side"), [("paper", -1), ("paper", 1), ("gymnasium", 1)])
def test_an_ant_that_leaves_its_heights_ends_its_episode(variant: str, side: int) -> None:
    env = make(AntVel, 2, variant=variant)
    simulations = env._simulations
    simulations._data[1].qpos[2] = 0.6 + side * 0.5  # 0.1 and 1.1
    _, _, terminated, *_ = env.step(np.zeros((2, 8), np.float32))
    np.testing.assert_array_equal(terminated, [False, True])


@pytest.mark.parametrize("variant", ["paper", "gymnasium"])
@pytest.mark.parametrize("family", CHEETAHS)
def test_a_cheetah_never_falls(family: type[Any], variant: str) -> None:
    env = make(family, 2, variant=variant)
    env._rows[:] = -3.0
    assert not env._fallen().any()


@pytest.mark.parametrize("variant", ["paper", "gymnasium"])
@pytest.mark.parametrize(("family", "cost", "bonus"), [(HalfCheetahVel, 0.05, 0.0), (AntVel, 0.005, 0.05)])
def test_costs_of_actions_and_the_bonus_of_survival(
    family: type[Any], cost: float, bonus: float, variant: str
) -> None:
    env = make(family, 2, variant=variant)
    if bonus:
        env._rows[:, env._forces] = 0
    actions = np.zeros((2, env.action_size))
    actions[1] = np.linspace(-1, 1, env.action_size)
    rewards = env._penalize(np.array([3.0, 3.0]), actions)
    expected = 3 + bonus - cost * np.array([0, (actions[1] ** 2).sum()])
    np.testing.assert_allclose(rewards, expected, rtol=1e-12)


@pytest.mark.parametrize(("variant", "bodies"), [("paper", 14), ("gymnasium", 13)])
def test_contact_forces_are_clipped_and_cost(
    variant: str, bodies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make(AntVel, 1, variant=variant)
    forces = np.zeros(6 * bodies)
    forces[[0, 1, 2, -2, -1]] = -7, 0.5, -0.25, 0.99, 1e6
    rows = env._simulations.read()
    rows[:, env._forces] = forces
    monkeypatch.setattr(env._simulations, "read", rows.copy)
    read = env._read(np.array([True]))
    clipped = [-1, 0.5, -0.25, 0.99, 1]
    np.testing.assert_array_equal(read[0, env._forces][[0, 1, 2, -2, -1]], clipped)
    env._rows = read
    rewards = env._penalize(np.zeros(1), np.zeros((1, 8)))
    np.testing.assert_allclose(rewards, 0.05 - 0.0005 * np.sum(np.square(clipped)), rtol=1e-12)


@pytest.mark.parametrize(
    ("family", "task", "velocity", "reward"),
    [
        (HalfCheetahVel, 1.5, 0.7, -0.8),
        (HalfCheetahVel, 0.5, 0.7, -0.2),
        (AntVel, 1.5, 0.7, 0.2),
        (AntVel, 0.5, 0.7, 0.8),
    ],
)
def test_rewards_for_a_goal_velocity(family: type[Any], task: float, velocity: float, reward: float) -> None:
    env = make(family)
    env.set_task(task)
    np.testing.assert_allclose(env._goal_reward(np.array([velocity])), [reward])


@pytest.mark.parametrize("family", [HalfCheetahVel, AntVel])
def test_the_velocity_is_that_of_the_centre_of_mass_after_the_step(family: type[Any]) -> None:
    env = make(family)
    env.set_task(0.0)
    rng = np.random.default_rng(1)
    for _ in range(5):
        actions = rng.uniform(-1, 1, (1, env.action_size)).astype(np.float32)
        observations, rewards, *_ = env.step(actions)
        goal = (1 if family is AntVel else 0) - abs(centre_of_mass_velocity(env, observations[0]))
        expected = env._penalize(np.array([goal]), actions.astype(np.float64))
        np.testing.assert_allclose(rewards, expected, rtol=1e-9)


def centre_of_mass_velocity(env: Any, observation: np.ndarray) -> float:
    """Along x, from the momenta of the bodies."""
    model = env._simulations.model
    data = mujoco.MjData(model)
    data.qpos[:] = env._simulations.qpos(0)
    start = 8 if model.nq == 9 else 15
    data.qvel[:] = observation[start : start + model.nv]
    mujoco.mj_forward(model, data)
    momentum = 0.0
    for body in range(1, model.nbody):
        velocity = np.zeros(6)  # of the body's own centre of mass
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, body, velocity, 0)
        momentum += model.body_mass[body] * velocity[3]
    return momentum / model.body_mass[1:].sum()


# --- what a rollout asks for


@pytest.mark.parametrize("name", ["PointNav", "HalfCheetahVel", "HalfCheetahDir", "AntVel", "AntDir"])
def test_a_rollouts_environment_has_the_episodes_and_the_horizon_asked_for(name: str) -> None:
    env = make_task_env(f"maml_rl/{name}-v0", 3, 4)
    assert (env.num_envs, env.max_episode_steps) == (3, 4)
    assert type(env).__name__ == name
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    env.reset(seed=0)
    zeros = np.zeros((3, *env.single_action_space.shape), np.float32)
    ends = [env.step(zeros)[3].all() for _ in range(4)]
    assert ends == [False, False, False, True]
