"""Users' vector environments: the same episodes as those of the single environments they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv, VectorEnv
from tiny_runs import tiny_config
from user_envs import Many

from maml_rl.envs import UserEnvError, make_task_env
from maml_rl.envs.episode_info import EpisodeInfo
from maml_rl.envs.rollout import rollout, stream
from maml_rl.policies.mlp import MLP


def episodes(env: Any, task: float, horizon: int, **env_config: Any) -> tuple[Any, dict[str, float]]:
    made = make_task_env(env, 3, horizon, env_config)
    spec = MLP.gaussian(made.single_observation_space.shape[0], 2 if "space" in env_config else 1, (4,))
    params = {name: value.numpy() for name, value in spec.init_params(0).items()}
    told = EpisodeInfo(made)
    data = rollout(made, task, spec, params, stream(0, 1), told)
    made.close()
    return data, *told.means()


@pytest.mark.parametrize("horizon", [3, 9])
@pytest.mark.parametrize(
    ("kind", "task", "arguments"),
    [
        ("Telling", 3.0, {}),
        ("Reach", 0.5, {"scale": 2.0}),  # whose episodes end one after the other
        ("Reach", -0.5, {}),
        ("Found", 0.5, {"space": "dict"}),
        ("Found", 0.5, {"space": "image"}),
        ("Found", 0.5, {"space": "several"}),
    ],
)
def test_episodes_are_those_of_single_environments(
    kind: str, task: float, arguments: dict[str, Any], horizon: int
) -> None:
    single, single_told = episodes(f"user_envs:{kind}", task, horizon, **arguments)
    vector, vector_told = episodes("user_envs:Many", task, horizon, kind=kind, **arguments)
    for name in ("observations", "actions", "rewards", "lengths"):
        np.testing.assert_array_equal(getattr(vector, name), getattr(single, name), err_msg=name)
    assert vector_told == pytest.approx(single_told)


def test_tasks_are_the_environments() -> None:
    env = make_task_env(Many, 2, 5)
    tasks = env.sample_tasks(5, np.random.default_rng(0))
    np.testing.assert_array_equal(tasks, np.random.default_rng(0).integers(1, 9, 5))
    env.close()


class Without(SyncVectorEnv):
    """Has no tasks."""

    def __init__(self, num_envs: int) -> None:
        super().__init__([lambda: __import__("user_envs").Reach()] * num_envs)


class OneTooMany(Many):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs + 1)


@pytest.mark.parametrize(
    ("env", "arguments", "message"),
    [
        (Without, {}, "Without.sample_tasks: is missing"),
        (OneTooMany, {}, "OneTooMany.num_envs: is 3; it must be 2"),
        (Many, {"kind": "Nothing"}, "Many.__init__: raised KeyError: 'Nothing'"),
        (Many, {"speed": 3}, "Many.__init__: raised TypeError"),
    ],
)
def test_environments_that_cannot_be_used(
    env: type[VectorEnv[Any, Any, Any]], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserEnvError, match=message):
        make_task_env(env, 2, 5, arguments)


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ({"observations": np.zeros((2, 2))}, r"step: observation has shape \(2,\); it must be \(1,\)"),
        ({"observations": np.zeros((1, 1))}, "step: returned 1 observations for 2 copies"),
        ({"observations": np.full((2, 1), np.nan)}, "step: observation .* is not finite"),
        ({"observations": 3}, "step: observations 3 are not of"),
        ({"rewards": np.zeros(3)}, "step: rewards are .* one for each of 2 copies"),
        ({"rewards": np.array([np.nan, 0])}, "step: rewards are .*; they must be finite"),
        ({"terminations": np.zeros(2)}, "step: terminations are"),
        ({"truncations": [0, 1]}, "step: truncations are"),
        ({"infos": None}, "step: info is None; it must be a dictionary"),
    ],
)
def test_wrong_results_are_named(replies: dict[str, Any], message: str) -> None:
    env = make_task_env(Many, 2, 5, {"replies": replies})
    env.set_task(3.0)
    env.reset(seed=0)
    with pytest.raises(UserEnvError, match=rf"(?s)Many\.{message}"):
        env.step(np.zeros((2, 1), np.float32))
    env.close()


def test_filming_says_what_to_do() -> None:
    with pytest.raises(UserEnvError, match="vector environments are not filmed"):
        make_task_env(Many, 1, 5, render_mode="rgb_array")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_training_is_that_of_single_environments() -> None:
    found = []
    for env, runners, arguments in (("user_envs:Telling", 0, {}), ("user_envs:Many", 2, {"kind": "Telling"})):
        config = tiny_config().environment(env, env_config=arguments).env_runners(num_env_runners=runners)
        algo = config.build_algo()
        result = algo.train()
        found.append((algo.meta_params(), result["success_rate_post"], result["info_post"]))
        algo.stop()
    (single, *told), (vector, *vector_told) = found
    assert told == vector_told
    for name, value in single.items():
        np.testing.assert_array_equal(vector[name], value, err_msg=name)
