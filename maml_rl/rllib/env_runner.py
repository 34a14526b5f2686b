"""RLlib's ``EnvRunner`` around ``envs.runner``, and its group of runners."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.rllib.algorithms import algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.checkpoints import Checkpointable

from maml_rl.envs.rollout import State
from maml_rl.envs.runner import RolloutSummary, RunnerPlan, TaskBlock, TaskRunner
from maml_rl.learning.trajectories import Trajectories
from maml_rl.rllib.callbacks import EpisodeFollower, RunnerCallbacks
from maml_rl.rllib.env_registry import env_plan, make_env
from maml_rl.tools.user_folder import work_in_users_folder

logger = logging.getLogger("maml_rl")


class NoRunnerError(RuntimeError):
    """No env runner could start."""


class MAMLEnvRunner(TaskRunner, EnvRunner, Checkpointable):
    """The runner in the driver's process; of remote ones those that callbacks listen to."""

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        EnvRunner.__init__(self, config=config, **kwargs)
        work_in_users_folder()
        self.module = None
        self.callbacks = RunnerCallbacks(self)
        self.make_env()

    def make_env(self) -> None:
        config = self.config
        env = make_env(config, config.episodes_per_task)
        policy = config.policy_spec(env.single_observation_space, env.single_action_space)
        self._begin(env, policy.in_rollouts(), config.gamma)
        self.callbacks.environment_created()

    def sample(
        self, block: TaskBlock, params: dict[str, np.ndarray]
    ) -> tuple[RolloutSummary, list[Trajectories]]:
        self._followed: list[EpisodeFollower] = []
        summary, trajectories = super().sample(block, params)
        if self.callbacks.follow_episodes:
            episodes = [episode.to_numpy() for follower in self._followed for episode in follower.episodes]
            self.callbacks.call("on_sample_end", samples=episodes)
        return replace(summary, metrics=self.metrics.reduce()), trajectories

    def _followers(self, task: Any, inner_step: int) -> list[Callable[[State], None]]:
        if not self.callbacks.follow_episodes:
            return []
        self._followed.append(EpisodeFollower(self.callbacks, self, task, inner_step))
        return [self._followed[-1]]

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {"config": self.config}


class RunnerGroup(EnvRunnerGroup):
    """RLlib's group, whose remote runners load neither RLlib nor torch where nobody needs them.

    The driver's own runner is made first, and knows the policy; the others start while the learner does.
    """

    def _setup(self, *, num_env_runners: int = 0, **kwargs: Any) -> None:
        if not issubclass(self.env_runner_cls, MAMLEnvRunner):
            super()._setup(num_env_runners=num_env_runners, **kwargs)
            return
        super()._setup(**kwargs)
        self.add_workers(num_env_runners, validate=False)

    def _make_worker(self, *, worker_index: int, num_workers: int, **kwargs: Any) -> Any:
        local, config = self._local_env_runner, self._remote_config
        if worker_index == 0:
            num_workers = config.num_env_runners
        if not isinstance(local, MAMLEnvRunner) or local.callbacks.listen:
            return super()._make_worker(worker_index=worker_index, num_workers=num_workers, **kwargs)
        plan = RunnerPlan(env_plan(config), config.episodes_per_task, local.policy, config.gamma)
        in_group = ray.util.get_current_placement_group() is not None
        actor = ray.remote(**self._remote_args)(TaskRunner).options(
            placement_group_bundle_index=self._pg_offset + worker_index if in_group else -1
        )
        return actor.remote(plan, config.seed + worker_index)

    def get_spaces(self) -> Any:
        """As all runners have them."""
        return self.local_env_runner.get_spaces()

    def await_runners(self) -> None:
        """Wait until all have started.

        Raises:
            NoRunnerError: none could, or one could not and failures are not to be ignored.
        """
        if not self._remote_config.validate_env_runners_after_construction:
            return
        for result in self._worker_manager.foreach_actor(lambda runner: runner.assert_healthy()):
            if not result.ok:
                logger.error("an env runner did not start: %s", result.get())
                if not self._ignore_ray_errors_on_env_runners:
                    raise NoRunnerError(result.get())
        if self.num_remote_env_runners() and not self.num_healthy_remote_workers():
            raise NoRunnerError


@contextmanager
def runners_of_our_own() -> Iterator[None]:
    """RLlib's ``Algorithm.setup`` names the class of its group; within this block it is ``RunnerGroup``."""
    original = algorithm.EnvRunnerGroup
    algorithm.EnvRunnerGroup = RunnerGroup
    try:
        yield
    finally:
        algorithm.EnvRunnerGroup = original
