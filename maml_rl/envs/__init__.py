"""Task families, registered as Gymnasium vector environments: ``make_vec("maml_rl/PointNav-v0")``.

Wherever a configuration names an environment, it may be the id of a registered task family, an id behind the
module that registers it (``"my_module:my_namespace/MyEnv-v0"``, as in ``gymnasium.make``), or the import path
of a class (``"my_module:MyTaskEnv"``): a ``TaskVectorEnv``, any Gymnasium vector environment with ``sample_tasks``
and ``set_task`` (``vector_adapter``), or any ``gymnasium.Env`` with these, which ``gym_adapter`` then steps one
copy after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.gym_adapter import GymTaskEnv, UserEnvError
from maml_rl.envs.naming import check_may_import, find_target, is_own
from maml_rl.envs.oracle import TaskInObservation
from maml_rl.envs.point_nav import PointNav
from maml_rl.envs.trials import TRIAL_EPISODES, TrialEnv
from maml_rl.envs.vector_adapter import VectorTaskEnv
from maml_rl.tools.checks import COUNT, checked, did_you_mean

__all__ = [
    "GymTaskEnv",
    "PointNav",
    "TaskInObservation",
    "TaskVectorEnv",
    "UserEnvError",
    "VectorTaskEnv",
    "check_env_name",
    "check_may_import",
    "make_task_env",
]

TASK_IN_OBSERVATION = "task_in_observation"
"""Key of ``env_config`` that every environment takes: append the task's features to the observation."""
OF_METHODS = (TASK_IN_OBSERVATION, TRIAL_EPISODES)
"""Keys of ``env_config`` that say what a method is shown, and not which environment it is."""

gymnasium.register(id="maml_rl/PointNav-v0", vector_entry_point="maml_rl.envs.point_nav:PointNav")
for _family in ("HalfCheetahVel", "HalfCheetahDir", "AntVel", "AntDir"):
    gymnasium.register(f"maml_rl/{_family}-v0", vector_entry_point=f"maml_rl.envs.locomotion:{_family}")
gymnasium.register(id="maml_rl/Bandit-v0", vector_entry_point="maml_rl.envs.bandit:Bandit")
gymnasium.register(id="maml_rl/TabularMDP-v0", vector_entry_point="maml_rl.envs.tabular_mdp:TabularMDP")
gymnasium.register(id="maml_rl/VisualNav-v0", vector_entry_point="maml_rl.envs.visual_nav:VisualNav")
# These need an extra: the module says so when it is missing.
for _family in ("MetaWorldML1", "MetaWorldML10", "MetaWorldML45", "MetaWorldFamilies"):
    gymnasium.register(f"maml_rl/{_family}-v0", vector_entry_point=f"maml_rl.envs.metaworld:{_family}")


def check_env_name(name: Any) -> Callable[..., TaskVectorEnv]:
    """What makes the environment called ``name``, or given as a class or function.

    Raises:
        ValueError: there is none, or the package it needs is not installed; the message says what there is.
    """
    try:
        target = find_target(name)
    except ValueError as error:
        known = sorted(filter(is_own, gymnasium.registry))
        hint = did_you_mean(name, known, cutoff=0.5)
        raise ValueError(f"{error}{hint}; there are {', '.join(known)}, or module:Class") from error
    if isinstance(target, str):
        family = gymnasium.registry[target].vector_entry_point
        target = load_env_creator(family) if isinstance(family, str) else family
    if isinstance(target, type) and issubclass(target, TaskVectorEnv):
        return target
    if isinstance(target, type) and issubclass(target, VectorEnv):
        return partial(VectorTaskEnv, env=target, name=str(getattr(name, "__name__", name)))
    return partial(GymTaskEnv, env=name)


def make_task_env(
    name: Any,
    episodes: int,
    horizon: int,
    env_config: dict[str, Any] | None = None,
    render_mode: str | None = None,
) -> TaskVectorEnv:
    """The environment a rollout needs: ``episodes`` copies, horizon ``horizon``, autoreset disabled.

    Args:
        env_config: further arguments of the environment's constructor, and ``task_in_observation``: whether
            the observation tells the task, as to the paper's oracle (default False); and ``trial_episodes``: an
            episode is a trial of so many, and the observation tells the step before (default: it is not).
        render_mode: ``rgb_array`` to take pictures with ``render``.

    Raises:
        ValueError: unknown environment, an argument it refuses, or one that cannot be rendered.
        UserEnvError: an adapted environment cannot be made or lacks a method.
    """
    family = check_env_name(name)
    arguments = dict(env_config or {})
    tell_task = arguments.pop(TASK_IN_OBSERVATION, False)
    if not isinstance(tell_task, bool):
        raise ValueError(f"{TASK_IN_OBSERVATION} is {tell_task!r}; it must be True or False")
    episodes_of_trial = arguments.pop(TRIAL_EPISODES, None)
    if episodes_of_trial is not None:
        checked(TRIAL_EPISODES, episodes_of_trial, COUNT)
    if isinstance(family, partial):
        arguments = {"env_kwargs": arguments}
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    try:
        env = family(
            num_envs=episodes,
            max_episode_steps=horizon,
            autoreset_mode=AutoresetMode.DISABLED,
            **arguments,
        )
    except TypeError as error:
        raise ValueError(f"env_config is {env_config!r}, which {name} refuses: {error}") from error
    env = TaskInObservation(env) if tell_task else env
    return env if episodes_of_trial is None else TrialEnv(env, episodes_of_trial)
