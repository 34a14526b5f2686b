"""Spaces of users' environments as the vectors that policies see, and policies' actions as theirs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.policies.acting import ActingPolicy
from maml_rl.policies.heads import BernoulliHead, CategoricalHead, GaussianHead, Head, StateGaussianHead
from maml_rl.policies.structure import Image, Leaf, Structure


class VectorBox(Box):
    """A box of vectors that stand for observations of another space.

    Attributes:
        original: that space.
        structure: how its observations lie in the vectors.
        images: the pictures in the vectors.
    """

    def __init__(
        self,
        low: np.ndarray,
        high: np.ndarray,
        dtype: Any,
        original: Space[Any],
        structure: Structure,
        images: tuple[Image, ...] = (),
    ) -> None:
        super().__init__(low, high, dtype=dtype)
        self.original, self.structure, self.images = original, structure, images


class FlatObservations:
    """Observations of a space as vectors.

    Boxes are flattened, those of bytes (images) divided by 255; Discrete and MultiDiscrete are one-hot, MultiBinary
    as it is; Dict and Tuple are the vectors of their parts one after the other, in Gymnasium's order.

    Attributes:
        box: the space of the vectors; boxes of bytes of two dimensions (height, width) or three (with channels,
            first or last) are pictures.

    Raises:
        ValueError: another kind of space.
    """

    def __init__(self, space: Space[Any]) -> None:
        self._part = _part(space, "")
        self._is_vector = (
            isinstance(space, Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)
        )
        if self._is_vector:
            self.box = self._part.space
        else:
            low, high = self._part.bounds()
            self.box = VectorBox(
                low.astype(np.float32),
                high.astype(np.float32),
                np.float32,
                space,
                self._part.structure(0),
                tuple(self._part.images(0)),
            )

    def __call__(self, observation: Any) -> np.ndarray:
        """The vector; raises ValueError, naming the part that is not of its space."""
        if self._is_vector:
            return self._part.array(observation)
        return self._part(observation).astype(np.float32)


def with_more_numbers(space: Box, more: int) -> Box:
    """Of vectors of ``space`` with ``more`` numbers behind them."""
    size = space.shape[0]
    bound = np.full(size + more, np.inf, space.dtype)
    if not isinstance(space, VectorBox):
        return Box(-bound, bound, dtype=bound.dtype.type)
    both = Tuple([space.original, Box(-np.inf, np.inf, (more,), np.float32)])
    structure = (space.structure, Leaf(size, (more,), more))
    return VectorBox(-bound, bound, space.dtype, both, structure, space.images)


class FlatActions:
    """Actions of task families, which are numbers or vectors, as those of a user's space.

    Attributes:
        space: of the flat actions: Discrete, or a box, MultiDiscrete or MultiBinary of one dimension.

    Raises:
        ValueError: another kind of space.
    """

    def __init__(self, space: Space[Any]) -> None:
        self._space = space
        if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
            self.space: Any = Box(space.low.reshape(-1), space.high.reshape(-1), dtype=space.low.dtype.type)
        elif isinstance(space, Discrete):
            self.space = space
        elif isinstance(space, MultiDiscrete):
            dtype: Any = space.dtype
            start = np.asarray(space.start).reshape(-1)
            self.space = MultiDiscrete(space.nvec.reshape(-1), dtype=dtype.type, start=start)
        elif isinstance(space, MultiBinary):
            self.space = MultiBinary(math.prod(space.shape))
        else:
            allowed = "a Box of floating-point numbers, Discrete, MultiDiscrete or MultiBinary"
            raise ValueError(f"is {space}; it must be {allowed}")

    def __call__(self, action: Any) -> Any:
        """The environment's action, inside its box: a rounding error may be left."""
        if isinstance(self.space, Box):
            action = np.clip(action, self.space.low, self.space.high)
        array = np.asarray(action).astype(self._space.dtype)
        return array[()] if isinstance(self.space, Discrete) else array.reshape(self._space.shape)


def head_of(space: Space[Any], *, initial_std: float = 1.0, min_std: float = 1e-6) -> Head:
    """The distribution of actions for a task family's action space."""
    if isinstance(space, Box):
        return GaussianHead(math.prod(space.shape), initial_std, min_std)
    if isinstance(space, MultiBinary):
        return BernoulliHead(math.prod(space.shape))
    return CategoricalHead(tuple(map(int, _counts(space))))


