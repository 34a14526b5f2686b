"""Run directories as training leaves them, without the training: random weights, invented progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from maml_rl.envs import make_task_env
from maml_rl.experiments.evaluation import AdaptationResult
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.methods import MethodName, configure
from maml_rl.experiments.presets import get_experiment
from maml_rl.experiments.run import Run
from maml_rl.experiments.training import describe
from maml_rl.policies.policy_file import POLICY, save_policy

HORIZON = 12


def make_run(
    path: Path,
    preset: str = "point-nav",
    *,
    method: MethodName = "maml",
    horizon: int = HORIZON,
    iterations: int = 5,
    **fields: Any,
) -> Run:
    """A run of ``iterations`` iterations, not evaluated yet; with 0 it has neither progress nor policy.

    Args:
        fields: of the configuration, where they differ from the preset's.
    """
    config, _ = configure(get_experiment(preset), method)
    config.training(horizon=horizon, hidden_sizes=(8, 8)).debugging(seed=3)
    for name, value in fields.items():
        setattr(config, name, value)
    run = Run.create(path, describe(config, preset, method, 9))
    for i in range(1, iterations + 1):
        row = {"iteration": i, "return_pre": -50.5 + i, "return_post": -20.25 + i}
        run.append_progress(row | {"env_steps": 1000, "seconds_total": 3.5})
    if iterations:
        env = make_task_env(config.env, 1, horizon, config.env_config)
        spec = config.policy_spec(env.single_observation_space, env.single_action_space)
        params = {name: value.numpy() for name, value in spec.init_params(1).items()}
        kept = ("env", "env_config", "horizon", "inner_lr", "gamma", "gae_lambda", "baseline_ridge", "seed")
        info = {name: getattr(config, name) for name in kept}
        info |= {"preset": preset, "method": method, "iteration": iterations, "return_post": -16.25}
        save_policy(run.path / POLICY, spec, params, info)
    return run


def add_adaptation(run: Run, seed: int = 0) -> AdaptationResult:
    """What ``maml-rl evaluate`` writes, with invented returns."""
    held_out = HeldOut(run.policy("best"))
    returns = np.random.default_rng(seed).normal(-10, 5, (held_out.protocol.steps + 1, 40))
    result = AdaptationResult(returns)
    result.save(run.path, held_out.description())
    return result
