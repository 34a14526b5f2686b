"""The import boundaries of the architecture, checked in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
WITHOUT_RAY = (*MATHS, "envs", "evaluation", "plots", "policy_file", "rollout", "run_directory")


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
