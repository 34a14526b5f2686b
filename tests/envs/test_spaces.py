"""Observations of every space as vectors, actions of any box: the spaces, rollouts, and training on runners."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, flatten, flatten_space
from tiny_runs import save_expert, tiny_config
from user_envs import IMAGE, SPACES, Found

from maml_rl.envs import make_task_env
from maml_rl.envs.rollout import rollout, stream
from maml_rl.envs.spaces import ActionScale, FlatActions, FlatObservations
from maml_rl.envs.statefulness import find_memory
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy_file import PolicyFileError
from maml_rl.rllib.expert import load_expert


@pytest.mark.parametrize("name", SPACES)
def test_vectors_are_gymnasiums_but_for_the_scale_of_images(name: str) -> None:
    space: Any = SPACES[name]
    space.seed(0)
    flat = FlatObservations(space)
    for _ in range(20):
        observation = space.sample()
        expected = flatten(space, observation) / (255 if space is IMAGE else 1)
        np.testing.assert_allclose(flat(observation), expected, rtol=1e-6)
        assert flat(observation) in flat.box
    assert flat.box.shape == flatten_space(space).shape
    assert np.issubdtype(flat.box.dtype, np.floating)


@pytest.mark.parametrize(
    ("name", "observation", "message"),
    [
        ("matrix", np.zeros((3, 2)), r"observation has shape \(3, 2\); it must be \(2, 3\)"),
        ("image", np.zeros((4, 3, 3)), "observation has dtype float64; it must be uint8"),
        ("matrix", np.full((2, 3), np.nan), "(?s)observation .* is not finite"),
        ("discrete", 4, r"observation 4 is not in Discrete\(4\)"),
        ("discrete", -1, "observation -1 is not in"),
        ("discrete", 1.0, "observation has dtype float64; it must be int64"),
        ("discrete from 2", 1, "observation 1 is not in"),
        ("several", [0, 3, 0], "is not in MultiDiscrete"),
        ("bits", [0, 1], r"observation has shape \(2,\); it must be \(3,\)"),
        ("bits", np.array([0, 1, 2], np.int8), "is not in MultiBinary"),
        ("tuple", (1,), "observation is .*; it must be of Tuple"),
        ("tuple", 3, "observation is 3; it must be of Tuple"),
        (
            "dict",
            {"position": np.zeros(2, np.float32), "code": 5, "bits": [0, 1]},
            r"observation\['code'\] 5 is not",
        ),
        ("dict", {"position": np.zeros(2), "code": 1, "bitz": [0, 1]}, "observation has no 'bits'"),
        ("nested", {"a": [0.5], "b": (0, {"c": 3})}, r"observation\['b'\]\[1\]\['c'\] 3 is not in"),
    ],
)
def test_what_is_not_of_the_space_is_named(name: str, observation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlatObservations(SPACES[name])(observation)


# --- actions


def test_bounded_actions_are_scaled_and_all_others_are_as_they_are() -> None:
    box = Box(
        np.array([-2, 0, -np.inf, 1, -np.inf], np.float32), np.array([4, 1, np.inf, np.inf, 2], np.float32)
    )
    scale = ActionScale(box)
    assert scale.bounded.tolist() == [True, True, False, False, False]
    actions = np.array([[-1, 1, 7, 5, -9], [1, 0, -7, -5, 9], [3, -3, 0, 0, 0]], np.float32)
    expected = [[-2, 1, 7, 5, -9], [4, 0.5, -7, 1, 2], [4, 0, 0, 1, 0]]
    np.testing.assert_allclose(scale(actions), expected)
    broken = scale(np.full((1, 5), np.nan, np.float32))
    assert np.isfinite(broken).all()
    assert (broken >= box.low).all()
    assert (broken <= box.high).all()


def test_actions_take_the_shape_and_type_of_their_space() -> None:
    flat = FlatActions(Box(-1, 1, (2, 3), np.float64))
    action = flat(np.array([0, 1, -1, 0.5, 1.0000001, -2], np.float32))
    assert action.shape == (2, 3)
    assert action.dtype == np.float64
    np.testing.assert_allclose(action, [[0, 1, -1], [0.5, 1, -1]])


# --- environments


@pytest.mark.parametrize("name", SPACES)
def test_rollouts_of_every_space(name: str) -> None:
    env = make_task_env(Found, 2, 5, {"space": name})
    size = env.single_observation_space.shape[0]
    spec = MLP.gaussian(size, 2, hidden_sizes=(4,))
    params = {key: value.numpy() for key, value in spec.init_params(0).items()}
    data = rollout(env, 0.5, spec, params, stream(0, 0))
    assert data.observations.shape == (2, 5, size)
    assert data.fault() is None
    assert find_memory(env) is None
    env.close()


def test_actions_far_out_reach_an_environment_without_bounds() -> None:
    spec = MLP.gaussian(3, 2, hidden_sizes=(4,))
    params = {key: value.numpy() for key, value in spec.init_params(0).items()}
    params["mean.bias"] = np.array([50, -30], np.float32)
    unbounded, bounded = (
        make_task_env(Found, 1, 3, {"space": "vector", **bounds})
        for bounds in ({"low": -np.inf, "high": np.inf}, {})
    )
    far = rollout(unbounded, 0.0, spec, params, stream(0, 0))
    near = rollout(bounded, 0.0, spec, params, stream(0, 0))
    np.testing.assert_array_equal(far.actions, near.actions)
    np.testing.assert_allclose(far.rewards, -np.abs(far.actions).sum(-1), rtol=1e-5)
    assert (near.rewards >= -2).all()


def test_an_expert_is_clipped_only_where_actions_have_bounds(tmp_path: Any) -> None:
    file = save_expert(tmp_path / "expert.safetensors")
    env = make_task_env(Found, 1, 3, {"space": "vector", "high": np.inf})
    with pytest.raises(PolicyFileError, match="expert_clip is True, but actions of the environment are not"):
        load_expert(type(tmp_path)(file), env, clip=True)
    assert load_expert(type(tmp_path)(file), env).spec.action_size == 2


# --- training


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("space", "bounds"),
    [("dict", {}), ("image", {"low": -np.inf, "high": np.inf}), ("several", {"low": -1, "high": np.inf})],
)
def test_training_is_the_same_on_any_number_of_runners(space: str, bounds: dict[str, float]) -> None:
    found = []
    for runners in (0, 2):
        config = tiny_config().environment(Found, env_config={"space": space, **bounds})
        algo = config.env_runners(num_env_runners=runners).build_algo()
        assert algo.train()["update_refused"] == 0
        found.append(algo.meta_params())
        algo.stop()
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name], err_msg=name)
