"""Freed memory is kept: counted in page faults, in processes of their own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import numpy as np
from maml_rl.tools.memory import keep_freed_memory

if KEEP:
    keep_freed_memory()

def iterate():
    return [np.ones(2_000_000) for _ in range(4)]  # 16 MB each, freed at once

iterate()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    iterate()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep: bool) -> int:
    script = SCRIPT.replace("KEEP", str(keep))
    return int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_freed_memory_is_kept() -> None:
    assert page_faults(keep=True) < 0.2 * page_faults(keep=False)
