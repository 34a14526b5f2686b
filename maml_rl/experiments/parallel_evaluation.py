"""``evaluation.evaluate`` as Ray tasks, a few held-out tasks each."""

from __future__ import annotations

from collections.abc import Callable

import ray
from ray.exceptions import RayTaskError

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.experiments.evaluation import TASKS_PER_CHUNK, AdaptationResult, Protocol, Tasks, evaluate
from maml_rl.tools.user_folder import work_in_users_folder


def evaluate_in_parallel(
    make_env: Callable[[], TaskVectorEnv],
    protocol: Protocol,
    tasks: Tasks,
    *,
    on_progress: Callable[[int], None] = lambda done: None,
) -> AdaptationResult:
    """The result of ``evaluate``, bit for bit, computed by all CPUs of the connected Ray.

    Args:
        make_env: makes the environment; called once per block of tasks, where that is evaluated.

    Raises:
        ValueError: there are no tasks.
        Exception: whatever the environment raised, as it is.
    """
    if len(tasks) == 0:
        raise ValueError("tasks is empty; evaluation needs at least one task")
    starts = range(0, len(tasks), TASKS_PER_CHUNK)
    stored = ray.put(protocol)
    blocks = [_evaluate_block.remote(make_env, stored, tasks[i : i + TASKS_PER_CHUNK], i) for i in starts]
    pending, done = list(blocks), 0
    while pending:
        ready, pending = ray.wait(pending)
        try:
            done += sum(result.returns.shape[1] for result in ray.get(ready))
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
        on_progress(done)
    return AdaptationResult.joined(ray.get(blocks))


@ray.remote
def _evaluate_block(
    make_env: Callable[[], TaskVectorEnv], protocol: Protocol, tasks: Tasks, first_task: int
) -> AdaptationResult:
    work_in_users_folder()
    env = make_env()
    try:
        return evaluate(env, protocol, tasks, first_task=first_task)
    finally:
        env.close()
