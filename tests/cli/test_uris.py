"""Runs at URIs from the command line, on a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, maml_rl

from maml_rl.cli.app import main
from maml_rl.policies.policy_file import load_policy
from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.storage import Mirror, fetched_file
from supervised.cli.app import main as supervised

pytestmark = pytest.mark.system

Uri = Callable[[str], str]


@pytest.fixture(scope="module")
def run(s3: Uri) -> str:
    """A run of two iterations that was gone on with for one more."""
    place = s3("bucket/runs/mine")
    for arguments in (["point-nav", *TINY, "--iterations", 2, "--output", place], ["--resume", place]):
        result = maml_rl("train", *arguments, *(["--iterations", 3] if "--resume" in arguments else []))
        assert result.returncode == 0, result.stderr
    return place


def test_a_run_at_a_uri_is_that_of_a_folder(run: str, tmp_path: Path) -> None:
    here = (tmp_path / "here").as_uri()
    assert maml_rl("train", "point-nav", *TINY, "--iterations", 3, "--output", here).returncode == 0
    expected = load_policy(tmp_path / "here" / "checkpoint.safetensors")
    found = load_policy(RunDirectory.open(run).checkpoint)
    assert found.info["iteration"] == expected.info["iteration"] == 3
    for name, value in expected.params.items():
        np.testing.assert_array_equal(found.params[name], value)
    assert len(RunDirectory.open(run).progress()) == 3


def test_every_command_reads_and_writes_there(
    run: str, s3: Uri, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["evaluate", run, "--episodes", "2", "--steps", "1", "--num-workers", "0", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["run"] == run
    assert main(["plot", run]) == 0
    assert s3("bucket/runs/mine/adaptation_curve.png") in capsys.readouterr().out.split()
    assert main(["report", run]) == 0
    assert main(["report", run, "--output", str(tmp_path / "report.html")]) == 0
    assert main(["video", run, "--output", s3("bucket/videos/v.gif")]) == 0
    there = Mirror(run).names()
    assert {"adaptation.json", "adaptation.csv", "learning_curve.svg", "report.html"} <= set(there)
    stored = json.loads(fetched_file(s3("bucket/runs/mine/adaptation.json")).read_text())
    assert stored["returns"] == printed["returns"]
    assert fetched_file(s3("bucket/videos/v.gif")).read_bytes().startswith(b"GIF8")
    # A name in a report is the user's, not that of a mirror.
    assert "maml_rl-" not in (tmp_path / "report.html").read_text()


def test_another_run_begins_with_its_policy(run: str, s3: Uri, tmp_path: Path) -> None:
    for number, source in enumerate((run, s3("bucket/runs/mine/policy.safetensors"))):
        output = tmp_path / str(number)
        result = maml_rl(
            *("train", "point-nav", *TINY, "--iterations", 1, "--output", output, "--start-from", source)
        )
        assert result.returncode == 0, result.stderr
    first, second = (load_policy(tmp_path / str(n) / "checkpoint.safetensors").params for n in (0, 1))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "point-nav", "--output", "nothing://a/b"], "nothing://a/b cannot be used"),
        (["train", "--resume", "MISSING"], "is not a run: config.json"),
        (["evaluate", "MISSING"], "is not a run: config.json"),
        (["train", "point-nav", "--start-from", "MISSING"], "is not a run: config.json"),
        (["report", "RUN", "--output", "nothing://a/b.html"], "nothing://a/ cannot be used"),
    ],
)
def test_wrong_places_are_one_line(
    run: str, s3: Uri, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"RUN": run, "MISSING": s3("bucket/missing")}
    assert main([named.get(word, word) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_supervised_runs_at_uris(s3: Uri, capsys: pytest.CaptureFixture[str]) -> None:
    place = s3("bucket/sinusoid")
    tiny = [
        "--meta-batch-size",
        "3",
        "--report-every",
        "2",
        "--validate-every",
        "2",
        "--validation-episodes",
        "4",
        "--test-episodes",
        "4",
    ]
    assert supervised(["train", "sinusoid", "--iterations", "2", *tiny, "--output", place]) == 0
    assert supervised(["train", "--resume", place, "--iterations", "4"]) == 0
    assert supervised(["evaluate", place]) == 0
    assert supervised(["plot", place]) == 0
    assert supervised(["table", place, "--output", s3("bucket/table.csv")]) == 0
    assert supervised(["compare", place, "--output", s3("bucket/compare.png")]) == 0
    assert {"evaluation.json", "fits.png", "checkpoint.safetensors"} <= set(Mirror(place).names())
    assert "maml" in fetched_file(s3("bucket/table.csv")).read_text()
    assert RunDirectory.open(place).progress()[-1]["iteration"] == 4
    capsys.readouterr()
