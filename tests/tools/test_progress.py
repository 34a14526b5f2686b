"""What is shown while something lasts: a bar for those who watch, a line now and then for logs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from maml_rl.tools import progress
from maml_rl.tools.progress import QUIET_S, counting_display


def test_a_log_gets_a_line_now_and_then_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    with counting_display(Console(file=file, width=200)) as show:
        for done in range(0, 41, 5):
            show("evaluating tasks", done, 40)
            now[0] += 0.4 * QUIET_S
        assert len(file.getvalue().splitlines()) == 2
        first = file.getvalue().splitlines()[0]
        assert first == "evaluating tasks: 15 of 40, about 20 s left"  # 12 s for 15
        show("another", 0, 5)
        assert len(file.getvalue().splitlines()) == 2


def test_what_is_quick_says_nothing() -> None:
    file = io.StringIO()
    with counting_display(Console(file=file)) as show:
        for done in range(6):
            show("quick", done, 5)
    assert file.getvalue() == ""


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    file = io.StringIO()
    with counting_display(Console(file=file, force_terminal=True, width=100)) as show:
        show("evaluating tasks", 0, 40)
        show("evaluating tasks", 10, 40)
    assert "evaluating tasks" in file.getvalue()
    assert "10/40" in file.getvalue()
    assert file.getvalue().endswith(("\x1b[2K", "\x1b[1A\x1b[2K", "\x1b[?25h\r\x1b[1A\x1b[2K"))
