"""What environments tell in ``info`` becomes metrics: of episodes, results, progress, evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import Algorithms, tiny_algorithms, tiny_config
from user_envs import Silent, Telling

from maml_rl.cli.app import main
from maml_rl.envs import make_task_env
from maml_rl.envs.episode_info import EpisodeInfo, mean_over_tasks
from maml_rl.envs.rollout import rollout, stream
from maml_rl.experiments.run import Run
from maml_rl.policies.mlp import MLP

SPEC = MLP.gaussian(1, 1, hidden_sizes=(4,))
PARAMS = {name: value.numpy() for name, value in SPEC.init_params(0).items()}


def told(task: float) -> dict[str, float]:
    env = make_task_env(Telling, 3, 100)
    found = EpisodeInfo(env)
    rollout(env, task, SPEC, PARAMS, stream(0, 0), found)
    env.close()
    (means,) = found.means()
    return means


def test_numbers_are_means_over_the_steps_of_episodes() -> None:
    expected = {"success_rate": 1.0, "steps": 3.0, "odd": 3 / 5, "once": 7.0}
    assert told(3.0) == pytest.approx(expected)  # at one step, not the last
    assert told(9.0) == pytest.approx(expected | {"success_rate": 0.0})


def test_an_environment_without_numbers_has_none() -> None:
    env = make_task_env(Silent, 2, 4)
    found = EpisodeInfo(env)
    rollout(env, 0.5, SPEC, PARAMS, stream(0, 0), found)
    assert found.means() == [{}]


def test_what_is_observed_does_not_change_the_episodes() -> None:
    env = make_task_env(Telling, 2, 10)
    seen, unseen = (rollout(env, 3.0, SPEC, PARAMS, stream(0, 0), *o) for o in ([EpisodeInfo(env)], []))
    np.testing.assert_array_equal(seen.actions, unseen.actions)


def test_tasks_that_do_not_tell_a_number_do_not_count_for_it() -> None:
    assert mean_over_tasks([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}


# --- in training


@pytest.fixture(scope="module")
def algorithms(local_ray: None) -> Iterator[Algorithms]:
    with tiny_algorithms() as found:
        yield found


@pytest.mark.ray
@pytest.mark.parametrize("runners", [0, 2])
def test_results_hold_them_before_and_after_adaptation(runners: int, algorithms: Algorithms) -> None:
    config = tiny_config(meta_batch_size=6).environment(Telling).env_runners(num_env_runners=runners)
    algo = algorithms.build(config)
    result = algo.train()
    tasks = algo._sample_tasks(6, 0, 0)
    rate = float((tasks <= Telling.horizon).mean())
    assert 0 < rate < 1
    for when in ("pre", "post"):
        assert result[f"success_rate_{when}"] == pytest.approx(rate)
        assert result[f"info_{when}"] == pytest.approx({"steps": 3.0, "odd": 3 / 5, "once": 7.0})
    held_out = algo.evaluate()
    assert 0 <= held_out["success_rate_post"] <= 1
    assert held_out["info_pre"]["once"] == 7


@pytest.mark.ray
def test_a_result_says_that_there_was_no_success_flag(algorithms: Algorithms) -> None:
    result = algorithms.build(tiny_config().environment(Silent)).train()
    assert np.isnan(result["success_rate_post"])
    result = algorithms.build(tiny_config()).train()
    assert "success_rate_post" not in result  # an environment that has no info at all


@pytest.mark.ray
def test_they_are_in_progress_and_evaluation(
    local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, name = tmp_path / "run", "user_envs:Telling"
    small = ["--horizon", "6", "--meta-batch-size", "2", "--episodes-per-task", "2", "--hidden-sizes", "4"]
    arguments = [name, *small, "--iterations", "2", "--num-env-runners", "0", "--output", str(run)]
    assert main(["train", *arguments]) == 0
    assert "success" in capsys.readouterr().err
    rows = Run.open(run).progress()
    assert all(0 <= float(row["success_rate_post"]) <= 1 for row in rows)
    local = ["--env", name, "--num-workers", "0", "--tasks", "4", "--episodes", "2", "--steps", "1"]
    assert main(["evaluate", str(run), *local]) == 0
    assert "| success in percent |" in capsys.readouterr().out
    content = json.loads((run / "adaptation.json").read_text())
    assert len(content["info"]["success_rate"]["mean"]) == 2
    assert content["info"]["once"]["mean"] == [7.0, 7.0]
    header = (run / "adaptation.csv").read_text().splitlines()[0]
    assert header.startswith("gradient_steps,mean,interval_95,success_rate")
    assert main(["evaluate", str(run), *local[:2], "--tasks", "4", "--episodes", "2", "--steps", "1"]) == 0
    assert json.loads((run / "adaptation.json").read_text()) == content  # on Ray, in parallel
