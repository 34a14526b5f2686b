"""Several learners: the result of one, to the last bit, whatever is learned and whoever dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from tiny_runs import PPO, Algorithms, save_expert, tiny_algorithms, tiny_config

from maml_rl import MAML
from maml_rl.rllib.learner_share import LearnerShare, NonFiniteError

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]

ITERATIONS = 2


@pytest.fixture(scope="module")
def algorithms(local_ray: None) -> Iterator[Algorithms]:
    with tiny_algorithms() as found:
        yield found


def build(learners: int, runners: int = 0, **fields: Any) -> MAML:
    config = tiny_config(**({"meta_batch_size": 6} | fields))
    return config.learners(num_learners=learners).env_runners(num_env_runners=runners).build_algo()


def trained(learners: int, runners: int = 0, **fields: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All that is learned, and the last result."""
    algo = build(learners, runners, **fields)
    try:
        for _ in range(ITERATIONS):
            result = algo.train()
        assert result["step_accepted"] == 1
        return algo.training_state().learned, result
    finally:
        algo.stop()


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


KINDS: dict[str, dict[str, Any]] = {
    "trpo": {"inner_steps": 2, "learn_inner_lr": True},
    "exact products": {"hvp": "exact", "curvature_fraction": 0.5},
    "ppo": PPO | {"minibatch_size": 40},
    "likelihood ratio": {"inner_loss": "likelihood_ratio", "inner_steps": 2},
    "memory": {"recurrent": "gru", "recurrent_size": 3},
    "normalised": {"normalize_observations": True, "normalize_rewards": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_learners_learn_what_one_learns(kind: str) -> None:
    expected, one = trained(0, **KINDS[kind])
    found, two = trained(2, runners=1, **KINDS[kind])
    assert_same(found, expected)
    for name in ("loss_before", "loss_after", "kl", "gradient_norm", "return_post", "backtracks"):
        assert two[name] == one[name], name


def test_an_expert_guides_them_all(tmp_path: Path) -> None:
    fields = {"expert": save_expert(tmp_path / "expert.safetensors"), "expert_clip": True}
    assert_same(trained(2, **fields)[0], trained(0, **fields)[0])


@pytest.mark.parametrize("learners", [1, 3, 4])
def test_any_number_of_them(learners: int) -> None:
    assert_same(trained(learners)[0], trained(0)[0])


def test_their_number_may_change_and_rllib_finds_all_of_them_alike(tmp_path: Path) -> None:
    """From RLlib's checkpoint of two learners a single one goes on."""
    reference = build(0)
    first = build(2)
    for algo in (reference, first):
        algo.train()
    states = [x.get() for x in first.learner_group.foreach_learner(lambda learner: learner.meta_params())]
    assert len(states) == 2
    for state in states:
        assert_same(state, reference.meta_params())
    first.save_to_path(tmp_path / "checkpoint")
    first.stop()
    second = build(0)
    second.restore_from_path(tmp_path / "checkpoint")
    for algo in (reference, second):
        algo.train()
        algo.stop()
    assert_same(second.meta_params(), reference.meta_params())


@pytest.mark.parametrize("which", [0, 1])
def test_one_that_dies_leaves_no_trace(which: int, caplog: pytest.LogCaptureFixture) -> None:
    reference, algo = build(0), build(2)
    for _ in range(2):
        reference.train()
    algo.train()
    pids = [x.get() for x in algo.learner_group.foreach_learner(lambda learner: os.getpid())]
    assert len({*pids, os.getpid()}) == 3
    os.kill(pids[which], signal.SIGKILL)
    algo.train()
    assert "is run again" in caplog.text
    assert_same(algo.training_state().learned, reference.training_state().learned)
    for each in (reference, algo):
        each.stop()


def test_what_is_not_finite_is_refused_and_named_whoever_finds_it(caplog: pytest.LogCaptureFixture) -> None:
    """A step size so large that every task's policy diverges, which the first task's learner reports."""
    algo = build(2, inner_lr=1e38)
    before = algo.meta_params()
    algo.train()
    assert "the update is refused" in caplog.text
    assert "task 0: actions hold a NaN or an infinity" in caplog.text
    assert_same(algo.meta_params(), before)
    algo.stop()


def test_a_task_of_the_second_learner_is_named_by_its_own_number() -> None:
    algo = build(2)
    algo.train()

    def spoil(learner: Any) -> str:
        from maml_rl.learning.task_tree import share_out
        from maml_rl.learning.trajectories import Extent, Trajectories
        from maml_rl.rllib.dispatch import Block

        bad = Trajectories(
            np.full((3, 6, 2), np.nan, np.float32),
            np.zeros((3, 6, 2), np.float32),
            np.zeros((3, 6), np.float32),
            np.full(3, 6),
        )
        share = share_out(6, 2)[1]
        try:
            learner.on_share("adapt", share, [Block(share.own, [bad] * 3)], Extent(6, 18), 0)
        except ArithmeticError as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    (said,) = [x.get() for x in algo.learner_group.foreach_learner(spoil, remote_actor_ids=[1])]
    assert said == f"{NonFiniteError.__name__}: task 3: observations hold a NaN or an infinity"
    algo.stop()


def test_each_gets_trajectories_of_its_own_tasks_only() -> None:
    algo = build(3, runners=2)
    algo.train()

    def tasks(learner: Any) -> list[int]:
        share: LearnerShare = learner._share
        return [len(samples.weights) for samples in share._pre]

    counts = [x.get() for x in algo.learner_group.foreach_learner(tasks)]
    assert [sum(count) for count in counts] == [1, 2, 3]
    algo.stop()


def test_no_port_of_torchs_is_opened() -> None:
    algo = build(2)

    def group(learner: Any) -> tuple[bool, str | None]:
        import torch

        return torch.distributed.is_initialized(), os.environ.get("MASTER_PORT")

    assert [x.get() for x in algo.learner_group.foreach_learner(group)] == [(False, None)] * 2
    algo.stop()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_learners": 2, "inner_steps": 0}, "num_learners is 2, but inner_steps is 0"),
        ({"num_learners": 7, "meta_batch_size": 6}, "num_learners is 7, but meta_batch_size is 6"),
    ],
)
def test_learners_without_work_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields).validate()


def test_evaluation_with_fewer_tasks_than_learners() -> None:
    algo, reference = build(2), build(0)
    for each in (algo, reference):
        each.config._is_frozen = False
        each.config.evaluation_duration = 1
    assert algo.evaluate()["returns"] == reference.evaluate()["returns"]
    for each in (algo, reference):
        each.stop()
    assert ray.is_initialized()
