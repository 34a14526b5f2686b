"""A user's Gymnasium vector environment with ``sample_tasks`` and ``set_task`` as a task family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import iterate

from maml_rl.envs.gym_adapter import AdaptedEnv
from maml_rl.envs.spaces import FlatActions, FlatObservations


class VectorTaskEnv(AdaptedEnv):
    """A vector environment whose copies all face the task that its ``set_task`` was given.

    What it does with a copy whose episode is over does not matter, if it only goes on: by autoreset, Gymnasium's
    default. Every rollout begins with a reset of all copies, each with a seed of its own.

    Args:
        env: makes the environment, called with ``num_envs`` and the arguments in ``env_kwargs``.
        max_episode_steps: horizon H.
        kwargs: see ``TaskVectorEnv``.

    Raises:
        UserEnvError: here and in every method, when the environment raises or breaks the interface.
    """

    _autoreset_modes: ClassVar = (AutoresetMode.DISABLED,)

    def __init__(
        self,
        num_envs: int = 1,
        *,
        env: Callable[..., VectorEnv[Any, Any, Any]],
        name: str,
        max_episode_steps: int,
        env_kwargs: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._name = name
        if render_mode is not None:
            raise self._error("render", "vector environments are not filmed; give the class of a single one")
        try:
            made = env(num_envs=num_envs, **(env_kwargs or {}))
        except (Exception, SystemExit) as error:  # an environment that ends the process has failed
            raise self._error("__init__", f"raised {type(error).__name__}: {error}") from error
        if made.num_envs != num_envs:
            raise self._error("num_envs", f"is {made.num_envs}; it must be {num_envs}, as asked for")
        self._first = made
        self._check_has_tasks(made)
        self._flat_observations = self._flattened(
            FlatObservations, made.single_observation_space, "single_observation_space"
        )
        self._flat_actions = self._flattened(FlatActions, made.single_action_space, "single_action_space")
        super().__init__(
            num_envs,
            max_episode_steps=max_episode_steps,
            observation_space=self._flat_observations.box,
            action_space=self._flat_actions.space,
            task_space=self._find_task_space(made),
            **kwargs,
        )
        space = self.single_observation_space
        self._observations = np.zeros((num_envs, *space.shape), space.dtype)
        self._told: dict[str, Any] = {}

    # --- the task family

    def _set_task(self, task: Any) -> None:
        self._call(self._first, "set_task", task)

    def _reset(self, mask: np.ndarray) -> None:
        if not mask.all():
            raise ValueError(f"{self._name}.reset: all copies are reset together, not those of a mask")
        seeds = [int(generator.integers(2**31)) for generator in self._generators]
        result = self._call(self._first, "reset", seed=seeds)
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._error("reset", f"returned {result!r}, not (observations, infos)")
        self._keep("reset", *result, mask)

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        result = self._call(self._first, "step", np.stack([self._flat_actions(action) for action in actions]))
        if not isinstance(result, tuple) or len(result) != 5:
            expected = "(observations, rewards, terminations, truncations, infos)"
            raise self._error("step", f"returned {result!r}, not {expected}")
        observations, rewards, terminated, truncated, infos = result
        self._keep("step", observations, infos, active)
        rewards = self._one_each("rewards", rewards, "biuf").astype(np.float64)
        if not np.isfinite(rewards[active]).all():
            raise self._error("step", f"rewards are {rewards}; they must be finite")
        ended = self._one_each("terminations", terminated, "b") | self._one_each(
            "truncations", truncated, "b"
        )
        return np.where(active, rewards, 0), ended

    @property
    def infos(self) -> Sequence[dict[str, Any]]:
        """Of every copy, from Gymnasium's arrays; the array behind an underscore says which copies told a value."""
        arrays = {name: value for name, value in self._told.items() if isinstance(value, np.ndarray)}
        everybody = np.ones(self.num_envs, bool)
        return [
            {
                name: value[k]
                for name, value in arrays.items()
                if not name.startswith("_") and arrays.get(f"_{name}", everybody)[k]
            }
            for k in range(self.num_envs)
        ]

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment."""
        if first := getattr(self, "_first", None):
            self._call(first, "close")

    # --- checks

    def _keep(self, method: str, observations: Any, infos: Any, active: np.ndarray) -> None:
        """Copies that stand still keep what they saw last."""
        self._told = self._check_info(method, infos)
        try:
            each = list(iterate(self._first.observation_space, observations))
        except (TypeError, ValueError, KeyError, IndexError) as error:
            problem = f"observations {observations!r} are not of {self._first.observation_space}"
            raise self._error(method, problem) from error
        if len(each) != self.num_envs:
            raise self._error(method, f"returned {len(each)} observations for {self.num_envs} copies")
        for k in np.flatnonzero(active):
            self._observations[k] = self._check_observation(method, each[k])

    def _one_each(self, what: str, values: Any, kinds: str) -> np.ndarray:
        array = np.asarray(values)
        if array.shape != (self.num_envs,) or array.dtype.kind not in kinds:
            raise self._error(
                "step",
                f"{what} are {values!r}; they must be an array with one for each of {self.num_envs} copies",
            )
        return array
