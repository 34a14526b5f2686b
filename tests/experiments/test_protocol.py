"""The measurement against a plain loop of its own; every part of the protocol counts."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_inner_lr, random_params, reference_policy, valid_samples
from torch import Tensor

from maml_rl.envs.point_nav import PointNav
from maml_rl.envs.rollout import rollout
from maml_rl.experiments.evaluation import AdaptationResult, Protocol, adaptation, evaluate
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.run import POLICY_FIELDS
from maml_rl.learning.batch import make_samples
from maml_rl.policies.meta_params import INNER_LR
from maml_rl.policies.mlp import MLP
from maml_rl.policies.normalizer import Moments, Normalizer
from maml_rl.policies.policy import CONTEXT, Params
from maml_rl.policies.policy_file import PolicyFile

SPEC = MLP.gaussian(2, 2, hidden_sizes=(4,))
GOALS = np.random.RandomState(1).uniform(-0.5, 0.5, (6, 2))
"""More than are adapted in one batch."""


def env(episodes: int = 3) -> PointNav:
    return PointNav(episodes, max_episode_steps=8, autoreset_mode="Disabled")


def theta(spec: MLP = SPEC) -> Params:
    return random_params(spec, dtype=torch.float32)


def protocol(**overrides: Any) -> Protocol:
    arguments: dict[str, Any] = {
        "spec": SPEC,
        "meta_params": theta(),
        "steps": 3,
        "inner_lr": 0.1,
        "gamma": 0.9,
        "gae_lambda": 0.8,
        "baseline_ridge": 0.1,
        "seed": 2,
    }
    return Protocol(**(arguments | overrides))


# --- the plain loop


def plain_evaluation(
    p: Protocol, params: Params, task: int, first_lr: Mapping[str, Any] | float
) -> np.ndarray:
    """One task's mean returns after 0 .. steps gradient steps, each on the episodes just seen."""
    returns = []
    for step in range(p.steps + 1):
        seed = np.random.SeedSequence(p.seed, spawn_key=(4, task, step))
        policy = {name: value.numpy() for name, value in params.items()}
        episodes = rollout(env(), GOALS[task], p.spec, policy, seed)
        returns.append(float(np.mean([rewards.sum() for rewards in episodes.rewards])))
        samples = make_samples(
            [episodes], gamma=p.gamma, gae_lambda=p.gae_lambda, baseline_ridge=p.baseline_ridge
        )
        observations, actions, advantages = valid_samples(samples, 0)
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        log_prob = reference_policy(p.spec, leaves, observations).log_prob(actions)
        gradients = torch.autograd.grad(-(log_prob * advantages).mean(), list(leaves.values()))
        share = 1.0 if step == 0 else 0.5  # alpha, then half of it

        def length(name: str, share: float = share) -> float | Tensor:
            return share * (first_lr if isinstance(first_lr, float) else first_lr[name])

        params = {k: v - length(k) * g for (k, v), g in zip(params.items(), gradients, strict=True)}
    return np.array(returns)


def kinds() -> dict[str, tuple[Protocol, Params, Mapping[str, Any] | float]]:
    """A protocol, the parameters it begins with, and its first step sizes."""
    learned = random_inner_lr(SPEC, dtype=torch.float32)
    lengths = {name.removeprefix(INNER_LR): value for name, value in learned.items()}
    with_context = replace(SPEC, context_size=2)
    context = theta(with_context)
    only_context = {name: 0.7 if name == CONTEXT else 0.0 for name in context}
    return {
        "fixed": (protocol(), theta(), 0.1),
        "learned": (protocol(meta_params=theta() | learned), theta(), lengths),
        "context": (protocol(spec=with_context, meta_params=context, inner_lr=0.7), context, only_context),
    }


@pytest.mark.parametrize("kind", ["fixed", "learned", "context"])
def test_an_evaluation_is_the_plain_loop(kind: str) -> None:
    chosen, params, first_lr = kinds()[kind]
    tasks = 6 if kind == "fixed" else 2
    found = evaluate(env(), chosen, GOALS[:tasks]).returns
    assert found.shape == (4, tasks)
    for task in range(tasks):
        expected = plain_evaluation(chosen, params, task, first_lr)
        np.testing.assert_allclose(found[:, task], expected, rtol=1e-3, err_msg=f"task {task}")
        assert len(np.unique(expected)) == 4, "steps that change nothing prove nothing"