def misfit(policy: ActingPolicy, env: TaskVectorEnv) -> str | None:
    """Why a policy cannot act in an environment, or None."""
    size, needed = policy.observation_size, env.single_observation_space.shape[0]
    if size != needed:
        return f"the policy takes observations of {size} numbers, but those of the environment have {needed}"
    if not same_actions(policy.head, env.single_action_space):
        return (
            f"the policy's actions are {policy.head}, but those of the environment {env.single_action_space}"
        )
    return None


def same_actions(head: Head, space: Space[Any]) -> bool:
    """Whether a policy's actions are those of a space."""
    if isinstance(head, GaussianHead | StateGaussianHead):
        return isinstance(space, Box) and head.size == math.prod(space.shape)
    return head == head_of(space)


class ActionScale:
    """From actions of policies to those of task families, ``[..., actions]``.

    Components of a box that is bounded on both sides are scaled: policies act in [-1, 1] there. All others are as
    they are, and categories begin at their space's first one. The result is an array of its own, inside the space:
    what is not finite lies at the edge of a box or, where there is none, at 0, and is the first category.
    """

    def __init__(self, space: Space[Any]) -> None:
        self._is_box = isinstance(space, Box)
        if not self._is_box:
            self.bounded = np.ones(1, bool)
            self._dtype = space.dtype
            self._single = isinstance(space, Discrete)
            self._start = 0 if isinstance(space, MultiBinary) else np.asarray(space.start)  # type: ignore[attr-defined]
            return
        self.bounded = np.isfinite(space.low) & np.isfinite(space.high)  # type: ignore[attr-defined]
        self._low, self._high = space.low, space.high  # type: ignore[attr-defined]
        with np.errstate(invalid="ignore"):
            self._scale = np.where(self.bounded, (self._high - self._low) / 2, 1).astype(space.dtype)
            self._centre = np.where(self.bounded, (self._high + self._low) / 2, 0).astype(space.dtype)

    def inverse(self, actions: np.ndarray) -> np.ndarray:
        """Actions of policies, ``[..., actions]``, from those for the environment."""
        if not self._is_box:
            return (actions[..., None] if self._single else actions) - self._start
        return (actions - self._centre) / np.where(self._scale == 0, 1, self._scale)

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Actions for the environment."""
        if not self._is_box:
            chosen = np.where(np.isfinite(actions), actions, 0).astype(self._dtype)
            return (chosen[..., 0] if self._single else chosen) + self._start
        scaled = actions * self._scale
        scaled += self._centre
        np.fmin(np.fmax(scaled, self._low, out=scaled), self._high, out=scaled)
        if not self.bounded.all():
            scaled[~np.isfinite(scaled)] = 0
        return scaled


def _counts(space: Any) -> np.ndarray:
    """Categories of every variable of a Discrete or MultiDiscrete space."""
    return np.array([space.n]) if isinstance(space, Discrete) else space.nvec.reshape(-1)


# --- parts of observation spaces


class _Part(ABC):
    def __init__(self, space: Any, name: str) -> None:
        self.space, self._name = space, name

    @abstractmethod
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest vector."""

    @property
    def size(self) -> int:
        """Numbers of the vector."""
        return len(self.bounds()[0])

    def images(self, start: int) -> list[Image]:
        """The pictures in the vector, which begins at ``start``."""
        return []

    def structure(self, start: int) -> Structure:
        """Where in the vector, which begins at ``start``, everything lies."""
        return Leaf(start, (self.size,), self.size)

    @abstractmethod
    def __call__(self, value: Any) -> np.ndarray:
        """The vector of a value."""

    def array(self, value: Any) -> np.ndarray:
        """The value as an array of the space's shape."""
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise self.wrong(f"{value!r} is not an array") from error
        if array.shape != self.space.shape:
            raise self.wrong(f"has shape {array.shape}; it must be {self.space.shape}")
        if not np.can_cast(array.dtype, self.space.dtype, "same_kind"):
            raise self.wrong(f"has dtype {array.dtype}; it must be {self.space.dtype}")
        if not np.isfinite(array).all():
            raise self.wrong(f"{array} is not finite")
        return array

    def wrong(self, problem: str) -> ValueError:
        return ValueError(f"observation{self._name} {problem}")


