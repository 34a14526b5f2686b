"""Rollout throughput with one and with two runners, and what the machine itself gains from a second process.

Run by hand on an otherwise idle machine with at least two cores: ``python benchmarks/scaling.py``. Prints a
Markdown table. The second core of a virtual machine may be half a physical one: the last column is the limit.
"""

from __future__ import annotations

import time
from multiprocessing import get_context

import numpy as np
from gymnasium.spaces import flatdim
from threadpoolctl import ThreadpoolController

from maml_rl import MAML
from maml_rl.envs import make_task_env
from maml_rl.envs.rollout import Phase, rollout, stream
from maml_rl.experiments.presets import get_experiment
from maml_rl.policies.mlp import MLP
from maml_rl.rllib.metrics import Trials
from maml_rl.tools.ray_start import start_ray

PRESETS = ("point-nav", "half-cheetah-vel", "ant-vel")
SECONDS = 10.0


def steps_per_second(algo: MAML) -> float:
    """Environment steps per second of whole collection phases, as training makes them."""
    params = {name: value[None] for name, value in algo.meta_params().items()}
    tasks = algo._sample_tasks(algo.config.meta_batch_size, Phase.TASKS, 0)
    algo._collect(Trials(), tasks, params, (Phase.ROLLOUT, 0, 0))
    rates: list[float] = []
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(rates) < 3:
        trials = Trials()
        started = time.perf_counter()
        algo._collect(trials, tasks, params, (Phase.ROLLOUT, 0, 0))
        rates.append(trials.env_steps / (time.perf_counter() - started))
    return float(np.median(rates))


def plain_process(preset: str) -> float:
    """Steps per second of rollouts in a process of their own, without Ray."""
    config = get_experiment(preset).make_config()
    env = make_task_env(config.env, config.episodes_per_task, config.horizon, dict(config.env_config))
    spec = MLP.gaussian(flatdim(env.single_observation_space), flatdim(env.single_action_space))
    params = {name: value.numpy() for name, value in spec.init_params(0).items()}
    task = env.sample_tasks(1, np.random.default_rng(0))[0]
    steps, started = 0, time.perf_counter()
    with ThreadpoolController().limit(limits=1):
        while time.perf_counter() - started < SECONDS:
            steps += rollout(env, task, spec, params, stream(0, steps)).env_steps
    return steps / (time.perf_counter() - started)


def machine_gain(preset: str) -> float:
    """Total throughput of two plain processes at once over that of one."""
    with get_context("spawn").Pool(2) as pool:
        pool.map(plain_process, [preset] * 2)  # imports and caches
        alone = pool.apply(plain_process, [preset])
        return sum(pool.map(plain_process, [preset] * 2, chunksize=1)) / alone


def main() -> None:
    """Measure and print the table."""
    start_ray(None)
    print("| preset | 1 runner, steps/s | 2 runners, steps/s | ratio | two plain processes over one |")
    print("|---|---|---|---|---|")
    for preset in PRESETS:
        rates = []
        for runners in (1, 2):
            algo: MAML = (
                get_experiment(preset).make_config().env_runners(num_env_runners=runners).build_algo()
            )
            rates.append(steps_per_second(algo))
            algo.stop()
        one, two = rates
        gain = machine_gain(preset)
        print(
            f"| {preset} | {one / 1e3:.1f}k | {two / 1e3:.1f}k | {two / one:.2f} | {gain:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
