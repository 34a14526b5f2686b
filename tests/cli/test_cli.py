"""The command line as a user types it: real runs in real directories, and every error."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, maml_rl
from paths import ROOT

from maml_rl.cli.app import main
from maml_rl.policies.policy_file import load_policy
from maml_rl.tools.user_folder import USER_FOLDER


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three iterations."""
    folder = tmp_path_factory.mktemp("cli")
    path = folder / "run"
    result = maml_rl("train", "point-nav", *TINY, "--iterations", 3, "--output", "run", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "iteration 3/3: return" in result.stderr
    return path


def progress(run: Path) -> list[dict[str, str]]:
    with (run / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_directory_is_complete(run: Path) -> None:
    description = json.loads((run / "config.json").read_text())
    assert description["config"]["meta_batch_size"] == 3
    assert description["config"]["env_config"] == {"reward": "distance"}
    assert description["versions"]["ray"]
    assert [float(row["iteration"]) for row in progress(run)] == [1, 2, 3]
    assert load_policy(run / "checkpoint.safetensors").info["iteration"] == 3
    policy = load_policy(run / "policy.safetensors")
    assert policy.params["hidden.0.weight"].shape == (8, 2)
    info = policy.info
    returns = [float(row["return_post"]) for row in progress(run)]
    recent = [sum(returns[: i + 1]) / (i + 1) for i in range(3)]  # fewer than BEST_WINDOW
    assert info["return_post"] == pytest.approx(max(recent))
    assert info["iteration"] == recent.index(max(recent))  # rolled out before that iteration's update


def test_tensorboard_events_equal_the_csv(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload().Scalars("maml/return_post")
    assert [e.step for e in events] == [1, 2, 3]
    expected = [float(row["return_post"]) for row in progress(run)]
    assert [e.value for e in events] == pytest.approx(expected, rel=1e-6)


def test_evaluate_prints_a_table_and_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(run), "--episodes", "2", "--steps", "2", "--num-workers", "0"]
    assert main(["evaluate", *arguments]) == 0
    table = capsys.readouterr().out
    assert "| 0 | 1 | 2 |" in table
    assert "Finn et al. 2017 | -40.41 ± 4.00" in table
    assert main(["evaluate", *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["tasks"] == 40
    assert len(result["mean"]) == 3
    saved = json.loads((run / "adaptation.json").read_text())
    assert saved["returns"] == result["returns"]
    with (run / "adaptation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mean"]) for row in rows] == result["mean"]


def test_a_time_out_is_a_failed_run_not_wrong_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def time_out(*args: Any, **kwargs: Any) -> None:
        raise TimeoutError("no env runner finished")

    monkeypatch.setattr("tyro.extras.subcommand_cli_from_dict", time_out)
    assert main([]) == 1
    assert "no env runner finished" in capsys.readouterr().err


def test_evaluate_other_tasks_and_the_latest_policy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tasks", "3", "--policy", "latest", "--episodes", "2", "--steps", "1", "--json"]
    assert main(["evaluate", str(run), *arguments, "--num-workers", "0"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["tasks"], result["policy"], result["iteration"]) == (3, "latest", 3)


def test_plot_writes_pictures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(run), "--episodes", "2", "--steps", "1", "--num-workers", "0"])
    assert main(["plot", str(run)]) == 0
    from PIL import Image

    for name in ("learning_curve.png", "adaptation_curve.png"):
        picture = Image.open(run / name).convert("L")
        assert len(set(picture.get_flattened_data())) > 10, f"{name} is blank"


@pytest.mark.system
def test_interrupt_and_resume_equal_an_uninterrupted_run(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "interrupted"
    command = [sys.executable, "-m", "maml_rl", "train", "point-nav", *TINY, "--output", str(path)]
    process = subprocess.Popen([*command, "--iterations", "100000"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (path / "progress.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert f"maml-rl train --resume {path}" in stderr.replace("\n", " ")
    done = len(progress(path))
    total = done + 2
    result = maml_rl("train", "--resume", path, "--iterations", total, "--num-env-runners", "1")
    assert result.returncode == 0, result.stderr
    whole = tmp_path / "whole"
    assert maml_rl("train", "point-nav", *TINY, "--iterations", total, "--output", whole).returncode == 0
    for name in ("return_pre", "return_post", "kl", "loss_after"):
        assert [r[name] for r in progress(path)] == [r[name] for r in progress(whole)]
    # Parameters, optimisers, counters: all that training goes on from, to the last bit.
    assert (path / "checkpoint.safetensors").read_bytes() == (whole / "checkpoint.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "pont-nav"], "preset is 'pont-nav' (did you mean 'point-nav'?)"),
        (["train"], "preset is missing; it must be one of: point-nav"),
        (["train", "point-nav", "--meta-batch-size", "0"], "meta_batch_size is 0; it must be"),
        (["train", "point-nav", "--inner-lr", "-1"], "inner_lr is -1.0; it must be"),
        (["train", "point-nav", "--iterations", "0"], "iterations is 0"),
        (["train", "point-nav", "--seed", "-3"], "seed is -3; it must be"),
        (["evaluate", "no/such/run"], "no/such/run is not a run: config.json"),
        (["evaluate", "ant-vel"], "with --pretrained, ant-vel is the policy that comes with the package"),
        (["video", "ant-vel"], "with --pretrained, ant-vel is the policy that comes with the package"),
        (["plot", "no/such/run"], "no/such/run is not a run: config.json"),
        (["train", "--resume", "no/such/run"], "no/such/run is not a run: config.json"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("inner-lr", ["nan", "inf", "-1", "0"]),
        ("steps", ["-1"]),
        ("episodes", ["0", "-2"]),
        ("tasks", ["0", "-2"]),
        ("seed", ["-1", str(2**32)]),
        ("sample-timeout-s", ["0", "nan"]),
        ("num-workers", ["-1"]),
    ],
)
def test_options_of_evaluate_outside_their_range_are_named(
    option: str, values: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maml_rl.tools.ray_start.start_ray", None)  # refused before anything starts
    for value in values:
        assert main(["evaluate", "point-nav", "--pretrained", f"--{option}", value]) == 2
        line = capsys.readouterr().err
        assert f"{option.replace('-', '_')} is {value}" in line
        assert "must be" in line


@pytest.mark.parametrize(
    ("option", "what"), [("tasks", "the returns"), ("episodes", "one step of its episodes")]
)
def test_an_evaluation_that_fits_into_no_memory_is_refused(
    option: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "point-nav", "--pretrained", f"--{option}", str(10**12), "--num-workers", "0"]
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert f"{option} 1000000000000" in line
    assert f"{what} alone need" in line


def test_a_step_size_that_diverges_is_no_result(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = ["--num-workers", "0", "--tasks", "3"]
    here = ["evaluate", str(run), *local, "--episodes", "2", "--inner-lr", "1e38", "--steps", "1"]
    assert main(here) == 0
    assert "adaptation diverged on 3 of 3 tasks" in capsys.readouterr().out
    assert main(["tune-inner-lr", str(run), *local, "--inner-lr", "0.1", "1e38"]) == 0
    out = capsys.readouterr().out
    assert "best step size after 1 gradient step(s): 0.1" in out
    assert "1e+38: adaptation diverged" in out
    assert main(["tune-inner-lr", str(run), *local, "--inner-lr", "1e38"]) == 1
    assert "diverges with every step size" in capsys.readouterr().err
    assert main(["tune-inner-lr", str(run), *local, "--inner-lr", "1e38", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["best"] is None
    assert "diverges with every step size" in err


def test_unknown_field_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["train", "point-nav", "--fast-lr", "0.1"])
    assert error.value.code == 2
    assert "--fast-lr" in capsys.readouterr().err


def assert_fails(arguments: list[Any], message: str, status: int) -> None:
    result = maml_rl(*arguments)
    assert result.returncode == status, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_refused_environment_leaves_no_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    command = ["train", "point-nav", "--env-config", "reward", "sparse", "--output", str(output)]
    assert main(command) == 2
    assert "reward is 'sparse'" in capsys.readouterr().err
    assert not output.exists()


def test_existing_output_is_refused(run: Path) -> None:
    before = sorted(run.iterdir())
    arguments = ["train", "point-nav", *TINY, "--output", run]
    assert_fails(arguments, f"{run} exists and is not empty", 2)
    assert sorted(run.iterdir()) == before


@pytest.mark.system
def test_too_many_runners_are_refused_and_leave_no_directory(tmp_path: Path) -> None:
    arguments = ["train", "point-nav", "--num-env-runners", 500, "--output", tmp_path / "run"]
    assert_fails(arguments, "asks for 500 CPUs", 1)
    assert not (tmp_path / "run").exists()


def test_unreachable_cluster(tmp_path: Path) -> None:
    arguments = ["train", "point-nav", "--address", "127.0.0.1:1", "--output", tmp_path / "run"]
    assert_fails(arguments, "no Ray cluster at '127.0.0.1:1'", 2)


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    assert_fails(["train", "point-nav", *TINY, "--output", blocker / "run"], "cannot be written", 2)


def test_resume_refuses_another_configuration(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(run), "--inner-lr", "0.7"]) == 2
    assert "inner_lr is 0.7, but the run in" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--seed", "9"]) == 2
    assert "seed is 9, but the run in" in capsys.readouterr().err


@pytest.mark.system
def test_resume_from_a_truncated_checkpoint(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    state = copy / "checkpoint.safetensors"
    state.write_bytes(state.read_bytes()[:20])
    before = progress(copy)
    assert_fails(["train", "--resume", copy, "--iterations", 5], "checkpoint.safetensors: truncated", 2)
    assert progress(copy) == before


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "first version"])
def test_damaged_policy_is_refused(
    run: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    policy = copy / "policy.safetensors"
    data = bytearray(policy.read_bytes())
    if damage == "truncated":
        policy.write_bytes(data[:-8])
    elif damage == "changed":
        data[-1] ^= 1
        policy.write_bytes(data)
    elif damage == "missing":
        policy.unlink()
    else:
        policy.with_suffix(".json").write_text("{")
    assert main(["evaluate", str(copy)]) == 2
    assert "policy" in capsys.readouterr().err


@pytest.mark.system
def test_an_environment_of_the_present_folder(tmp_path: Path) -> None:
    readme = (ROOT / "docs" / "guide" / "environments.md").read_text()
    example = readme.partition("Save as `my_tasks.py`")[2].partition("```python\n")[2].partition("```")[0]
    assert example.count("\n") < 40
    (tmp_path / "my_tasks.py").write_text(example)
    arguments = ["my_tasks:PendulumMass", *TINY, "--num-env-runners", "1", "--iterations", 1]
    command = Path(sys.executable).with_name("maml-rl")
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTHONPATH", USER_FOLDER)}
    result = subprocess.run(
        [command, "train", *map(str, arguments), "--output", "run"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "next: maml-rl evaluate run --env my_tasks:PendulumMass" in result.stdout
    arguments = ["evaluate", "run", "--tasks", 2, "--steps", 1]
    refused = maml_rl(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert "files do not choose what is imported" in refused.stderr
    assert maml_rl(*arguments, "--env", "my_tasks:PendulumMass", cwd=tmp_path).returncode == 0


@pytest.mark.system
def test_what_was_computed_before_a_failure_is_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    env = {"bad": "rewards", "after": str(2 * 3 * 10 * 2)}  # two good iterations of 2 phases x 3 tasks x 10
    arguments = [part for pair in env.items() for part in pair]
    result = maml_rl(
        *("train", "faulty_envs:NanPointNav", *TINY, "--env-config", *arguments),
        *("--iterations", 9, "--output", run),
    )
    assert result.returncode == 1
    assert "3 consecutive updates were refused" in result.stderr
    assert [row["update_refused"] for row in progress(run)] == ["0.0", "0.0", "1.0", "1.0"]
    assert load_policy(run / "checkpoint.safetensors").info["iteration"] == 4


def test_an_environment_that_raises_ends_the_run_with_its_message(tmp_path: Path) -> None:
    arguments = ["train", "point-nav", *TINY, "--env-config", "reward", "cubed", "--output", tmp_path / "run"]
    assert_fails(arguments, "reward is 'cubed'; allowed: distance, squared_distance", 2)
