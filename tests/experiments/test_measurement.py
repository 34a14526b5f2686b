"""The evaluation measures what it says: fresh episodes for each step, held-out tasks, every setting."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import reference_adapt
from run_helpers import make_run

from maml_rl.envs import make_task_env
from maml_rl.envs.rollout import Phase, rollout, stream
from maml_rl.experiments.evaluation import AdaptationResult, Protocol, adaptation, evaluate
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.run import POLICY_FIELDS, Run
from maml_rl.learning.batch import make_samples
from maml_rl.policies.mlp import GaussianMLP
from maml_rl.policies.numpy_mlp import NumpyPolicy
from maml_rl.policies.policy_file import PolicyFile
from maml_rl.tools.intervals import interval_95

SPEC = GaussianMLP(2, 2, hidden_sizes=(8, 8))
EPISODES, HORIZON = 4, 12
GOALS = np.random.RandomState(3).uniform(-0.5, 0.5, (3, 2))
SETTINGS: dict[str, Any] = {
    "spec": SPEC,
    "meta_params": SPEC.init_params(0),
    "steps": 2,
    "inner_lr": 0.2,
    "gamma": 0.9,
    "gae_lambda": 0.7,
    "baseline_ridge": 1e-3,
    "seed": 5,
}


def env() -> Any:
    return make_task_env("maml_rl/PointNav-v0", EPISODES, HORIZON)


def returns(tasks: np.ndarray = GOALS, **changed: Any) -> np.ndarray:
    return evaluate(env(), Protocol(**SETTINGS | changed), tasks).returns


# --- what a step adapts to


def test_each_step_adapts_to_the_episodes_of_the_parameters_before_it() -> None:
    """Against the plain reference, which is given the very episodes of that step."""
    points = list(adaptation(env(), Protocol(**SETTINGS), GOALS))
    assert len(points) == 3
    advantages = {name: SETTINGS[name] for name in ("gamma", "gae_lambda", "baseline_ridge")}
    for step, inner_lr in enumerate((0.2, 0.1)):
        before, episodes = points[step]
        samples = make_samples(episodes, **advantages)
        for task in range(len(GOALS)):
            start = {name: value[task].detach().requires_grad_() for name, value in before.items()}
            expected = reference_adapt(SPEC, start, [samples], task, inner_lr, first_order=True)
            for name, value in expected.items():
                torch.testing.assert_close(
                    points[step + 1][0][name][task], value.detach(), rtol=1e-4, atol=1e-5
                )
                moved = (value - start[name]).abs().max()
                assert moved > 1e-4  # or the comparison would prove nothing


def test_episodes_are_those_of_the_parameters_of_their_step() -> None:
    for step, (params, episodes) in enumerate(adaptation(env(), Protocol(**SETTINGS), GOALS)):
        for task, goal in enumerate(GOALS):
            of_task = {name: value[task].detach().numpy() for name, value in params.items()}
            again = rollout(env(), goal, SPEC, of_task, stream(5, Phase.EVALUATION, task, step))
            np.testing.assert_array_equal(again.actions, episodes[task].actions)
            np.testing.assert_array_equal(again.rewards, episodes[task].rewards)


def test_no_two_episodes_share_their_noise() -> None:
    """Not those of two steps, nor of two tasks, nor of one task."""
    noises = []
    for params, trajectories in adaptation(env(), Protocol(**SETTINGS), GOALS):
        for task, episodes in enumerate(trajectories):
            of_task = {name: value[task].detach().numpy() for name, value in params.items()}
            policy = NumpyPolicy(SPEC, of_task, EPISODES)
            means = [policy.mean(o).copy() for o in episodes.observations.swapaxes(0, 1)]
            noises.append((episodes.actions - np.stack(means, axis=1)) / policy.std)
    noise = np.round(np.concatenate(noises)[:, :3].reshape(3 * len(GOALS) * EPISODES, -1), 3)
    assert len(np.unique(noise, axis=0)) == len(noise)


# --- every setting


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spec", GaussianMLP(2, 2, hidden_sizes=(8, 8), activation="tanh")),
        ("meta_params", SPEC.init_params(1)),
        ("meta_params", None),
        ("inner_lr", 0.3),
        ("gamma", 0.5),
        ("gae_lambda", 0.0),
        ("baseline_ridge", 100.0),
        ("seed", 6),
    ],
)
def test_every_setting_of_the_protocol_changes_what_is_measured(name: str, value: Any) -> None:
    assert not np.array_equal(returns(**{name: value}), returns())


def test_steps_are_counted() -> None:
    np.testing.assert_array_equal(returns(steps=1), returns()[:2])


def test_settings_of_the_protocol_are_all_tried() -> None:
    assert set(SETTINGS) == set(Protocol.__dataclass_fields__)


@pytest.fixture
def policy(tmp_path: Path) -> PolicyFile:
    return make_run(tmp_path / "run").policy("best")


@pytest.mark.parametrize(
    ("name", "value"),
    [("horizon", 9), ("inner_lr", 0.7), ("gamma", 0.4), ("gae_lambda", 0.1), ("baseline_ridge", 500.0)],
)
def test_what_a_policys_file_says_of_its_adaptation_is_what_is_done(
    policy: PolicyFile, name: str, value: float
) -> None:
    def measure() -> np.ndarray:
        held_out = HeldOut(policy, steps=1, tasks=2)
        return evaluate(held_out.make_env(), held_out.protocol, held_out.tasks).returns

    before = measure()
    policy.info[name] = value
    assert not np.array_equal(measure(), before)


def test_all_of_it_is_tried() -> None:
    named = {"horizon", "inner_lr", "gamma", "gae_lambda", "baseline_ridge"}
    described = {"preset", "method", "env", "env_config", "iteration"}
    assert set(POLICY_FIELDS) == named | described


def test_arguments_of_the_evaluation(policy: PolicyFile) -> None:
    def measure(**arguments: Any) -> np.ndarray:
        held_out = HeldOut(policy, **{"steps": 1, "tasks": 2, **arguments})
        return evaluate(held_out.make_env(), held_out.protocol, held_out.tasks).returns

    usual = measure()
    for changed in ({"inner_lr": 0.8}, {"episodes": 3}, {"seed": 1}):
        assert not np.array_equal(measure(**changed), usual), changed
    assert measure(steps=2).shape == (3, 2)
    assert measure(tasks=3).shape == (2, 3)
    assert HeldOut(policy).description()["step_sizes"] == [0.1, 0.05, 0.05]
    assert HeldOut(policy).episodes == 40


# --- which tasks


def test_held_out_tasks_are_not_drawn_like_those_of_the_training(policy: PolicyFile) -> None:
    for seed in (0, 3):
        held_out = {tuple(task) for task in HeldOut(policy, tasks=20, seed=seed).tasks}
        assert len(held_out) == 20
        family = env()
        for iteration in range(5):
            rng = np.random.default_rng(stream(seed, Phase.TASKS, iteration))
            assert not held_out & {tuple(task) for task in family.sample_tasks(20, rng)}


def test_held_out_tasks_depend_on_the_seed_and_the_papers_do_not(policy: PolicyFile) -> None:
    drawn = [HeldOut(policy, tasks=5, seed=seed).tasks for seed in (0, 1)]
    assert not np.array_equal(*drawn)
    papers = [HeldOut(policy, seed=seed).tasks for seed in (0, 1)]
    np.testing.assert_array_equal(*papers)
    np.testing.assert_allclose(papers[0][0], [-0.082978, 0.220324], atol=1e-6)


# --- the numbers


def test_interval_is_that_of_the_mean() -> None:
    """1.96 s / sqrt(n) with the sample's deviation: for 1, 2, ..., 9 that is 1.96 sqrt(7.5) / 3."""
    assert interval_95(np.arange(1.0, 10.0)) == pytest.approx(1.96 * np.sqrt(7.5) / 3)
    two = interval_95(np.array([[1.0, 3.0], [5.0, 5.0]]))
    np.testing.assert_allclose(two, [1.96 * np.sqrt(2) / np.sqrt(2), 0])
    assert np.isnan(interval_95(np.array([[4.0]]))).all()


