"""The environment of a configuration, in whichever process: names of Ray Tune, ids of the driver."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.rllib.env.env_context import EnvContext
from ray.tune.registry import ENV_CREATOR, _global_registry

from maml_rl.envs import TaskVectorEnv
from maml_rl.envs.runner import EnvPlan
from maml_rl.tools.user_folder import work_in_users_folder


def find_env(env: Any) -> Any:
    """What a configuration's ``env`` stands for: for a name of Ray Tune's the function registered with it.

    Ray hands the function to every process of the cluster.
    """
    if isinstance(env, str) and _global_registry.contains(ENV_CREATOR, env):
        return RegisteredEnv(env)
    return env


class RegisteredEnv:
    """Calls what was registered with RLlib's one argument, the same on every runner: none may differ."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self._create = _global_registry.get(ENV_CREATOR, name)

    def __call__(self, **env_config: Any) -> Any:
        return self._create(EnvContext(env_config, worker_index=0))


def make_env(config: Any, episodes: int) -> TaskVectorEnv:
    """The environment of a ``MAMLConfig``, with so many copies."""
    return env_plan(config).make(episodes)


def env_plan(config: Any) -> EnvPlan:
    """How the environment of a ``MAMLConfig`` is made."""
    return EnvPlan(find_env(config.env), config.horizon, config.env_config, config._registered)


def reason_of_no_runner(config: Any) -> str:
    """Why no runner could start, from one more try in a process like theirs."""

    @ray.remote(num_cpus=0)  # others may have them all
    def try_to_make() -> None:
        work_in_users_folder()
        make_env(config, 1).close()

    try:
        ray.get(try_to_make.remote())
        reason = "their log files say why"
    except Exception as error:  # whatever the environment raises there
        cause = error.cause if isinstance(error, RayTaskError) else error
        reason = f"there the environment cannot be made: {type(cause).__name__}: {cause}"
    return f"env is {config.env!r}: it was made in this process, but no env runner could start; {reason}"
