"""The command ``supervised`` as a user types it: real runs in real directories, and every error."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from paths import ROOT
from PIL import Image
from supervised_helpers import write_miniimagenet, write_omniglot

from maml_rl.tools.run_directory import RunDirectory
from supervised.cli.app import main
from supervised.experiments.stored import load_model
from supervised.learning.meta_step import INNER_LR
from supervised.models.model_file import load

TINY = [
    *("--iterations", "4", "--meta-batch-size", "3", "--report-every", "2", "--validate-every", "2"),
    *("--validation-episodes", "4"),
]
TINY_IMAGES = [*TINY, "--filters", "4", "--test-episodes", "6", "--query", "1"]


def run_cli(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def sinusoid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "run"
    assert run_cli("train", "sinusoid", *TINY, "--test-episodes", 6, "--output", path) == 0
    assert run_cli("evaluate", path) == 0
    return path


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_omniglot(tmp_path_factory.mktemp("omniglot"))


@pytest.fixture
def omniglot_run(omniglot: Path, tmp_path: Path) -> Path:
    path = tmp_path / "omniglot-run"
    assert run_cli("train", "omniglot-5w1s", "--data", omniglot, *TINY_IMAGES, "--output", path) == 0
    return path


def test_run_directory_is_complete(sinusoid: Path) -> None:
    description = json.loads((sinusoid / "config.json").read_text())
    assert description["preset"] == "sinusoid"
    assert description["config"]["meta_batch_size"] == 3
    assert description["versions"]["torch"]
    with (sinusoid / "progress.csv").open(newline="") as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["2", "4"]
    assert load(sinusoid / "checkpoint.safetensors").info["iteration"] == 4
    assert (sinusoid / "model.safetensors").exists()


def test_tensorboard_events_equal_the_csv(sinusoid: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(sinusoid)).Reload().Scalars("supervised/query_loss")
    with (sinusoid / "progress.csv").open(newline="") as file:
        expected = [float(row["query_loss"]) for row in csv.DictReader(file)]
    assert [event.value for event in events] == pytest.approx(expected, rel=1e-6)


def test_evaluate_prints_a_table_and_json(sinusoid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("evaluate", sinusoid, "--steps", 2) == 0
    table = capsys.readouterr().out
    assert "| after gradient steps | 0 | 1 | 2 | step size |" in table
    assert "| 20-shot |" in table
    assert "0.67 / 0.38 / 0.35" in table
    assert run_cli("evaluate", sinusoid, "--model", "latest", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["iteration"] == 4
    assert [row["name"] for row in result["rows"]] == ["5-shot", "10-shot", "20-shot"]
    assert [len(row["mean"]) for row in result["rows"]] == [11, 11, 11]
    saved = json.loads((sinusoid / "evaluation.json").read_text())
    assert saved == result["rows"]


BEGINNINGS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def test_plots(sinusoid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("plot", sinusoid) == 0
    files = [Path(line) for line in capsys.readouterr().out.split()]
    names = [
        stem + suffix for stem in ("learning_curve", "adaptation_curve", "fits") for suffix in BEGINNINGS
    ]
    assert [file.name for file in files] == names
    for suffix in BEGINNINGS:
        assert run_cli("compare", sinusoid, "--output", tmp_path / f"both{suffix}") == 0
        files.append(tmp_path / f"both{suffix}")
    for file in files:
        assert file.read_bytes().startswith(BEGINNINGS[file.suffix])
        assert file.stat().st_size > 5000
    assert run_cli("compare", sinusoid, "--output", tmp_path / "both.jpg") == 2
    assert "it must end in .png or .svg or .pdf" in capsys.readouterr().err


def test_table(sinusoid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("table", sinusoid, "--output", tmp_path / "table.csv") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[3].strip() for line in lines[2:]] == ["1", "5", "10"]
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [row["paper"] for row in csv.DictReader(file)] == ["0.67", "0.38", "0.35"]


@pytest.mark.parametrize("method", ["maml", "first-order", "anil", "context-vector", "classifier"])
def test_omniglot(method: str, omniglot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    arguments = ("--method", method, "--data", omniglot, "--output", path)
    assert run_cli("train", "omniglot-5w1s", *TINY_IMAGES, *arguments, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert 0 <= row["query_accuracy"] <= 1
    assert run_cli("evaluate", path, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    names = ["fine-tuning", "nearest neighbour"] if method == "classifier" else [method]
    assert [row["name"] for row in rows] == names
    assert all(0 <= value <= 100 for row in rows for value in row["mean"])
    assert run_cli("plot", path) == 0


def test_miniimagenet_by_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_miniimagenet(tmp_path / "mini.zip")
    monkeypatch.setenv("SUPERVISED_MINIIMAGENET", str(data))
    path = tmp_path / "run"
    arguments = ("--iterations", 2, "--inner-steps", 1, "--test-steps", 1, "--output", path)
    assert run_cli("train", "miniimagenet-1shot", *TINY_IMAGES, *arguments) == 0
    assert run_cli("evaluate", path) == 0


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "supervised", "train", "sinusoid", "--output", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--report-every", "5", "--validate-every", "1000"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    process.stderr.readline()  # five iterations are done
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 0, rest
    assert f"continue with: supervised train --resume {tmp_path / 'run'}" in rest
    done = int(rest.partition("interrupted after iteration ")[2].split()[0])
    assert run_cli("train", "--resume", tmp_path / "run", "--iterations", done + 3) == 0
    assert load(tmp_path / "run" / "checkpoint.safetensors").info["iteration"] == done + 3


def test_start_from_a_trained_model(sinusoid: Path, tmp_path: Path) -> None:
    arguments = ("--start-from", sinusoid, "--shots", 3, "--meta-lr", 1e-12, "--output", tmp_path / "run")
    assert run_cli("train", "sinusoid", *TINY, *arguments) == 0
    begun, _ = load_model(RunDirectory.open(tmp_path / "run"), "latest")
    trained, info = load_model(RunDirectory.open(sinusoid), "latest")
    for name, value in trained.items():
        torch.testing.assert_close(begun[name], value, msg=name)
    description = json.loads((tmp_path / "run" / "config.json").read_text())
    assert description["start_from"] == {"path": str(sinusoid), "iteration": info["iteration"]}


def test_start_from_a_model_for_another_number_of_ways(omniglot: Path, tmp_path: Path) -> None:
    few, more = tmp_path / "few", tmp_path / "more"
    run = ("train", "omniglot-5w1s", *TINY_IMAGES, "--data", omniglot)
    assert run_cli(*run, "--ways", 2, "--output", few) == 0
    begin = ("--ways", 3, "--start-from", few, "--meta-lr", 1e-12, "--output", more)
    assert run_cli(*run, *begin) == 0
    trained, begun = (load_model(RunDirectory.open(path), "latest")[0] for path in (few, more))
    assert begun["dense.weight"].shape == (4, 3)
    assert all(begun[f"dense.{kind}"].abs().max() < 1e-9 for kind in ("weight", "bias"))
    for name, value in trained.items():
        if not name.startswith("dense."):
            torch.testing.assert_close(begun[name], value, msg=name)


def test_step_sizes_begin_fresh_after_a_run_that_learned_none(omniglot: Path, tmp_path: Path) -> None:
    run = ("train", "omniglot-5w1s", *TINY_IMAGES, "--data", omniglot)
    assert run_cli(*run, "--output", tmp_path / "fixed") == 0
    learned = (*run, "--learn-inner-lr", "layer", "--meta-lr", 1e-12)
    assert run_cli(*learned, "--start-from", tmp_path / "fixed", "--output", tmp_path / "a") == 0
    begun, _ = load_model(RunDirectory.open(tmp_path / "a"), "latest")
    assert {name for name in begun if name.startswith(INNER_LR)} == {
        f"{INNER_LR}{layer}" for layer in ("conv.0", "conv.1", "conv.2", "conv.3", "dense")
    }
    assert all(begun[name] == 1 for name in begun if name.startswith(INNER_LR))
    # Step sizes that were learned are not dropped in silence.
    assert run_cli(*run, "--start-from", tmp_path / "a", "--output", tmp_path / "b") == 2


@pytest.mark.parametrize("kind", ["layer", "parameter"])
def test_after_anil_learned_step_sizes_begin_with_the_same_model(
    kind: str, omniglot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("train", "omniglot-5w1s", *TINY_IMAGES, "--data", omniglot)
    assert run_cli(*run, "--method", "anil", "--output", tmp_path / "anil") == 0
    learned = ("--learn-inner-lr", kind, "--meta-lr", 1e-12, "--start-from", tmp_path / "anil")
    assert run_cli(*run, *learned, "--output", tmp_path / "maml") == 0
    begun, _ = load_model(RunDirectory.open(tmp_path / "maml"), "latest")
    step_sizes = {name: value for name, value in begun.items() if name.startswith(INNER_LR)}
    assert len(step_sizes) == {"layer": 5, "parameter": 6}[kind]
    for name, value in step_sizes.items():
        assert torch.allclose(value, torch.tensor(float("dense" in name)), atol=1e-9), name
    capsys.readouterr()
    means = []
    for path in (tmp_path / "anil", tmp_path / "maml"):
        assert run_cli("evaluate", path, "--model", "latest", "--json") == 0
        means.append(json.loads(capsys.readouterr().out)["rows"][0]["mean"])
    assert means[0] == pytest.approx(means[1], abs=1e-4)


@pytest.fixture(scope="module")
def own_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve classes of four pictures of several sizes and modes, and what is no picture."""
    path = tmp_path_factory.mktemp("own")
    for i in range(12):
        (path / f"class {i}").mkdir()
        for j, mode in enumerate(("RGB", "L", "P", "RGBA")):
            image = Image.effect_noise((20 + i, 24), 10 + 20 * i).convert("RGB").convert(mode)
            image.save(path / f"class {i}" / f"{j}.png")
    (path / "notes.txt").write_text("no picture")
    return path


