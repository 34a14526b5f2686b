"""A local Ray serves its own process and nobody else, and its processes import nothing from the present folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from maml_rl.tools.ray_start import start_ray
from maml_rl.tools.run_directory import RunError

OWNER = """
import os, sys
from maml_rl.tools.ray_start import start_ray
start_ray(None, 1)
import ray

@ray.remote
def task():
    import jinja2
    return os.getcwd(), jinja2.__file__

print(ray.get_runtime_context().gcs_address, *ray.get(task.remote()), flush=True)
sys.stdin.readline()
"""
STRANGER = """
import sys, ray

@ray.remote
def task():
    return "ran"

ray.init(address=sys.argv[1], log_to_driver=False)
print(ray.get(task.remote()))
"""


def without_ray_settings(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | more


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A process with a local Ray, in a folder with a trap; its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "jinja2.py").write_text("raise RuntimeError('imported from the present folder')\n")
    (folder / "home").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=without_ray_settings(HOME=str(folder / "home")),
    )
    assert process.stdout is not None
    yield folder, process.stdout.readline().split()
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


def test_own_tasks_run_and_import_nothing_from_the_present_folder(owner: tuple[Path, list[str]]) -> None:
    folder, (_, cwd, jinja) = owner
    assert Path(cwd) != folder
    assert not Path(jinja).is_relative_to(folder)


def test_nothing_is_written_to_the_home_folder(owner: tuple[Path, list[str]]) -> None:
    assert not list((owner[0] / "home").iterdir())


def test_strangers_are_refused(owner: tuple[Path, list[str]]) -> None:
    settings: tuple[dict[str, str], ...] = (
        {},
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
    )
    strangers = [  # at the same time: Ray tries for twenty seconds
        subprocess.Popen(
            [sys.executable, "-c", STRANGER, owner[1][0]],
            env=without_ray_settings(HOME=str(owner[0] / "home"), **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for more in settings
    ]
    for process in strangers:
        output, errors = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "ran" not in output
        assert "token" in errors.lower()


def test_a_machine_too_busy_to_start_ray_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", busy)
    monkeypatch.setattr(os, "environ", without_ray_settings(RAY_AUTH_MODE="disabled"))
    with pytest.raises(RunError, match="when this machine has less to do"):
        start_ray(None)
