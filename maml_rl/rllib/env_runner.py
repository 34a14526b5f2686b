"""RLlib's ``EnvRunner`` around ``rollout.py``, and the dispatch of blocks of tasks to the runners."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.checkpoints import Checkpointable
from threadpoolctl import ThreadpoolController

from maml_rl.envs.rollout import Phase, rollout, stream
from maml_rl.learning.trajectories import Trajectories
from maml_rl.rllib.env_registry import make_env
from maml_rl.tools.user_folder import work_in_users_folder

logger = logging.getLogger("maml_rl")

Block: TypeAlias = ray.ObjectRef | list[Trajectories]
"""Trajectories of consecutive tasks: a reference into the object store, or the list itself if local."""


@dataclass(frozen=True)
class TaskBlock:
    """Consecutive tasks to roll out, and the names of their random streams."""

    first: int
    tasks: np.ndarray
    seed: int
    phase: tuple[int, ...]

    def stream(self, offset: int) -> np.random.SeedSequence:
        return stream(self.seed, *self.phase, self.first + offset)


@dataclass(frozen=True)
class RolloutSummary:
    """What the driver needs to know of a block: it never sees the trajectories."""

    returns: list[float]
    env_steps: int
    diverged_episodes: int
    seconds: float


class MAMLEnvRunner(EnvRunner, Checkpointable):
    """Collects whole episodes of one task after another.

    It holds no state between calls: parameters and random streams arrive with each call, so any runner gives
    the same trajectories, and one that died is replaced without a trace in the results.
    """

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        work_in_users_folder()
        self.make_env()
        self.module = None
        # Threads do not pay for matrices of this size, and their number must not change the results.
        self._blas = ThreadpoolController()

    def make_env(self) -> None:
        self.env = make_env(self.config, self.config.episodes_per_task)
        self._policy_spec = self.config.policy_spec(
            self.env.single_observation_space, self.env.single_action_space
        )

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
        trajectories = []
        with self._blas.limit(limits=1):
            for offset, task in enumerate(block.tasks):
                task_params = {
                    name: value[block.first + offset if len(value) > 1 else 0]
                    for name, value in params.items()
                }
                trajectories.append(
                    rollout(self.env, task, self._policy_spec, task_params, block.stream(offset))
                )
        summary = RolloutSummary(
            returns=[t.mean_return for t in trajectories],
            env_steps=sum(t.env_steps for t in trajectories),
            diverged_episodes=self.env.diverged_episodes - diverged,
            seconds=time.perf_counter() - started,
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


def collect(
    group: EnvRunnerGroup,
    tasks: np.ndarray,
    params: dict[str, np.ndarray],
    *,
    seed: int,
    phase: tuple[int, ...],
    timeout_s: float,
) -> tuple[list[RolloutSummary], list[Block]]:
    """Roll out all tasks on the group's runners; summaries and trajectory blocks in task order.

    The result does not depend on the number of runners or on which of them ran what. A block lost with its
    runner is run again on another one.

    Raises:
        RuntimeError: every runner died and none came back.
        TimeoutError: no runner finished a block within ``timeout_s``.
        Exception: whatever the environment raised, as it is.
    """
    if group.num_remote_env_runners() == 0:
        block = TaskBlock(0, tasks, seed, phase)
        summary, trajectories = group.local_env_runner.sample(block, params)
        return [summary], [trajectories]

    size = -(-len(tasks) // (4 * group.num_remote_env_runners()))
    blocks = [TaskBlock(i, tasks[i : i + size], seed, phase) for i in range(0, len(tasks), size)]
    done = _dispatch(group, blocks, ray.put(params), timeout_s)
    return [summary for summary, _ in done], [block for _, block in done]


def _dispatch(
    group: EnvRunnerGroup, blocks: Sequence[TaskBlock], params: ray.ObjectRef, timeout_s: float
) -> list[tuple[RolloutSummary, ray.ObjectRef]]:
    manager = group._worker_manager  # RLlib offers no public way from a runner's id to its actor
    pending = list(reversed(range(len(blocks))))
    done: dict[int, tuple[RolloutSummary, ray.ObjectRef]] = {}
    running: dict[ray.ObjectRef, tuple[int, int, ray.ObjectRef]] = {}
    while len(done) < len(blocks):
        busy = [actor_id for actor_id, _, _ in running.values()]
        # Two blocks in flight per runner: the next one is there when the first is finished.
        for actor_id in manager.healthy_actor_ids() * 2:
            if pending and busy.count(actor_id) < 2:
                index = pending.pop()
                method = manager.actors()[actor_id].sample.options(num_returns=2)
                summary, trajectories = method.remote(blocks[index], params)
                running[summary] = (actor_id, index, trajectories)
                busy.append(actor_id)
        if not running:
            _await_recovery(group)
            continue
        ready, _ = ray.wait(list(running), num_returns=1, timeout=timeout_s)
        if not ready:
            raise TimeoutError(
                f"no env runner finished a rollout within sample_timeout_s={timeout_s:g} s; "
                f"the environment's step or reset may hang (tasks {sorted(i for _, i, _ in running.values())})"
            )
        actor_id, index, trajectories = running.pop(ready[0])
        try:
            done[index] = (ray.get(ready[0]), trajectories)
        except RayActorError as error:
            logger.warning("env runner %d died (%s); its tasks are run again", actor_id, type(error).__name__)
            manager.set_actor_state(actor_id, healthy=False)
            pending.append(index)
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
    return [done[index] for index in range(len(blocks))]


def _await_recovery(group: EnvRunnerGroup) -> None:
    """Wait until Ray has restarted a runner, or raise."""
    timeout_s = group._remote_config.env_runner_health_probe_timeout_s
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if group.probe_unhealthy_env_runners():
            return
        time.sleep(0.5)
    raise RuntimeError(
        f"all {group.num_remote_env_runners()} env runners died and none came back within {timeout_s:g} s; "
        "see their logs for the cause"
    )


def sampling_phase(iteration: int, inner_step: int) -> tuple[int, ...]:
    """Name of the random streams of one phase of a training iteration."""
    return (Phase.ROLLOUT, iteration, inner_step)
