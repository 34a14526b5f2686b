"""Refuse a run that the Ray cluster can never start; RLlib itself would wait for ever."""

from __future__ import annotations

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


class ResourceError(RuntimeError):
    """The cluster does not have what the configuration asks for."""


def check_resources(config: AlgorithmConfig, *, env_runners: bool = True) -> None:
    """Compare what the run's actors ask for with what the cluster has.

    Args:
        env_runners: count the env runners, too, and not the learner alone.

    Raises:
        ResourceError: saying what was asked for and what is there.
    """
    if ray.util.get_current_placement_group() is not None:
        return  # a Tune trial: its resources are already reserved
    learner_cpus = config.num_cpus_per_learner
    if learner_cpus == "auto":
        learner_cpus = 0 if config.num_gpus_per_learner else 1
    runners = config.num_env_runners if env_runners else 0
    asked = {
        "CPU": runners * config.num_cpus_per_env_runner + config.num_learners * learner_cpus,
        "GPU": runners * config.num_gpus_per_env_runner + config.num_learners * config.num_gpus_per_learner,
    }
    there = ray.cluster_resources()
    for name, amount in asked.items():
        if amount > there.get(name, 0):
            raise ResourceError(
                f"the run asks for {amount:g} {name}s ({runners} env runners, "
                f"{config.num_learners} remote learners), but the Ray cluster has {there.get(name, 0):g}"
            )
