"""The files for clusters agree with the package: versions, commands, what travels."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import ROOT

from maml_rl.cli.app import main

DEPLOY = ROOT / "deploy"
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name != "log.md")  # of other versions
FILES = [ROOT / "cluster.yaml", ROOT / "README.md", *PAGES, *sorted(DEPLOY.iterdir())]


def pinned(package: str) -> str:
    (line,) = re.findall(rf"^{package}==(.*)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    return str(line)


def commands(text: str) -> Iterator[list[str]]:
    """Commands of ours that a file shows, without what stands for something else."""
    joined = re.sub(r"\\\n[#\s]*|\n\s+--", lambda m: " --" if "--" in m[0] else " ", text)
    for found in re.findall(r"(?:maml-rl|python -m maml_rl|slurm\.sh) ((?:train|search) [^'\n`#]*)", joined):
        words = shlex.split(found.replace("&&", "#").partition("#")[0])
        if not any("$" in word or word == "..." for word in words):
            yield words


def test_a_file_of_a_cluster_shows_commands() -> None:
    assert sum(len(list(commands(file.read_text()))) for file in FILES) > 15


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_commands_that_are_shown_are_commands(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(file.read_text()):
        with pytest.raises(SystemExit) as ended:  # the page of help comes after the options were understood
            main([*words, "--help"])
        assert ended.value.code == 0, words
        known = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"{option}\b", known), words


def test_versions_are_the_pinned_ones() -> None:
    ray = pinned("ray")
    for name in ("raycluster", "rayjob"):
        assert f'rayVersion: "{ray}"' in (DEPLOY / f"{name}.yaml").read_text()
    assert f"rayproject/ray:{ray}-py311-gpu" in (ROOT / "cluster.yaml").read_text()
    assert f"rayproject/ray:{ray}-py311-cpu" in (ROOT / "cluster.yaml").read_text()


def documents(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from documents(part)


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_pods_share_a_token_and_have_bounds(name: str) -> None:
    manifest = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text())
    (cluster,) = [part for part in documents(manifest) if "headGroupSpec" in part]
    assert cluster["authOptions"] == {"mode": "token"}
    containers = [c for part in documents(manifest) for c in part.get("containers", [])]
    assert len(containers) == 2
    assert all({"cpu", "memory"} == c["resources"]["limits"].keys() for c in containers)


def test_nodes_of_a_cloud_ask_for_the_token_and_get_no_data() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"].values()
    assert {"**/data/**", "**/runs/**", "**/.venv/**"} <= set(config["rsync_exclude"])


def test_the_script_for_slurm_is_one() -> None:
    result = subprocess.run(["bash", "-n", DEPLOY / "slurm.sh"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_the_image_is_made_of_files_that_are_there() -> None:
    copied = re.findall(r"^COPY (.*) \./", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert copied
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
