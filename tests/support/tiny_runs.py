"""Runs of the algorithm in this process, each so small that a test can afford dozens of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maml_rl import MAML, MAMLConfig
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy_file import save_policy

NumpyParams = dict[str, np.ndarray]

TINY: dict[str, Any] = {
    "inner_lr": 0.1,
    "meta_batch_size": 3,
    "episodes_per_task": 3,
    "horizon": 6,
    "hidden_sizes": (4,),
    "cg_iterations": 3,
}
PPO: dict[str, Any] = {
    "outer_update": "ppo",
    "lr": 0.01,
    "num_epochs": 3,
    "minibatch_size": 18,
    "max_kl": 10.0,
}
SINGLE: dict[str, Any] = PPO | {"inner_steps": 0}
"""PPO on one policy for all tasks, which has a critic."""


def tiny_config(**fields: Any) -> MAMLConfig:
    """Point navigation with ``TINY`` settings, but for ``fields``."""
    config = MAMLConfig().environment("maml_rl/PointNav-v0")
    for name, value in (TINY | fields).items():
        assert hasattr(config, name), name
        setattr(config, name, value)
    return config


def save_expert(path: Path, *, std: float = 0.5, scale: float = 4.0) -> str:
    """A random policy that is told the goal; most of its mean actions lie outside the box."""
    spec = MLP.gaussian(observation_size=4, action_size=2, hidden_sizes=(5,), initial_std=std)
    params = {name: value.numpy() for name, value in spec.init_params(7).items()}
    params["mean.weight"] *= scale
    params["mean.bias"] += scale
    save_policy(path, spec, params, {})
    return str(path)


class Algorithms:
    """What tests build, stopped together in the end: stopping one is half a second of waiting."""

    def __init__(self) -> None:
        self._built: list[MAML] = []

    def build(self, config: MAMLConfig) -> MAML:
        """An algorithm that lives until the end."""
        self._built.append(config.build_algo())
        return self._built[-1]

    def train(self, iterations: int, **fields: Any) -> tuple[NumpyParams, list[dict[str, Any]]]:
        """Parameters after ``iterations`` of a tiny run, and the result of each of them."""
        algo = self.build(tiny_config(**fields))
        results = [algo.train() for _ in range(iterations)]
        return algo.meta_params(), results

    def stop(self) -> None:
        """Stop them all."""
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda algo: algo.stop(), self._built))


@contextmanager
def tiny_algorithms() -> Iterator[Algorithms]:
    """``Algorithms``, for a fixture; on one thread, which on matrices of this size is the fastest."""
    algorithms, threads = Algorithms(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield algorithms
    finally:
        torch.set_num_threads(threads)
        algorithms.stop()
