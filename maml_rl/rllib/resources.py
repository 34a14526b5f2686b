"""Refuse a run that the Ray cluster can never start; RLlib itself would wait for ever."""

from __future__ import annotations

from collections.abc import Mapping

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune import PlacementGroupFactory


class ResourceError(RuntimeError):
    """The cluster does not have what the configuration asks for."""


def env_runners_that_fit(config: AlgorithmConfig, tasks: int) -> int:
    """As many env runners as the Ray cluster has CPUs for beside the learner; not more than there are tasks."""
    free = ray.cluster_resources().get("CPU", 0) - config.num_learners * _learner_cpus(config)
    return max(0, min(tasks, int(free // max(config.num_cpus_per_env_runner, 1e-3))))


def _learner_cpus(config: AlgorithmConfig) -> float:
    cpus = config.num_cpus_per_learner
    if cpus == "auto":
        return 0 if config.num_gpus_per_learner else 1
    return float(cpus)


def check_resources(config: AlgorithmConfig, *, env_runners: bool = True) -> None:
    """Compare what the run's actors ask for with what the cluster has.

    Args:
        env_runners: count the env runners, too, and not the learner alone.

    Raises:
        ResourceError: saying what was asked for and what is there.
    """
    runners = config.num_env_runners if env_runners else 0
    asked = {
        "CPU": runners * config.num_cpus_per_env_runner + config.num_learners * _learner_cpus(config),
        "GPU": runners * config.num_gpus_per_env_runner + config.num_learners * config.num_gpus_per_learner,
    }
    there, where = ray.cluster_resources(), "the Ray cluster"
    for name, amount in asked.items():
        if amount > there.get(name, 0):
            raise _too_little(config, runners, name, amount, where, there)
    # A trial of Ray Tune gets what was reserved for it; the first bundle is the algorithm's own.
    group = ray.util.get_current_placement_group()
    if group is not None:
        bundles = group.bundle_specs[1:]
        there = {name: sum(bundle.get(name, 0) for bundle in bundles) for name in asked}
        for name, amount in asked.items():
            if amount > there[name]:
                raise _too_little(config, runners, name, amount, "its placement group", there)


def _too_little(
    config: AlgorithmConfig, runners: int, name: str, amount: float, where: str, there: Mapping[str, float]
) -> ResourceError:
    return ResourceError(
        f"the run asks for {amount:g} {name}s ({runners} env runners, "
        f"{config.num_learners} remote learners), but {where} has {there.get(name, 0):g}"
    )


def fits(request: PlacementGroupFactory) -> bool:
    """Whether the cluster could ever hold what a trial asks for."""
    there = ray.cluster_resources()
    return all(amount <= there.get(name, 0) for name, amount in request.required_resources.items())
