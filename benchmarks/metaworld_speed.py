"""Steps per second of one core of Meta-World: here, with the package's own simulations, and EnvPool's.

Episodes of 500 random actions with resets, ten copies of a task, processor time; EnvPool's where it is installed
(``pip install envpool``). Every case is measured in a process of its own, by turns::

    python benchmarks/metaworld_speed.py                      # the ten families that ML10 trains on
    python benchmarks/metaworld_speed.py --families reach-v3 push-v3 --rounds 5
    python benchmarks/metaworld_speed.py --families all
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

COPIES, STEPS = 10, 500
CASES = ("here", "package", "envpool")


def main() -> None:
    from maml_rl.envs.metaworld import FAMILIES, ML10

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--families", nargs="+", default=list(ML10.train))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps([measure(given.case, family) for family in given.families]))
        return
    families = list(FAMILIES) if given.families == ["all"] else given.families
    cases = [case for case in CASES if case != "envpool" or importlib.util.find_spec("envpool")]
    print(
        "| family | " + " | ".join(cases) + " | here / package |\n|" + "---|" * (2 + len(cases)), flush=True
    )
    ratios = []
    for family in families:
        found: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(given.rounds):
            for case in cases:
                command = [sys.executable, __file__, "--case", case, "--families", family]
                result = subprocess.run(command, capture_output=True, text=True, check=True)
                found[case] += json.loads(result.stdout.splitlines()[-1])
        medians = {case: statistics.median(values) for case, values in found.items()}
        ratios.append(medians["here"] / medians["package"])
        numbers = " | ".join(f"{value:.0f}" for value in medians.values())
        print(f"| {family} | {numbers} | {ratios[-1]:.2f} |", flush=True)
    print(f"mean ratio {statistics.mean(ratios):.2f}")


def measure(case: str, family: str) -> float:
    """Steps per second of processor time, after a first short episode."""
    play = of_envpool(family) if case == "envpool" else of_adapter(family, fast=case == "here")
    play(20)
    started = time.process_time()
    play(STEPS)
    return COPIES * STEPS / (time.process_time() - started)


def actions(steps: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, COPIES, 4)).astype(np.float32)


def of_adapter(family: str, *, fast: bool) -> Callable[[int], None]:
    """A rollout's steps; the package's own simulations have every copy's reset, and nothing replaced."""
    from maml_rl.envs import metaworld
    from maml_rl.envs.gym_adapter import GymTaskEnv

    made: Any = metaworld
    if not fast:
        made._class_of = lambda name: made.ALL_V3_ENVIRONMENTS[name]
        made._MetaWorld._reset, made._MetaWorld._step = GymTaskEnv._reset, GymTaskEnv._step
    env = metaworld.MetaWorldML1(COPIES, task=family)
    task = env.sample_tasks(1, np.random.default_rng(0))[0]

    def play(steps: int) -> None:
        env.set_task(task)
        env.reset(seed=0)
        for action in actions(steps):
            env.step(action)

    return play


def of_envpool(family: str) -> Callable[[int], None]:
    """A new goal takes new simulations: there is no other way to set one."""
    import envpool

    name = "".join(part.capitalize() for part in family.removesuffix("-v3").split("-"))

    def play(steps: int) -> None:
        env = envpool.make_gymnasium(f"MetaWorld/{name}-v3", num_envs=COPIES, num_threads=1, seed=0)
        env.reset()
        for action in actions(steps):
            env.step(action)
        env.close()

    return play


if __name__ == "__main__":
    main()
