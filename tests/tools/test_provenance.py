"""Commit, machine and versions are those of this source tree, and absent where there are none."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy
import pytest

from maml_rl.tools.provenance import commit, machine, provenance


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_commit_is_that_of_the_tree_and_says_whether_it_was_changed(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "a.txt").write_text("a")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "--quiet", "--message", "a")
    git(tmp_path, "tag", "v1")  # a tag is not what names a commit here
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == head[:10]
    (tmp_path / "a.txt").write_text("b")
    assert commit(tmp_path) == f"{head[:10]}-dirty"


def test_a_package_inside_another_repository_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "site-packages").mkdir()
    assert commit(tmp_path / "site-packages") is None


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "--quiet")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path) is None


def test_the_machine_is_this_one() -> None:
    told = machine()
    assert told["cores"] == len(os.sched_getaffinity(0))
    assert (
        0.1 < told["memory_gib"] * 2**30 / (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) <= 1.01
    )
    assert told["processor"]
    assert provenance()["versions"]["numpy"] == numpy.__version__
    json.dumps(provenance(), allow_nan=False)
