"""Blocks of tasks handed out to the runners; what comes back does not depend on who computed what."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from maml_rl.envs.runner import RolloutSummary, TaskBlock
from maml_rl.learning.task_tree import share_out
from maml_rl.learning.trajectories import Trajectories
from maml_rl.policies.normalizer import Normalizer
from maml_rl.rllib.activity import Activity
from maml_rl.rllib.runner_pool import RunnerPool
from maml_rl.tools.time_limit import time_limit

logger = logging.getLogger("maml_rl")


class Block(NamedTuple):
    """Trajectories of consecutive tasks: a reference into the object store, or the list itself."""

    tasks: range
    trajectories: ray.ObjectRef | list[Trajectories]


Collected: TypeAlias = tuple[RolloutSummary, ray.ObjectRef]

BLOCKS_PER_RUNNER = 4
STRAGGLER = 2.0
"""A block that takes this many times the median of the others is given to an idle runner, too."""
STRAGGLER_S = 1.0
"""But not within so many seconds: starting anew costs something."""


def collect(
    pool: RunnerPool,
    tasks: np.ndarray,
    params: dict[str, np.ndarray],
    *,
    seed: int,
    phase: tuple[int, ...],
    timeout_s: float,
    normalizer: Normalizer | None = None,
    learners: int = 1,
    activity: Activity | None = None,
) -> tuple[list[RolloutSummary], list[Block]]:
    """Roll out all tasks on the runners; summaries and trajectory blocks in task order.

    The result does not depend on the number of runners or on which of them ran what. A block lost with its
    runner is run again on another one.

    Args:
        learners: a block is one learner's alone.
        activity: to be told what the cluster does.

    Raises:
        RuntimeError: every runner died and none came back.
        TimeoutError: no runner finished a block within ``timeout_s``.
        Exception: whatever the environment raised, as it is.
    """
    activity = activity or Activity()
    shares = [share.own for share in share_out(len(tasks), learners)]
    if len(pool) == 0:
        with time_limit(timeout_s, _no_end(timeout_s, range(len(tasks)))):
            summary, trajectories = pool.local.sample(TaskBlock(0, tasks, seed, phase, normalizer), params)
        activity.block_s.append((summary.seconds, 0))
        activity.runner_s += summary.seconds
        if learners <= 1:
            return [summary], [Block(range(len(tasks)), trajectories)]
        return [summary], [Block(own, ray.put(trajectories[own.start : own.stop])) for own in shares]

    size = -(-len(tasks) // (BLOCKS_PER_RUNNER * len(pool)))
    parts = [own[i : i + size] for own in shares for i in range(0, len(own), size)]
    blocks = [TaskBlock(p.start, tasks[p.start : p.stop], seed, phase, normalizer) for p in parts]
    started, restarts = time.monotonic(), pool.restarts
    done = _Dispatch(pool, blocks, ray.put(params), timeout_s, activity)()
    activity.runner_s += len(pool) * (time.monotonic() - started)
    activity.runner_restarts += pool.restarts - restarts
    activity.bytes_moved += sum(summary.bytes for summary, _ in done)
    activity.bytes_moved += min(len(pool), len(blocks)) * sum(value.nbytes for value in params.values())
    results = [Block(part, trajectories) for part, (_, trajectories) in zip(parts, done, strict=True)]
    return [summary for summary, _ in done], results


@dataclass(frozen=True)
class _Running:
    """A block on a runner."""

    actor_id: int
    index: int
    trajectories: ray.ObjectRef
    since: float


class _Dispatch:
    """One phase: hand out all blocks, wait for all results."""

    def __init__(
        self,
        pool: RunnerPool,
        blocks: Sequence[TaskBlock],
        params: ray.ObjectRef,
        timeout_s: float,
        activity: Activity,
    ) -> None:
        self._activity = activity
        self._pool, self._blocks, self._params = pool, blocks, params
        self._timeout_s = timeout_s
        self._pending = list(reversed(range(len(blocks))))
        self._running: dict[ray.ObjectRef, _Running] = {}
        self._done: dict[int, Collected] = {}
        self._seconds: list[float] = []

    def __call__(self) -> list[Collected]:
        last_news = time.monotonic()
        while len(self._done) < len(self._blocks):
            self._pool.look()
            self._hand_out()
            limit_s = self._timeout_s if self._running else self._pool.recovery_s
            left_s = last_news + limit_s - time.monotonic()
            if left_s <= 0:
                raise self._no_news()
            if self._wait(min(left_s, self._next_look_s())):
                last_news = time.monotonic()
        for summary, running in self._running.items():
            self._pool.leave_behind(running.actor_id, summary)
        return [self._done[index] for index in range(len(self._blocks))]

    def _hand_out(self) -> None:
        ready = self._pool.ready()
        busy = [running.actor_id for running in self._running.values()]
        # A second block waits at a runner for the end of the first; but the last ones wait for no slow runner.
        for most in (1, 2):
            for actor_id, actor in ready.items():
                enough = len(self._pending) > (0 if most == 1 else len(ready))
                if enough and busy.count(actor_id) < most:
                    self._start(actor_id, actor, self._pending.pop())
                    busy.append(actor_id)
        idle = [actor_id for actor_id in ready if actor_id not in busy]
        for actor_id, index in zip(idle, self._stragglers(), strict=False):
            logger.info("tasks of block %d are run a second time: the first one is slow", index)
            self._activity.reissued_blocks += 1
            self._start(actor_id, ready[actor_id], index)

    def _start(self, actor_id: int, actor: ray.actor.ActorHandle, index: int) -> None:
        method = actor.sample.options(num_returns=2)
        summary, trajectories = method.remote(self._blocks[index], self._params)
        self._running[summary] = _Running(actor_id, index, trajectories, time.monotonic())

    def _stragglers(self) -> list[int]:
        """Blocks without a result that run once and for long, the slowest first."""
        if self._pending or not self._seconds:
            return []
        indices = [running.index for running in self._running.values()]
        limit_s = max(STRAGGLER_S, STRAGGLER * statistics.median(self._seconds))
        slow = [
            running
            for running in self._running.values()
            if running.index not in self._done
            and indices.count(running.index) == 1
            and time.monotonic() - running.since > limit_s
        ]
        return [running.index for running in sorted(slow, key=lambda running: running.since)]

    def _next_look_s(self) -> float:
        """How long to wait at most, with nothing to do but what takes time."""
        if not self._running:
            return 0.1
        return 0.2 if not self._pool.complete or not self._pending else self._timeout_s

    def _wait(self, seconds: float) -> bool:
        """Whether there is a result; take it in."""
        if not self._running:
            time.sleep(max(0.0, seconds))
            return False
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        if not ready:
            return False
        running = self._running.pop(ready[0])
        try:
            summary = ray.get(ready[0])
        except RayActorError as error:
            name = type(error).__name__
            logger.warning("env runner %d died (%s); its tasks are run again", running.actor_id, name)
            self._pool.lose(running.actor_id)
            self._activity.lost_blocks += 1
            elsewhere = [other.index for other in self._running.values()]
            if running.index not in self._done and running.index not in elsewhere:
                self._pending.append(running.index)
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
        else:
            self._seconds.append(time.monotonic() - running.since)
            self._activity.block_s.append((summary.seconds, running.actor_id))
            self._done.setdefault(running.index, (summary, running.trajectories))
        return True

    def _no_news(self) -> Exception:
        if self._running:
            blocks = [self._blocks[running.index] for running in self._running.values()]
            tasks = {block.first + i for block in blocks for i in range(len(block.tasks))}
            return TimeoutError(_no_end(self._timeout_s, sorted(tasks)))
        return RuntimeError(
            f"all {len(self._pool)} env runners died and none came back within {self._pool.recovery_s:g} s; "
            "see their logs for the cause"
        )


def _no_end(timeout_s: float, tasks: Sequence[int]) -> str:
    numbers = ", ".join(map(str, tasks[:8])) + (", ..." if len(tasks) > 8 else "")
    return (
        f"no env runner finished a rollout within sample_timeout_s={timeout_s:g} s; the environment's step or "
        f"reset may hang (tasks {numbers})"
    )
