"""The examples run, and their policies learn what their first lines promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

pytestmark = pytest.mark.system

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
IMPROVEMENT = {
    "dict_observation": (-13.0, -8.0),
    "discrete_actions": (60.0, 80.0),
    "image_observation": (-11.0, -8.0),
    "own_module": (-7.0, -4.0),
    "recurrent_policy": (-18.0, -13.0),
}
"""Returns after one gradient step: at first less than the one, in the end more than the other (means of three)."""


def returns(example: Path, *arguments: str) -> list[float]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    result = subprocess.run(
        [sys.executable, example, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return [float(line) for line in re.findall(r"^\d+: return \S+ -> ([^\s,]+)", result.stdout, re.MULTILINE)]


@pytest.mark.ray
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example: Path) -> None:
    assert len(returns(example, "--iterations", "2")) == 2


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("name", IMPROVEMENT)
def test_an_example_keeps_its_promise(name: str) -> None:
    assert sorted(IMPROVEMENT) == [path.stem for path in EXAMPLES]
    found = returns(ROOT / "examples" / f"{name}.py")
    first, last = IMPROVEMENT[name]
    assert sum(found[:3]) / 3 < first
    assert sum(found[-3:]) / 3 > last
