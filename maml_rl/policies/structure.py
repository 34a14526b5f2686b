"""How observations that are dictionaries, tuples or arrays of any shape lie in the vectors that policies get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor


@dataclass(frozen=True)
class Leaf:
    """Consecutive numbers of the vector, from ``start`` on, that are an array of ``shape``."""

    start: int
    shape: tuple[int, ...]
    size: int


Structure: TypeAlias = Leaf | Mapping[str, Any] | tuple[Any, ...]
"""A leaf, or a dictionary or tuple of structures."""


def structured(structure: Structure, vectors: Tensor) -> Any:
    """The observations ``[..., *shape]`` that lie in ``vectors [..., observation]``, as views."""
    if isinstance(structure, Leaf):
        part = vectors[..., structure.start : structure.start + structure.size]
        return part.reshape(*vectors.shape[:-1], *structure.shape)
    if isinstance(structure, Mapping):
        return {key: structured(part, vectors) for key, part in structure.items()}
    return tuple(structured(part, vectors) for part in structure)
