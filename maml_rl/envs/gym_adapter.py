"""Any single-episode ``gymnasium.Env`` with ``sample_tasks`` and ``set_task`` as a task family."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import gymnasium
import numpy as np

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.naming import find_factory
from maml_rl.envs.offscreen import choose_backend
from maml_rl.envs.spaces import FlatActions, FlatObservations

Env = gymnasium.Env[Any, Any]
_Flat = TypeVar("_Flat", FlatObservations, FlatActions)


class UserEnvError(RuntimeError):
    """A user's environment broke the interface; the message names the environment and the method."""


class AnyTask(gymnasium.Space[Any]):
    """The space of all Python objects: what a task is, only the environment knows."""

    def contains(self, x: Any) -> bool:
        """Always true."""
        return True


class AdaptedEnv(TaskVectorEnv):
    """What adapters of users' environments have in common: names in errors, tasks, spaces as vectors."""

    reports_info = True
    _name: str
    _first: Any
    """The environment that draws the tasks."""
    _flat_observations: FlatObservations
    _flat_actions: FlatActions
    _observations: np.ndarray

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """The environment's array ``[n, ...]``, or an array ``[n]`` of the objects it gave instead."""
        tasks = self._call(self._first, "sample_tasks", n, rng)
        try:
            count = len(tasks)
        except TypeError as error:
            raise self._error("sample_tasks", f"returned {tasks!r}, not a sequence of tasks") from error
        if count != n:
            raise self._error("sample_tasks", f"returned {count} tasks where {n} were asked for")
        return tasks if isinstance(tasks, np.ndarray) else np.fromiter(tasks, object, count)

    def _observe(self) -> np.ndarray:
        return self._observations.copy()

    def _title(self) -> str:
        return self._name

    def _error(self, method: str, problem: str) -> UserEnvError:
        return UserEnvError(f"{self._name}.{method}: {problem}")

    def _call(self, env: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return _find(env, method)(*args, **kwargs)
        except (Exception, SystemExit) as error:
            raise self._error(method, f"raised {type(error).__name__}: {error}") from error

    def _check_has_tasks(self, env: Any) -> None:
        for method in ("sample_tasks(n, rng)", "set_task(task)"):
            name = method.partition("(")[0]
            if not callable(_find(env, name)):
                raise self._error(name, f"is missing; a task environment needs {method}")

    def _find_task_space(self, env: Any) -> gymnasium.Space[Any]:
        space = _find(env, "task_space")
        if space is None:
            return AnyTask()
        if not isinstance(space, gymnasium.Space):
            raise self._error("task_space", f"is {space!r}; it must be a gymnasium.Space")
        return space

    def _flattened(self, flatten: Callable[[Any], _Flat], space: Any, name: str) -> _Flat:
        try:
            return flatten(space)
        except ValueError as error:
            raise self._error(name, str(error)) from error

    def _check_observation(self, method: str, observation: Any) -> np.ndarray:
        try:
            return self._flat_observations(observation)
        except ValueError as error:
            raise self._error(method, str(error)) from error

    def _check_info(self, method: str, info: Any) -> dict[str, Any]:
        if not isinstance(info, dict):
            raise self._error(method, f"info is {info!r}; it must be a dictionary")
        return info


class GymTaskEnv(AdaptedEnv):
    """K instances of a user's environment, stepped one after the other.

    The environment, or a wrapper around it, offers beside Gymnasium's interface

    - ``sample_tasks(n, rng)``: ``n`` tasks, as an array ``[n, ...]`` or a sequence of any objects, drawn from
      the ``numpy.random.Generator`` given;
    - ``set_task(task)``: from the next reset on, the environment is that of ``task``;
    - optionally ``task_space``: a Gymnasium space that tasks are checked against.

    Observations are boxes of any shape and type, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these:
    policies see them as vectors (``spaces.FlatObservations``). Actions are boxes of floats, scaled where they are
    bounded on both sides, Discrete, MultiDiscrete or MultiBinary. An episode that the environment truncates counts
    as terminated; one that it never ends is truncated at the horizon.

    Args:
        env: what makes an instance: a class or function, ``"module:attribute"`` that names one, or the id of
            a registered environment. A time limit that comes with the id gives way to ``max_episode_steps``.
        max_episode_steps: horizon H.
        env_kwargs: arguments of ``env``.
        render_mode: given on to ``env``, which is to offer ``rgb_array`` in its metadata as Gymnasium's do.
        kwargs: see ``TaskVectorEnv``.

    Raises:
        UserEnvError: here and in every method, when the environment raises or breaks the interface.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        env: str | Callable[..., Env],
        max_episode_steps: int,
        env_kwargs: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._name = env if isinstance(env, str) else getattr(env, "__name__", repr(env))
        if render_mode is not None:
            env_kwargs = {**(env_kwargs or {}), "render_mode": render_mode}
        self._first = first = self._make(env, env_kwargs)
        self.metadata = {**self.metadata, **first.metadata}
        self._flat_observations = self._flattened(
            FlatObservations, first.observation_space, "observation_space"
        )
        self._flat_actions = self._flattened(FlatActions, first.action_space, "action_space")
        super().__init__(
            num_envs,
            max_episode_steps=max_episode_steps,
            observation_space=self._flat_observations.box,
            action_space=self._flat_actions.space,
            task_space=self._find_task_space(first),
            render_mode=render_mode,
            **kwargs,
        )
        self._envs = [first, *(self._make(env, env_kwargs) for _ in range(num_envs - 1))]
        for other in self._envs[1:]:
            for name in ("observation_space", "action_space"):
                if getattr(other, name) != getattr(first, name):
                    raise self._error(name, "differs between two instances")
        space = self.single_observation_space
        self._observations = np.zeros((num_envs, *space.shape), space.dtype)
        self._infos: list[dict[str, Any]] = [{}] * num_envs

    @property
    def envs(self) -> Sequence[Env]:
        """The instances."""
        return self._envs

    # --- the task family

    def _set_task(self, task: Any) -> None:
        for env in self._envs:
            self._call(env, "set_task", task)

    def _reset(self, mask: np.ndarray) -> None:
        for k in np.flatnonzero(mask):
            seed = int(self._generators[k].integers(2**31))
            result = self._call(self._envs[k], "reset", seed=seed)
            if not isinstance(result, tuple) or len(result) != 2:
                raise self._error("reset", f"returned {result!r}, not (observation, info)")
            self._observations[k] = self._check_observation("reset", result[0])
            self._infos[k] = self._check_info("reset", result[1])

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rewards = np.zeros(self.num_envs)
        ended = np.zeros(self.num_envs, bool)
        for k in np.flatnonzero(active):
            result = self._call(self._envs[k], "step", self._flat_actions(actions[k]))
            if not isinstance(result, tuple) or len(result) != 5:
                expected = "(observation, reward, terminated, truncated, info)"
                raise self._error("step", f"returned {result!r}, not {expected}")
            observation, reward, terminated, truncated, info = result
            self._observations[k] = self._check_observation("step", observation)
            rewards[k] = self._check_reward(reward)
            ended[k] = self._check_flag("terminated", terminated) or self._check_flag("truncated", truncated)
            self._infos[k] = self._check_info("step", info)
        return rewards, ended

    @property
    def infos(self) -> Sequence[dict[str, Any]]:
        return self._infos

    def _render(self, copy: int) -> np.ndarray:
        from PIL import Image, ImageOps  # runners draw nothing

        if "mujoco" in sys.modules:  # the environment may be one of Gymnasium's MuJoCo family
            choose_backend()
        frame = self._call(self._envs[copy], "render")
        if (
            not isinstance(frame, np.ndarray)
            or frame.ndim != 3
            or frame.shape[2] != 3
            or frame.dtype != np.uint8
        ):
            raise self._error("render", f"returned {frame!r}, not an image [height, width, 3] of uint8")
        # Its own size is the environment's business: the picture is fitted into the size asked for.
        return np.asarray(ImageOps.pad(Image.fromarray(frame), self.render_size, color="white"))

    def close_extras(self, **kwargs: Any) -> None:
        """Close all instances."""
        for env in getattr(self, "_envs", ()):
            self._call(env, "close")

    # --- checks

    def _make(self, env: str | Callable[..., Env], kwargs: Mapping[str, Any] | None) -> Env:
        factory = find_factory(env)
        try:
            positional, keywords = _arguments(factory, kwargs or {})
            made = factory(*positional, **keywords)
        except (Exception, SystemExit) as error:  # an environment that ends the process has failed
            problem = f"no instance could be made: {type(error).__name__}: {error}"
            if kwargs and "render_mode" in kwargs:
                problem += " (to be rendered, an environment takes the argument render_mode='rgb_array')"
            raise self._error("__init__", problem) from error
        if not isinstance(made, gymnasium.Env):
            raise self._error("__init__", f"made a {type(made).__name__}, which is not a gymnasium.Env")
        self._check_has_tasks(made)
        return made

    def _check_reward(self, reward: Any) -> float:
        if np.ndim(reward) or np.asarray(reward).dtype.kind not in "biuf":
            raise self._error("step", f"reward is {reward!r}; it must be a single number")
        if not np.isfinite(float(reward)):
            raise self._error("step", f"reward is {reward}; it must be finite")
        return float(reward)

    def _check_flag(self, name: str, flag: Any) -> bool:
        if not isinstance(flag, bool | np.bool_):
            raise self._error("step", f"{name} is {flag!r}; it must be a bool")
        return bool(flag)


def _arguments(
    factory: Callable[..., Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Positional and keyword arguments: RLlib's environments take all they are told in one dictionary."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # of what is written in C
        return (), kwargs
    names = [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
    return ((dict(kwargs),), {}) if names in (["config"], ["env_config"]) else ((), kwargs)


def _find(env: Any, name: str) -> Any:
    """The attribute of the environment or of a wrapper around it, or None."""
    if isinstance(env, gymnasium.Env):
        try:
            return env.get_wrapper_attr(name)
        except AttributeError:
            return None
    found = getattr(env, name, None)  # vector wrappers hand methods of the environment on
    return getattr(env.unwrapped, name, None) if found is None else found
