"""Refuse a run that no machine at hand could hold in memory."""

from __future__ import annotations

import math
from typing import Any

import ray

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.rllib.config import MAMLConfig
from maml_rl.tools.memory_size import in_words, total_memory

_FLOAT = 4


def check_sizes(config: MAMLConfig, env: TaskVectorEnv) -> None:
    """Compare the least that learner and runners need with the memory of the largest machine.

    The estimate counts samples up to the horizon, adapted parameters and nothing else: more is needed in fact.

    Raises:
        ValueError: naming the fields, what they need and what is there.
    """
    there = max([total_memory(), *(node["Resources"].get("memory", 0) for node in _nodes())])
    spec = config.policy_spec(env.single_observation_space, env.single_action_space)
    parameters = sum(math.prod(shape) for shape in spec.shapes.values())
    per_task = config.episodes_per_task * config.horizon * (spec.observation_size + spec.action_size + 1)
    tasks, phases = config.meta_batch_size, config.inner_steps + 1
    samples = "episodes_per_task {episodes_per_task} x horizon {horizon}"
    for what, fields, floats in (
        ("the episodes of one task", samples, per_task),
        (
            "the samples of a meta-batch",
            f"meta_batch_size {{meta_batch_size}} x {samples}",
            phases * tasks * per_task,
        ),
        (
            "the adapted policies",
            "meta_batch_size {meta_batch_size}, hidden_sizes {hidden_sizes}, context_size {context_size}",
            (1 + tasks) * parameters,
        ),
    ):
        if floats * _FLOAT > there:
            chosen = fields.format(**vars(config))
            raise ValueError(
                f"{chosen}: {what} alone need {in_words(floats * _FLOAT)} of memory, and the largest machine has "
                f"{in_words(there)}"
            )


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
