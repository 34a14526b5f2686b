"""What a fault costs and whether it leaves a trace: runners, the learner, nodes and the driver killed at random.

``python benchmarks/faults.py`` trains point navigation without faults, then again while processes of one kind get a
SIGKILL at random moments, and compares the parameters of both runs bit for bit. Nodes are several Rays on this
machine; one that is killed is replaced after a second. A killed driver goes on with ``maml-rl train --resume``.
Prints a Markdown table; the exit status is 1 if a bit differs.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.cluster_utils import Cluster

from maml_rl import MAML
from maml_rl.experiments.presets import get_experiment
from maml_rl.policies.policy_file import load_policy
from maml_rl.rllib.maml import TrainingState
from maml_rl.tools.ray_start import start_ray

RUNNERS, LEARNERS = 2, 1


class Trial(NamedTuple):
    """A run that was disturbed: how often, for how long it went on, and what came out."""

    faults: int
    seconds: float
    state: Any


def build() -> MAML:
    config = get_experiment("point-nav").make_config().env_runners(num_env_runners=RUNNERS)
    return config.learners(num_learners=LEARNERS).build_algo()


def train(algo: MAML, iterations: int, disturb: Callable[[], None], times: list[float]) -> Trial:
    """Train in another thread, and call ``disturb`` at these times, in seconds from the start, while that lasts."""
    seconds, faults = math.nan, 0
    started = time.perf_counter()

    def iterate() -> None:
        nonlocal seconds
        for _ in range(iterations):
            algo.train()
        seconds = time.perf_counter() - started

    thread = threading.Thread(target=iterate)
    thread.start()
    for at in times:
        thread.join(max(0.0, at - (time.perf_counter() - started)))
        if not thread.is_alive():
            break
        disturb()  # here: nodes are started from a main thread only
        faults += 1
    thread.join()
    return Trial(faults, seconds, algo.training_state())


def same(a: TrainingState, b: TrainingState) -> bool:
    """Whether iteration, steps, parameters and optimisers agree to the last bit."""
    return (a.iteration, a.env_steps, a.learned.keys()) == (
        b.iteration,
        b.env_steps,
        b.learned.keys(),
    ) and all(np.array_equal(value, b.learned[name]) for name, value in a.learned.items())


# --- what is killed


def kill_actor(actors: Callable[[], list[Any]], rng: random.Random) -> None:
    """End the process of one of the actors, at a random moment of its work."""
    try:
        pid = ray.get(rng.choice(actors()).__ray_call__.remote(lambda actor: os.getpid()), timeout=30)
    except (ray.exceptions.RayError, IndexError):  # it is just being started again
        return
    time.sleep(rng.uniform(0, 0.3))
    os.kill(pid, signal.SIGKILL)


@contextmanager
def local_ray() -> Iterator[Callable[[MAML, str, random.Random], None]]:
    """A local Ray; yields what kills an actor of a kind."""
    start_ray(None, RUNNERS + LEARNERS + 1)
    try:
        yield lambda algo, kind, rng: kill_actor(
            lambda: list(
                (algo.env_runner_group if kind == "runner" else algo.learner_group)
                ._worker_manager.actors()
                .values()
            ),
            rng,
        )
    finally:
        ray.shutdown()


@contextmanager
def several_nodes() -> Iterator[Callable[[MAML, str, random.Random], None]]:
    """A head that computes nothing and two nodes; yields what kills one of these and starts another."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=RUNNERS + LEARNERS)
    start_ray(cluster.address)

    def kill(algo: MAML, kind: str, rng: random.Random) -> None:
        node = rng.choice(sorted(cluster.worker_nodes, key=lambda node: node.unique_id))
        cluster.remove_node(node, allow_graceful=False)
        time.sleep(1)
        cluster.add_node(num_cpus=RUNNERS + LEARNERS)

    try:
        yield kill
    finally:
        ray.shutdown()
        cluster.shutdown()


def measure(kind: str, iterations: int, faults: int, seed: int) -> tuple[Trial, Trial]:
    """The undisturbed run and the disturbed one."""
    rng = random.Random(f"{kind} {seed}")
    with several_nodes() if kind == "node" else local_ray() as kill:
        algo = build()
        algo.train()  # what is loaded at the first iteration is not part of the cost
        calm = train(algo, iterations, lambda: None, [])
        algo.stop()
        algo = build()
        algo.train()
        times = sorted(rng.uniform(0, calm.seconds) for _ in range(faults))
        disturbed = train(algo, iterations, lambda: kill(algo, kind, rng), times)
        algo.stop()
    return calm, disturbed


# --- the driver


def train_by_command(folder: Path, iterations: int, times: list[float]) -> Trial:
    """``maml-rl train`` in a process of its own, killed after each of these times and gone on with."""
    program = [str(Path(sys.executable).with_name("maml-rl")), "train"]
    first = ["point-nav", "--iterations", str(iterations), "--checkpoint-every", "1", "--output", str(folder)]
    started, killed = time.perf_counter(), 0
    for limit in [*times, None]:
        arguments = ["--resume", str(folder)] if (folder / "checkpoint.safetensors").exists() else first
        # Ray's processes are in the group, too: a machine that fails takes them along.
        process = subprocess.Popen(
            [*program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            _, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
            continue
        if process.returncode != 0:
            raise RuntimeError(errors.decode())
        break
    return Trial(killed, time.perf_counter() - started, load_policy(folder / "checkpoint.safetensors").sha256)


def measure_driver(iterations: int, faults: int, seed: int) -> tuple[Trial, Trial]:
    rng = random.Random(f"driver {seed}")
    with tempfile.TemporaryDirectory() as folder:
        calm = train_by_command(Path(folder) / "calm", iterations, [])
        times = [rng.uniform(0.2, 1.0) * calm.seconds for _ in range(faults)]
        return calm, train_by_command(Path(folder) / "disturbed", iterations, times)


def main() -> int:
    """Measure and print the table."""
    kinds = ("runner", "learner", "node", "driver")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--faults", type=int, default=5, help="of each kind (at most; some come too late)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| killed | faults | parameters | seconds without | with faults | seconds lost per fault |")
    print("|---|---|---|---|---|---|")
    traces = 0
    for kind in options.kinds:
        if kind == "driver":
            calm, disturbed = measure_driver(options.iterations, options.faults, options.seed)
            identical = calm.state == disturbed.state
        else:
            calm, disturbed = measure(kind, options.iterations, options.faults, options.seed)
            identical = same(calm.state, disturbed.state)
        traces += not identical
        lost = (disturbed.seconds - calm.seconds) / max(1, disturbed.faults)
        print(
            f"| {kind} | {disturbed.faults} | {'identical' if identical else 'DIFFERENT'} | {calm.seconds:.1f} | "
            f"{disturbed.seconds:.1f} | {lost:.1f} |",
            flush=True,
        )
    return int(traces > 0)


if __name__ == "__main__":
    sys.exit(main())
