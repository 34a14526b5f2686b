"""Runs on disk: what is written is read back, damage is repaired or named, and one process writes at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maml_rl.tools.files import write_atomically
from maml_rl.tools.run_directory import CHECKPOINT, RunDirectory, RunError


def new_run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {"preset": "point-nav", "config": {"seed": 1}})


def test_description_round_trip(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    description = RunDirectory.open(run.path).description()
    assert description["config"] == {"seed": 1}
    assert {"python", "ray", "torch", "numpy"} <= set(description["versions"])


def test_an_empty_directory_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    new_run(tmp_path)
    with pytest.raises(RunError, match="exists and is not empty"):
        new_run(tmp_path)


def test_asking_whether_a_directory_is_free_leaves_nothing_behind(tmp_path: Path) -> None:
    RunDirectory.free(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        RunDirectory.free(tmp_path / "file")
    with pytest.raises(RunError, match="cannot be written"):
        RunDirectory.free(tmp_path / "file" / "run")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"preset": 1}', '{"config": []}', "[" * 100_000, "\x00"])
def test_damaged_description(tmp_path: Path, content: str) -> None:
    run = new_run(tmp_path)
    (run.path / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        RunDirectory.open(run.path)


# --- progress


def with_rows(tmp_path: Path, rows: int = 5) -> RunDirectory:
    run = new_run(tmp_path)
    for i in range(1, rows + 1):
        run.append_progress({"iteration": i, "steps": 10 * i, "return_post": -1.5 * i})
    return run


def test_rows_after_the_checkpoint_are_forgotten_and_others_stay_as_they_are(tmp_path: Path) -> None:
    run = with_rows(tmp_path)
    file = run.path / "progress.csv"
    lines = file.read_text().splitlines()
    assert run.repair_progress(3) == ""
    assert file.read_text().splitlines() == lines[:4]  # integers are integers
    run.append_progress({"iteration": 4, "steps": 40, "return_post": 0.25})
    assert run.progress()[-1] == {"iteration": 4, "steps": 40, "return_post": 0.25}
    run.repair_progress(0)
    assert not run.has_progress


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda text: text[:-7], 4),  # torn
        (lambda text: text + "6,60", 5),
        (lambda text: text.replace("3,30,", "3,thirty,"), 2),
        (lambda text: text.replace("3,30,", "2,30,"), 2),  # iterations rise
        (lambda text: text + "6,60,1,1\n", 5),
        (lambda text: text + "\x00\xff\n", 5),
        (lambda text: text.splitlines()[0] + "\n", 0),
        (lambda text: "", 0),
        (lambda text: "no header\n1\n", 0),
    ],
)
def test_a_damaged_log_is_repaired_and_said_to_be(tmp_path: Path, damage: object, kept: int) -> None:
    run = with_rows(tmp_path)
    file = run.path / "progress.csv"
    file.write_text(damage(file.read_text()))  # type: ignore[operator]
    assert "progress.csv" in run.repair_progress(5)
    assert [row["iteration"] for row in (run.progress() if kept else [])] == list(range(1, kept + 1))
    run.append_progress({"iteration": 6, "steps": 60, "return_post": 1.0})
    assert run.progress()[-1]["iteration"] == 6
    assert run.repair_progress(6) == ""


def test_a_missing_log_is_begun_anew(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with pytest.raises(RunError, match=r"no progress\.csv"):
        run.progress()
    assert "no progress.csv" in run.repair_progress(5)
    run.append_progress({"iteration": 6})
    assert run.progress() == [{"iteration": 6}]


# --- checkpoints


def test_no_checkpoint_and_those_of_the_first_version(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with pytest.raises(RunError, match="holds no checkpoint"):
        _ = run.checkpoint
    (run.path / "checkpoints").mkdir()
    with pytest.raises(RunError, match=r"version 0\.1, whose checkpoints hold pickles and links"):
        _ = run.checkpoint
    (run.path / CHECKPOINT).touch()
    assert run.checkpoint == run.path / CHECKPOINT


# --- one writer

HOLDER = """
import sys, time
from pathlib import Path
from maml_rl.tools.run_directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).writing():
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    command = [sys.executable, "-c", HOLDER, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        with pytest.raises(RunError, match=f"is being written by process {other.pid} on "), run.writing():
            pass
        (run.path / ".policy.safetensors.1.tmp").write_bytes(b"half")
        other.send_signal(signal.SIGKILL)
        other.wait()
        with run.writing():
            assert f"process {os.getpid()} " in (run.path / ".lock").read_text()
            assert not (run.path / ".policy.safetensors.1.tmp").exists()
    with run.writing():  # and again, once it is over
        pass


def test_nothing_in_a_run_is_a_link(tmp_path: Path) -> None:
    run = with_rows(tmp_path)
    with run.writing():
        assert not any(path.is_symlink() for path in run.path.rglob("*"))


# --- files


def test_atomic_write_replaces(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"one")
    write_atomically(file, b"two")
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]


def _write_where_there_is_no_room(folder: Path) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write_atomically(folder / "file", bytes(5000))
    except OSError as error:
        os._exit(0 if error.filename == str(folder / "file") else 1)
    os._exit(2)


def test_a_failed_write_keeps_the_old_file_and_names_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"old")
    process = multiprocessing.get_context("fork").Process(
        target=_write_where_there_is_no_room, args=(tmp_path,)
    )
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_of_a_description_is_readable(tmp_path: Path) -> None:
    assert json.loads((new_run(tmp_path).path / "config.json").read_text())["preset"] == "point-nav"
