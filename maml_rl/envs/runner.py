"""What an env runner does. Neither Ray nor torch here: hundreds of processes may have to load it."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from threadpoolctl import ThreadpoolController

from maml_rl.envs import TaskVectorEnv, make_task_env
from maml_rl.envs.episode_info import Measures
from maml_rl.envs.rollout import SeenObservations, State, rollout, stream
from maml_rl.learning.trajectories import Extent, Trajectories
from maml_rl.policies.acting import ActingPolicy
from maml_rl.policies.normalizer import Normalizer
from maml_rl.tools.threads import one_thread
from maml_rl.tools.user_folder import work_in_users_folder


@dataclass(frozen=True)
class EnvPlan:
    """How an environment is made, in whichever process.

    Attributes:
        env: as ``make_task_env`` takes it.
        registered: with Gymnasium by the program that made the plan, where ``env`` is such an id.
    """

    env: Any
    horizon: int
    env_config: dict[str, Any]
    registered: EnvSpec | None = None

    def make(self, episodes: int) -> TaskVectorEnv:
        if self.registered is not None:
            gymnasium.registry.setdefault(self.registered.id, self.registered)
        return make_task_env(self.env, episodes, self.horizon, self.env_config)


@dataclass(frozen=True)
class RunnerPlan:
    """All that a runner has to be told."""

    env: EnvPlan
    episodes: int
    policy: ActingPolicy
    gamma: float


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
    metrics: Any = None
    """What callbacks logged, as RLlib's ``MetricsLogger`` reduces it."""


def seed_globally(seed: int) -> None:
    """For environments that draw from generators of the whole process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


class TaskRunner:
    """Collects whole episodes of one task after another.

    It holds no state between calls: parameters and random streams arrive with each call, so any runner gives
    the same trajectories, and one that died is replaced without a trace in the results.
    """

    def __init__(self, plan: RunnerPlan, seed: int) -> None:
        work_in_users_folder()
        seed_globally(seed)
        self._begin(plan.env.make(plan.episodes), plan.policy, plan.gamma)

    def _begin(self, env: TaskVectorEnv, policy: ActingPolicy, gamma: float) -> None:
        self.env, self.policy, self._gamma = env, policy, gamma
        self._blas = ThreadpoolController()

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
        trajectories, returns, infos, seen = [], [], [], []
        with one_thread(self._blas):
            for offset, task in enumerate(block.tasks):
                task_params = {
                    name: value[block.first + offset if len(value) > 1 else 0]
                    for name, value in params.items()
                }
                measures = Measures(self.env)
                observers = [*measures.observers, *self._followers(task, block.phase[-1])]
                normalizer = block.normalizer
                if normalizer is not None and normalizer.observations is not None:
                    observers.append(observations := SeenObservations())
                trajectories.append(
                    rollout(
                        self.env,
                        task,
                        self.policy,
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
                            else trajectories[-1].return_moments(self._gamma),
                        )
                    )
                returns.append(measures.returns(trajectories[-1]))
                infos.append(measures.infos)
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
        )
        return summary, trajectories

    def _followers(self, task: Any, inner_step: int) -> list[Callable[[State], None]]:
        """Further observers of a task's rollout."""
        return []

    # --- what RLlib asks of the actors of a group; there is no state to synchronise or save

    def ping(self) -> str:
        return "pong"

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return func(self, *args, **kwargs)

    def assert_healthy(self) -> None:
        assert self.env is not None

    def get_spaces(self) -> dict[str, tuple[gymnasium.Space[Any], gymnasium.Space[Any]]]:
        spaces = (self.env.single_observation_space, self.env.single_action_space)
        return {"__env__": spaces, "default_policy": spaces}

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass

    def stop(self) -> None:
        self.env.close()
