"""Rollouts of one task: what is stored, what the environment sees, and that the seed decides everything."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import ToyEnv, numpy_params, random_params

from maml_rl.envs import make_task_env
from maml_rl.envs.point_nav import PointNav
from maml_rl.envs.rollout import Phase, State, Step, rollout, stream
from maml_rl.envs.spaces import head_of
from maml_rl.learning.trajectories import Trajectories
from maml_rl.policies.heads import LOG_STD
from maml_rl.policies.mlp import MLP

SPEC = MLP.gaussian(observation_size=2, action_size=2, hidden_sizes=(8,))
FIELDS = ("observations", "actions", "rewards", "lengths")


def arrays(seed: int = 0, log_std: float | None = None) -> dict[str, np.ndarray]:
    params = random_params(SPEC, seed, torch.float32)
    if log_std is not None:
        params[LOG_STD] = torch.full((2,), log_std)
    return numpy_params(params)


def constant_policy(action: tuple[float, float], std: float = 1e-6) -> dict[str, np.ndarray]:
    """A policy whose mean is ``action`` everywhere."""
    params = {name: np.zeros(shape, np.float32) for name, shape in SPEC.shapes.items()}
    params["mean.bias"] = np.array(action, np.float32)
    params[LOG_STD] = np.full(2, math.log(std), np.float32)
    return params


def point_env(episodes: int, horizon: int = 12) -> PointNav:
    return PointNav(episodes, max_episode_steps=horizon, autoreset_mode="Disabled")


def run(
    episodes: int = 4, horizon: int = 12, seed: int = 0, params: dict[str, np.ndarray] | None = None
) -> Trajectories:
    env = point_env(episodes, horizon)
    return rollout(env, np.array([0.2, -0.1]), SPEC, params or arrays(), stream(seed, Phase.ROLLOUT, 0, 0))


def assert_same(a: Trajectories, b: Trajectories) -> None:
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_shapes_and_types() -> None:
    data = run(episodes=4, horizon=12)
    assert data.observations.shape == (4, 12, 2)
    assert data.actions.shape == (4, 12, 2)
    assert data.rewards.shape == (4, 12)
    assert data.lengths.shape == (4,)
    for field in ("observations", "actions", "rewards"):
        assert getattr(data, field).dtype == np.float32
        assert getattr(data, field).flags["C_CONTIGUOUS"]
    assert data.fault() is None


def test_equal_seeds_give_equal_trajectories() -> None:
    assert_same(run(seed=5), run(seed=5))


def test_result_does_not_depend_on_what_the_environment_did_before() -> None:
    env = ToyEnv(3)
    first = rollout(env, np.array(0.5), SPEC, arrays(), stream(1))
    rollout(env, np.array(-0.5), SPEC, arrays(7), stream(2))
    assert_same(rollout(env, np.array(0.5), SPEC, arrays(), stream(1)), first)
    assert_same(rollout(ToyEnv(3), np.array(0.5), SPEC, arrays(), stream(1)), first)


def test_the_same_seed_object_may_be_used_twice() -> None:
    # SeedSequence.spawn changes the object it is called on, which would make a retry differ.
    seed, env = stream(3), ToyEnv(2)
    first = rollout(env, np.array(0.0), SPEC, arrays(), seed)
    assert_same(rollout(env, np.array(0.0), SPEC, arrays(), seed), first)


def test_every_part_of_the_key_names_another_stream() -> None:
    keys = [
        (seed, iteration, phase, task)
        for seed in (0, 1)
        for iteration in (0, 1)
        for phase in (0, 1)
        for task in (0, 1, 2)
    ]
    states = {tuple(stream(*key).generate_state(4)) for key in keys}
    assert len(states) == len(keys)
    actions = {run(seed=seed).actions.tobytes() for seed in range(5)}
    assert len(actions) == 5


def test_keys_of_different_lengths_name_different_streams() -> None:
    # numpy pads short entropy with zeros, so that plain (1, 2) and (1, 2, 0) would be one stream.
    states = {tuple(stream(*key).generate_state(4)) for key in [(1, 2), (1, 2, 0), (1, 2, 0, 0)]}
    assert len(states) == 3


def test_streams_are_equal_for_equal_keys() -> None:
    np.testing.assert_array_equal(stream(1, 2, 3).generate_state(8), stream(1, 2, 3).generate_state(8))


def test_episodes_within_a_rollout_differ() -> None:
    data = run(episodes=4)
    assert len({episode.tobytes() for episode in data.actions}) == 4


def test_observations_and_rewards_follow_from_the_stored_actions() -> None:
    goal = np.array([0.2, -0.1])
    data = run(episodes=6, params=arrays(log_std=0.5))
    for k, length in enumerate(data.lengths):
        moves = np.clip(data.actions[k] * 0.1, -0.1, 0.1)[:length]
        positions = np.cumsum(moves, axis=0)
        np.testing.assert_allclose(data.observations[k, 1:length], positions[:-1], atol=1e-6)
        np.testing.assert_array_equal(data.observations[k, 0], 0)
        np.testing.assert_allclose(
            data.rewards[k, :length], -np.linalg.norm(positions - goal, axis=1), atol=1e-6
        )


def test_actions_are_the_policys_mean_plus_scaled_standard_normal_noise() -> None:
    params = arrays(log_std=math.log(0.3))
    data = run(episodes=200, horizon=20, params=params)
    valid = np.arange(20) < data.lengths[:, None]
    observations = data.observations[valid]
    means = SPEC.actor(params, len(observations))(observations)
    noise = (data.actions[valid] - means) / 0.3
    assert abs(noise.mean()) < 0.06  # more than four standard errors of some 8,000 draws
    assert noise.std() == pytest.approx(1, abs=0.04)


def test_actions_are_stored_as_sampled_and_the_environment_sees_them_scaled_and_clipped() -> None:
    env = ToyEnv(5)
    data = rollout(env, np.array(0.0), SPEC, arrays(log_std=1.0), stream(0))
    stored = data.actions.swapaxes(0, 1)
    assert np.abs(stored).max() > 1
    # The box is [0, 1] x [-2, 4]: unit actions are scaled by its half-widths around its centre.
    expected = np.clip(stored * [0.5, 3.0] + [0.5, 1.0], [0, -2], [1, 4])
    np.testing.assert_allclose(np.stack(env.received), expected, rtol=1e-5, atol=1e-6)
    assert (np.abs(stored) < 1).any(), "some actions must lie inside the box, or clipping hides the scaling"


def test_an_episode_that_reaches_the_goal_is_cut_there() -> None:
    env = point_env(3, horizon=10)
    data = rollout(env, np.array([0.2, 0.0]), SPEC, constant_policy((1.0, 0.0)), stream(0))
    np.testing.assert_array_equal(data.lengths, [2, 2, 2])
    np.testing.assert_allclose(data.rewards[:, :2], [[-0.1, 0.0]] * 3, atol=1e-6)
    for field in ("observations", "actions", "rewards"):
        assert (getattr(data, field)[:, 2:] == 0).all()
    assert data.env_steps == 6
    assert data.mean_return == pytest.approx(-0.1, abs=1e-5)


def test_episodes_of_different_lengths_are_masked_each_at_its_own_end() -> None:
    data = rollout(ToyEnv(4, lifetimes=[1, 3, 6, 99]), np.array(1.0), SPEC, arrays(), stream(0))
    np.testing.assert_array_equal(data.lengths, [1, 3, 6, 6])
    for k, length in enumerate(data.lengths):
        for field in ("observations", "actions", "rewards"):
            x = getattr(data, field)[k]
            assert (x[length:] == 0).all()
            assert (x[:length] != 0).all()
    assert data.env_steps == 16


def test_an_episode_that_ends_early_does_not_change_the_others() -> None:
    full = rollout(ToyEnv(3), np.array(0.0), SPEC, arrays(), stream(0))
    cut = rollout(ToyEnv(3, lifetimes=[2, 99, 99]), np.array(0.0), SPEC, arrays(), stream(0))
    np.testing.assert_array_equal(cut.observations[1:], full.observations[1:])
    np.testing.assert_array_equal(cut.actions[1:], full.actions[1:])
    np.testing.assert_array_equal(cut.observations[0, :2], full.observations[0, :2])


def test_one_episode_of_one_step() -> None:
    data = run(episodes=1, horizon=1)
    np.testing.assert_array_equal(data.lengths, [1])
    assert data.observations.shape == (1, 1, 2)
    assert data.env_steps == 1


def test_the_task_changes_rewards_but_not_observations_of_a_fixed_policy() -> None:
    env = point_env(4)
    near = rollout(env, np.array([0.3, 0.3]), SPEC, arrays(), stream(0))
    far = rollout(env, np.array([-0.5, -0.5]), SPEC, arrays(), stream(0))
    np.testing.assert_array_equal(near.lengths, far.lengths)
    np.testing.assert_array_equal(near.observations, far.observations)
    assert not np.array_equal(near.rewards, far.rewards)


def test_parameters_change_the_trajectories() -> None:
    assert not np.array_equal(run(params=arrays(0)).actions, run(params=arrays(1)).actions)


@pytest.mark.parametrize("field", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(field: str, bad: float) -> None:
    data = run()
    getattr(data, field)[0, 0] = bad
    assert data.fault() == f"{field} hold a NaN or an infinity"


def test_observers_see_every_state_and_the_step_that_led_there() -> None:
    """From what they see the trajectories can be put together again."""
    env = make_task_env("user_envs:Telling", 3, 4)
    spec = MLP.gaussian(1, 1, hidden_sizes=(4,))
    params = {name: value.numpy() for name, value in spec.init_params(0).items()}
    seen: list[State] = []

    def observe(state: State) -> None:
        step = state.step and Step(*(np.copy(field) for field in state.step))
        seen.append(State(state.steps, state.observations.copy(), step))

    data = rollout(env, 1.0, spec, params, stream(0, 0), observe)
    assert [state.steps for state in seen] == list(range(5))
    assert seen[0].step is None
    for t, state in enumerate(seen[1:]):
        assert state.step is not None
        np.testing.assert_array_equal(data.observations[:, t], seen[t].observations)
        np.testing.assert_array_equal(data.actions[:, t], state.step.actions)
        np.testing.assert_array_equal(data.rewards[:, t], np.float32(state.step.rewards))
        np.testing.assert_array_equal(state.step.env_actions, np.clip(state.step.actions, -1, 1))
        assert state.step.active.all()
        assert not state.step.terminated.any()
        assert state.step.truncated.all() == (t == 3)
    env.close()


def test_observers_are_told_which_episodes_ended_and_how() -> None:
    env = make_task_env("user_envs:Telling", 2, 9)  # which ends after five steps by itself
    spec = MLP.gaussian(1, 1, hidden_sizes=(4,))
    params = {name: value.numpy() for name, value in spec.init_params(0).items()}
    ended: list[bool] = []
    rollout(
        env,
        1.0,
        spec,
        params,
        stream(0, 0),
        lambda state: ended.append(bool(state.step.terminated.all())) if state.step else None,
    )
    assert ended == [False] * 4 + [True]
    env.close()


@pytest.mark.parametrize("room", [1, 3, 12, 100])
def test_the_room_a_rollout_begins_with_changes_nothing(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(horizon=12)
    monkeypatch.setattr("maml_rl.envs.rollout.FIRST_STEPS", room)
    assert_same(run(horizon=12), expected)


def test_memory_follows_the_steps_and_not_the_horizon() -> None:
    """Room for a billion steps would not be found."""
    env = make_task_env("user_envs:Reach", 2, 10**9)
    spec = MLP.gaussian(1, 1, hidden_sizes=(4,), initial_std=3.0)
    params = {name: value.numpy() for name, value in spec.init_params(0).items()}
    data = rollout(env, 0.5, spec, params, stream(0, 0))
    assert data.rewards.shape[1] == data.lengths.max() < 10_000
    env.close()


def test_deterministic_actions_are_the_means() -> None:
    env = make_task_env("maml_rl/PointNav-v0", 3, 20)
    spec = MLP.gaussian(2, 2, (8,))
    params = {name: value.numpy() for name, value in spec.init_params(0).items()}
    found = rollout(env, np.array([0.3, 0.1]), spec, params, stream(0), deterministic=True)
    means = spec.actor(params, 3)
    for step in range(20):
        np.testing.assert_array_equal(found.actions[:, step], means(found.observations[:, step].copy()))
    sampled = rollout(env, np.array([0.3, 0.1]), spec, params, stream(0))
    assert np.abs(sampled.actions - found.actions).max() > 0.5


def test_deterministic_categories_are_the_likeliest() -> None:
    env = make_task_env("maml_rl/Bandit-v0", 4, 30)
    task = env.sample_tasks(1, np.random.default_rng(0))[0]
    head = head_of(env.single_action_space)
    spec = MLP(env.single_observation_space.shape[0], head, (8,))
    params = {name: value.numpy() for name, value in spec.init_params(1).items()}
    found = rollout(env, task, spec, params, stream(0), deterministic=True)
    logits = spec.actor(params, 4)
    for step in range(30):
        expected = logits(found.observations[:, step].copy()).argmax(1)
        np.testing.assert_array_equal(found.actions[:, step, 0], expected)
