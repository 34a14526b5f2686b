"""What a cluster costs and gives: learners, runners, nodes, and whether memory stays as it is.

Prints a table each. Nodes are Ray's own test cluster on this machine: more of them than it has cores for show
overhead, not speed. Every case is run in a process of its own, one after the other::

    python benchmarks/cluster.py
    python benchmarks/cluster.py --only runners --runners 1 16 64
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TASKS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=["learners", "runners", "nodes", "memory"])
    parser.add_argument("--runners", type=int, nargs="+", default=[0, 1, 4, 16])
    parser.add_argument("--learners", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--iterations", type=int, default=200, help="of the memory case")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        kind, number = given.case.split(":")
        print(json.dumps(CASES[kind](int(number))))
        return
    numbers = {
        "learners": given.learners,
        "runners": given.runners,
        "nodes": given.nodes,
        "memory": [given.iterations],
    }
    for kind in [given.only] if given.only else list(CASES):
        rows = [_in_a_process(kind, number) for number in numbers[kind]]
        print(f"\n| {kind} | " + " | ".join(rows[0]) + " |\n|" + "---|" * (1 + len(rows[0])))
        for number, row in zip(numbers[kind], rows, strict=True):
            print(f"| {number} | " + " | ".join(map(str, row.values())) + " |", flush=True)


def _in_a_process(kind: str, number: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--case", f"{kind}:{number}"]
    # One thread for each learner, wherever it is.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr)
    told = [line for line in result.stdout.splitlines() if line.startswith("{")]  # Ray may warn there, too
    row: dict[str, Any] = json.loads(told[-1])
    return row


def _config(**fields: Any) -> Any:
    from maml_rl import MAMLConfig

    config = MAMLConfig().environment("maml_rl/PointNav-v0")
    for name, value in {"inner_lr": 0.1, "meta_batch_size": TASKS, **fields}.items():
        setattr(config, name, value)
    return config


def _fingerprint(algo: Any) -> str:
    total = sum(float(np.abs(value).sum(dtype=np.float64)) for value in algo.meta_params().values())
    return f"{total:.10f}"


def learners(number: int) -> dict[str, Any]:
    """The meta-update with half-cheetah's number of samples: 40 tasks, 20 episodes of 200 steps."""
    from maml_rl.tools.ray_start import start_ray

    start_ray(None, 8)
    algo = _config(num_learners=number, episodes_per_task=20, horizon=200).build_algo()
    results = [algo.train() for _ in range(4)]
    seconds = [result["seconds"]["meta_update"] for result in results[1:]]
    products = 10 + 2  # of conjugate gradient, the gradient and the first loss
    vector = sum(value.nbytes for value in algo.meta_params().values()) / 1024
    return {
        "meta-update, s (median of 3)": round(statistics.median(seconds), 2),
        "KiB from each other learner (at least)": round(products * vector) if number > 1 else 0,
        "parameters": _fingerprint(algo),
    }


def runners(number: int) -> dict[str, Any]:
    """64 tasks of one episode of one step: nothing but overhead."""
    from maml_rl.tools.ray_start import start_ray

    start_ray(None, max(1, number))
    config = _config(num_env_runners=number, meta_batch_size=64, episodes_per_task=1, horizon=1)
    config.hidden_sizes = (4,)
    started = time.perf_counter()
    algo = config.build_algo()
    build_s = time.perf_counter() - started
    seconds = [algo.train()["seconds"]["rollouts"] for _ in range(23)][3:]
    memory = algo.env_runner_group.foreach_env_runner(_memory_mib, local_env_runner=False)
    return {
        "start, s": round(build_s, 1),
        "rollouts of an iteration, s (median of 20)": round(statistics.median(seconds), 3),
        "RSS of a runner, MiB": round(statistics.mean(rss for rss, _ in memory)) if memory else "",
        "of it its own": round(statistics.mean(own for _, own in memory)) if memory else "",
    }


def _memory_mib(runner: Any) -> tuple[float, float]:
    text = Path("/proc/self/smaps_rollup").read_text()
    kib = {line.split()[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    return kib["Rss:"] / 1024, (kib["Private_Dirty:"] + kib["Private_Clean:"]) / 1024


def nodes(number: int) -> dict[str, Any]:
    """Two runners on each node, one of two learners on the first."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    for _ in range(number - 1):
        cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    algo = _config(num_env_runners=2 * number, num_learners=2, horizon=50).build_algo()
    results = [algo.train() for _ in range(6)]
    algo_s = statistics.median(result["time_this_iter_s"] for result in results[1:])
    return {
        "runners": 2 * number,
        "iteration, s (median of 5)": round(algo_s, 2),
        "MiB moved": round(results[-1]["cluster"]["mib_moved"], 1),
        "parameters": _fingerprint(algo),
    }


def memory(iterations: int) -> dict[str, Any]:
    """Half-cheetah's block sizes: 20 observations and 6 actions; memory after a tenth and at the end."""
    import ray

    from maml_rl import MAMLConfig
    from maml_rl.tools.ray_start import start_ray

    start_ray(None, 2)
    config = MAMLConfig().environment("maml_rl/HalfCheetahVel-v0").env_runners(num_env_runners=1)
    # Ray puts what has more than 100 KiB into its object store; a block of one task has 130.
    for name, value in {"meta_batch_size": 4, "episodes_per_task": 20, "horizon": 60}.items():
        setattr(config, name, value)
    algo = config.build_algo()
    seen = []
    for iteration in range(iterations):
        algo.train()
        if iteration in (iterations // 10, iterations - 1):
            free = ray.available_resources().get("object_store_memory", 0.0)
            store = ray.cluster_resources()["object_store_memory"] - free
            (runner,) = algo.env_runner_group.foreach_env_runner(_memory_mib, local_env_runner=False)
            seen.append((store / 2**20, _memory_mib(None)[0], runner[0]))
    first, last = ([f"{value:.0f}" for value in values] for values in seen)
    names = ("object store", "driver", "runner")
    return {
        f"{name}, MiB after {iterations // 10} and all": f"{a}, {b}"
        for name, a, b in zip(names, first, last, strict=True)
    }


CASES: dict[str, Callable[[int], dict[str, Any]]] = {
    "learners": learners,
    "runners": runners,
    "nodes": nodes,
    "memory": memory,
}

if __name__ == "__main__":
    main()
