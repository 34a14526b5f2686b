"""RLlib's ``EnvRunner`` around ``rollout.py``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from threadpoolctl import ThreadpoolController

from maml_rl.envs.episode_info import Measures
from maml_rl.envs.rollout import SeenObservations, rollout, stream
from maml_rl.learning.trajectories import Extent, Trajectories
from maml_rl.policies.normalizer import Normalizer
from maml_rl.rllib.callbacks import EpisodeFollower, RunnerCallbacks
from maml_rl.rllib.env_registry import make_env
from maml_rl.tools.threads import one_thread
from maml_rl.tools.user_folder import work_in_users_folder


@dataclass(frozen=True)
class TaskBlock:
    """Consecutive tasks to roll out, and the names of their random streams."""

    first: int
    tasks: np.ndarray
    seed: int
    phase: tuple[int, ...]
    normalizer: Normalizer | None = None

    def stream(self, offset: int) -> np.random.SeedSequence:
        return stream(self.seed, *self.phase, self.first + offset)


@dataclass(frozen=True)
class RolloutSummary:
    """What the driver needs to know of a block: it never sees the trajectories."""

    returns: list[list[float]]
    """Mean return of each task; of trials, that of every episode."""
    env_steps: int
    episodes: int
    diverged_episodes: int
    infos: list[list[dict[str, float]]]
    """Likewise means of the numbers in ``info``; empty for environments that tell none."""
    seen: list[Normalizer]
    """Moments of observations and returns of each task, where they are normalised."""
    extent: Extent
    observation_square: float
    """Sum over steps of the mean square of an observation's components."""
    seconds: float
    bytes: int
    """Of the trajectories."""
    metrics: Any
    """What callbacks logged, as RLlib's ``MetricsLogger`` reduces it."""


class MAMLEnvRunner(EnvRunner, Checkpointable):
    """Collects whole episodes of one task after another.

    It holds no state between calls: parameters and random streams arrive with each call, so any runner gives
    the same trajectories, and one that died is replaced without a trace in the results.
    """

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        work_in_users_folder()
        self.module = None
        self._callbacks = RunnerCallbacks(self)
        self.make_env()
        self._blas = ThreadpoolController()

    def make_env(self) -> None:
        self.env = make_env(self.config, self.config.episodes_per_task)
        self._policy_spec = self.config.policy_spec(
            self.env.single_observation_space, self.env.single_action_space
        )
        self._callbacks.environment_created()

    def assert_healthy(self) -> None:
        assert self.env is not None

    def get_spaces(self) -> dict[str, tuple[gymnasium.Space[Any], gymnasium.Space[Any]]]:
        spaces = (self.env.single_observation_space, self.env.single_action_space)
        return {"__env__": spaces, "default_policy": spaces}

    def sample_tasks(self, n: int, seed: int, *key: int) -> np.ndarray:
        """``n`` tasks from the environment's distribution, from the stream named ``(seed, *key)``."""
        return self.env.sample_tasks(n, np.random.default_rng(stream(seed, *key)))

    def sample(
        self, block: TaskBlock, params: dict[str, np.ndarray]
    ) -> tuple[RolloutSummary, list[Trajectories]]:
        """One phase's episodes of each task of ``block``.

        Args:
            params: ``[tasks, *shape]`` each, over all tasks of the meta-batch, or ``[1, *shape]`` when all
                tasks share them.
        """
        started = time.perf_counter()
        diverged = self.env.diverged_episodes
        trajectories, returns, episodes, infos, seen = [], [], [], [], []
        with one_thread(self._blas):
            for offset, task in enumerate(block.tasks):
                task_params = {
                    name: value[block.first + offset if len(value) > 1 else 0]
                    for name, value in params.items()
                }
                measures = Measures(self.env)
                observers = measures.observers
                if self._callbacks.follow_episodes:
                    observers.append(
                        follower := EpisodeFollower(self._callbacks, self, task, block.phase[-1])
                    )
                normalizer = block.normalizer
                if normalizer is not None and normalizer.observations is not None:
                    observers.append(observations := SeenObservations())
                trajectories.append(
                    rollout(
                        self.env,
                        task,
                        self._policy_spec,
                        task_params,
                        block.stream(offset),
                        *observers,
                        normalizer=normalizer,
                    )
                )
                if normalizer is not None:
                    seen.append(
                        Normalizer(
                            None if normalizer.observations is None else observations.moments(),
                            None
                            if normalizer.returns is None
                            else trajectories[-1].return_moments(self.config.gamma),
                        )
                    )
                returns.append(measures.returns(trajectories[-1]))
                infos.append(measures.infos)
                if self._callbacks.follow_episodes:
                    episodes += [episode.to_numpy() for episode in follower.episodes]
        if self._callbacks.follow_episodes:
            self._callbacks.call("on_sample_end", samples=episodes)
        summary = RolloutSummary(
            returns=returns,
            env_steps=sum(t.env_steps for t in trajectories),
            episodes=sum(len(t.lengths) for t in trajectories),
            diverged_episodes=self.env.diverged_episodes - diverged,
            infos=infos,
            seen=seen,
            extent=Extent.of(trajectories),
            observation_square=sum(t.observation_square for t in trajectories),
            seconds=time.perf_counter() - started,
            bytes=sum(t.nbytes for t in trajectories),
            metrics=self.metrics.reduce(),
        )
        return summary, trajectories

    def stop(self) -> None:
        self.env.close()

    # --- stateless, but RLlib synchronises and saves every runner

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {"config": self.config}
