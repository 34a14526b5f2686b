"""Spaces of users' environments as the vectors that policies see, and policies' actions as theirs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple


class FlatObservations:
    """Observations of a space as vectors.

    Boxes are flattened, those of bytes (images) divided by 255; Discrete and MultiDiscrete are one-hot, MultiBinary
    as it is; Dict and Tuple are the vectors of their parts one after the other, in Gymnasium's order.

    Attributes:
        box: the space of the vectors.

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
            self.box = Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def __call__(self, observation: Any) -> np.ndarray:
        """The vector; raises ValueError, naming the part that is not of its space."""
        if self._is_vector:
            return self._part.array(observation)
        return self._part(observation).astype(np.float32)


class FlatActions:
    """Vectors of policies as actions of a box of any shape, which may be unbounded."""

    def __init__(self, space: Space[Any]) -> None:
        if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"is {space}; it must be a Box of floating-point numbers")
        self._space = space
        self.box = Box(space.low.reshape(-1), space.high.reshape(-1), dtype=space.low.dtype.type)

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """The environment's action, inside its box: a rounding error may be left."""
        action = np.clip(vector, self.box.low, self.box.high)
        return action.astype(self._space.dtype).reshape(self._space.shape)


class ActionScale:
    """From policy units to an action box: [-1, 1] where that is bounded; elsewhere actions are as they are."""

    def __init__(self, box: Box) -> None:
        self.bounded = np.isfinite(box.low) & np.isfinite(box.high)
        with np.errstate(invalid="ignore"):
            self._scale = np.where(self.bounded, (box.high - box.low) / 2, 1).astype(box.dtype)
            self._centre = np.where(self.bounded, (box.high + box.low) / 2, 0).astype(box.dtype)
        self._low, self._high = box.low, box.high

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """``[..., act]``, clipped into the box; what is not finite lies at its edge or, where there is none, at 0.

        The result is an array of its own.
        """
        scaled = actions * self._scale
        scaled += self._centre
        np.fmin(np.fmax(scaled, self._low, out=scaled), self._high, out=scaled)
        if not self.bounded.all():
            scaled[~np.isfinite(scaled)] = 0
        return scaled


# --- parts of observation spaces


class _Part(ABC):
    def __init__(self, space: Any, name: str) -> None:
        self.space, self._name = space, name

    @abstractmethod
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest vector."""

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
        is_image = space.dtype == np.uint8 and (space.low == 0).all() and (space.high == 255).all()
        self._scale = 1 / 255 if is_image else 1.0

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.space.low.reshape(-1) * self._scale, self.space.high.reshape(-1) * self._scale

    def __call__(self, value: Any) -> np.ndarray:
        return self.array(value).reshape(-1) * self._scale


class _Binary(_Part):
    """Zeros and ones."""

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
        counts = np.array([space.n]) if isinstance(space, Discrete) else space.nvec.reshape(-1)
        self._counts = counts.astype(int)
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