def test_any_folder_of_classes_trains_and_is_evaluated_on_other_tasks(
    own_images: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = tmp_path / "run"
    tasks = ("--ways", 2, "--shots", 1, "--query", 1, "--image-size", 20, "--filters", 3)
    arguments = ("images", "--data", own_images, *tasks, *TINY, "--test-episodes", 5)
    assert run_cli("train", *arguments, "--output", run) == 0
    assert "skipped 1 file(s) that are no images, such as notes.txt" in caplog.text
    assert run_cli("evaluate", run) == 0
    assert "accuracy in percent, 2-way 1-shot" in capfd.readouterr().out
    first = (run / "evaluation.json").read_bytes()
    fractions = ("--ways", 3, "--shots", 3)
    assert run_cli("evaluate", run, *fractions) == 2
    assert "ways is 3, but there are only 2 classes" in capfd.readouterr().err
    assert run_cli("evaluate", run, "--shots", 3) == 0
    assert "accuracy in percent, 2-way 3-shot" in capfd.readouterr().out
    assert json.loads((run / "evaluation-3shot.json").read_text())[0]["tasks"] == 5
    assert (run / "evaluation.json").read_bytes() == first
    assert run_cli("evaluate", run, "--shots", 4) == 2
    assert "has 4 images; shots 4 + query 1 need 5" in capfd.readouterr().err


def test_other_ways_begin_with_a_last_layer_of_zeros(
    omniglot_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("evaluate", omniglot_run, "--ways", 8, "--episodes", 30, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["mean"][0] == pytest.approx(100 / 8)  # all logits are equal: the first of eight classes
    assert (omniglot_run / "evaluation-8way.json").exists()
    assert not (omniglot_run / "evaluation.json").exists()


def test_other_shots_of_sinusoids_are_a_row_of_their_own(
    sinusoid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("evaluate", sinusoid, "--shots", 3, "--episodes", 4, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["name"], row["tasks"]) == ("3-shot", 4)
    assert run_cli("evaluate", sinusoid, "--ways", 2) == 2
    assert "ways is 2, but sinusoid" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("episodes", ["0", "-1"]),
        ("steps", ["-1"]),
        ("shots", ["0", "-1"]),
        ("ways", ["0"]),
        ("seed", ["-1", str(2**32)]),
    ],
)
def test_options_of_evaluate_outside_their_range_are_named(
    option: str, values: list[str], sinusoid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in values:
        assert run_cli("evaluate", sinusoid, f"--{option}", value) == 2
        assert f"{option} is {value}; it must be" in capsys.readouterr().err


def test_wrong_input_is_named(
    sinusoid: Path,
    tmp_path: Path,
    omniglot: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SUPERVISED_OMNIGLOT", raising=False)
    few = ("omniglot-5w5s", "--data", omniglot)
    cases = {
        ("train",): "preset is missing; it must be one of: sinusoid",
        ("train", "mnist"): "preset is 'mnist'; it must be one of: sinusoid",
        ("train", "sinusoid", "--output", sinusoid): "exists and is not empty",
        ("train", "sinusoid", "--inner-lr", "-1"): "inner_lr is -1.0; it must be a positive number",
        ("train", "omniglot-5w1s"): "data is missing: omniglot needs --data",
        ("train", *few): "has 2 images; shots 5 + query 5 need 10",
        (
            "train",
            "omniglot-5w1s",
            "--data",
            omniglot,
            "--ways",
            "200",
        ): "ways is 200, but there are only 100",
        ("train", "sinusoid", "--device", "cuda"): "device is 'cuda', but torch finds no GPU",
        ("train", "--resume", tmp_path): "is not a run",
        ("train", "--resume", sinusoid, "--shots", "3"): "shots is 3, but the run in",
        ("train", "--resume", sinusoid, "--start-from", sinusoid): "is resumed: it has a model",
        ("train", "sinusoid", "--start-from", tmp_path): "is not a run",
        ("train", "sinusoid", "--start-from", sinusoid, "--hidden-sizes", "7"): "do not fit the network's",
        (
            "train",
            "sinusoid",
            "--method",
            "multi-task",
            "--start-from",
            sinusoid,
        ): "multi-task trains many regressors",
        ("evaluate", sinusoid, "--episodes", "0"): "episodes is 0",
        ("compare",): "runs is empty",
        ("table",): "runs is empty",
        ("search", "sinusoid"): "space is empty",
        ("search", "--space", "inner_lr=uniform(1,2)"): "preset is missing",
        ("search", "sinusoid", "--space", "nothing=choice(1,2)"): "space names the field 'nothing'",
        ("search", "sinusoid", "--space", "inner_lr=loguniform(2,1)"): "with 0 < LOW < HIGH",
        (
            "search",
            "sinusoid",
            "--space",
            "inner_lr=choice(0,1)",
        ): "inner_lr is 0; it must be a positive number",
        ("search", "sinusoid", "--space", "inner_lr=uniform(1,2)", "--samples", "0"): "samples is 0",
        (
            "search",
            "omniglot-5w1s",
            "--space",
            "inner_lr=uniform(1,2)",
        ): "data is missing: omniglot needs --data",
        ("search", "--resume", sinusoid): "it is not of a search",
    }
    for arguments, message in cases.items():
        output = () if arguments[0] != "train" or "--output" in arguments or "--resume" in arguments else None
        extra = ("--output", tmp_path / f"run{time.monotonic_ns()}") if output is None else ()
        assert run_cli(*arguments, *extra) == 2, arguments
        assert message in capsys.readouterr().err


def test_a_diverging_run_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--meta-lr", 1e30, "--output", tmp_path / "run")
    assert run_cli("train", "sinusoid", *TINY, *arguments) == 1
    assert "iteration 2: the query loss is" in capsys.readouterr().err
