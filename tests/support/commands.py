"""``maml-rl`` as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from paths import SUPPORT

TINY = [
    *("--meta-batch-size", "3", "--episodes-per-task", "3", "--horizon", "10", "--cg-iterations", "2"),
    *("--hidden-sizes", "8", "8", "--num-env-runners", "0"),
]


def maml_rl(
    *arguments: str | Path | int, timeout: float = 300, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with a Ray of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(SUPPORT)  # for the environments of the tests
    return subprocess.run(
        [sys.executable, "-m", "maml_rl", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        cwd=cwd,
    )
