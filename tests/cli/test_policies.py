"""Policies of every kind from the command line: trained, gone on with, evaluated, filmed, imitated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import TINY

from maml_rl.cli.app import main
from maml_rl.policies.policy_file import load_policy

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
VISUAL = ["--horizon", "6", "--hidden-sizes", "6", "--num-env-runners", "0", "--meta-batch-size", "3"]
VISUAL += ["--episodes-per-task", "3", "--env-config", "size", "6"]
EVALUATE = ["--num-workers", "0", "--tasks", "2", "--episodes", "2"]


def succeed(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0, arguments


def refused(capsys: pytest.CaptureFixture[str], message: str, *arguments: object) -> None:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("maml-rl: error: ")
    assert error.count("\n") == 1


def test_a_recurrent_policy_with_normalised_observations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = [
        "--recurrent",
        "gru",
        "--recurrent-size",
        4,
        "--layer-norm",
        True,
        "--adapt-only",
        "recurrent",
        "mean",
    ]
    options += ["--normalize-observations", True, "--normalize-rewards", True]
    succeed("train", "point-nav", *TINY, *options, "--iterations", 2, "--output", run)
    policy = load_policy(run / "policy.safetensors")
    assert policy.spec.recurrent
    assert policy.spec.adapted("mean.weight")
    assert not policy.spec.adapted("hidden.0.weight")
    assert policy.normalizer is not None
    assert policy.normalizer.observations is not None
    succeed("train", "--resume", run, "--iterations", 3)
    succeed("evaluate", run, *EVALUATE, "--steps", 1)
    succeed("plot", run)
    succeed("report", run)
    succeed("video", run, "--output", tmp_path / "film.gif", "--size", 64, 64)
    again = [*TINY, *options, "--iterations", 1, "--output", tmp_path / "again", "--start-from", run]
    succeed("train", "point-nav", *again)
    refused(
        capsys,
        "was trained with normalize_rewards True, and this run has False",
        *("train", "point-nav", *again, "--output", tmp_path / "other", "--normalize-rewards", False),
    )
    refused(
        capsys,
        "but this run trains",
        *("train", "point-nav", *again, "--output", tmp_path / "other", "--recurrent", "lstm"),
    )


def test_a_module_has_to_be_named_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, module = tmp_path / "run", ["--module", "user_modules:Net"]
    succeed("train", "point-nav", *TINY, *module, "--iterations", 2, "--output", run)
    assert f"next: maml-rl evaluate {run} --module user_modules:Net" in capsys.readouterr().out
    for command in (["train", "--resume", run], ["evaluate", run, *EVALUATE], ["video", run]):
        refused(capsys, "files do not choose what is imported; if you trust it", *command)
        refused(capsys, "user_modules:Net", *command, "--module", "user_modules:ByKey")
    succeed("train", "--resume", run, "--iterations", 3, *module)
    succeed("evaluate", run, *EVALUATE, *module)
    succeed("tune-inner-lr", run, "--inner-lr", 0.1, "--tasks", 2, "--num-workers", 0, *module)
    succeed("video", run, "--output", tmp_path / "film.gif", "--size", 64, 64, *module)
    succeed("plot", run)
    refused(
        capsys,
        "module is 'Net'; it must be None, package.module:Class",
        *("train", "point-nav", *TINY, "--module", "Net"),
    )


def test_rl2_reports_the_episodes_of_a_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    tiny = ["--recurrent-size", 4, "--meta-batch-size", 3, "--episodes-per-task", 3, "--num-env-runners", 0]
    succeed("train", "tabular-mdp", "--method", "rl2", *tiny, "--iterations", 2, "--output", run)
    capsys.readouterr()
    succeed("evaluate", run, *EVALUATE)
    assert "| return of episode | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |" in capsys.readouterr().out
    succeed("evaluate", run, *EVALUATE, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["episode"] == list(range(1, 11))
    assert "gradient_steps" not in found
    assert len(found["returns"]) == 10
    succeed("report", run)
    assert ">episode 10</th>" in (run / "report.html").read_text()
    refused(capsys, "a policy of method 'rl2' is not adapted", "evaluate", run, "--steps", 2)
    bandit = tmp_path / "bandit"
    succeed(
        "train", "bandit-10", "--method", "rl2", *tiny, "--horizon", 5, "--iterations", 1, "--output", bandit
    )
    succeed("evaluate", bandit, *EVALUATE)
    assert "Duan et al. 2016 | 83.50" in capsys.readouterr().out


def test_an_oracle_of_pictures_is_imitated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With discrete actions; by a recurrent pupil too. A recurrent expert needs a recurrent pupil."""
    oracle, pupil = tmp_path / "oracle", tmp_path / "pupil"
    succeed("train", "visual-nav", "--method", "oracle", *VISUAL, "--iterations", 1, "--output", oracle)
    guided = ["train", "visual-nav", "--method", "guided", *VISUAL, "--iterations", 1]
    succeed(*guided, "--expert", oracle, "--output", pupil)
    succeed("evaluate", pupil, *EVALUATE, "--steps", 1)
    succeed("video", pupil, "--output", tmp_path / "film.gif", "--size", 64, 64)
    succeed(*guided, "--expert", oracle, "--output", tmp_path / "recurrent", "--recurrent", "gru")
    recurrent = tmp_path / "recurrent oracle"
    succeed(
        *("train", "visual-nav", "--method", "oracle", *VISUAL, "--iterations", 1, "--recurrent", "gru"),
        *("--output", recurrent),
    )
    refused(capsys, "is recurrent; only a recurrent policy can imitate it", *guided, "--expert", recurrent)
    refused(
        capsys,
        "actions of the environment are not bounded numbers",
        *(*guided, "--expert", oracle, "--expert-clip", True),
    )


@pytest.mark.parametrize("preset", ["bandit-10", "tabular-mdp", "visual-nav"])
@pytest.mark.parametrize("method", ["maml", "random", "context-vector"])
def test_presets_with_discrete_actions_run(preset: str, method: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny = ["--horizon", 5, "--meta-batch-size", 2, "--episodes-per-task", 2, "--num-env-runners", 0]
    iterations = 0 if method == "random" else 1
    succeed("train", preset, "--method", method, *tiny, "--iterations", iterations, "--output", run)
    succeed("evaluate", run, *EVALUATE, "--steps", 1)
