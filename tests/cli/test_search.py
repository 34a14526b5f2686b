"""``maml-rl search`` with a real Ray: every trial is a run, and a search that was broken off is gone on with."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from search_helpers import results, three_best_first

from maml_rl.cli.app import main
from maml_rl.experiments.plan import Plan
from maml_rl.experiments.searched import SearchedPlan
from maml_rl.policies.policy_file import load_policy
from maml_rl.rllib.config import MAMLConfig
from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.search.picture import search_figure
from maml_rl.tools.search.search import Search, scheduler_of
from maml_rl.tools.search.searched import TrialResult
from maml_rl.tools.search.space import parse_space
from maml_rl.tools.storage import Mirror

pytestmark = [pytest.mark.system, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
TINY = (
    *("--meta-batch-size", "3", "--episodes-per-task", "3", "--horizon", "10", "--cg-iterations", "2"),
    *("--hidden-sizes", "8"),
)
SPACE = ("--space", "inner_lr=loguniform(0.02,0.5)", "max_kl=choice(0.005,0.02)")


def search(output: str | Path, *arguments: str | int) -> int:
    return main(["search", "point-nav", *TINY, "--output", str(output), *map(str, arguments)])


def checkpoint(run: Path) -> Mapping[str, np.ndarray]:
    return load_policy(run / "checkpoint.safetensors").meta_params()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """Three trials of two iterations."""
    folder = tmp_path_factory.mktemp("search") / "found"
    assert search(folder, *SPACE, "--samples", 3, "--iterations", 2, "--scheduler", "none") == 0
    return folder


def test_the_results_are_those_of_the_trials_best_first(found: Path) -> None:
    trials = three_best_first(found)
    for row, run in trials:
        returns = [line["return_post"] for line in run.progress()]
        assert float(row["score"]) == pytest.approx(np.mean(returns))
        config = run.description()["config"]
        assert config["inner_lr"] == pytest.approx(float(row["inner_lr"]))
        assert 0.02 <= config["inner_lr"] <= 0.5
        assert config["max_kl"] == float(row["max_kl"])
    assert len({row["inner_lr"] for row, _ in trials}) == 3
    assert (found / "search.png").stat().st_size > 5000
    assert (found / "search.svg").exists()


def test_a_trial_is_the_run_that_train_makes(found: Path, tmp_path: Path) -> None:
    config = RunDirectory.open(found / "trial-00001").description()["config"]
    values = ["--inner-lr", str(config["inner_lr"]), "--max-kl", str(config["max_kl"])]
    alone = ["train", "point-nav", *TINY, *values, "--iterations", "2", "--num-env-runners", "0"]
    assert main([*alone, "--output", str(tmp_path / "alone")]) == 0
    for name, value in checkpoint(tmp_path / "alone").items():
        np.testing.assert_array_equal(value, checkpoint(found / "trial-00001")[name])


def test_our_commands_understand_a_trial(found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = str(found / "trial-00000")
    assert main(["evaluate", trial, "--episodes", "2", "--tasks", "2", "--num-workers", "0"]) == 0
    assert main(["plot", trial]) == 0
    assert main(["report", trial, str(found / "trial-00001"), "--output", str(found / "report.html")]) == 0
    assert "| maml, iteration" in capsys.readouterr().out


def test_a_search_that_is_gone_on_with_computes_nothing_twice(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(found, tmp_path / "again")
    shutil.rmtree(folder / "trial-00002")  # as if it had not been begun
    before = {run: (run / "progress.csv").stat().st_mtime_ns for run in folder.glob("trial-*")}
    assert main(["search", "--resume", str(folder), "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [trial["iteration"] for trial in trials] == [2, 2, 2]
    assert results(folder) == results(found)
    assert before == {run: (run / "progress.csv").stat().st_mtime_ns for run in before}
    for name, value in checkpoint(found / "trial-00002").items():
        np.testing.assert_array_equal(value, checkpoint(folder / "trial-00002")[name])


def test_a_trial_that_was_broken_off_goes_on_from_its_checkpoint(found: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(found, tmp_path / "longer")
    description = json.loads((folder / "config.json").read_text())
    description["iterations"] = 3  # as if it had been broken off after two of three
    (folder / "config.json").write_text(json.dumps(description))
    assert main(["search", "--resume", str(folder)]) == 0
    config = RunDirectory.open(folder / "trial-00000").description()["config"]
    values = ["--inner-lr", str(config["inner_lr"]), "--max-kl", str(config["max_kl"])]
    alone = ["train", "point-nav", *TINY, *values, "--iterations", "3", "--num-env-runners", "0"]
    assert main([*alone, "--output", str(tmp_path / "alone")]) == 0
    for name, value in checkpoint(tmp_path / "alone").items():
        np.testing.assert_array_equal(value, checkpoint(folder / "trial-00000")[name])
    assert [row["iteration"] for row in RunDirectory(folder / "trial-00000").progress()] == [1, 2, 3]


def test_afterwards_ray_tune_is_as_it_was(found: Path) -> None:
    assert "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS" not in os.environ
    assert logging.getLogger("ray.tune").level < logging.CRITICAL


def test_trials_that_fall_behind_are_stopped(tmp_path: Path) -> None:
    assert search(tmp_path / "asha", *SPACE, "--samples", 5, "--iterations", 9) == 0
    iterations = {int(row["iteration"]) for row in results(tmp_path / "asha")}
    # Which of them depends on the order in which they report, but where it is decided does not.
    assert 9 in iterations
    assert iterations <= {1, 3, 9}


def test_what_is_worse_than_the_best_third_so_far_is_stopped() -> None:
    plan = Plan(MAMLConfig(), "point-nav", "maml", iterations=9)
    scheduler = scheduler_of(
        Search(SearchedPlan(plan), parse_space(["inner_lr=uniform(0,1)"], ["inner_lr"]), 4)
    )
    scheduler.set_search_properties("score", "max")
    decisions = {}
    for number, score in enumerate((3.0, 2.0, 4.0, 1.0)):
        trial = SimpleNamespace(trial_id=str(number))
        scheduler.on_trial_add(None, trial)
        decisions[score] = scheduler.on_trial_result(None, trial, {"iteration": 1, "score": score})
    assert decisions == {3.0: "CONTINUE", 2.0: "STOP", 4.0: "CONTINUE", 1.0: "STOP"}


@pytest.mark.slow  # and not reliable on a machine that is busy otherwise: an exchange may fail a trial
def test_worse_trials_take_over_what_better_ones_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pbt"
    space = ("--space", "inner_lr=loguniform(0.02,0.5)", "max_kl=choice(0.005,0.02)")
    assert search(folder, *space, "--samples", 4, "--iterations", 10, "--scheduler", "pbt") == 0
    rows = results(folder)
    assert all(int(row["iteration"]) == 10 for row in rows)
    assert all(0.02 <= float(row["inner_lr"]) <= 0.5 for row in rows)
    assert {float(row["max_kl"]) for row in rows} <= {0.005, 0.02}
    for row in rows:  # what a run says of itself are the values that it ended with
        run = RunDirectory.open(folder / f"trial-0000{row['trial']}")
        assert run.description()["config"]["inner_lr"] == pytest.approx(float(row["inner_lr"]))
        assert run.progress()[-1]["iteration"] == 10
    capsys.readouterr()
    assert main(["search", "--resume", str(folder), "--json"]) == 0
    assert sorted(row["inner_lr"] for row in results(folder)) == sorted(row["inner_lr"] for row in rows)
    assert not (folder / ".exchange").exists()


def test_optuna_chooses_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "optuna"
    space = ("--space", "inner_lr=loguniform(0.02,0.5)", "hidden_sizes=choice([8],[4,4])")
    common = (*space, "--samples", 3, "--iterations", 1, "--scheduler", "none", "--algorithm", "optuna")
    assert search(folder, *common) == 0
    before = results(folder)
    shutil.rmtree(folder / "trial-00002")
    assert main(["search", "--resume", str(folder)]) == 0
    after = {row["trial"]: row for row in results(folder)}
    assert len(after) == 3
    assert all(after[row["trial"]] == row for row in before if row["trial"] != "2")


def test_an_impossible_sample_fails_alone_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ("--space", "episodes_per_task=choice(3,1000000000000)")
    assert search(tmp_path / "some", *space, "--samples", 4, "--iterations", 1, "--scheduler", "none") == 0
    output = capsys.readouterr()
    rows = results(tmp_path / "some")
    failed = [row for row in rows if row["error"]]
    assert 0 < len(failed) < 4
    assert [row["error"] for row in failed if "alone need" not in row["error"]] == []
    assert rows[0]["error"] == ""
    assert "Traceback" not in output.err


def test_a_search_lives_at_a_uri(s3: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    place = s3("bucket/searches/a")
    assert search(place, *SPACE, "--samples", 2, "--iterations", 1, "--scheduler", "none") == 0
    assert {"results.csv", "search.png", "trial-00001/checkpoint.safetensors"} <= set(Mirror(place).names())
    capsys.readouterr()
    assert main(["search", "--resume", place, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["trials"][0]["place"]
    assert main(["evaluate", best, "--episodes", "2", "--tasks", "2", "--num-workers", "0"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["point-nav"], "space is empty"),
        (["--space", "inner_lr=uniform(0.1,1)"], "preset is missing"),
        (["point-nav", "--space", "nothing=uniform(0,1)"], "space names the field 'nothing'"),
        (["point-nav", "--space", "inner_lr=uniform(-1,1)"], "inner_lr is -1; it must be a positive number"),
        (["point-nav", "--space", "activation=choice(relu,x)"], "activation is 'x'"),
        (["point-nav", *SPACE, "--samples", "0"], "samples is 0; it must be a positive integer"),
        (
            ["point-nav", *SPACE, "--scheduler", "pbt", "--algorithm", "optuna"],
            "pbt chooses configurations itself",
        ),
        (["point-nav", *SPACE, "--num-env-runners", "500"], "asks for 500 CPUs"),
        (["--resume", "FOUND", "--samples", "3"], "is gone on with as it was begun"),
        (["--resume", "FOUND/trial-00000"], "it is not of a search"),
        (["--resume", "FOUND/nothing"], "is not a run"),
        (["point-nav", *SPACE, "--output", "FOUND"], "exists and is not empty"),
    ],
)
def test_wrong_input_is_one_line(
    found: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *(word.replace("FOUND", str(found)) for word in arguments)]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_the_picture_shows_each_trial_at_its_values() -> None:
    space = parse_space(["a=loguniform(0.01,1)", "b=choice(x,y,z)", "c=uniform(0,4)"], "abc")
    values: list[dict[str, Any]] = [{"a": 0.1, "b": "z", "c": 1.0}, {"a": 1.0, "b": "x", "c": 4.0}]
    trials = [TrialResult(i, Path(), v, score=float(i), iteration=2) for i, v in enumerate(values)]
    trials.append(TrialResult(2, Path(), values[0]))  # without a score
    curves = [([1.0, 2.0], [0.0, float(i)]) for i in range(3)]
    figure: Figure = search_figure(trials, curves, space, "score")
    left, right = figure.axes
    lines = [line.get_ydata() for line in left.lines if len(line.get_xdata()) == 4]
    np.testing.assert_allclose(lines, [[0.5, 1.0, 0.25, 0.0], [1.0, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose([line.get_ydata() for line in right.lines], [[0, 0], [0, 1]])
