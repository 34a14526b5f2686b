"""Speed and memory of one meta-iteration of point navigation, against a straightforward port in the same run.

Run by hand: ``python benchmarks/meta_iteration.py``. Prints a Markdown table. Needs about two minutes and an
otherwise idle machine with at least two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from straightforward_port import Task
from straightforward_port import meta_update as port_meta_update
from straightforward_port import rollouts as port_rollouts

from maml_rl import MAML
from maml_rl.envs import make_task_env
from maml_rl.envs.rollout import rollout, stream
from maml_rl.experiments.presets import point_nav
from maml_rl.learning.adaptation import InnerUpdateSettings, adapt_in_chunks
from maml_rl.learning.batch import Samples, make_samples
from maml_rl.learning.meta_update import MetaUpdateSettings, meta_update
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Params
from maml_rl.tools.ray_start import start_ray
from maml_rl.tools.threads import threads_over_chunks

SPEC = MLP.gaussian(2, 2)
INNER_LR = 0.1


def one_batch(tasks: int) -> tuple[Params, Samples, Samples, float]:
    """Parameters at initialisation, samples of both phases, seconds of the adaptation."""
    env = make_task_env("maml_rl/PointNav-v0", 20, 100)
    goals = env.sample_tasks(tasks, np.random.default_rng(0))
    params = SPEC.init_params(0)

    def samples(stacked: Params, phase: int) -> Samples:
        trajectories = []
        for i, goal in enumerate(goals):
            own = {k: v[i].numpy() for k, v in stacked.items()}
            trajectories.append(rollout(env, goal, SPEC, own, stream(0, phase, i)))
        return make_samples(trajectories, gamma=0.99, gae_lambda=1.0)

    pre = samples({k: v.expand(tasks, *v.shape) for k, v in params.items()}, 0)
    started = time.perf_counter()
    with threads_over_chunks() as parallel_map:
        adapted = adapt_in_chunks(SPEC, params, [pre], INNER_LR, parallel_map)
    seconds = time.perf_counter() - started
    return params, pre, samples(adapted, 1), seconds


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median wall-clock time of a call, after one for warming up."""
    times = []
    function()
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def update(tasks: int, **settings: Any) -> Callable[[], tuple[Params, Any]]:
    """The package's meta-update on one batch."""
    params, pre, post, _ = one_batch(tasks)

    def run() -> tuple[Params, Any]:
        with threads_over_chunks() as parallel_map:
            inner, outer = InnerUpdateSettings(INNER_LR), MetaUpdateSettings(**settings)
            return meta_update(SPEC, params, [pre], post, inner, outer, parallel_map)

    return run


def port_times() -> tuple[float, float, float]:
    """Seconds of the port's rollouts (both phases) and meta-update; distance of its step from the package's."""
    params, pre, post, _ = one_batch(20)

    def as_tasks(samples: Samples) -> list[Task]:
        counts = (samples.weights > 0).sum(-1).tolist()
        return [
            (samples.observations[i, :n], samples.actions[i, :n], samples.advantages[i, :n])
            for i, n in enumerate(counts)
        ]

    before, after = as_tasks(pre), as_tasks(post)
    new: Params = {}

    def run_update() -> None:
        new.update(
            port_meta_update(
                SPEC,
                params,
                before,
                after,
                inner_lr=INNER_LR,
                max_kl=0.01,
                cg_iterations=10,
                damping=1e-5,
            )
        )

    update_seconds = median_seconds(run_update, 2)
    goals = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 2))
    rollout_seconds = 2 * median_seconds(lambda: port_rollouts(params, goals, 20, 100), 1)
    ours, _ = update(20, hvp="exact")()
    step = torch.cat([(ours[k] - params[k]).flatten() for k in SPEC.shapes])
    difference = torch.cat([(ours[k] - new[k]).flatten() for k in SPEC.shapes])
    return rollout_seconds, update_seconds, float(difference.norm() / step.norm())


def iterations(tasks: int, hvp: str, count: int = 6) -> dict[str, float]:
    """Medians over iterations of the real algorithm with two runners and the learner in this process."""
    config = point_nav().env_runners(num_env_runners=2).training(meta_batch_size=tasks, hvp=hvp)
    algo: MAML = config.build_algo()
    rows = []
    for _ in range(count):
        result = algo.train()
        seconds = {name: float(value) for name, value in result["seconds"].items()}
        rows.append({**seconds, "total": result["time_this_iter_s"], "env_steps": result["env_steps"]})
    algo.stop()
    return {name: float(np.median([row[name] for row in rows[1:]])) for name in rows[0]}


def peak_memory_mib(tasks: int) -> float:
    """Peak resident memory of a fresh process that makes one meta-update, interpreter and torch included."""
    code = f"import meta_iteration as b; b.update({tasks})(); print(b.own_peak_mib())"
    folder = os.path.dirname(os.path.abspath(__file__))
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    return float(output.split()[-1])


def own_peak_mib() -> float:
    """Peak resident memory of this process so far.

    Not from ``getrusage``: there a child starts with the peak of the process that forked it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Measure everything and print the tables."""
    port_rollout, port_update, difference = port_times()
    start_ray(None)
    port_total = port_rollout + port_update
    print(f"torch threads: {torch.get_num_threads()}, cores: {os.cpu_count()}\n")
    print("| meta-batch 20 | rollouts, both phases | adaptation | meta-update | iteration | of the port |")
    print("|---|---|---|---|---|---|")
    print(f"| straightforward port | {port_rollout:.2f} s | | {port_update:.2f} s | {port_total:.2f} s | 1 |")
    for tasks, hvp in ((20, "finite_difference"), (20, "exact"), (40, "finite_difference"), (40, "exact")):
        row = iterations(tasks, hvp)
        rate = row["env_steps"] / row["rollouts"]
        share = f"{row['total'] / port_total:.2f}" if tasks == 20 else ""
        name = f"maml_rl, {hvp}" + (", meta-batch 40" if tasks == 40 else "")
        print(
            f"| {name} | {row['rollouts']:.2f} s ({rate / 1000:.0f}k steps/s) | {row['adaptation']:.2f} s | "
            f"{row['meta_update']:.2f} s | {row['total']:.2f} s | {share} |"
        )
    print(f"\nThe port's step differs from the exact one by {difference:.1e} of its length.")
    for tasks in (20, 40):
        print(f"Peak memory of a learner process, meta-batch {tasks}: {peak_memory_mib(tasks):.0f} MiB")


if __name__ == "__main__":
    main()
