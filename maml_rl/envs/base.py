"""The interface of a task family: all episodes of one task advance in one call."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, SupportsIndex

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class TaskVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """A Gymnasium vector environment whose copies all face the same, exchangeable task.

    Actions are those of a box, Discrete, or MultiDiscrete or MultiBinary of one dimension.

    A task family implements ``sample_tasks``, ``_set_task``, ``_reset`` and ``_step``; horizon, masks, seeding
    and autoreset are done here once. Every copy draws from a generator of its own, seeded by ``seed + index``
    as in Gymnasium's vector environments, so a batch of K copies equals K single ones.

    With ``AutoresetMode.DISABLED`` (what rollouts use) a copy whose episode is over stands still: its
    observation stays, its reward is 0, and it remains done. With ``NEXT_STEP`` (Gymnasium's default) the step
    after the last one resets the copy and ignores its action.

    Args:
        num_envs: number of copies.
        max_episode_steps: horizon H; an episode that reaches it is truncated.
        autoreset_mode: ``NEXT_STEP`` or ``DISABLED``.
        render_mode: ``rgb_array`` where ``metadata["render_modes"]`` holds it: ``render`` then draws every copy.
    """

    task_space: gymnasium.Space[Any]
    single_observation_space: gymnasium.spaces.Box
    single_action_space: gymnasium.Space[Any]
    reports_info: bool = False
    """Whether ``infos`` may tell anything."""
    diverged_episodes: int = 0
    """Episodes, since construction, that ended because the simulation left the finite numbers."""
    trial_episodes: int = 1
    """Episodes that an episode consists of, where it is a trial of several: see ``trials``."""
    render_size: tuple[int, int] = (480, 360)
    """Width and height in pixels of what ``render`` draws; to be set before the first call."""
    _autoreset_modes: ClassVar[tuple[AutoresetMode, ...]] = (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED)

    def __init__(
        self,
        num_envs: int,
        *,
        max_episode_steps: int,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.Space[Any],
        task_space: gymnasium.Space[Any],
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("max_episode_steps", max_episode_steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a positive integer")
        mode = AutoresetMode(autoreset_mode)
        if mode not in self._autoreset_modes:
            allowed = ", ".join(m.value for m in self._autoreset_modes)
            raise ValueError(f"autoreset_mode is {mode.value!r}; allowed: {allowed}")
        modes = self.metadata.get("render_modes", ())
        if render_mode not in (None, *modes):
            allowed = ", ".join(modes) or "none, the environment draws no pictures"
            raise ValueError(f"{self._title()}: render_mode is {render_mode!r}; allowed: {allowed}")
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.task_space = task_space
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "autoreset_mode": mode}
        self._mode = mode
        if isinstance(action_space, gymnasium.spaces.Box):
            # Scaling and clipping in float32 can leave an action a rounding error outside the box.
            bounded = action_space.bounded_below & action_space.bounded_above
            margin = np.zeros_like(action_space.low)
            margin[bounded] = 1e-6 * (action_space.high[bounded] - action_space.low[bounded])
            self._low, self._high = action_space.low - margin, action_space.high + margin
        self._task: Any = None
        self._generators: list[np.random.Generator] = []
        self._elapsed = np.zeros(num_envs, np.int64)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)
        self._started = False

    # --- what a task family implements

    @abstractmethod
    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """``n`` tasks drawn from the family's distribution, stacked along the first axis."""

    def task_features(self, task: Any) -> np.ndarray:
        """What of ``task`` the reward depends on, as a vector: all of it unless a family knows better.

        Raises:
            ValueError: tasks of this family are not numbers.
        """
        try:
            return np.asarray(task, np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self._title()}.task_features: task is {task!r}, not numbers: it cannot be part of an "
                "observation"
            ) from error

    def _title(self) -> str:
        """The environment's name in messages."""
        return type(self).__name__

    def _set_task(self, task: Any) -> None:
        """Take over a validated task. It changes rewards (and termination), nothing else."""

    @abstractmethod
    def _reset(self, mask: np.ndarray) -> None:
        """Bring the copies marked in ``mask`` to an initial state, drawing from ``self._generators``."""

    @abstractmethod
    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance the copies marked in ``active``; rewards and terminations ``[num_envs]`` (others ignored)."""

    @abstractmethod
    def _observe(self) -> np.ndarray:
        """Observations ``[num_envs, obs]`` of the present state, as an array the caller may keep."""

    @property
    def infos(self) -> Sequence[dict[str, Any]]:
        """What every copy said beside observation and reward, at its last reset or step."""
        return [{}] * self.num_envs

    @property
    def episode_numbers(self) -> np.ndarray:
        """``[num_envs]``, the episode of each copy's trial that its last step belonged to."""
        return np.zeros(self.num_envs, np.int64)

    @property
    def running_episodes(self) -> np.ndarray:
        """``[num_envs]``, the episode of each copy's trial that its next step belongs to."""
        return np.zeros(self.num_envs, np.int64)

    def describe_task(self) -> str:
        """The present task in a few words, for captions."""
        return f"task {self._task}"

    def _render(self, copy: int) -> np.ndarray:
        """A picture ``[height, width, 3]`` (uint8) of a copy; for families that list ``rgb_array``."""
        raise NotImplementedError

    # --- Gymnasium's interface

    @property
    def task(self) -> Any:
        """The present task, or None before the first ``set_task`` or ``reset``."""
        return self._task

    def set_task(self, task: Any) -> None:
        """Make ``task`` the task of all copies from the next step on.

        Raises:
            ValueError: the task is not an element of ``task_space``.
        """
        value = task
        if isinstance(self.task_space, gymnasium.spaces.Box):
            value = np.asarray(task, dtype=self.task_space.dtype)
        if not self.task_space.contains(value):
            raise ValueError(f"{self._title()}.set_task: task is {task!r}; allowed: {self.task_space}")
        self._task = value
        self._set_task(value)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: copy k draws from a generator seeded with ``seed + k``, or with ``seed[k]``; None goes on
                with the present generators.
            options: ``{"reset_mask": bool array [num_envs]}`` resets only the marked copies.
        """
        mask = np.ones(self.num_envs, bool)
        if options and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"], bool)
            if mask.shape != (self.num_envs,):
                raise ValueError(f"reset: reset_mask has shape {mask.shape}; it must be ({self.num_envs},)")
        self._seed(seed, mask)
        if self._task is None:
            # From a stream of its own: a seed must mean the same to the copies on every reset.
            entropy = self._generators[0].bit_generator.seed_seq.entropy  # type: ignore[attr-defined]
            task_seed = np.random.SeedSequence(entropy, spawn_key=(1,))
            self.set_task(self.sample_tasks(1, np.random.default_rng(task_seed))[0])
        self._begin(mask)
        self._started = True
        return self._observe(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance all copies whose episodes run; see the class for what finished copies do."""
        if not self._started:
            raise gymnasium.error.ResetNeeded(f"{self._title()}.step was called before reset")
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape:
            raise ValueError(
                f"{self._title()}.step: actions have shape {actions.shape}; "
                f"they must be {self.action_space.shape}"
            )
        if not self._are_allowed(actions):
            raise ValueError(
                f"{self._title()}.step: actions must lie in {self.single_action_space}; got {actions}"
            )
        done = self._terminated | self._truncated
        any_done = bool(done.any())
        active = ~done if any_done else done | True
        rewards, terminated = self._step(actions, active)
        self._elapsed += active
        if any_done:
            rewards = np.where(active, rewards, 0)
            terminated = np.where(active, terminated, self._terminated)
            if self._mode is AutoresetMode.NEXT_STEP:
                self._terminated = terminated & active
                self._truncated = np.zeros(self.num_envs, bool)
                self._begin(done)
                terminated = self._terminated
        self._terminated = terminated
        self._truncated = (self._elapsed >= self.max_episode_steps) & ~terminated
        return self._observe(), rewards, self._terminated, self._truncated, {}

    def render(self) -> tuple[Any, ...] | None:
        """A picture ``[height, width, 3]`` (uint8) of every copy; None without a ``render_mode``."""
        return None if self.render_mode is None else tuple(self._render(k) for k in range(self.num_envs))

    # --- shared machinery

    def _are_allowed(self, actions: np.ndarray) -> bool:
        if isinstance(self.single_action_space, gymnasium.spaces.Box):
            # Written so that NaN is refused too.
            return bool((actions >= self._low).all() and (actions <= self._high).all())
        return self.action_space.contains(actions)

    def _begin(self, mask: np.ndarray) -> None:
        self._elapsed[mask] = 0
        self._terminated = self._terminated & ~mask
        self._truncated = self._truncated & ~mask
        self._reset(mask)

    def _seed(self, seed: int | Sequence[int | None] | None, mask: np.ndarray) -> None:
        seeds: list[int | None]
        if seed is None or isinstance(seed, SupportsIndex):
            seeds = [None if seed is None else operator.index(seed) + k for k in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"reset: {len(seeds)} seeds were given for {self.num_envs} copies")
        if not self._generators:
            self._generators = [np.random.default_rng(s) for s in seeds]
            return
        for k, copy_seed in enumerate(seeds):
            if copy_seed is not None and mask[k]:
                self._generators[k] = np.random.default_rng(copy_seed)
