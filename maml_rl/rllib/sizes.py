"""Refuse a run that no machine at hand could hold in memory."""

from __future__ import annotations

import math
from typing import Any

import ray

from maml_rl.policies.policy import Policy
from maml_rl.rllib.config import MAMLConfig
from maml_rl.tools.memory_size import Need, check_fits, total_memory

_FLOAT = 4


def check_sizes(config: MAMLConfig, spec: Policy) -> None:
    """Compare the least that learner and runners need with the memory of the largest machine.

    The estimate counts samples up to the horizon, adapted parameters and nothing else: more is needed in fact.

    Raises:
        ValueError: naming the fields, what they need and what is there.
    """
    there = max([total_memory(), *(node["Resources"].get("memory", 0) for node in _nodes())])
    parameters = sum(math.prod(shape) for shape in spec.shapes.values())
    horizon = config.horizon * config.trial_episodes
    per_task = config.episodes_per_task * horizon * (spec.observation_size + spec.action_size + 1)
    tasks, phases = config.meta_batch_size, config.inner_steps + 1
    batch = f"meta_batch_size {tasks}"
    samples = f"episodes_per_task {config.episodes_per_task} x horizon {horizon}"
    network = f"hidden_sizes {config.hidden_sizes}, context_size {config.context_size}"
    if config.recurrent is not None:
        network += f", recurrent_size {config.recurrent_size}"
    check_fits(
        [
            Need("the episodes of one task", samples, _FLOAT * per_task),
            Need("the samples of a meta-batch", f"{batch} x {samples}", _FLOAT * phases * tasks * per_task),
            Need("the adapted policies", f"{batch}, {network}", _FLOAT * (1 + tasks) * parameters),
        ],
        there,
    )


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
