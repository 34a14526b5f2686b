"""What is distributed: the wheel, installed elsewhere, does what the clone does; what is said about it is so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from commands import TINY
from paths import ROOT

pytestmark = pytest.mark.system

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*words: object, cwd: Path) -> str:
    hidden = ("PYTHONPATH", "RAY_ADDRESS", "VIRTUAL_ENV")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, made from it as for a release."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and this one's other packages."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    # A path alone: the editable installation there, which is a hook, is not looked at.
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = built.glob("*.whl")
    install = ("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    where = run(
        python, "-c", "import maml_rl, supervised; print(maml_rl.__file__, supervised.__file__)", cwd=folder
    )
    assert where.count(str(site)) == 2
    return folder / "env" / "bin"


def test_the_installed_programs_train_evaluate_and_report(installed: Path, tmp_path: Path) -> None:
    program = installed / "maml-rl"
    run(program, "train", "point-nav", *TINY, "--iterations", 1, "--output", "run", cwd=tmp_path)
    run(program, "evaluate", "run", "--tasks", 2, "--num-workers", 0, cwd=tmp_path)
    run(program, "report", "run", cwd=tmp_path)
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    told = json.loads((tmp_path / "run" / "config.json").read_text())
    assert told["versions"]["maml-rl"] == PROJECT["version"]
    assert told["commit"] is None  # an installed package is no source tree
    few = ("--tasks", 2, "--episodes", 2, "--num-workers", 0, "--json")
    assert json.loads(run(program, "evaluate", "ant-dir", "--pretrained", *few, cwd=tmp_path))["tasks"] == 2


def test_the_installed_supervised_trains(installed: Path, tmp_path: Path) -> None:
    program = installed / "supervised"
    few = ("--iterations", 2, "--validation-episodes", 2)
    run(program, "train", "sinusoid", *few, "--output", "run", cwd=tmp_path)
    run(program, "evaluate", "run", "--episodes", 2, cwd=tmp_path)


def test_both_distributions_hold_all_of_the_packages_and_nothing_else(built: Path) -> None:
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "maml_rl", "supervised"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = set(tracked.stdout.split())
    in_wheel = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert in_wheel == files
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    assert files <= in_source
    assert {"LICENSE", "README.md", "pyproject.toml"} <= in_source


def test_versions_agree() -> None:
    version = PROJECT["version"]
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.M)
    newest = re.search(r"^## ([\d.]+) \(\d{4}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] == version


def test_no_requirement_stands_twice_and_every_one_is_pinned() -> None:
    def name(requirement: str) -> str:
        found = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert found is not None
        return found[0].lower().replace("_", "-")

    names = [name(requirement) for requirement in PROJECT["dependencies"]]
    assert len(set(names)) == len(names)
    pinned = {name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    for requirement in PROJECT["dependencies"]:
        assert name(requirement) in pinned, requirement
        assert ">=" in requirement, requirement
