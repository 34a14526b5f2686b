"""``supervised search`` with a real Ray: every trial is a run, and a search that was broken off is gone on with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from search_helpers import results, three_best_first
from supervised_helpers import write_omniglot

from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.storage import Mirror
from supervised.cli.app import main
from supervised.models.model_file import load

pytestmark = [pytest.mark.system, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
TINY = ("--validate-every", 2, "--report-every", 1, "--validation-episodes", 3, "--hidden-sizes", 8)
SPACE = ("--space", "inner_lr=loguniform(0.001,0.1)", "meta_batch_size=choice(2,5)")


def run_cli(*arguments: object) -> int:
    return main(list(map(str, arguments)))


def search(output: Path | str, *arguments: Any) -> int:
    return run_cli("search", "sinusoid", *TINY, "--output", output, *arguments)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """Three trials of four iterations."""
    folder = tmp_path_factory.mktemp("search") / "found"
    assert search(folder, *SPACE, "--samples", 3, "--iterations", 4, "--scheduler", "none") == 0
    return folder


def test_the_results_are_those_of_the_trials_best_first(found: Path) -> None:
    trials = three_best_first(found)
    for row, run in trials:
        losses = [line["validation_loss"] for line in run.progress()]
        assert float(row["score"]) == pytest.approx(-min(loss for loss in losses if loss == loss))
        config = run.description()["config"]
        assert config["inner_lr"] == pytest.approx(float(row["inner_lr"]))
        assert config["meta_batch_size"] == int(row["meta_batch_size"])
    assert len({row["inner_lr"] for row, _ in trials}) == 3
    assert (found / "search.png").stat().st_size > 5000


def test_a_trial_is_the_run_that_train_makes(found: Path, tmp_path: Path) -> None:
    config = RunDirectory.open(found / "trial-00001").description()["config"]
    values = ("--inner-lr", config["inner_lr"], "--meta-batch-size", config["meta_batch_size"])
    output = tmp_path / "alone"
    assert run_cli("train", "sinusoid", *TINY, *values, "--iterations", 4, "--output", output) == 0
    for name in ("model.safetensors", "checkpoint.safetensors"):
        alone, trial = load(output / name).params, load(found / "trial-00001" / name).params
        assert all(torch.equal(alone[key], trial[key]) for key in alone)


def test_our_commands_understand_a_trial(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = shutil.copytree(found / "trial-00000", tmp_path / "trial")
    assert run_cli("evaluate", trial, "--episodes", 3, "--steps", 1) == 0
    assert run_cli("plot", trial) == 0
    assert run_cli("table", trial) == 0
    assert run_cli("train", "--resume", trial, "--iterations", 5) == 0
    assert "iteration" in capsys.readouterr().out


def test_a_search_that_is_gone_on_with_computes_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "again"
    assert search(folder, *SPACE, "--samples", 3, "--iterations", 4, "--scheduler", "none") == 0
    first = results(folder)
    model = load(folder / "trial-00002" / "checkpoint.safetensors").params
    shutil.rmtree(folder / "trial-00002")  # as if it had not been begun
    before = {run: (run / "progress.csv").stat().st_mtime_ns for run in folder.glob("trial-*")}
    capsys.readouterr()
    assert run_cli("search", "--resume", folder, "--json") == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [trial["iteration"] for trial in trials] == [4, 4, 4]
    assert results(folder) == first
    assert before == {run: (run / "progress.csv").stat().st_mtime_ns for run in before}
    again = load(folder / "trial-00002" / "checkpoint.safetensors").params
    assert all(torch.equal(model[name], again[name]) for name in model)


def test_a_trial_that_was_broken_off_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "longer"
    assert search(folder, *SPACE, "--samples", 2, "--iterations", 4, "--scheduler", "none") == 0
    description = json.loads((folder / "config.json").read_text())
    description["config"]["iterations"] = 8  # as if it had been broken off after four of eight
    (folder / "config.json").write_text(json.dumps(description))
    for trial in folder.glob("trial-*"):
        told = json.loads((trial / "config.json").read_text())
        told["config"]["iterations"] = 8
        (trial / "config.json").write_text(json.dumps(told))
    assert run_cli("search", "--resume", folder) == 0
    config = RunDirectory.open(folder / "trial-00000").description()["config"]
    values = ("--inner-lr", config["inner_lr"], "--meta-batch-size", config["meta_batch_size"])
    output = tmp_path / "alone"
    assert run_cli("train", "sinusoid", *TINY, *values, "--iterations", 8, "--output", output) == 0
    rows = RunDirectory(folder / "trial-00000").progress()
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    alone = load(output / "checkpoint.safetensors").params
    trial = load(folder / "trial-00000" / "checkpoint.safetensors").params
    assert all(torch.equal(alone[name], trial[name]) for name in alone)


def test_trials_that_fall_behind_are_stopped_and_the_better_step_size_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "asha"
    space = ("--space", "meta_lr=choice(0.000001,0.005)")
    lengths = ("--samples", 4, "--iterations", 360, "--validate-every", 40, "--report-every", 40)
    assert run_cli("search", "sinusoid", "--output", folder, *space, *lengths) == 0
    rows = results(folder)
    assert float(rows[0]["meta_lr"]) == 0.005
    assert max(int(row["iteration"]) for row in rows) == 360
    assert {int(row["iteration"]) for row in rows} <= {40, 120, 360}


@pytest.mark.slow  # as that of maml-rl: an exchange may fail a trial on a busy machine
def test_worse_trials_take_over_what_better_ones_have(tmp_path: Path) -> None:
    folder = tmp_path / "pbt"
    space = ("--space", "meta_lr=loguniform(0.000001,0.01)")
    lengths = ("--samples", 4, "--iterations", 50, "--scheduler", "pbt")
    assert search(folder, *space, *lengths) == 0
    rows = results(folder)
    assert all(int(row["iteration"]) == 50 for row in rows)
    for row in rows:
        config = RunDirectory.open(folder / f"trial-0000{row['trial']}").description()["config"]
        assert config["meta_lr"] == pytest.approx(float(row["meta_lr"]))


def test_an_impossible_sample_fails_alone_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each value is possible, but not all together."""
    folder = tmp_path / "some"
    space = ("--space", "report_every=choice(1,4)", "validate_every=choice(2,4)")
    given = ("--validate-every", 4, "--report-every", 1, "--samples", 6, "--iterations", 4)
    assert run_cli("search", "sinusoid", "--output", folder, *space, *given, "--scheduler", "none") == 0
    rows = results(folder)
    for row in rows:
        impossible = (row["report_every"], row["validate_every"]) == ("4", "2")
        assert (row["score"] == "-inf") == impossible
        assert ("validate_every is 2; it must be a multiple" in row["error"]) == impossible
    failed = [bool(row["error"]) for row in rows]
    assert failed == sorted(failed)  # the best first
    assert 0 < sum(failed) < 6
    assert "Traceback" not in capsys.readouterr().err


