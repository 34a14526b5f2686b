"""The progress of a run in the terminal: a bar, or a line per row where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Row = Mapping[str, Any]


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
