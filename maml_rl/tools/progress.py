"""The progress of a run in the terminal: a bar, or a line per row where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Row = Mapping[str, Any]
QUIET_S = 10.0
"""Seconds between two lines where nobody watches."""


@contextmanager
def progress_display(
    console: Console, total: int, completed: int, describe: Callable[[Any], str]
) -> Iterator[Callable[[Row], None]]:
    """A function that shows a row of ``progress.csv``.

    Args:
        total: iterations in all.
        completed: iterations done before.
        describe: the text beside the number of the row's iteration.
    """
    if not console.is_terminal:
        yield lambda row: console.print(
            f"iteration {row['iteration']:.0f}/{total}: {describe(row)}", highlight=False, soft_wrap=True
        )
        return
    columns = (
        TextColumn("iteration"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeRemainingColumn(),
        TextColumn("{task.fields[line]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total, completed=completed, line="")
        yield lambda row: progress.update(task, completed=row["iteration"], line=describe(row))


Show = Callable[[str, int, int], None]
"""Shows how much of something is done: its name, the part that is done, and all of it."""


def unseen(what: str, done: int, total: int) -> None:
    """A ``Show`` that shows nothing."""


@contextmanager
def counting_display(console: Console) -> Iterator[Show]:
    """A bar with the time left for each thing; where nobody watches, a line every ``QUIET_S`` seconds."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield show


class _Lines:
    """A line now and then, with the time that is left at the pace so far."""

    def __init__(self, console: Console) -> None:
        self._console, self._what = console, ""
        self._began = self._said = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._said = what, now, now
        if now - self._said < QUIET_S or not 0 < done < total:
            return
        self._said = now
        left = (now - self._began) * (total - done) / done
        self._console.print(
            f"{what}: {done} of {total}, about {left:.0f} s left", highlight=False, soft_wrap=True
        )
