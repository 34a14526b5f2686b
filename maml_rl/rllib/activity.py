"""What an iteration asks of the cluster, in results and as metrics of Ray's, which Prometheus reads."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.util.metrics import Counter, Gauge

CLUSTER = "cluster"
"""Where a result has these numbers."""


@dataclass
class Activity:
    """What happens while one iteration is computed; it fills while it is.

    Attributes:
        runner_s: seconds in which all runners together could roll out: their number times the length of the phases.
        bytes_moved: of trajectories and of parameters for remote runners.
        lost_blocks: blocks of tasks whose runner died.
        reissued_blocks: slow ones that were given to a second runner.
        runner_restarts, learner_restarts: that came back into service.
        block_s: seconds of each block that was rolled out, and the runner's number; 0 is the one in this process.
    """

    runner_s: float = 0.0
    bytes_moved: int = 0
    lost_blocks: int = 0
    reissued_blocks: int = 0
    runner_restarts: int = 0
    learner_restarts: int = 0
    block_s: list[tuple[float, int]] = field(default_factory=list)

    def numbers(self) -> dict[str, float]:
        """By the names that results have; of every result, whatever happened."""
        slowest, runner = max(self.block_s, default=(0.0, 0))
        busy_s = sum(seconds for seconds, _ in self.block_s)
        return {
            "runner_utilization": min(1.0, busy_s / self.runner_s) if self.runner_s else 0.0,
            "runner_waiting_s": max(0.0, self.runner_s - busy_s),
            "mib_moved": self.bytes_moved / 2**20,
            "lost_blocks": self.lost_blocks,
            "reissued_blocks": self.reissued_blocks,
            "runner_restarts": self.runner_restarts,
            "learner_restarts": self.learner_restarts,
            "slowest_block_s": slowest,
            "slowest_runner": runner,
            "median_block_s": statistics.median([s for s, _ in self.block_s] or [0.0]),
        }

    def log(self, logger: MetricsLogger) -> None:
        """Into RLlib's metrics."""
        for name, value in self.numbers().items():
            logger.log_value((CLUSTER, name), value, window=1)


PREFIX = "maml_rl_"
GAUGES = {
    "return_pre": "Mean return of the training tasks before adaptation",
    "return_post": "Mean return of the training tasks after adaptation",
    "kl": "KL divergence of the last update",
    "runner_utilization": "Share of the runners' time in which they roll out, 0 to 1",
    "slowest_block_s": "Seconds of the slowest block of tasks",
    "median_block_s": "Seconds of the median block of tasks",
    "rollouts_s": "Seconds of the rollouts of an iteration",
    "adaptation_s": "Seconds of the adaptation in an iteration",
    "meta_update_s": "Seconds of the meta-update of an iteration",
}
COUNTERS = {
    "iterations": "Meta-updates",
    "env_steps": "Environment steps",
    "refused_updates": "Updates that were refused, for data or gradient were not finite",
    "runner_waiting_s": "Seconds in which runners waited",
    "mib_moved": "MiB of trajectories and parameters between processes",
    "lost_blocks": "Blocks of tasks lost with their runner and run again",
    "reissued_blocks": "Slow blocks of tasks that were given to a second runner",
    "runner_restarts": "Runners that came back into service",
    "learner_restarts": "Learners that were started again",
}


class ClusterMetrics:
    """``GAUGES`` and ``COUNTERS`` of one training: Ray exports them under ``ray_maml_rl_NAME``, by environment."""

    def __init__(self, env: str) -> None:
        tags = {"env": env}
        self._gauges = {name: Gauge(PREFIX + name, text, tuple(tags)) for name, text in GAUGES.items()}
        self._counters = {name: Counter(PREFIX + name, text, tuple(tags)) for name, text in COUNTERS.items()}
        for metric in (*self._gauges.values(), *self._counters.values()):
            metric.set_default_tags(tags)

    def report(self, values: Mapping[str, Any]) -> None:
        """One iteration's numbers, by the names of gauges and counters."""
        for name, gauge in self._gauges.items():
            gauge.set(values[name])
        for name, counter in self._counters.items():
            if values[name] > 0:  # Ray's counters take nothing else
                counter.inc(values[name])
