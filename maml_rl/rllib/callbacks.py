"""RLlib's callbacks about environments and episodes, called where the episodes are collected.

Following episodes step by step costs more than collecting them: it is done only where somebody listens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils import force_list

from maml_rl.envs.rollout import State

_ABOUT_ENVIRONMENTS = ("on_environment_created",)
_ABOUT_EPISODES = (
    "on_episode_created",
    "on_episode_start",
    "on_episode_step",
    "on_episode_end",
    "on_sample_end",
)


class RunnerCallbacks:
    """A runner's callback objects and functions."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._objects: list[Any] = [cls() for cls in force_list(runner.config.callbacks_class)]
        self.listen = any(map(self._somebody_listens, _ABOUT_ENVIRONMENTS + _ABOUT_EPISODES))
        self.follow_episodes = any(map(self._somebody_listens, _ABOUT_EPISODES))

    def call(self, event: str, **kwargs: Any) -> None:
        """Tell ``event`` to everybody, with the runner and its metrics."""
        runner = self._runner
        make_callback(
            event,
            callbacks_objects=self._objects,
            callbacks_functions=getattr(runner.config, f"callbacks_{event}"),
            kwargs={"env_runner": runner, "metrics_logger": runner.metrics, **kwargs},
        )

    def environment_created(self) -> None:
        runner = self._runner
        context = EnvContext(
            runner.config.env_config,
            worker_index=runner.worker_index or 0,
            num_workers=runner.num_workers,
            remote=False,
        )
        self.call("on_environment_created", env=runner.env, env_context=context)

    def _somebody_listens(self, event: str) -> bool:
        given = force_list(getattr(self._runner.config, f"callbacks_{event}"))
        nothing = getattr(RLlibCallback, event)
        return bool(given) or any(getattr(type(obj), event, nothing) is not nothing for obj in self._objects)


class EpisodeFollower:
    """Shows a rollout of one task to the callbacks as RLlib's episodes, whose ``custom_data`` holds the task.

    One of the observers of ``rollout``.
    """

    def __init__(self, callbacks: RunnerCallbacks, runner: Any, task: Any, inner_step: int) -> None:
        self._callbacks = callbacks
        self._runner = runner
        env = runner.env
        self._in_box = isinstance(env.single_action_space, Box)
        self.episodes = [
            SingleAgentEpisode(
                observation_space=env.single_observation_space, action_space=env.single_action_space
            )
            for _ in range(env.num_envs)
        ]
        for k, episode in enumerate(self.episodes):
            episode.custom_data.update(task=task, inner_step=inner_step)
            self._call("on_episode_created", k)

    def __call__(self, state: State) -> None:
        infos = self._runner.env.infos
        step = state.step
        if step is None:
            for k, episode in enumerate(self.episodes):
                episode.add_env_reset(state.observations[k].copy(), infos[k])
                self._call("on_episode_start", k)
            return
        for k in np.flatnonzero(step.active).tolist():
            episode = self.episodes[k]
            episode.add_env_step(
                state.observations[k].copy(),
                # Numbers as the policy gave them, before scaling; categories and bits are the environment's anyway.
                (step.actions if self._in_box else step.env_actions)[k].copy(),
                float(step.rewards[k]),
                infos[k],
                terminated=bool(step.terminated[k]),
                truncated=bool(step.truncated[k]),
                extra_model_outputs={"actions_for_env": step.env_actions[k].copy()},
            )
            self._call("on_episode_step", k)
            if episode.is_done:
                self._call("on_episode_end", k, prev_episode_chunks=[])

    def _call(self, event: str, k: int, **kwargs: Any) -> None:
        runner = self._runner
        self._callbacks.call(
            event, episode=self.episodes[k], env=runner.env, env_index=k, rl_module=runner.module, **kwargs
        )
