"""Runners that are slow, gone for good, or hang: the others do the work, and the result is the same."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from maml_rl import MAML, MAMLConfig
from maml_rl.rllib import dispatch
from maml_rl.rllib.activity import Activity
from maml_rl.rllib.dispatch import _Running

pytestmark = pytest.mark.usefixtures("local_ray")


def config(env: str = "user_envs:Reach", num_env_runners: int = 0, **env_config: Any) -> MAMLConfig:
    return (
        MAMLConfig()
        .environment(env, env_config=env_config)
        .env_runners(num_env_runners=num_env_runners)
        .training(meta_batch_size=8, episodes_per_task=3, horizon=6, hidden_sizes=(8,), cg_iterations=2)
    )


def params_after(algo: MAML, iterations: int) -> dict[str, np.ndarray]:
    for _ in range(iterations):
        algo.train()
    return algo.meta_params()


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert all(np.array_equal(a[name], b[name]) for name in b)


@pytest.fixture(scope="module")
def expected(local_ray: None) -> dict[str, np.ndarray]:
    algo = config().build_algo()
    params = params_after(algo, 3)
    algo.stop()
    return params


@pytest.mark.parametrize("blocks_per_runner", [2, 4])
def test_a_runner_that_hangs_does_not_hold_up_the_others(
    blocks_per_runner: int,
    tmp_path: Path,
    expected: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(dispatch, "BLOCKS_PER_RUNNER", blocks_per_runner)
    caplog.set_level("INFO", dispatch.logger.name)
    algo = config("user_envs:SlowOnce", 2, marker=str(tmp_path / "marker"), driver=os.getpid()).build_algo()
    assert (tmp_path / "marker").exists()  # one of the two will hang
    try:
        assert_same(params_after(algo, 3), expected)
    finally:
        for actor in algo.env_runner_group._worker_manager.actors().values():
            ray.kill(actor)
        algo.stop()
    again = Counter(record.args for record in caplog.records if "a second time" in record.message)
    assert again
    # Once in a phase; of those there are two in each of three iterations. A slow machine may have more stragglers.
    assert max(again.values()) <= 6


def test_of_slow_blocks_those_without_a_result_are_run_again_and_once() -> None:
    """A runner that hangs keeps two: when one of them has its result from elsewhere, it is the other's turn."""
    phase = dispatch._Dispatch(None, [], None, 600.0, Activity())  # type: ignore[arg-type]
    phase._seconds = [0.01]
    long_ago = time.monotonic() - 100
    hanging = {0: _Running(1, 3, None, long_ago), 1: _Running(1, 4, None, long_ago + 1)}  # type: ignore[arg-type]
    phase._running = dict(hanging)  # type: ignore[arg-type]
    assert phase._stragglers() == [3, 4]
    phase._running[2] = _Running(2, 3, None, time.monotonic())  # type: ignore[index,arg-type]
    assert phase._stragglers() == [4]
    del phase._running[2]  # type: ignore[arg-type]
    phase._done[3] = None  # type: ignore[assignment]
    assert phase._stragglers() == [4]
    phase._pending = [5]
    assert phase._stragglers() == []  # what nobody has begun comes first


def test_a_runner_that_is_gone_for_good_is_replaced(
    expected: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    algo = config(num_env_runners=2).build_algo()
    algo.train()
    manager = algo.env_runner_group._worker_manager
    ray.kill(manager.actors()[1], no_restart=True)
    assert_same(params_after(algo, 2), expected)
    for _ in range(600):
        if manager.num_healthy_actors() == 2:
            break
        algo._runners.look()
        time.sleep(0.1)
    assert manager.num_healthy_actors() == 2
    assert "gone for good" in caplog.text
    replaced = ray.get(manager.actors()[1].sample_tasks.remote(2, 0, 1))
    assert len(replaced) == 2
    algo.stop()


def test_a_runner_is_not_replaced_against_the_users_will(expected: dict[str, np.ndarray]) -> None:
    algo = config(num_env_runners=2).fault_tolerance(restart_failed_env_runners=False).build_algo()
    algo.train()
    manager = algo.env_runner_group._worker_manager
    ray.kill(manager.actors()[1])
    assert_same(params_after(algo, 2), expected)
    time.sleep(1)
    assert algo._runners.look() == []
    assert manager.num_healthy_actors() == 1
    algo.stop()


@pytest.mark.parametrize("where", ["__init__", "sample_tasks", "reset", "step"])
def test_an_environment_that_hangs_in_this_process_is_reported(where: str) -> None:
    hanging = config("user_envs:Hangs", where=where)
    hanging.sample_timeout_s = 1.0
    with pytest.raises((TimeoutError, RuntimeError), match="sample_timeout_s"):
        hanging.build_algo().train()
