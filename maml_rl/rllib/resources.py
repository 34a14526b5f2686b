"""Refuse a run that the Ray cluster can never start; RLlib itself would wait for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune import PlacementGroupFactory

logger = logging.getLogger("maml_rl")

PATIENCE_S = 10.0
"""Seconds after which a start that still waits says so."""


class ResourceError(RuntimeError):
    """The cluster does not have what the configuration asks for."""


def env_runners_that_fit(config: AlgorithmConfig, tasks: int) -> int:
    """As many env runners as the Ray cluster has CPUs for beside the learner; not more than there are tasks."""
    free = ray.cluster_resources().get("CPU", 0) - config.num_learners * learner_cpus(config)
    return max(0, min(tasks, int(free // max(config.num_cpus_per_env_runner, 1e-3))))


def learner_cpus(config: AlgorithmConfig) -> float:
    """Of each remote learner."""
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
    asked = _asked(config, runners)
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


def _asked(config: AlgorithmConfig, runners: int) -> dict[str, float]:
    return {
        "CPU": runners * config.num_cpus_per_env_runner + config.num_learners * learner_cpus(config),
        "GPU": runners * config.num_gpus_per_env_runner + config.num_learners * config.num_gpus_per_learner,
    }


@contextmanager
def a_long_start_is_explained(config: AlgorithmConfig) -> Iterator[None]:
    """Warn once if the block takes longer than ``PATIENCE_S``: Ray waits in silence for CPUs that others hold."""
    over = threading.Event()
    asked = {n: amount for n, amount in _asked(config, config.num_env_runners).items() if amount}

    def explain() -> None:
        while not over.wait(PATIENCE_S):
            there, free = ray.cluster_resources(), ray.available_resources()
            lacking = [name for name in asked if free.get(name, 0) < 1]
            if all(there.get(name, 0) - free.get(name, 0) <= asked[name] for name in lacking):
                continue  # what is taken can all be this run's: it is slow
            logger.warning(
                "still starting: of the Ray cluster's %s are free at the moment, and the run asks for %s; "
                "where others hold them it waits until they let go",
                " and ".join(f"{there.get(name, 0):g} {name}s {free.get(name, 0):g}" for name in asked),
                " and ".join(f"{amount:g} {name}s" for name, amount in asked.items()),
            )
            return

    if asked:
        threading.Thread(target=explain, daemon=True).start()
    try:
        yield
    finally:
        over.set()


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