class _Numbers(_Part):
    """A box."""

    def __init__(self, space: Box, name: str) -> None:
        super().__init__(space, name)
        self._is_image = bool(
            space.dtype == np.uint8 and (space.low == 0).all() and (space.high == 255).all()
        )
        self._scale = 1 / 255 if self._is_image else 1.0

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.space.low.reshape(-1) * self._scale, self.space.high.reshape(-1) * self._scale

    def structure(self, start: int) -> Structure:
        return Leaf(start, self.space.shape, self.size)

    def images(self, start: int) -> list[Image]:
        shape = self.space.shape
        if not self._is_image or len(shape) not in (2, 3):
            return []
        if len(shape) == 2:
            return [Image(start, (*shape, 1))]
        return [Image(start, shape, channels_first=shape[0] < min(shape[1:]))]

    def __call__(self, value: Any) -> np.ndarray:
        return self.array(value).reshape(-1) * self._scale


class _Binary(_Part):
    """Zeros and ones."""

    def structure(self, start: int) -> Structure:
        return Leaf(start, self.space.shape, self.size)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        size = int(np.prod(self.space.shape))
        return np.zeros(size), np.ones(size)

    def __call__(self, value: Any) -> np.ndarray:
        bits = self.array(value).reshape(-1)
        if not np.isin(bits, (0, 1)).all():
            raise self.wrong(f"{value!r} is not in {self.space}")
        return bits.astype(np.float32)


class _OneHot(_Part):
    """Categories, of which each has a place for every value."""

    def __init__(self, space: Discrete[Any] | MultiDiscrete, name: str) -> None:
        super().__init__(space, name)
        self._counts = _counts(space).astype(int)
        self._start = np.asarray(space.start).reshape(-1)
        self._offsets = np.concatenate([[0], np.cumsum(self._counts)[:-1]])

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        size = int(self._counts.sum())
        return np.zeros(size), np.ones(size)

    def __call__(self, value: Any) -> np.ndarray:
        chosen = self.array(value).reshape(-1) - self._start
        if (chosen < 0).any() or (chosen >= self._counts).any():
            raise self.wrong(f"{value!r} is not in {self.space}")
        vector = np.zeros(int(self._counts.sum()), np.float32)
        vector[self._offsets + chosen] = 1
        return vector


class _Parts(_Part):
    """A dictionary or tuple of spaces."""

    def __init__(self, space: Dict | Tuple, name: str) -> None:
        super().__init__(space, name)
        spaces: Any = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
        self._parts: dict[Any, _Part] = {key: _part(part, f"{name}[{key!r}]") for key, part in spaces}
        if not self._parts:
            raise ValueError(f"is {space}; it must hold at least one space")

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = zip(*(part.bounds() for part in self._parts.values()), strict=True)
        return np.concatenate(low), np.concatenate(high)

    def images(self, start: int) -> list[Image]:
        found: list[Image] = []
        for part in self._parts.values():
            found += part.images(start)
            start += part.size
        return found

    def structure(self, start: int) -> Structure:
        found = {}
        for key, part in self._parts.items():
            found[key] = part.structure(start)
            start += part.size
        return found if isinstance(self.space, Dict) else tuple(found.values())

    def __call__(self, value: Any) -> np.ndarray:
        kind: Any = Mapping if isinstance(self.space, Dict) else tuple | list
        if not isinstance(value, kind) or len(value) != len(self._parts):
            raise self.wrong(f"is {value!r}; it must be of {self.space}")
        try:
            return np.concatenate([part(value[key]) for key, part in self._parts.items()])
        except KeyError as error:
            raise self.wrong(f"has no {error}") from error


def _part(space: Any, name: str) -> _Part:
    if isinstance(space, Box):
        return _Numbers(space, name)
    if isinstance(space, MultiBinary):
        return _Binary(space, name)
    if isinstance(space, Discrete | MultiDiscrete):
        return _OneHot(space, name)
    if isinstance(space, Dict | Tuple):
        return _Parts(space, name)
    where = f"{name} " if name else ""
    allowed = "a Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these"
    raise ValueError(f"{where}is {space}; it must be {allowed}")
