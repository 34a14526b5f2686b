"""``algo.evaluate()`` and ``evaluation_interval``: adaptation to held-out tasks; and results without holes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from maml_rl import MAML, MAMLConfig
from maml_rl.envs.rollout import Phase, rollout, stream

pytestmark = pytest.mark.usefixtures("local_ray")


def config(env: str = "maml_rl/PointNav-v0", num_env_runners: int = 0, **training: Any) -> MAMLConfig:
    sizes = {
        "meta_batch_size": 3,
        "episodes_per_task": 4,
        "horizon": 8,
        "hidden_sizes": (8,),
        "cg_iterations": 2,
    }
    return (
        MAMLConfig()
        .environment(env)
        .env_runners(num_env_runners=num_env_runners)
        .training(**{**sizes, **training})
        .evaluation(evaluation_duration=5)
    )


@pytest.fixture(scope="module")
def algo(local_ray: None) -> Any:
    algo = config(inner_steps=2).build_algo()
    algo.train()
    yield algo
    algo.stop()


def test_evaluation_is_repeatable_and_changes_nothing(algo: MAML) -> None:
    before = algo.meta_params()
    first, second = algo.evaluate(), algo.evaluate()
    assert first["returns"] == second["returns"]
    assert all(np.array_equal(before[name], value) for name, value in algo.meta_params().items())


def test_evaluation_measures_held_out_tasks(algo: MAML) -> None:
    """The returns before adaptation are those of the meta-policy on tasks of a stream of their own."""
    results = algo.evaluate()
    runner = algo.env_runner_group.local_env_runner
    tasks = runner.sample_tasks(5, 0, Phase.VALIDATION)
    spec = algo.config.policy_spec(*algo.spaces["__env__"])
    expected = [
        rollout(runner.env, task, spec, algo.meta_params(), stream(0, Phase.VALIDATION, 1, 0, i)).mean_return
        for i, task in enumerate(tasks)
    ]
    assert results["returns"][0] == pytest.approx(np.mean(expected), rel=1e-12)
    assert results["return_pre"] == results["returns"][0]
    assert results["return_post"] == results["returns"][2] == results["env_runners"]["episode_return_mean"]
    assert len(results["returns"]) == 3
    training = np.concatenate([runner.sample_tasks(3, 0, Phase.TASKS, i) for i in range(3)])
    assert not (training[:, None] == tasks).all(-1).any()


def test_evaluation_does_not_depend_on_the_number_of_runners(algo: MAML) -> None:
    other = config(inner_steps=2, num_env_runners=2).build_algo()
    other.train()
    assert other.evaluate()["returns"] == algo.evaluate()["returns"]
    other.stop()


def test_evaluation_interval(algo: MAML) -> None:
    training = config().evaluation(evaluation_interval=2).build_algo()
    results = [training.train() for _ in range(4)]
    assert ["evaluation" in result for result in results] == [False, True, False, True]
    assert math.isfinite(results[3]["evaluation"]["env_runners"]["episode_return_mean"])
    without = config().build_algo()
    for _ in range(4):
        without.train()
    assert all(np.array_equal(v, without.meta_params()[k]) for k, v in training.meta_params().items())
    training.stop()
    without.stop()


def test_evaluation_callbacks() -> None:
    seen = []
    chosen = config().callbacks(
        on_evaluate_start=lambda **kwargs: seen.append("start"),
        on_evaluate_end=lambda evaluation_metrics, **kwargs: seen.append(evaluation_metrics["return_post"]),
    )
    algo = chosen.build_algo()
    assert seen == [] or algo
    results = algo.evaluate()
    assert seen == ["start", results["return_post"]]
    algo.stop()


def test_evaluation_without_finite_data_is_nan(caplog: pytest.LogCaptureFixture) -> None:
    algo = (
        config("faulty_envs:NanPointNav").environment(env_config={"bad": "rewards", "after": 10}).build_algo()
    )
    results = algo.evaluate()
    assert math.isnan(results["return_post"])
    assert "evaluation after iteration 0 is without a result" in caplog.text
    algo.stop()


@pytest.mark.parametrize(
    "training",
    [{}, {"outer_update": "ppo"}, {"outer_update": "ppo", "inner_steps": 0}],
    ids=["trpo", "ppo", "ppo with a critic"],
)
def test_a_refused_update_has_all_keys(training: dict[str, Any]) -> None:
    steps_of_one_iteration = 3 * 8 * (training.get("inner_steps", 1) + 1)
    algo = (
        config("faulty_envs:NanPointNav", **training)
        .environment(env_config={"bad": "rewards", "after": steps_of_one_iteration + 3})
        .build_algo()
    )
    good, refused = algo.train(), algo.train()
    assert (good["update_refused"], refused["update_refused"]) == (0, 1)
    assert flat(good) == flat(refused)
    assert math.isnan(refused["kl"])
    assert refused["step_accepted"] == 0
    algo.stop()


def flat(result: dict[str, Any], prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for key, value in result.items():
        if key in ("config", "perf", "fault_tolerance"):  # RLlib's own
            continue
        keys |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key}
    return keys
