"""The import boundaries of the architecture, checked in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import supervised

MATHS = (
    "advantages",
    "batch",
    "curvature",
    "losses",
    "meta_learner",
    "meta_update",
    "parallel",
    "policy",
    "trpo",
)
WITHOUT_RAY = (
    *MATHS,
    "envs",
    "evaluation",
    "files",
    "interruption",
    "plots",
    "policy_file",
    "progress",
    "rollout",
    "run_directory",
)


def modules_after_importing(names: list[str]) -> set[str]:
    code = f"import sys, importlib; [importlib.import_module(n) for n in {names!r}]; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in result.stdout.split()}


def test_only_the_ray_skin_imports_ray() -> None:
    assert "ray" not in modules_after_importing([f"maml_rl.{name}" for name in WITHOUT_RAY])


def test_maths_imports_no_environments() -> None:
    assert "gymnasium" not in modules_after_importing([f"maml_rl.{name}" for name in MATHS])


def test_importing_the_package_is_light() -> None:
    assert not modules_after_importing(["maml_rl"]) & {"ray", "torch", "matplotlib"}


@pytest.mark.parametrize("module", ["maml_rl.meta_learner"])
def test_meta_learner_knows_no_rl(module: str) -> None:
    loaded = modules_after_importing([module])
    assert not loaded & {"gymnasium", "ray", "mujoco"}


def test_supervised_knows_neither_ray_nor_rl() -> None:
    folder = Path(supervised.__file__).parent
    names = [f"supervised.{file.stem}" for file in folder.glob("*.py") if not file.stem.startswith("__")]
    assert "supervised.tuning" in names  # imports Ray in its one function only
    loaded = modules_after_importing(["supervised", *names])
    assert not loaded & {"ray", "gymnasium", "mujoco"}
