"""The algorithm on a real local Ray: same results for any number of runners, faults, resume, Tune."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from maml_rl import MAML, MAMLConfig
from maml_rl.rllib.learner_share import NonFiniteError
from maml_rl.rllib.resources import ResourceError

pytestmark = pytest.mark.usefixtures("local_ray")

NumpyParams = dict[str, np.ndarray]


def small_config(num_env_runners: int = 0, **training: Any) -> MAMLConfig:
    fields = {
        "inner_lr": 0.1,
        "meta_batch_size": 5,
        "episodes_per_task": 4,
        "horizon": 10,
        "hidden_sizes": (16, 16),
        "cg_iterations": 3,
    }
    return (
        MAMLConfig()
        .environment("maml_rl/PointNav-v0")
        .env_runners(num_env_runners=num_env_runners)
        .training(**{**fields, **training})
    )


def train(config: MAMLConfig, iterations: int = 2) -> tuple[NumpyParams, dict[str, Any]]:
    algo = config.build_algo()
    try:
        for _ in range(iterations):
            result = algo.train()
        return algo.meta_params(), result
    finally:
        algo.stop()


def assert_identical(a: NumpyParams, b: NumpyParams) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


@pytest.fixture(scope="module")
def reference(local_ray: None) -> NumpyParams:
    return train(small_config())[0]


@pytest.mark.parametrize("num_env_runners", [1, 2, 3])
def test_parameters_do_not_depend_on_the_number_of_runners(
    num_env_runners: int, reference: NumpyParams
) -> None:
    params, _ = train(small_config(num_env_runners))
    assert_identical(params, reference)


def test_parameters_do_not_depend_on_where_the_learner_is(reference: NumpyParams) -> None:
    config = small_config(1).learners(num_learners=1)
    assert_identical(train(config)[0], reference)


def test_parameters_depend_on_the_seed(reference: NumpyParams) -> None:
    params, _ = train(small_config().debugging(seed=1))
    assert not np.array_equal(params["mean.weight"], reference["mean.weight"])


def test_resume_is_exact(tmp_path: Path, reference: NumpyParams) -> None:
    algo = small_config().build_algo()
    algo.train()
    algo.save_to_path(str(tmp_path / "checkpoint"))
    algo.stop()
    resumed = small_config(2).build_algo()  # with another number of runners
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    assert resumed.iteration == 1
    resumed.train()
    assert_identical(resumed.meta_params(), reference)
    resumed.stop()


def test_from_checkpoint(tmp_path: Path, reference: NumpyParams) -> None:
    algo = small_config().build_algo()
    algo.train()
    algo.save_to_path(str(tmp_path / "checkpoint"))
    algo.stop()
    resumed = MAML.from_checkpoint(str(tmp_path / "checkpoint"))
    resumed.train()
    assert_identical(resumed.meta_params(), reference)
    resumed.stop()


@pytest.mark.parametrize("no_restart", [True, False])
def test_a_killed_runner_leaves_no_trace(no_restart: bool, reference: NumpyParams) -> None:
    algo = small_config(2).build_algo()
    algo.train()
    victim = algo.env_runner_group._worker_manager.actors()[1]
    victim.sample_tasks.remote(10_000_000, 0)  # keeps it busy, so that it dies with work in its queue
    ray.kill(victim, no_restart=no_restart)
    algo.train()
    assert_identical(algo.meta_params(), reference)
    algo.stop()


def test_lost_trajectories_leave_no_trace(reference: NumpyParams, monkeypatch: pytest.MonkeyPatch) -> None:
    algo = small_config(1).build_algo()
    original, failures = algo._meta_update, iter([True])

    def lose_once(*arguments: Any) -> Any:
        if next(failures, False):
            raise ray.exceptions.ObjectLostError("00", "", "")
        return original(*arguments)

    monkeypatch.setattr(algo, "_meta_update", lose_once)
    algo.train()
    algo.train()
    assert_identical(algo.meta_params(), reference)
    algo.stop()


def test_meta_params_are_a_copy_that_training_does_not_change() -> None:
    algo = small_config().build_algo()
    before = algo.meta_params()
    kept = {name: value.copy() for name, value in before.items()}
    algo.train()
    assert_identical(before, kept)
    assert not np.array_equal(algo.meta_params()["mean.weight"], before["mean.weight"])
    algo.set_meta_params(before)
    assert_identical(algo.meta_params(), kept)
    algo.stop()


def test_all_runners_killed_is_a_clear_error() -> None:
    # By default those that are gone for good are replaced, which may be faster than this timeout.
    config = small_config(2).fault_tolerance(
        env_runner_health_probe_timeout_s=1, restart_failed_env_runners=False
    )
    algo = config.build_algo()
    for actor in algo.env_runner_group._worker_manager.actors().values():
        ray.kill(actor, no_restart=True)
    before = algo.meta_params()
    with pytest.raises(RuntimeError, match="all 2 env runners died"):
        algo.train()
    assert_identical(algo.meta_params(), before)
    algo.stop()


def test_all_runners_killed_are_replaced_and_leave_no_trace(reference: NumpyParams) -> None:
    algo = small_config(2).build_algo()
    algo.train()
    for actor in algo.env_runner_group._worker_manager.actors().values():
        ray.kill(actor, no_restart=True)
    algo.train()
    assert_identical(algo.meta_params(), reference)
    algo.stop()


@pytest.mark.parametrize("bad", ["rewards", "observations"])
def test_an_update_from_non_finite_data_is_refused(bad: str, caplog: pytest.LogCaptureFixture) -> None:
    steps_of_one_iteration = 2 * 5 * 10
    config = small_config().environment(
        "faulty_envs:NanPointNav",
        env_config={"bad": bad, "after": steps_of_one_iteration + 25},
    )
    algo = config.build_algo()
    algo.train()
    before = algo.meta_params()
    result = algo.train()
    assert result["update_refused"] == 1
    assert f"task 2: {bad} hold a NaN" in caplog.text
    assert_identical(algo.meta_params(), before)
    algo.train()
    with pytest.raises(NonFiniteError, match="3 consecutive"):
        algo.train()
    assert_identical(algo.meta_params(), before)
    algo.stop()


@pytest.mark.parametrize("num_env_runners", [0, 1])
def test_what_an_environment_raises_comes_through(num_env_runners: int) -> None:
    config = small_config(num_env_runners).environment("faulty_envs:RaisingPointNav")
    algo = config.build_algo()
    with pytest.raises(ZeroDivisionError, match="the simulator broke"):
        algo.train()
    algo.stop()


def test_bad_env_config_is_refused_before_workers_start() -> None:
    with pytest.raises(ValueError, match="rewards"):
        small_config(1).environment(env_config={"rewards": "x"}).build_algo()
    with pytest.raises(ValueError, match="squared_distance"):
        small_config(1).environment(env_config={"reward": "cubed"}).build_algo()


@pytest.mark.parametrize(("runners", "gpus", "what"), [(99, 0, "99 CPUs"), (0, 1, "1 GPUs")])
def test_too_large_requests_are_refused(runners: int, gpus: int, what: str) -> None:
    config = small_config(runners).learners(num_learners=gpus, num_gpus_per_learner=gpus)
    with pytest.raises(ResourceError, match=f"asks for {what}.*has"):
        config.build_algo()


def test_metrics_are_complete_and_consistent() -> None:
    params, result = train(small_config(), 1)
    assert result["env_steps"] <= 2 * 5 * 4 * 10
    assert result["env_runners"]["episode_return_mean"] == result["return_post"]
    assert 0 < result["kl"] <= 0.01
    assert result["loss_after"] < result["loss_before"]
    assert set(result["seconds"]) == {"rollouts", "adaptation", "meta_update"}
    assert all(np.isfinite(value).all() for value in params.values())


def test_an_integer_step_size_is_a_number_like_any_other() -> None:
    assert_identical(train(small_config(inner_lr=1), 1)[0], train(small_config(inner_lr=1.0), 1)[0])


def test_squared_distance_changes_the_result(reference: NumpyParams) -> None:
    params, _ = train(small_config().environment(env_config={"reward": "squared_distance"}))
    assert not np.array_equal(params["mean.weight"], reference["mean.weight"])


def test_get_module_has_the_present_parameters() -> None:
    import torch
    from ray.rllib.core.columns import Columns

    algo = small_config().build_algo()
    algo.train()
    module = algo.get_module()
    assert_identical({k: v.numpy() for k, v in module.meta_params().items()}, algo.meta_params())
    out = module.forward_inference({Columns.OBS: torch.zeros(3, 2)})
    assert out[Columns.ACTION_DIST_INPUTS].shape == (3, 4)
    algo.stop()


def test_config_survives_pickling() -> None:
    config = pickle.loads(pickle.dumps(small_config(inner_lr=0.3)))
    assert config.inner_lr == 0.3
    config.validate()


def test_building_leaves_the_process_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # Ray was started elsewhere
    small_config().build_algo().stop()
    assert Path.cwd() == tmp_path


def test_a_hanging_environment_trips_the_time_out() -> None:
    config = small_config(1).environment("faulty_envs:HangingPointNav")
    config.sample_timeout_s = 2.0
    algo = config.build_algo()
    with pytest.raises(TimeoutError, match="sample_timeout_s=2"):
        algo.train()
    for actor in algo.env_runner_group._worker_manager.actors().values():
        ray.kill(actor)
    algo.stop()
