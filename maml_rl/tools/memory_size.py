"""How much memory there is, and the refusal of what needs more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container's limit is told, by version of control groups."""


def total_memory() -> int:
    """Bytes of memory that this process can ever have: the machine's, or its container's limit."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, _LIMITS):
        if path.is_file() and (limit := path.read_text().strip()).isdigit():
            sizes.append(int(limit))
    return min(sizes)


def in_words(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.3g} {unit}"


class Need(NamedTuple):
    """What needs memory.

    Attributes:
        what: in words.
        fields: that make it so large, with their values.
        size: bytes.
    """

    what: str
    fields: str
    size: float


def check_fits(needs: list[Need], there: float) -> None:
    """Refuse what does not fit into ``there`` bytes, each need for itself.

    Raises:
        ValueError: naming the fields, what they need and what is there.
    """
    for what, fields, size in needs:
        if size > there:
            raise ValueError(
                f"{fields}: {what} alone need {in_words(size)} of memory, and the largest machine has "
                f"{in_words(there)}"
            )
