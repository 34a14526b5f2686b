"""How pictures, dictionaries, tuples and arrays of any shape lie in the vectors that policies get."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Array: TypeAlias = Any
"""Of numpy, or a tensor of torch, which is not imported here: runners of numpy policies do without it."""


@dataclass(frozen=True)
class Image:
    """Where in the vector of an observation a picture lies.

    Attributes:
        start: its first number.
        shape: ``(height, width, channels)``, or ``(channels, height, width)`` if ``channels_first``.
    """

    start: int
    shape: tuple[int, int, int]
    channels_first: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def chw(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        a, b, c = self.shape
        return (a, b, c) if self.channels_first else (c, a, b)

    def of(self, observations: Array) -> Array:
        """The pictures ``[..., channels, height, width]`` of observations, as views."""
        part = observations[..., self.start : self.start + self.size]
        picture = part.reshape(*part.shape[:-1], *self.shape)
        return picture if self.channels_first else picture.swapaxes(-1, -2).swapaxes(-2, -3)


@dataclass(frozen=True)
class Leaf:
    """Consecutive numbers of the vector, from ``start`` on, that are an array of ``shape``."""

    start: int
    shape: tuple[int, ...]
    size: int


Structure: TypeAlias = Leaf | Mapping[str, Any] | tuple[Any, ...]
"""A leaf, or a dictionary or tuple of structures."""


def structured(structure: Structure, vectors: Array) -> Any:
    """The observations ``[..., *shape]`` that lie in ``vectors [..., observation]``, as views."""
    if isinstance(structure, Leaf):
        part = vectors[..., structure.start : structure.start + structure.size]
        return part.reshape(*vectors.shape[:-1], *structure.shape)
    if isinstance(structure, Mapping):
        return {key: structured(part, vectors) for key, part in structure.items()}
    return tuple(structured(part, vectors) for part in structure)
