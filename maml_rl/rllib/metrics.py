"""What a result of ``MAML.train`` and ``MAML.evaluate`` holds; every result holds all of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from maml_rl.envs.episode_info import SUCCESS_RATE, mean_over_tasks
from maml_rl.envs.runner import RolloutSummary
from maml_rl.learning.trajectories import Extent
from maml_rl.policies.normalizer import Normalizer
from maml_rl.rllib.dispatch import Block

ENV_RUNNERS = "env_runners"
LIFETIME_STEPS = (ENV_RUNNERS, "num_env_steps_sampled_lifetime")
UPDATE_METRICS = ("loss_before", "loss_after", "kl", "step_accepted", "backtracks", "gradient_norm")
CRITIC_METRICS = ("explained_variance",)
"""Of a learned critic: PPO without adaptation."""


@dataclass
class Trials:
    """What the episodes of one meta-batch gave, phase by phase; it fills while they are collected.

    Attributes:
        returns: mean over tasks of the return after 0, 1, ... gradient steps; of trials, of episode 1, 2, ....
        infos: likewise the means over tasks of the numbers in ``info``.
        blocks, extent: the trajectories of the last phase, and their size.
        seen: what all tasks of all phases add to the normalizer, in order.
        seconds: by activity.
        callbacks: what callbacks logged on the runners.
    """

    returns: list[float] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    extent: Extent = field(default_factory=lambda: Extent(0, 0))
    env_steps: int = 0
    episodes: int = 0
    diverged_episodes: int = 0
    infos: list[dict[str, float]] = field(default_factory=list)
    seen: list[Normalizer] = field(default_factory=list)
    observation_square: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: {"rollouts": 0.0, "adaptation": 0.0})
    callbacks: list[Any] = field(default_factory=list)

    def add(self, summaries: list[RolloutSummary], blocks: list[Block], seconds: float) -> None:
        """One more phase."""
        by_task = [task for summary in summaries for task in summary.returns]
        self.returns += [float(np.mean(episode)) for episode in zip(*by_task, strict=True)]
        self.blocks, self.extent = blocks, Extent.around([summary.extent for summary in summaries])
        self.env_steps += sum(summary.env_steps for summary in summaries)
        self.episodes += sum(summary.episodes for summary in summaries)
        self.diverged_episodes += sum(summary.diverged_episodes for summary in summaries)
        told = [task for summary in summaries for task in summary.infos]
        self.infos += [mean_over_tasks(episode) for episode in zip(*told, strict=True)] or [{}]
        self.seen += [task for summary in summaries for task in summary.seen]
        self.observation_square += sum(summary.observation_square for summary in summaries)
        self.seconds["rollouts"] += seconds
        self.callbacks += [summary.metrics for summary in summaries if summary.metrics]

    def numbers(self, last: int) -> dict[str, float]:
        """For ``ClusterMetrics``; ``last`` as in ``log``."""
        return {
            "return_pre": self.returns[0] if self.returns else math.nan,
            "return_post": self.returns[last] if len(self.returns) > last else math.nan,
            "env_steps": self.env_steps,
            **{f"{name}_s": seconds for name, seconds in self.seconds.items()},
        }

    @property
    def observation_scale(self) -> float:
        """Root mean square of the observations' components; NaN without a step."""
        return math.sqrt(self.observation_square / self.env_steps) if self.env_steps else math.nan

    def log(self, logger: MetricsLogger, last: int, info_names: Collection[str]) -> None:
        """Into RLlib's metrics; NaN for what is missing.

        Args:
            last: the place in ``returns`` of the return after adaptation.
            info_names: numbers that the environment has told so far.
        """
        numbers = self.numbers(last)
        post = numbers["return_post"]
        values: dict[str | tuple[str, ...], float] = {
            "return_pre": numbers["return_pre"],
            "return_post": post,
            (ENV_RUNNERS, "episode_return_mean"): post,  # RLlib's name for "the" return
            (ENV_RUNNERS, "episode_len_mean"): self.env_steps / self.episodes if self.episodes else math.nan,
        }
        for when, phase in (("pre", 0), ("post", last)):
            told = self.infos[phase] if len(self.infos) > phase else {}
            for info in info_names:
                key = f"{info}_{when}" if info == SUCCESS_RATE else (f"info_{when}", info)
                values[key] = told.get(info, math.nan)
        for name, value in values.items():
            logger.log_value(name, value, window=1)
        counts: dict[str | tuple[str, ...], int] = {
            "env_steps": self.env_steps,
            "diverged_episodes": self.diverged_episodes,
            (ENV_RUNNERS, "num_episodes"): self.episodes,
        }
        for name, count in counts.items():
            logger.log_value(name, count, reduce="sum")
        for name, seconds in self.seconds.items():
            logger.log_value(("seconds", name), seconds, reduce="sum")
        if self.callbacks:
            logger.aggregate(self.callbacks, key=ENV_RUNNERS)


def log_update(logger: MetricsLogger, update: Mapping[str, float], *, with_critic: bool) -> None:
    """An update's metrics into RLlib's; an empty ``update`` was refused, and its numbers are NaN."""
    for name in UPDATE_METRICS + CRITIC_METRICS * with_critic:
        nothing = 0.0 if name == "step_accepted" else math.nan
        logger.log_value(name, update.get(name, nothing), window=1)
    logger.log_value(("seconds", "meta_update"), update.get("meta_update", 0.0), reduce="sum")
