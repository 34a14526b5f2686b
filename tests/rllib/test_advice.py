"""What a user is told before and while a training gets nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from maml_rl import MAMLConfig
from maml_rl.envs import make_task_env
from maml_rl.envs.statefulness import find_memory
from maml_rl.policies.policy import Policy
from maml_rl.rllib.advice import STEPS, Advice
from maml_rl.rllib.metrics import Trials
from maml_rl.rllib.sizes import check_sizes
from maml_rl.tools.memory_size import in_words, total_memory


@pytest.mark.parametrize(
    ("env", "differs"),
    [
        ("user_envs:Reach", None),
        ("user_envs:normalised", "observations"),
        ("user_envs:rewards_normalised", "rewards"),
        ("user_envs:Forgetful", "observations"),
        ("maml_rl/PointNav-v0", None),
        ("maml_rl/AntVel-v0", None),
    ],
)
def test_state_that_survives_a_reset_is_found(env: str, differs: str | None) -> None:
    assert find_memory(make_task_env(env, 1, 50)) == differs


def config(env: str = "user_envs:Reach", **training: Any) -> MAMLConfig:
    sizes = {
        "meta_batch_size": 3,
        "episodes_per_task": 3,
        "horizon": 6,
        "hidden_sizes": (8,),
        "cg_iterations": 2,
    }
    return MAMLConfig().environment(env).training(**{**sizes, **training})


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("env", ["user_envs:Reach", "user_envs:normalised"])
def test_a_normalising_wrapper_is_warned_of(env: str, caplog: pytest.LogCaptureFixture) -> None:
    config(env).build_algo().stop()
    assert ("normalising wrapper" in caplog.text) == (env == "user_envs:normalised")


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(("scale", "warned"), [(1.0, False), (1e4, True), (1e-5, True)])
def test_the_scale_of_observations_is_warned_of_once(
    scale: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    algo = config().environment(env_config={"scale": scale}).build_algo()
    algo.train()
    algo.train()
    algo.stop()
    assert caplog.text.count("observations have a root mean square") == warned


def test_many_updates_that_are_not_accepted_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    advice = Advice()
    good, bad = {"step_accepted": 1.0}, {"step_accepted": 0.0}
    for _ in range(STEPS):
        advice.look(Trials(), good)
    for _ in range(STEPS // 2):
        advice.look(Trials(), bad)
    assert caplog.text == ""
    for _ in range(STEPS):
        advice.look(Trials(), {})  # refused
    assert caplog.text.count("of the last 10 updates were not accepted") == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("meta_batch_size", 10**12),
        ("episodes_per_task", 10**12),
        ("horizon", 10**13),
        ("hidden_sizes", (10**9, 10**9)),
        ("context_size", 10**10),
        ("inner_steps", 10**12),
    ],
)
def test_what_no_machine_can_hold_is_refused(field: str, value: Any) -> None:
    chosen = config(**{field: value})
    chosen.validate()
    shown = "meta_batch_size" if field == "inner_steps" else field
    with pytest.raises(ValueError, match=rf"{shown} .*need .*TiB of memory.*has .*B"):
        check_sizes(chosen, policy_for(chosen, "user_envs:Reach"))


def test_what_fits_is_not_refused() -> None:
    chosen = config(meta_batch_size=40, episodes_per_task=40, horizon=200)
    check_sizes(chosen, policy_for(chosen, "maml_rl/AntVel-v0"))


def policy_for(chosen: MAMLConfig, name: str) -> Policy:
    env = make_task_env(name, 1, 6)
    return chosen.policy_spec(env.single_observation_space, env.single_action_space)


def test_memory_in_words() -> None:
    assert [in_words(size) for size in (10, 2048, 3 * 2**20, 5.5 * 2**30, 2**50)] == [
        "10 bytes",
        "2 KiB",
        "3 MiB",
        "5.5 GiB",
        "1.02e+03 TiB",
    ]
    assert 2**28 < total_memory() < 2**50
