"""What a run directory says of a run is what the algorithm did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import Algorithms, NumpyParams, tiny_algorithms, tiny_config

from maml_rl.experiments import training
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.run import POLICY_FIELDS, Run
from maml_rl.experiments.training import COLUMNS, RecentReturns, TrainingRun, describe
from maml_rl.policies.policy_file import POLICY, load_policy
from maml_rl.tools.run_directory import CHECKPOINT

ITERATIONS = 4
SETTINGS: dict[str, Any] = {
    "seed": 6,
    "env_config": {"reward": "squared_distance"},
    "inner_lr": 0.07,
    "gamma": 0.91,
    "gae_lambda": 0.83,
    "baseline_ridge": 0.3,
    "horizon": 7,
    "episodes_per_task": 4,
    "min_std": 0.02,
    "activation": "tanh",
}


@pytest.fixture(scope="module")
def algorithms(local_ray: None) -> Iterator[Algorithms]:
    with tiny_algorithms() as found:
        yield found


@pytest.fixture(scope="module")
def trained(algorithms: Algorithms) -> tuple[list[NumpyParams], list[dict[str, Any]]]:
    """Parameters before, between and after the iterations, and the results of these."""
    algo = algorithms.build(tiny_config(**SETTINGS))
    params, results = [algo.meta_params()], []
    for _ in range(ITERATIONS):
        results.append(algo.train())
        params.append(algo.meta_params())
    return params, results


@pytest.fixture(scope="module")
def saved() -> list[tuple[str, int]]:
    """Names and iterations of the files that ``run`` saved, in order."""
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, local_ray: None, saved: list[tuple[str, int]]) -> Run:
    """The same, as a run on disk; the best policy is chosen by the mean of two iterations."""
    save_policy = training.save_policy

    def record(path: Path, spec: Any, params: Any, info: Any, state: Any = None) -> None:
        saved.append((path.name, info["iteration"]))
        save_policy(path, spec, params, info, state)

    config = tiny_config(**SETTINGS)
    run = Run(tmp_path_factory.mktemp("training") / "run")
    description = describe(config, "point-nav", "maml", ITERATIONS, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BEST_WINDOW", 2)
        patch.setattr(training, "save_policy", record)
        TrainingRun(config, run, "point-nav", "maml", ITERATIONS, description, checkpoint_every=3)()
    return run


def assert_same(found: dict[str, torch.Tensor], expected: NumpyParams) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].numpy(), value, err_msg=name)


def test_progress_holds_every_result(run: Run, trained: Any) -> None:
    _, results = trained
    rows = run.progress()
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    for row, result in zip(rows, results, strict=True):
        found = {name: row[name] for name in COLUMNS}
        assert found == pytest.approx({name: float(result[name]) for name in COLUMNS})
    assert len({row["return_post"] for row in rows}) == ITERATIONS


def test_the_policy_is_the_one_that_was_rolled_out_best(run: Run, trained: Any) -> None:
    params, results = trained
    returns = [float(result["return_post"]) for result in results]
    means = [np.mean(returns[max(0, i - 1) : i + 1]) for i in range(ITERATIONS)]
    best = int(np.argmax(means))
    policy = load_policy(run.policy_path("best"))
    assert_same(policy.params, params[best])
    assert policy.info["iteration"] == best
    assert policy.info["return_post"] == pytest.approx(means[best])


def test_checkpoints_are_as_frequent_as_asked_for(run: Run, saved: list[tuple[str, int]]) -> None:
    assert [iteration for name, iteration in saved if name == CHECKPOINT] == [3, 4]
    means, best = [row["return_post"] for row in run.progress()], []
    means = [np.mean(means[max(0, i - 1) : i + 1]) for i in range(ITERATIONS)]
    for i, mean in enumerate(means):
        if all(mean > earlier for earlier in means[:i]):
            best.append(i)  # rolled out before the update of iteration i + 1
    assert [iteration for name, iteration in saved if name == POLICY] == best


def test_the_latest_checkpoint_is_the_last_update(run: Run, trained: Any) -> None:
    params, _ = trained
    policy = load_policy(run.policy_path("latest"))
    assert_same(policy.params, params[-1])
    assert policy.info["iteration"] == ITERATIONS


def test_the_policy_file_says_how_it_was_trained(run: Run) -> None:
    policy = load_policy(run.policy_path("best"))
    said = {name: policy.info[name] for name in SETTINGS if name in policy.info}
    assert said == {name: value for name, value in SETTINGS.items() if name not in ("min_std", "activation")}
    assert set(POLICY_FIELDS) <= set(policy.info)
    assert (policy.info["preset"], policy.info["method"]) == ("point-nav", "maml")
    assert policy.info["env"] == "maml_rl/PointNav-v0"
    assert (policy.spec.hidden_sizes, policy.spec.activation, policy.spec.head.min_std) == (
        (4,),
        "tanh",
        0.02,
    )
    protocol = HeldOut(policy).protocol
    for name in ("inner_lr", "gamma", "gae_lambda", "baseline_ridge"):
        assert getattr(protocol, name) == SETTINGS[name]
    assert (protocol.spec, HeldOut(policy).make_env().max_episode_steps) == (policy.spec, 7)


def test_the_description_says_what_was_asked_for(run: Run) -> None:
    described = json.loads((run.path / "config.json").read_text())
    assert (described["preset"], described["method"], described["iterations"]) == ("point-nav", "maml", 4)
    for name, value in SETTINGS.items():
        assert described["config"][name] == value


def test_a_refused_iteration_is_never_among_the_best() -> None:
    def after(*returns: float) -> tuple[float, float]:
        recent = RecentReturns()
        for value in returns:
            recent.add(value)
        return recent.mean, recent.best

    nan, inf = float("nan"), float("inf")
    assert after() == (-inf, -inf)
    assert after(1.0, 2.0, 6.0) == (3.0, 3.0)
    assert after(100.0, *[1.0] * training.BEST_WINDOW) == (1.0, 100.0)
    assert after(5.0, nan, 7.0) == (-inf, 5.0)
    assert after(nan, *[2.0] * training.BEST_WINDOW) == (2.0, 2.0)


def test_a_run_may_start_from_given_parameters(algorithms: Algorithms, trained: Any, tmp_path: Path) -> None:
    params, _ = trained
    config = tiny_config(**SETTINGS)
    run = Run(tmp_path / "run")
    description = describe(config, "point-nav", "maml", 1)
    TrainingRun(config, run, "point-nav", "maml", 1, description, start_from=params[2])()
    assert_same(load_policy(run.policy_path("best")).params, params[2])
