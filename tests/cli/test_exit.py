"""How the programs end: one line, the right status, results alone on standard output, hints a shell can read."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, maml_rl
from run_helpers import make_run

from maml_rl.cli.app import main
from maml_rl.tools.command_line import print_json, run_program, shell_line
from maml_rl.tools.run_directory import RunFailedError


def raising(error: BaseException) -> Callable[..., Any]:
    def commands(arguments: Any) -> Any:
        raise error

    return commands


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("x is 3;\n it must be 4"), 2, "prog: error: x is 3; it must be 4"),
        (FileNotFoundError(2, "No such file", "a/b"), 2, "prog: error: [Errno 2] No such file: 'a/b'"),
        (RunFailedError("disk full"), 1, "prog: error: disk full"),
        (RuntimeError("all runners died"), 1, "prog: error: all runners died"),
        (ArithmeticError("not finite"), 1, "prog: error: not finite"),
        (TimeoutError("no answer"), 1, "prog: error: no answer"),
        (MemoryError(), 1, "prog: error: MemoryError:  (MAML_RL_DEBUG=1 shows where)"),
        (KeyError("a"), 1, "prog: error: KeyError: 'a' (MAML_RL_DEBUG=1 shows where)"),
        (IndexError("list index"), 1, "prog: error: IndexError: list index (MAML_RL_DEBUG=1 shows where)"),
        (KeyboardInterrupt(), 130, "prog: interrupted"),
    ],
)
def test_whatever_is_raised_is_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program("prog", raising(error), []) == status
    captured = capsys.readouterr()
    assert captured.err == line + "\n"
    assert captured.out == ""


def test_a_traceback_is_there_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAML_RL_DEBUG", "1")
    with pytest.raises(KeyError):
        run_program("prog", raising(KeyError("a")), [])


def test_results_are_strict_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def command(*, json: bool = False) -> None:
        print("an environment says hello")
        print_json({"kl": float("nan"), "returns": [1.5, float("-inf")], "nested": {"a": (float("inf"),)}})

    assert (
        run_program("prog", lambda arguments: {"measure": command, "other": command}, ["measure", "--json"])
        == 0
    )
    captured = capsys.readouterr()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    result = json.loads(captured.out, parse_constant=refuse)
    assert result == {"kl": None, "returns": [1.5, None], "nested": {"a": [None]}}
    assert captured.err == "an environment says hello\n"


# --- hints


def test_hints_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a run's; folder"
    line = shell_line("maml-rl", "evaluate", folder)
    assert shlex.split(line) == ["maml-rl", "evaluate", str(folder)]
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    assert words.stdout.splitlines() == ["maml-rl", "evaluate", str(folder)]


@pytest.mark.system
def test_a_finished_run_says_what_is_next_and_an_interrupted_one_how_to_go_on(tmp_path: Path) -> None:
    output = tmp_path / "my 'run"
    finished = maml_rl("train", "point-nav", *TINY, "--iterations", 1, "--output", output)
    assert finished.returncode == 0, finished.stderr
    hint = finished.stdout.partition("next: ")[2].strip()
    assert shlex.split(hint) == ["maml-rl", "evaluate", str(output)]

    code = f"""
import os, signal, sys
from maml_rl.experiments.run import Run
def interrupting(self, row, append=Run.append_progress):
    append(self, row)
    os.kill(os.getpid(), signal.SIGINT)
Run.append_progress = interrupting
from maml_rl.cli.app import main
sys.exit(main({["train", "--resume", str(output), "--iterations", "99"]!r}))
"""
    interrupted = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert interrupted.returncode == 0, interrupted.stderr
    assert "next:" not in interrupted.stdout
    hint = interrupted.stderr.partition("continue with: ")[2].strip()
    assert shlex.split(hint) == ["maml-rl", "train", "--resume", str(output)]
    assert "interrupted after iteration 2 of 99" in interrupted.stderr


# --- where reports go


def test_the_report_of_one_run_lies_in_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other", seed=4)
    assert main(["report", "run"]) == 0
    assert (run.path / "report.html").exists()
    assert capsys.readouterr().out == "run/report.html\n"
    assert main(["report", "run", "other"]) == 0
    assert (tmp_path / "report.html").exists()
    assert not (other.path / "report.html").exists()
    assert main(["report", "run", "--output", "mine.html"]) == 0
    assert (tmp_path / "mine.html").exists()
