"""Task families, registered as Gymnasium vector environments: ``gymnasium.make_vec("maml_rl/PointNav-v0")``."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.point_nav import PointNav

__all__ = ["PointNav", "TaskVectorEnv", "check_env_name", "make_task_env"]

gymnasium.register(id="maml_rl/PointNav-v0", vector_entry_point="maml_rl.envs.point_nav:PointNav")


def task_env_names() -> list[str]:
    """Registered environments that come with a vector entry point in the namespace ``maml_rl``."""
    return sorted(name for name, spec in gymnasium.registry.items() if spec.namespace == "maml_rl")


def check_env_name(name: Any) -> None:
    """Raise ValueError unless ``name`` is a registered environment with a vector entry point."""
    spec = gymnasium.registry.get(name) if isinstance(name, str) else None
    if spec is None or spec.vector_entry_point is None:
        close = difflib.get_close_matches(str(name), task_env_names(), n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(
            f"environment is {name!r}{hint}; it must be a registered task family: {', '.join(task_env_names())}"
        )


def make_task_env(
    name: str, episodes: int, horizon: int, env_config: dict[str, Any] | None = None
) -> TaskVectorEnv:
    """The environment a rollout needs: ``episodes`` copies, horizon ``horizon``, autoreset disabled.

    Args:
        env_config: further arguments of the environment's constructor.

    Raises:
        ValueError: unknown environment, or an argument it refuses.
    """
    check_env_name(name)
    try:
        env = gymnasium.make_vec(
            name,
            num_envs=episodes,
            max_episode_steps=horizon,
            autoreset_mode=AutoresetMode.DISABLED,
            **(env_config or {}),
        )
    except TypeError as error:
        raise ValueError(f"env_config is {env_config!r}, which {name} refuses: {error}") from error
    if not isinstance(env, TaskVectorEnv):
        raise ValueError(f"{name} makes a {type(env).__name__}, which is not a TaskVectorEnv")
    return env
