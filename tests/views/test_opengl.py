"""OpenGL without a display: each backend is tried in a real process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_helpers import make_run

from maml_rl.cli.app import main
from maml_rl.envs.offscreen import RenderingError, choose_backend
from maml_rl.experiments.run import Run


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo appends its warnings to a log in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run")


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if no backend had been chosen yet."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    choose_backend.cache_clear()
    yield
    choose_backend.cache_clear()


def break_libraries(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the next processes find these libraries, but be unable to load them."""
    folder.mkdir()
    for name in names:
        for version in ("", ".0", ".1", ".2", ".6", ".8"):
            (folder / f"lib{name}.so{version}").write_text("")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))


linux = pytest.mark.skipif(sys.platform != "linux", reason="library names of Linux")


@linux
@pytest.mark.usefixtures("unset")
def test_no_opengl_names_the_packages_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", "ant-vel")
    break_libraries(tmp_path / "lib", monkeypatch, "EGL", "OSMesa")
    assert main(["video", str(run.path)]) == 2
    error = capsys.readouterr().err
    for part in (
        "MuJoCo cannot render offscreen (egl: ",
        "; osmesa: ",
        "libegl1",
        "libosmesa6",
        "mesa-libEGL",
    ):
        assert part in error
    assert error.count("\n") == 1


@linux
@pytest.mark.usefixtures("unset")
def test_osmesa_stands_in_for_egl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    try:
        assert choose_backend() == "osmesa"
    except RenderingError as error:
        pytest.skip(str(error))
    monkeypatch.delenv("MUJOCO_GL")
    choose_backend.cache_clear()
    break_libraries(tmp_path / "lib", monkeypatch, "EGL")
    assert choose_backend() == os.environ["MUJOCO_GL"] == "osmesa"


def test_nonsense_in_mujoco_gl_is_wrong_input(tmp_path: Path) -> None:
    """In a fresh process: MuJoCo itself refuses the value, less clearly, as soon as it is imported."""
    run = make_run(tmp_path / "run", "half-cheetah-vel")
    result = subprocess.run(
        [sys.executable, "-m", "maml_rl", "video", str(run.path)],
        capture_output=True,
        text=True,
        env={**os.environ, "MUJOCO_GL": "nonsense"},
    )
    assert result.returncode == 2, result.stderr
    assert "MUJOCO_GL is 'nonsense'; allowed: " in result.stderr