def test_interval_covers_the_mean_19_times_of_20() -> None:
    samples = np.random.default_rng(0).normal(3.0, 2.0, (4000, 30))
    covered = np.abs(samples.mean(1) - 3.0) <= interval_95(samples)
    assert 0.925 < covered.mean() < 0.955  # a little less than 0.95: s is estimated


def test_files_hold_mean_and_interval_of_every_step(tmp_path: Path) -> None:
    result = AdaptationResult(np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0]]))
    result.save(tmp_path, {"preset": "point-nav"})
    with (tmp_path / "adaptation.csv").open(newline="") as file:
        rows = [[float(value) for value in row.values()] for row in csv.DictReader(file)]
    half = 1.96 * np.sqrt(5 / 3) / 2
    np.testing.assert_allclose(rows, [[0, 2.5, half], [1, 5.0, 2 * half]])
    stored = json.loads((tmp_path / "adaptation.json").read_text())
    assert stored["preset"] == "point-nav"
    assert stored["mean"] == [2.5, 5.0]
    np.testing.assert_allclose(stored["interval_95"], [half, 2 * half])
    assert stored["tasks"] == 4
    assert stored["returns"] == result.returns.tolist()


def test_returns_are_undiscounted_sums_of_rewards() -> None:
    points = list(adaptation(env(), Protocol(**SETTINGS), GOALS))
    for step, (_, trajectories) in enumerate(points):
        sums = [episodes.rewards.astype(np.float64).sum(1).mean() for episodes in trajectories]
        np.testing.assert_allclose(returns()[step], sums)


def test_latest_and_best_policy_are_told_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert isinstance(run, Run)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        run.policy("latest")