def test_fresh_weights_are_those_of_the_tasks_own_stream() -> None:
    fresh = protocol(meta_params=None, weights_seed=5)
    found = evaluate(env(), fresh, GOALS[:2]).returns
    for task in range(2):
        seed = np.random.SeedSequence(5, spawn_key=(1, task)).generate_state(1)[0]
        expected = plain_evaluation(fresh, SPEC.init_params(int(seed)), task, 0.1)
        np.testing.assert_allclose(found[:, task], expected, rtol=1e-3)


def test_every_step_sees_fresh_episodes_of_the_policy_before_it() -> None:
    """With a step size of nearly nothing all that differs from step to step is the noise."""
    steps = list(adaptation(env(), protocol(inner_lr=1e-12), GOALS[:2]))
    noise = [trajectories[task].actions.tobytes() for _, trajectories, *_ in steps for task in range(2)]
    assert len(set(noise)) == 8
    for params, *_ in steps[1:]:
        for name, value in params.items():
            torch.testing.assert_close(value, steps[0][0][name])


# --- every field of the protocol

OTHER: dict[str, Any] = {
    "spec": replace(SPEC, activation="tanh"),
    "meta_params": random_params(SPEC, seed=9, dtype=torch.float32),
    "steps": 2,
    "inner_lr": 0.2,
    "gamma": 0.5,
    "gae_lambda": 0.4,
    "baseline_ridge": 10.0,
    "seed": 3,
    "weights_seed": 1,
    "deterministic": True,
    "normalizer": Normalizer(Moments(10.0, np.full(2, 0.1), np.full(2, 0.4)), None),
}


TESTED_ELSEWHERE = {"sample_timeout_s"}  # test_evaluation.py: it ends what hangs


@pytest.mark.parametrize("name", sorted({field.name for field in fields(Protocol)} - TESTED_ELSEWHERE))
def test_every_field_of_the_protocol_changes_what_is_measured(name: str) -> None:
    usual = {"meta_params": None} if name == "weights_seed" else {}
    first = evaluate(env(), protocol(**usual), GOALS[:2]).returns
    second = evaluate(env(), protocol(**usual, **{name: OTHER[name]}), GOALS[:2]).returns
    assert not np.array_equal(first, second)
    if name in ("inner_lr", "gamma", "gae_lambda", "baseline_ridge"):
        np.testing.assert_array_equal(first[0], second[0], err_msg="nothing was adapted yet")
        assert (first[1:] != second[1:]).all()


# --- what of a policy file and of the arguments reaches the protocol


def policy_file(**info: Any) -> PolicyFile:
    described: dict[str, Any] = {
        "preset": "point-nav",
        "method": "maml",
        "env": "maml_rl/PointNav-v0",
        "env_config": {"reward": "distance"},
        "horizon": 6,
        "inner_lr": 0.1,
        "gamma": 0.9,
        "gae_lambda": 0.8,
        "baseline_ridge": 0.1,
        "iteration": 3,
    }
    return PolicyFile(SPEC, theta(), described | info)


def measured(policy: PolicyFile, **arguments: Any) -> list[Any]:
    """Returns on the first three tasks, and the description that goes with them."""
    held_out = HeldOut(policy, **({"steps": 1, "episodes": 2} | arguments))
    result = evaluate(held_out.make_env(), held_out.protocol, held_out.tasks[:3])
    return [result.returns.tolist(), held_out.description()]


OTHER_INFO: dict[str, Any] = {
    "preset": "half-cheetah-vel",
    "method": "random",
    "env": "helpers:ToyEnv",
    "env_config": {"reward": "squared_distance"},
    "horizon": 5,
    "inner_lr": 0.2,
    "gamma": 0.5,
    "gae_lambda": 0.4,
    "baseline_ridge": 10.0,
    "iteration": 4,
}
NOT_MEASURED = {"iteration"}
"""Only described."""


@pytest.mark.parametrize("name", POLICY_FIELDS)
def test_every_field_of_a_policy_file_changes_the_measurement(name: str) -> None:
    # Tasks of another preset or environment are of another kind: there only the tasks themselves are compared.
    first, other = policy_file(), policy_file(**{name: OTHER_INFO[name]})
    if name == "preset":
        assert not np.array_equal(HeldOut(first).tasks, HeldOut(other).tasks)
        assert (HeldOut(first).episodes, HeldOut(other).episodes) == (40, 20)
    elif name == "env":
        other = policy_file(env=OTHER_INFO["env"], env_config={})
        made = [HeldOut(p, episodes=2, env=OTHER_INFO["env"]).make_env() for p in (first, other)]
        assert [type(env).__name__ for env in made] == ["PointNav", "ToyEnv"]
    else:
        (returns, described), (other_returns, other_described) = measured(first), measured(other)
        assert (returns == other_returns) == (name in NOT_MEASURED)
        if name in described:
            assert described[name] == first.info[name]
            assert other_described[name] == other.info[name]


