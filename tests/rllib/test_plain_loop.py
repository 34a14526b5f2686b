"""A whole run, whatever its settings, against the algorithm written down as one plain loop.

Every setting differs from its default, so that one which is lost on its way from the configuration to where it
counts changes the parameters; every random stream is spelt out by its numbers; and every task has the parameters,
the goal and the samples of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from meta_update_helpers import ppo_update
from tiny_runs import Algorithms, NumpyParams, save_expert, tiny_algorithms, tiny_config

from maml_rl.envs.point_nav import PointNav
from maml_rl.envs.rollout import rollout
from maml_rl.learning.adaptation import InnerUpdateSettings, adapt_policy
from maml_rl.learning.batch import Samples, make_samples
from maml_rl.learning.critic import Critic
from maml_rl.learning.guidance import Expert
from maml_rl.learning.losses import clipped_surrogate_and_kl, surrogate_and_kl
from maml_rl.learning.meta_update import MetaObjective, MetaUpdateSettings, meta_update
from maml_rl.learning.ppo import PPO, PPOSettings
from maml_rl.learning.task_sums import TaskSums
from maml_rl.learning.trajectories import Trajectories, pool
from maml_rl.learning.trpo import LineSearch, StepResult
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Params
from maml_rl.policies.policy_file import load_policy
from maml_rl.rllib.dispatch import collect
from maml_rl.rllib.runner_pool import RunnerPool

ITERATIONS = 2

UNUSUAL: dict[str, Any] = {
    "seed": 5,
    "env_config": {"reward": "squared_distance"},
    "meta_batch_size": 5,
    "episodes_per_task": 4,
    "horizon": 7,
    "inner_lr": 0.3,
    "gamma": 0.9,
    "gae_lambda": 0.7,
    "baseline_ridge": 0.5,
    "max_kl": 0.03,
    "line_search_steps": 9,
    "line_search_ratio": 0.6,
    "hidden_sizes": (5, 3),
    "activation": "tanh",
    "initial_std": 0.5,
    "min_std": 0.495,
}
TRPO: dict[str, Any] = {
    "hvp": "exact",
    "curvature_fraction": 0.5,
    "cg_iterations": 4,
    "cg_residual_tol": 1e-4,
    "cg_damping": 0.02,
}
PPO_FIELDS: dict[str, Any] = {
    "outer_update": "ppo",
    "lr": 0.02,
    "num_epochs": 2,
    "minibatch_size": 50,
    "clip_param": 0.05,
    "max_kl": 0.05,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "trpo": TRPO | {"inner_steps": 2},
    "trpo, first order": {"hvp_step": 0.2, "first_order": True, "inner_steps": 2, "cg_iterations": 3},
    "trpo, likelihood ratio": TRPO | {"inner_loss": "likelihood_ratio", "inner_steps": 2},
    "trpo, learned step sizes": TRPO | {"learn_inner_lr": True, "hvp": "finite_difference", "hvp_step": 0.1},
    "trpo, context": TRPO | {"context_size": 3, "inner_lr": 1.0},
    "trpo, one policy": TRPO | {"inner_steps": 0},
    "ppo": PPO_FIELDS | {"inner_steps": 2},
    "ppo, likelihood ratio": PPO_FIELDS | {"inner_loss": "likelihood_ratio", "inner_steps": 2},
    "ppo, first order": PPO_FIELDS | {"first_order": True, "learn_inner_lr": True},
    "ppo, one policy": PPO_FIELDS | {"inner_steps": 0},
    "trpo, expert": TRPO | {"expert_std_scale": 0.6, "expert_clip": True, "max_kl": 0.2},
    "ppo, expert": PPO_FIELDS | {"expert_std_scale": 2.0, "expert_clip": False, "max_kl": 0.2},
}


@pytest.fixture(scope="module")
def algorithms(local_ray: None) -> Iterator[Algorithms]:
    with tiny_algorithms() as found:
        yield found


# --- the plain loop


def number(seed: int, *key: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])


def env_of(s: dict[str, Any]) -> PointNav:
    return PointNav(
        s["episodes_per_task"], max_episode_steps=s["horizon"], autoreset_mode="Disabled", **s["env_config"]
    )


def spec_of(s: dict[str, Any]) -> MLP:
    return MLP.gaussian(
        2, 2, s["hidden_sizes"], s["activation"], s["initial_std"], s["min_std"], s.get("context_size", 0)
    )


def samples_of(s: dict[str, Any], data: Sequence[Trajectories]) -> Samples:
    ridge = s["baseline_ridge"]
    return make_samples(data, gamma=s["gamma"], gae_lambda=s["gae_lambda"], baseline_ridge=ridge)


def first_params(s: dict[str, Any], spec: MLP) -> Params:
    params = spec.init_params(number(s["seed"], 1))
    if s.get("learn_inner_lr"):
        params |= {f"inner_lr.{k}": torch.full(v.shape, s["inner_lr"]) for k, v in params.items()}
    return params


class PlainLoop:
    """Algorithm 3, one task after the other, in numbers that stand here."""

    def __init__(self, s: dict[str, Any]) -> None:
        self.s, self.env, self.spec = s, env_of(s), spec_of(s)
        self.params = first_params(s, self.spec)
        self.steps = s.get("inner_steps", 1)
        self.search = LineSearch(s["line_search_steps"], s["line_search_ratio"])
        self.ppo = PPO(self.params, self.ppo_settings()) if "lr" in s else None
        self.critic = None
        if self.ppo and not self.steps:
            seed = number(s["seed"], 7)
            self.critic = Critic(
                self.spec, horizon=s["horizon"], gamma=s["gamma"], gae_lambda=s["gae_lambda"], seed=seed
            )
        self.expert = None
        if "expert" in s:
            file = load_policy(Path(s["expert"]))
            self.expert = Expert(file.spec, file.params, s["expert_std_scale"], s["expert_clip"])

    def ppo_settings(self) -> PPOSettings:
        own = {name: self.s[name] for name in ("lr", "num_epochs", "minibatch_size", "max_kl")}
        return PPOSettings(line_search=self.search, **own)

    def inner_settings(self) -> InnerUpdateSettings:
        names = ("inner_lr", "first_order", "inner_loss")
        return InnerUpdateSettings(**{name: self.s[name] for name in names if name in self.s})

    def trpo_settings(self) -> MetaUpdateSettings:
        names = ("hvp", "hvp_step", "curvature_fraction", "cg_iterations", "cg_residual_tol", "cg_damping")
        own = {name: self.s[name] for name in ("max_kl", *names) if name in self.s}
        return MetaUpdateSettings(line_search=self.search, **own)

    def episodes(
        self, tasks: np.ndarray, params: list[NumpyParams], iteration: int, step: int
    ) -> list[Trajectories]:
        seeds = [
            np.random.SeedSequence(self.s["seed"], spawn_key=(2, iteration, step, i))
            for i in range(len(tasks))
        ]
        return [
            rollout(self.env, task, self.spec, own, seed)
            for task, own, seed in zip(tasks, params, seeds, strict=True)
        ]

    def adapted(self, pre: list[Samples], tasks: int) -> list[NumpyParams]:
        together = adapt_policy(self.spec, self.params, pre, self.s["inner_lr"], first_order=True)
        return [{k: v[i].detach().numpy() for k, v in together.items()} for i in range(tasks)]

    def iteration(self, iteration: int) -> dict[str, float]:
        rng = np.random.default_rng(np.random.SeedSequence(self.s["seed"], spawn_key=(0, iteration)))
        tasks = rng.uniform(-0.5, 0.5, (self.s["meta_batch_size"], 2))
        pre: list[Samples] = []
        returns, env_steps = [], 0
        params = [{k: v.numpy() for k, v in self.params.items()}] * len(tasks)
        for step in range(self.steps + 1):
            data = self.episodes(tasks, params, iteration, step)
            returns.append(float(np.mean([t.rewards.sum(1).mean() for t in data])))
            env_steps += int(sum(t.lengths.sum() for t in data))
            if step < self.steps:
                pre.append(samples_of(self.s, data))
                params = self.adapted(pre, len(tasks))
        result = self.update(pre, data, tasks, iteration)
        return {
            "return_pre": returns[0],
            "return_post": returns[-1],
            "env_steps": env_steps,
            "kl": result.kl,
            "loss_before": result.loss_before,
            "loss_after": result.loss_after,
            "backtracks": result.backtracks,
            "gradient_norm": result.gradient_norm,
            "step_accepted": float(result.accepted),
        }

    def update(
        self, pre: list[Samples], data: list[Trajectories], tasks: np.ndarray, iteration: int
    ) -> StepResult:
        generator = torch.Generator().manual_seed(number(self.s["seed"], 6, iteration))
        if self.critic:
            post, _ = self.critic.judge(pool(data), generator)
        else:
            post = samples_of(self.s, data if self.steps else [pool(data)])
        loss = clipped_surrogate_and_kl(self.s["clip_param"]) if self.ppo else surrogate_and_kl
        if self.expert:
            post, loss = self.expert.show(post, tasks), self.expert.outer_loss
        inner = self.inner_settings()
        if self.ppo:
            objective = MetaObjective(TaskSums(self.spec, self.params, pre, post, inner, outer_loss=loss))
            self.params, result = ppo_update(self.ppo, objective, self.params, generator)
        else:
            data = pre, post, inner, self.trpo_settings()
            self.params, result = meta_update(self.spec, self.params, *data, outer_loss=loss)
        return result


def with_expert(name: str, folder: Path) -> dict[str, Any]:
    expert = {"expert": save_expert(folder / "expert.safetensors")} if "expert" in name else {}
    return UNUSUAL | VARIANTS[name] | expert


def assert_equal_params(found: NumpyParams, expected: Params) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


# --- the tests


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_is_the_plain_loop(name: str, algorithms: Algorithms, tmp_path: Path) -> None:
    settings = with_expert(name, tmp_path)
    params, results = algorithms.train(ITERATIONS, **settings)
    loop = PlainLoop(settings)
    for iteration, result in enumerate(results):
        before = loop.params
        expected = loop.iteration(iteration)
        assert {k: result[k] for k in expected} == pytest.approx(expected, rel=1e-3, abs=1e-4)
        moved = any(not torch.equal(before[k], v) for k, v in loop.params.items())
        assert moved, "an update that changes nothing proves nothing"
    assert_equal_params(params, loop.params)


def test_every_block_of_tasks_has_its_own_parameters_goals_and_streams(algorithms: Algorithms) -> None:
    """Nine tasks over two runners: blocks of two, and a last one of one."""
    settings = UNUSUAL | {"meta_batch_size": 9}
    algo = algorithms.build(tiny_config(num_env_runners=2, **settings))
    loop = PlainLoop(settings)
    tasks = np.random.default_rng(0).uniform(-0.5, 0.5, (9, 2))
    own = [{k: v.numpy() for k, v in loop.spec.init_params(i).items()} for i in range(9)]
    expected = loop.episodes(tasks, own, 3, 1)
    stacked = {k: np.stack([params[k] for params in own]) for k in own[0]}
    summaries, blocks = collect(
        RunnerPool(algo.env_runner_group), tasks, stacked, seed=5, phase=(2, 3, 1), timeout_s=60
    )
    found = [trajectories for block in blocks for trajectories in ray.get(block.trajectories)]
    assert len(blocks) == 5
    assert len(found) == 9
    for task, trajectories in enumerate(expected):
        np.testing.assert_array_equal(found[task].actions, trajectories.actions, err_msg=f"task {task}")
        np.testing.assert_array_equal(found[task].rewards, trajectories.rewards, err_msg=f"task {task}")
    returns = [value for summary in summaries for (value,) in summary.returns]
    assert returns == pytest.approx([t.rewards.sum(1).mean() for t in expected], rel=1e-5)
    assert sum(summary.env_steps for summary in summaries) == sum(t.lengths.sum() for t in expected)
