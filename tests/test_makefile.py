"""The Makefile's experiments: which runs they train, evaluate, publish and draw; the programs are stand-ins."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from paths import ROOT

from maml_rl.experiments.methods import METHODS
from maml_rl.experiments.presets import EXPERIMENTS
from supervised.experiments.config import METHODS as SUPERVISED_METHODS
from supervised.experiments.presets import PRESETS

PROGRAM = """#!/bin/sh
echo "$(basename $0) $*" >> calls.txt
[ "$1" = train ] && { while [ "$1" != --output ] && [ "$1" != --resume ]; do shift; done; mkdir -p $2; }
[ "$1" = train ] || touch $2/checkpoint.safetensors 2> /dev/null
exit 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The Makefile beside programs that only note how they were called."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "bin").mkdir()
    for name in ("maml-rl", "supervised", "python"):
        (tmp_path / "bin" / name).write_text(PROGRAM)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str) -> list[list[str]]:
    """The calls of programs that a target leads to."""
    (folder / "calls.txt").write_text("")
    command = ["make", "-o", ".venv/installed", "-o", "setup", "BIN=bin", *arguments]
    environment = {**os.environ, "SUPERVISED_OMNIGLOT": "here", "SUPERVISED_MINIIMAGENET": "there"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in (folder / "calls.txt").read_text().splitlines()]


def test_figure_4_trains_every_method_with_every_seed(folder: Path) -> None:
    calls = make(folder, "figure4", "SEEDS4=0 3")
    trained = {(c[2], c[c.index("--method") + 1], c[c.index("--seed") + 1]) for c in calls if c[1] == "train"}
    methods = ("maml", "first-order", "pretrained", "random", "oracle", "context-vector")
    assert trained == {("point-nav", method, seed) for method in methods for seed in "03"}
    evaluated = [c[2] for c in calls if c[1] == "evaluate"]
    assert len(set(evaluated)) == 12
    assert all("--publish" in c for c in calls if c[1] == "evaluate")
    assert calls[-2] == ["python", "results/render.py"]
    assert calls[-1][:2] == ["maml-rl", "plot"]
    assert set(evaluated) <= set(calls[-1])


def test_an_interrupted_run_is_gone_on_with(folder: Path) -> None:
    make(folder, "figure4", "SEEDS4=0")
    calls = make(folder, "figure4", "SEEDS4=0")
    trained = [c for c in calls if c[1] == "train"]
    assert len(trained) == 6
    assert all(c[2] == "--resume" for c in trained)


@pytest.mark.parametrize("target", ["figure5", "metaworld", "table1", "table2", "table3"])
def test_every_target_names_presets_and_methods_that_exist(folder: Path, target: str) -> None:
    trained = [c for c in make(folder, target, "SEEDS5=0") if c[1] == "train"]
    assert len(trained) > 3
    for program, _, preset, *rest in trained:
        method = rest[rest.index("--method") + 1]
        if program == "maml-rl":
            assert preset in EXPERIMENTS
            assert method in METHODS
        else:
            assert method in SUPERVISED_METHODS[PRESETS[preset].problem]


def test_meta_world_is_measured_after_one_step(folder: Path) -> None:
    for call in make(folder, "metaworld", "SEEDS5=0"):
        if call[1] == "evaluate":
            assert ("--steps" in call) == ("rl2" not in call[2])