def test_runs_of_fresh_weights_differ_by_their_seed() -> None:
    found = [measured(policy_file(method="random", **seed))[0] for seed in ({"seed": 0}, {"seed": 1}, {})]
    assert found[0] != found[1]
    assert found[0] == found[2]


def test_a_policy_file_tells_the_protocol() -> None:
    chosen = HeldOut(policy_file(), episodes=5, seed=8)
    names = ("inner_lr", "gamma", "gae_lambda", "baseline_ridge")
    assert {name: getattr(chosen.protocol, name) for name in names} == {
        "inner_lr": 0.1,
        "gamma": 0.9,
        "gae_lambda": 0.8,
        "baseline_ridge": 0.1,
    }
    assert (chosen.protocol.seed, chosen.protocol.steps, chosen.protocol.spec) == (8, 3, SPEC)
    made = chosen.make_env()
    assert (made.num_envs, made.max_episode_steps) == (5, 6)
    assert chosen.description() == {
        "preset": "point-nav",
        "method": "maml",
        "env": "maml_rl/PointNav-v0",
        "env_config": {"reward": "distance"},
        "horizon": 6,
        "iteration": 3,
        "step_sizes": [0.1, 0.05, 0.05],
        "episodes": 5,
        "standard_tasks": True,
        "seed": 8,
        "deterministic": False,
    }


ARGUMENTS: dict[str, Any] = {
    "steps": 2,
    "inner_lr": 0.3,
    "episodes": 3,
    "tasks": 5,
    "seed": 1,
    "deterministic": True,
}


def test_the_time_limit_reaches_the_protocol() -> None:
    assert HeldOut(policy_file(), sample_timeout_s=3).protocol.sample_timeout_s == 3


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_changes_the_measurement(name: str) -> None:
    assert {*ARGUMENTS, "env", "module", *TESTED_ELSEWHERE} == set(HeldOut.__init__.__kwdefaults__)
    first, second = measured(policy_file()), measured(policy_file(), **{name: ARGUMENTS[name]})
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_the_number_of_tasks_asked_for() -> None:
    assert [len(HeldOut(policy_file(), tasks=n).tasks) for n in (1, 7, None)] == [1, 7, 40]


def test_drawn_tasks_are_of_a_stream_of_their_own() -> None:
    """Neither those of any iteration of a training with the same seed, nor those of another seed."""
    drawn = HeldOut(policy_file(), tasks=50, seed=5).tasks
    rng = np.random.default_rng(np.random.SeedSequence(5, spawn_key=(3,)))
    np.testing.assert_array_equal(drawn, rng.uniform(-0.5, 0.5, (50, 2)))
    known = {tuple(task) for task in drawn}
    for iteration in range(50):
        rng = np.random.default_rng(np.random.SeedSequence(5, spawn_key=(0, iteration)))
        assert not known & {tuple(task) for task in rng.uniform(-0.5, 0.5, (50, 2))}
    assert not known & {tuple(task) for task in HeldOut(policy_file(), tasks=50, seed=6).tasks}


@pytest.mark.parametrize(
    ("method", "steps", "meta_params"), [("maml", 3, True), ("random", 3, False), ("oracle", 0, True)]
)
def test_methods_differ_in_how_adaptation_begins(method: str, steps: int, meta_params: bool) -> None:
    chosen = HeldOut(policy_file(method=method)).protocol
    assert chosen.steps == steps
    assert (chosen.meta_params is not None) == meta_params


# --- what is printed and written


def test_files_hold_mean_and_interval_over_tasks(tmp_path: Path) -> None:
    # s = 2, n = 4: the half width is 1.96 * 2 / 2.
    returns = np.array([[-3, -1, -1, 1], [0, 2, 2, 4]], float) * np.sqrt(1.5)
    result = AdaptationResult(returns)
    result.save(tmp_path, {"preset": "x"})
    with (tmp_path / "adaptation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    written = json.loads((tmp_path / "adaptation.json").read_text())
    mean = [-np.sqrt(1.5), 2 * np.sqrt(1.5)]
    assert [int(row["gradient_steps"]) for row in rows] == written["gradient_steps"] == [0, 1]
    assert [float(row["mean"]) for row in rows] == pytest.approx(mean)
    assert written["mean"] == pytest.approx(mean)
    assert [float(row["interval_95"]) for row in rows] == pytest.approx([1.96, 1.96])
    assert written["interval_95"] == pytest.approx([1.96, 1.96])
    assert (written["preset"], written["tasks"]) == ("x", 4)
    np.testing.assert_allclose(written["returns"], returns)
