"""The evaluation protocol: step sizes, independence of tasks, intervals."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maml_rl.envs import make_task_env
from maml_rl.envs.rollout import rollout
from maml_rl.experiments import evaluation
from maml_rl.experiments.evaluation import AdaptationResult, Protocol, adaptation, evaluate, markdown_table
from maml_rl.experiments.parallel_evaluation import evaluate_in_parallel
from maml_rl.policies.meta_params import INNER_LR
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Params

SPEC = MLP.gaussian(2, 2, hidden_sizes=(8, 8))


make_env = partial(make_task_env, "maml_rl/PointNav-v0", 3, 10)


def protocol(**overrides: Any) -> Protocol:
    arguments: dict[str, Any] = {
        "spec": SPEC,
        "meta_params": SPEC.init_params(0),
        "steps": 3,
        "inner_lr": 0.1,
        "gamma": 0.99,
        "gae_lambda": 1.0,
        "baseline_ridge": 1e-5,
        "seed": 0,
    }
    return Protocol(**(arguments | overrides))


def run(
    tasks: np.ndarray, on_progress: Callable[[int], None] = lambda done: None, **overrides: Any
) -> AdaptationResult:
    return evaluate(make_env(), protocol(**overrides), tasks, on_progress=on_progress)


def goals(n: int) -> np.ndarray:
    return np.random.RandomState(1).uniform(-0.5, 0.5, (n, 2))


def test_deterministic_in_the_seed() -> None:
    first, again, other = run(goals(3)), run(goals(3)), run(goals(3), seed=1)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert not np.array_equal(first.returns, other.returns)


def test_a_task_does_not_depend_on_the_others() -> None:
    tasks = goals(10)
    whole = run(tasks).returns
    np.testing.assert_array_equal(run(tasks[:4]).returns, whole[:, :4])
    changed = tasks.copy()
    changed[0] = -changed[0]
    np.testing.assert_array_equal(run(changed).returns[:, 1:], whole[:, 1:])
    assert not np.array_equal(run(changed).returns[:, 0], whole[:, 0])


def test_first_step_is_alpha_and_all_later_ones_are_half(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Any] = []
    original = evaluation.adapt

    def spy(loss: Any, params: Any, data: Any, lr: Any, **kwargs: Any) -> Params:
        used.append(lr)
        return original(loss, params, data, lr, **kwargs)

    monkeypatch.setattr(evaluation, "adapt", spy)
    run(goals(2), steps=4, inner_lr=0.2)
    assert used == [0.2, 0.1, 0.1, 0.1]
    used.clear()
    learned = {INNER_LR + name: torch.full(shape, 0.4) for name, shape in SPEC.shapes.items()}
    run(goals(2), meta_params=SPEC.init_params(0) | learned, steps=3)
    assert [float(lr["log_std"][0]) for lr in used] == pytest.approx([0.4, 0.2, 0.2])


def test_on_ray_bit_for_bit_the_same(local_ray: None) -> None:
    done: list[int] = []
    tasks = goals(12)
    parallel = evaluate_in_parallel(make_env, protocol(), tasks, on_progress=done.append)
    np.testing.assert_array_equal(parallel.returns, run(tasks).returns)
    assert done == sorted(done)
    assert done[-1] == 12


def test_on_ray_an_error_of_the_environment_arrives_as_it_is(local_ray: None) -> None:
    with pytest.raises(ValueError, match=r"PointNav.set_task: task is"):
        evaluate_in_parallel(make_env, protocol(), goals(3) * 100)
    with pytest.raises(ValueError, match="tasks is empty"):
        evaluate_in_parallel(make_env, protocol(), goals(0))


def test_fresh_weights_differ_between_tasks_and_repeat_with_the_runs_seed() -> None:
    ((params, *_),) = adaptation(make_env(), protocol(meta_params=None, steps=0), goals(3))
    weights = params["hidden.0.weight"]
    assert not torch.equal(weights[0], weights[1])
    ((tail, *_),) = adaptation(make_env(), protocol(meta_params=None, steps=0), goals(3)[1:], first_task=1)
    assert torch.equal(tail["hidden.0.weight"], weights[1:])
    ((other, *_),) = adaptation(make_env(), protocol(meta_params=None, steps=0, weights_seed=1), goals(3))
    assert not torch.equal(other["hidden.0.weight"], weights)
    ((again, *_),) = adaptation(make_env(), protocol(meta_params=None, steps=0, seed=1), goals(3))
    assert torch.equal(again["hidden.0.weight"], weights)  # other episodes of the same policies


def test_adapted_parameters_do_not_leak_between_tasks() -> None:
    tasks = goals(3)
    together = [step.params for step in adaptation(make_env(), protocol(), tasks)]
    for i in range(3):
        alone = [step.params for step in adaptation(make_env(), protocol(), tasks[i : i + 1], first_task=i)]
        for step in range(4):
            for name, value in alone[step].items():
                torch.testing.assert_close(together[step][name][i], value[0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(together[1]["mean.weight"][0], together[1]["mean.weight"][1])


def test_zero_steps_measures_the_unadapted_policy() -> None:
    result = run(goals(2), steps=0)
    assert result.returns.shape == (1, 2)
    np.testing.assert_array_equal(result.returns, run(goals(2)).returns[:1])


def test_progress_is_reported() -> None:
    done: list[int] = []
    run(goals(10), steps=0, on_progress=done.append)
    assert done == [5, 10]


@pytest.mark.parametrize(("tasks", "steps", "field"), [(0, 1, "tasks"), (1, -1, "steps")])
def test_wrong_input(tasks: int, steps: int, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        run(goals(tasks), steps=steps)


def test_interval_against_known_values() -> None:
    result = AdaptationResult(np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(result.mean, [2.5, 5.0])
    # s = sqrt(5/3) = 1.2910, over sqrt(4), times 1.96
    np.testing.assert_allclose(result.interval, [1.2652, 0.0], atol=1e-4)
    assert np.isnan(AdaptationResult(np.array([[1.0]])).interval).all()
    assert AdaptationResult(np.array([[1.0]])).as_dict()["interval_95"] == [None]


def test_markdown_table() -> None:
    table = markdown_table({"ours": [(-40.123, 4.0), (-11.0, None)], "paper": [(-40.41, 4.0)]})
    assert table.splitlines() == [
        "| returns after gradient steps | 0 | 1 |",
        "|---|---|---|",
        "| ours | -40.12 ± 4.00 | -11.00 |",
        "| paper | -40.41 ± 4.00 |",
    ]


def diverging(task: int, step: int) -> Callable[..., Params]:
    """Adaptation that leaves the finite numbers for one task, at one step."""
    original, calls = evaluation.adapt, []

    def adapt(*args: Any, **kwargs: Any) -> Params:
        calls.append(None)
        params = original(*args, **kwargs)
        if len(calls) == step:
            params["mean.weight"] = params["mean.weight"].detach().clone()
            params["mean.weight"][task] = np.nan
        return params

    return adapt


def test_a_task_that_diverges_is_named_and_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = run(goals(4))
    assert sound.diverged == {}
    monkeypatch.setattr(evaluation, "adapt", diverging(task=2, step=2))
    result = run(goals(4))
    assert result.diverged == {2: 2}
    assert np.isnan(result.returns[2:, 2]).all()
    others = [0, 1, 3]
    np.testing.assert_array_equal(result.returns[:, others], sound.returns[:, others])
    np.testing.assert_array_equal(result.returns[:2, 2], sound.returns[:2, 2])
    # No mean over the tasks that were left: it would look like a result.
    assert np.isfinite(result.mean[:2]).all()
    assert np.isnan(result.mean[2:]).all()


@pytest.mark.parametrize("inner_lr", [1e10, 1e30, 1e38])
def test_step_sizes_beyond_all_measure_diverge(inner_lr: float) -> None:
    """Parameters overflow, or nearly; what acts then is clipped and looks like a policy."""
    result = run(goals(2), inner_lr=inner_lr)
    assert set(result.diverged) == {0, 1}
    assert np.isfinite(result.returns[0]).all()


def test_results_that_are_not_finite_are_written_as_null(tmp_path: Path) -> None:
    AdaptationResult(np.array([[1.0, 2.0], [np.nan, 3.0]])).save(tmp_path, {"preset": "x"})
    content = json.loads((tmp_path / "adaptation.json").read_text(), parse_constant=pytest.fail)
    assert content["mean"] == [1.5, None]
    assert content["returns"] == [[1.0, 2.0], [None, 3.0]]
    assert content["diverged"] == {"0": 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("steps", v) for v in (-1, 1.5, True)),
        *(("inner_lr", v) for v in (0.0, -1.0, np.nan, np.inf, "0.1")),
        *(("sample_timeout_s", v) for v in (0, -1, np.nan)),
    ],
)
def test_what_no_protocol_can_have_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{field} is .*; it must be"):
        protocol(**{field: value})


def test_an_environment_that_hangs_is_reported_with_its_task() -> None:
    env = make_task_env("faulty_envs:HangingPointNav", 1, 3)
    held = protocol(sample_timeout_s=0.5)
    with pytest.raises(TimeoutError, match=r"task 5 took longer than sample_timeout_s=0.5 s"):
        evaluate(env, held, goals(2), first_task=5)


def test_mean_actions_are_measured_and_sampled_ones_adapted_to() -> None:
    def params(**overrides: Any) -> list[dict[str, Any]]:
        return [dict(step.params) for step in adaptation(make_env(), protocol(**overrides), goals(3))]

    for sampled, mean in zip(params(), params(deterministic=True), strict=True):
        for name, value in sampled.items():
            np.testing.assert_array_equal(value, mean[name])
    sampled_returns, mean_returns = run(goals(3)).returns, run(goals(3), deterministic=True).returns
    assert (sampled_returns != mean_returns).all()


@pytest.mark.parametrize(("steps", "rollouts"), [(0, 1), (1, 3), (3, 7)])
def test_nothing_is_sampled_that_nobody_adapts_to(
    steps: int, rollouts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = []

    def counted(*arguments: Any, **options: Any) -> Any:
        played.append(options.get("deterministic", False))
        return rollout(*arguments, **options)

    monkeypatch.setattr(evaluation, "rollout", counted)
    run(goals(1), steps=steps, deterministic=True)
    assert len(played) == rollouts
    assert sum(played) == steps + 1


def test_results_of_groups_are_those_of_their_tasks() -> None:
    result = AdaptationResult(
        np.arange(6.0).reshape(2, 3), {"success_rate": np.eye(3)[:2]}, groups=("a", "b", "a")
    )
    parts = result.by_group
    assert list(parts) == ["a", "b"]
    np.testing.assert_array_equal(parts["a"].returns, [[0, 2], [3, 5]])
    np.testing.assert_array_equal(parts["b"].infos["success_rate"], [[0], [1]])
    assert result.as_dict()["success"] == [[1, 0, 0], [0, 1, 0]]
    assert "groups" not in AdaptationResult(result.returns, result.infos).as_dict()
