"""The learner as an actor: its errors are values, and when it dies training goes on to the same last bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import ActorDiedError

from maml_rl import MAML, MAMLConfig
from maml_rl.experiments.run import Run
from maml_rl.experiments.training import TrainingRun, describe
from maml_rl.policies.policy_file import load_policy
from maml_rl.rllib import maml as maml_module
from maml_rl.rllib.learner_calls import LearnerLostError
from maml_rl.rllib.learner_share import NonFiniteError
from maml_rl.rllib.maml import TrainingState
from maml_rl.rllib.resources import ResourceError
from maml_rl.tools.run_directory import CHECKPOINT

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]

PPO = {"outer_update": "ppo", "inner_steps": 0, "minibatch_size": 40}


def config(num_learners: int, **training: Any) -> MAMLConfig:
    fields = {
        "meta_batch_size": 3,
        "episodes_per_task": 4,
        "horizon": 8,
        "hidden_sizes": (6,),
        "cg_iterations": 2,
    }
    return (
        MAMLConfig()
        .environment("maml_rl/PointNav-v0")
        .learners(num_learners=num_learners)
        .training(**{**fields, **training})
    )


def after(algo: MAML, iterations: int) -> TrainingState:
    for _ in range(iterations):
        algo.train()
    return algo.training_state()


def kill_learner(algo: MAML) -> None:
    (found,) = algo.learner_group.foreach_learner(lambda learner: os.getpid())
    assert found.get() != os.getpid()
    os.kill(found.get(), signal.SIGKILL)


def assert_same(found: TrainingState, expected: TrainingState) -> None:
    assert (found.iteration, found.env_steps) == (expected.iteration, expected.env_steps)
    assert found.learned.keys() == expected.learned.keys()
    for name, value in expected.learned.items():
        np.testing.assert_array_equal(found.learned[name], value, err_msg=name)


@pytest.mark.parametrize("settings", [{}, PPO], ids=["trpo", "ppo with a critic"])
def test_a_killed_learner_leaves_no_trace(settings: dict[str, Any]) -> None:
    undisturbed = config(0, **settings).build_algo()
    expected = after(undisturbed, 3)
    undisturbed.stop()
    algo = config(1, **settings).build_algo()
    algo.train()
    kill_learner(algo)
    assert_same(after(algo, 2), expected)
    algo.stop()


def test_a_learner_that_cannot_be_started_again_ends_the_run_with_what_was_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when its node is gone, and with it the only GPU."""
    chosen = config(1)
    run = Run(tmp_path / "run")
    train = MAML.train

    def lose(algo: MAML) -> Any:
        if algo.iteration == 2:
            monkeypatch.setattr(maml_module, "check_resources", refuse)
            kill_learner(algo)
        return train(algo)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ResourceError(
            "the run asks for 1 CPUs (0 env runners, 1 remote learners), but the cluster has 0"
        )

    monkeypatch.setattr(MAML, "train", lose)
    monkeypatch.setattr(maml_module, "RESTART_S", 0.0)
    description = describe(chosen, "point-nav", "maml", 5)
    with pytest.raises(ResourceError, match="1 remote learners"):
        TrainingRun(chosen, run, "point-nav", "maml", 5, description)()
    assert load_policy(run.path / CHECKPOINT).info["iteration"] == 2
    assert [row["iteration"] for row in run.progress()] == [1, 2]


@pytest.mark.parametrize(
    "obstacle",
    [
        ResourceError("the run asks for 1 CPUs, but the Ray cluster has 0"),
        ActorDiedError(),
        LearnerLostError("again"),
    ],
    ids=["no room yet", "on a node that is gone", "dies at once"],
)
def test_a_learner_is_tried_to_be_started_again_until_its_cluster_is_sound(
    obstacle: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = config(0).build_algo()
    expected = after(undisturbed, 2)
    undisturbed.stop()
    algo = config(1).build_algo()
    algo.train()
    kill_learner(algo)
    check, calls = maml_module.check_resources, []

    def obstructed(*args: Any, **kwargs: Any) -> None:
        calls.append(None)
        if len(calls) == 1:
            raise obstacle
        check(*args, **kwargs)

    monkeypatch.setattr(maml_module, "check_resources", obstructed)
    assert_same(after(algo, 1), expected)
    assert len(calls) == 2
    assert "not yet" in caplog.text
    algo.stop()


def test_what_a_learner_raises_is_raised_here_and_it_stays_in_service() -> None:
    algo = config(1).build_algo()
    for _ in range(2):
        with pytest.raises(KeyError, match="no such parameter") as error:
            algo._on_learner("set_meta_params", params={"no such parameter": np.zeros(1)})
        assert "in the learner" in error.value.__notes__[0]
    assert algo.train()["update_refused"] == 0
    algo.stop()


@pytest.mark.parametrize("num_learners", [0, 1])
def test_refusals_are_the_same_here_and_there(num_learners: int, caplog: pytest.LogCaptureFixture) -> None:
    env = {"bad": "rewards", "after": 2 * 3 * 8 + 12}  # in the second iteration
    algo = config(num_learners).environment("faulty_envs:NanPointNav", env_config=env).build_algo()
    algo.train()
    before = algo.training_state()
    assert algo.train()["update_refused"] == 1
    assert "task 1: rewards hold a NaN" in caplog.text
    for name, value in before.learned.items():
        np.testing.assert_array_equal(algo.training_state().learned[name], value)
    algo.train()
    with pytest.raises(NonFiniteError, match="3 consecutive"):
        algo.train()
    algo.stop()


def test_lost_trajectories_are_collected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = config(0).build_algo()
    expected = after(undisturbed, 1)
    undisturbed.stop()
    algo = config(1).build_algo()
    original, failures = algo._meta_update, iter([True])

    def lose_once(*arguments: Any) -> Any:
        if next(failures, False):
            raise ray.exceptions.ObjectLostError("00", "", "")
        return original(*arguments)

    monkeypatch.setattr(algo, "_meta_update", lose_once)
    assert_same(after(algo, 1), expected)
    algo.stop()
