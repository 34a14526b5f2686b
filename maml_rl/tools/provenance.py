"""Where a number comes from: the commit of this package, the machine, the versions of what it stands on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from maml_rl.tools.memory_size import total_memory

PACKAGES = ("maml-rl", "ray", "torch", "numpy", "gymnasium", "mujoco")
_SOURCES = Path(__file__).parents[2]
_GIT_TIMEOUT_S = 10


@cache
def provenance() -> dict[str, Any]:
    """Commit, machine and versions, as JSON holds them."""
    versions = {name: package_version(name) for name in PACKAGES}
    return {
        "commit": commit(_SOURCES),
        "machine": machine(),
        "versions": {**versions, "python": platform.python_version()},
    }


def commit(folder: Path) -> str | None:
    """The commit that a source tree is at, with ``-dirty`` where it was changed; None of what is no such tree."""
    if not (folder / ".git").exists():  # of an installed package git would name the repository around it
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GiB, and graphics processors by name."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_gib": round(total_memory() / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def package_version(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree, as a submitted job does
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # elsewhere the platform module knows; on Linux it does not
    if info.is_file():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
