"""The documentation: tutorials are carried out, only with less to compute; pages are built without a warning."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from paths import ROOT
from ports import free_ports

from maml_rl.tools.user_folder import USER_FOLDER

pytestmark = pytest.mark.system

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
SMALL = {
    "maml-rl train": "--iterations 2 --meta-batch-size 2 --episodes-per-task 3 --horizon 8",
    "maml-rl search": "--iterations 2 --samples 2 --meta-batch-size 2 --episodes-per-task 3 --horizon 8",
    "maml-rl evaluate": "--tasks 2 --episodes 2 --num-workers 0",
    "supervised train": "--iterations 2 --validation-episodes 2 --validate-every 1 --report-every 1",
    "supervised evaluate": "--episodes 2",
}
"""Less of everything that is a number in a tutorial's commands."""


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """Language, title and text of each block."""
    for found in re.finditer(r"^```(\w+)(?: title=\"(.*?)\")?\n(.*?)^```$", page.read_text(), re.M | re.S):
        yield found[1], found[2] or "", found[3]


def small(command: str) -> str:
    """The command with less to compute."""
    joined = re.sub(r"\\\n\s*", "", command)
    lines = []
    for line in joined.splitlines():
        for start, options in SMALL.items():
            program, _, verb = start.partition(" ")
            if "--resume" in line or not re.search(rf"\b{program.replace('-', '.')} {verb}\b", line):
                continue
            for name, value in re.findall(r"(--[\w-]+) (\d+)", options):
                line = re.sub(rf" {name} [\d.]+", "", line) + f" {name} {value}"
        lines.append(line)
    return "\n".join(lines)


@pytest.fixture
def short_folder() -> Iterator[str]:
    """Ray's sockets need names of at most 107 characters, and pytest's folders are long."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(page: Path, tmp_path: Path, short_folder: str) -> None:
    found = list(blocks(page))
    assert any(language in ("bash", "python") for language, *_ in found)
    binaries = Path(sys.executable).parent
    # What a Ray that other tests started here tells its processes.
    hidden = ("RAY_", "__RAY_", "PYTHONPATH", USER_FOLDER)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    environment |= {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),
        "RAY_FOLDER": short_folder,
    }
    script = ["set -e"]
    ports: dict[str, str] = {}
    for number, (language, title, text) in enumerate(found):
        if language == "python" and title:
            (tmp_path / title).write_text(text)
        elif language == "python":
            program = tmp_path / f"block{number}.py"
            program.write_text(_fewer(text))
            script.append(f"python {program.name}")
        elif language == "bash":
            script.append(_with_a_ray_of_its_own(small(text), ports))
    with subprocess.Popen(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            told, _ = process.communicate(timeout=500)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # a cluster that it started, if it failed
    assert process.returncode == 0, told[-5000:]


def _with_a_ray_of_its_own(script: str, ports: dict[str, str]) -> str:
    """On free ports, and ended without ``ray stop``, which would end every Ray of the machine.

    Args:
        ports: shown -> free; filled where the Ray is started.
    """
    if "ray start --head" in script:
        port, dashboard, *others = free_ports(5)
        ports.update({"6399": str(port), "8299": str(dashboard)})
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port")
        options = " ".join(f"--{name} {value}" for name, value in zip(names, others, strict=True))
        wait = "until ray status --address 127.0.0.1:6399 > /dev/null 2>&1; do kill -0 $HEAD; sleep 1; done"
        start = rf"\1 {options} --temp-dir $RAY_FOLDER --block > ray.log 2>&1 &\nHEAD=$!\n{wait}"
        script = re.sub(r"^(ray start --head.*)$", start, script, flags=re.M)
    for shown, used in ports.items():
        script = script.replace(shown, used)
    return re.sub(r"^ray stop$", "kill $HEAD", script, flags=re.M)


def _fewer(program: str) -> str:
    """Two rounds of each loop that trains, and small batches."""
    program = re.sub(r"(for \w+ in range)\(\d+\):(\n\s+.*algo\.train)", r"\1(2):\2", program)
    training = "meta_batch_size=2, episodes_per_task=3, horizon=8"
    program = re.sub(r"point_nav\(\)", f"point_nav().training({training})", program)
    return re.sub(r"meta_batch_size=10, episodes_per_task=10, horizon=200", training, program)


def test_commands_of_a_tutorial_are_made_smaller() -> None:
    told = small("maml-rl train point-nav --iterations 60 --output runs/a\nmaml-rl plot runs/a\n")
    train, plot = told.splitlines()
    assert "--iterations 2" in train
    assert "60" not in train
    assert plot == "maml-rl plot runs/a"


def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the documentation's extra is not installed")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    configuration = (tmp_path / "site" / "reference" / "configuration.html").read_text()
    assert "meta_batch_size" in configuration
    assert "maml-rl tune-inner-lr" in (tmp_path / "site" / "reference" / "command-line.html").read_text()
    formulas = (tmp_path / "site" / "how" / "curvature.html").read_text()
    assert formulas.count("<math") > 10
    assert "arithmatex" not in formulas
    loaded = re.findall(r"(?:src|href)=\"(https?://[^\"]+\.(?:js|css|woff2?))\"", configuration)
    assert loaded == [], "pages are to be read without a network"
