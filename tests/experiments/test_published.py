"""``evaluate --publish`` of both programs: what differs from the preset, the commands, and the values measured."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, maml_rl

from maml_rl.cli.app import main
from maml_rl.tools.published import Published
from supervised.cli.app import main as supervised
from supervised.learning.trainer import MetaTrainer, StepReport


def test_an_evaluation_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained = maml_rl(
        *("train", "point-nav", *TINY, "--iterations", 2, "--seed", 4, "--output", "run"), cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    options = ["--tasks", "2", "--episodes", "3", "--steps", "1", "--num-workers", "0"]
    assert main(["evaluate", "run", *options]) == 0
    assert not (tmp_path / "results").exists()
    assert main(["evaluate", "run", *options, "--publish"]) == 0
    (path,) = (tmp_path / "results").iterdir()
    found = Published.load(path)
    assert (found.program, found.preset, found.method, found.seed) == ("maml-rl", "point-nav", "maml", 4)
    assert found.settings["hidden_sizes"] == [8, 8]
    assert found.settings["iterations"] == 2
    assert "gamma" not in found.settings
    assert found.protocol == {"episodes": 3, "tasks": 2}
    train, evaluate = found.commands
    assert "--hidden-sizes 8 8" in train
    assert "--seed 4 --output RUN" in train
    assert evaluate == "maml-rl evaluate RUN --steps 1 --episodes 3 --tasks 2"
    measured = json.loads((tmp_path / "run" / "adaptation.json").read_text())
    np.testing.assert_allclose(found.rows["return"], measured["returns"], rtol=1e-5)
    assert found.training["env_steps"] == 2 * 2 * 3 * 3 * 10  # iterations, phases, tasks, episodes, steps
    # A run that went on is one of as many iterations as it has, and no other result's file is replaced by its.
    assert main(["train", "--resume", "run", "--iterations", "3", "--num-env-runners", "0"]) == 0
    assert main(["evaluate", "run", *options, "--publish"]) == 0
    (longer,) = (Published.load(p) for p in (tmp_path / "results").iterdir() if p != path)
    assert longer.settings == {**found.settings, "iterations": 3}
    assert "--iterations 3" in longer.commands[0]


def test_an_evaluation_of_a_shipped_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--tasks", "2", "--episodes", "2", "--steps", "0", "--num-workers", "0"]
    assert main(["evaluate", "point-nav", "--pretrained", "--publish", *few]) == 0
    (path,) = (tmp_path / "results").iterdir()
    found = Published.load(path)
    assert found.settings == {"policy": "shipped"}
    assert len(found.commands) == 1


def test_an_evaluation_of_a_supervised_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--iterations", "2", "--validation-episodes", "2", "--hidden-sizes", "8"]
    assert supervised(["train", "sinusoid", *few, "--output", "run"]) == 0
    assert supervised(["evaluate", "run", "--episodes", "3", "--publish"]) == 0
    (path,) = (tmp_path / "results").iterdir()
    found = Published.load(path)
    assert (found.program, found.preset, found.method) == ("supervised", "sinusoid", "maml")
    assert found.settings == {"iterations": 2, "validation_episodes": 2, "hidden_sizes": [8]}
    for option in ("--output RUN", "--iterations 2", "--validation-episodes 2", "--hidden-sizes 8"):
        assert option in found.commands[0]
    assert set(found.rows) == {"5-shot", "10-shot", "20-shot"}
    assert found.rows["5-shot"].shape == (11, 3)
    assert supervised(["train", "--resume", "run", "--iterations", "3"]) == 0
    assert supervised(["evaluate", "run", "--episodes", "3", "--publish"]) == 0
    (longer,) = (Published.load(p) for p in (tmp_path / "results").iterdir() if p != path)
    assert longer.settings == {**found.settings, "iterations": 3}


@pytest.mark.parametrize("decay", [False, True])
def test_an_interrupted_supervised_run(decay: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has ended between two rows of its progress; with a step size that decays it is no shorter run."""
    monkeypatch.chdir(tmp_path)
    often = ["--report-every", "2", "--validate-every", "2"]
    few = [*often, "--iterations", "9", "--validation-episodes", "2", "--hidden-sizes", "8"]
    step, steps = MetaTrainer.step, 0

    def interrupted_step(self: MetaTrainer) -> StepReport:
        nonlocal steps
        steps += 1
        if steps == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(MetaTrainer, "step", interrupted_step)
    assert supervised(["train", "sinusoid", "--meta-lr-decay", str(decay), *few, "--output", "run"]) == 0
    assert supervised(["evaluate", "run", "--episodes", "3", "--model", "latest", "--publish"]) == 0
    (path,) = (tmp_path / "results").iterdir()
    found = Published.load(path)
    assert found.model["iteration"] == found.training["iterations"] == 3
    assert found.settings["iterations"] == (9 if decay else 3)
    assert f"--iterations {9 if decay else 3}" in found.commands[0]