def test_images_are_searched_too(tmp_path: Path) -> None:
    data = write_omniglot(tmp_path / "omniglot")
    folder = tmp_path / "images"
    size = ("--ways", 2, "--shots", 1, "--query", 1, "--filters", 4, "--validation-episodes", 2)
    lengths = ("--iterations", 2, "--validate-every", 1, "--report-every", 1, "--test-steps", 1)
    space = ("--space", "inner_lr=uniform(0.1,0.5)", "--samples", 2)
    given = ("--data", data, "--output", folder, *size, *lengths, *space)
    assert run_cli("search", "omniglot-5w1s", *given, "--scheduler", "none") == 0
    rows = results(folder)
    assert len(rows) == 2
    for row in rows:
        progress = RunDirectory(folder / f"trial-0000{row['trial']}").progress()
        assert float(row["score"]) == max(line["validation_accuracy"] for line in progress)


def test_a_search_lives_at_a_uri(s3: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    place = s3("bucket/searches/sinusoid")
    assert search(place, *SPACE, "--samples", 2, "--iterations", 2, "--scheduler", "none") == 0
    assert {"results.csv", "search.png", "trial-00001/checkpoint.safetensors"} <= set(Mirror(place).names())
    capsys.readouterr()
    assert run_cli("search", "--resume", place, "--json") == 0
    best = json.loads(capsys.readouterr().out)["trials"][0]["place"]
    assert run_cli("evaluate", best, "--episodes", 2, "--steps", 1) == 0
