"""What people see of a search: a live table, and the trials and the best one at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from maml_rl.tools.command_line import print_json, shell_line
from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.search.picture import draw_search
from maml_rl.tools.search.search import Search, run_search
from maml_rl.tools.search.searched import Show, TrialResult, save_results

_SHOWN = 12
"""Trials in the live table."""


def carry_out(
    wanted: Search, folder: RunDirectory, program: str, options: Sequence[object], *, fresh: bool, json: bool
) -> None:
    """Search in ``folder``, and say what came of it.

    Args:
        program: whose commands are named.
        options: of these commands.
        fresh: begin the folder with the search's description; else it holds it.
        json: print JSON alone.
    """
    started = time.monotonic()
    if fresh:
        folder.begin(wanted.description())
    with folder.stored(), folder.writing():
        with display(wanted) as show:
            trials = run_search(wanted, folder, show)
        files = [
            save_results(trials, wanted.space, folder.path),
            *draw_search(trials, wanted.searched, wanted.space, folder.path),
        ]
    if json:
        print_json({"search": str(folder.place), "trials": [trial.as_json() for trial in trials]})
        return
    Console().print(_table(wanted, trials, "the trials, best first", at_work="interrupted"))
    print("\n".join(folder.shown(file.name) for file in files))
    unfinished = sum(not trial.finished for trial in trials) + wanted.samples - len(trials)
    if unfinished > 0:
        command = shell_line(program, "search", "--resume", folder.place, *options)
        print(
            f"interrupted with {unfinished} of {wanted.samples} trials not at their end; continue with: {command}"
        )
    if not trials or not math.isfinite(trials[0].score):
        return
    best = trials[0]
    values = ", ".join(f"{name} {_text(value)}" for name, value in best.values.items())
    print(
        f"best of {len(trials)} after {time.monotonic() - started:.0f} s: {values} (score {_score(best)}); next: "
        + shell_line(program, "evaluate", best.place, *options)
    )


@contextmanager
def display(wanted: Search) -> Iterator[Show]:
    """A table of the trials that is kept up to date; a line per trial at its end where nobody watches."""
    console = Console(stderr=True)
    if not console.is_terminal:

        def say(trials: Mapping[int, TrialResult], ended: int | None) -> None:
            if ended is not None:
                trial = trials[ended]
                values = ", ".join(f"{name} {_text(value)}" for name, value in trial.values.items())
                outcome = f"failed: {trial.error}" if trial.error else f"score {_score(trial)}"
                console.print(
                    f"trial {ended}: {outcome}, iteration {trial.iteration}/{wanted.searched.iterations}: {values}",
                    soft_wrap=True,
                    markup=False,
                    highlight=False,
                )

        yield say
        return
    with Live(console=console, refresh_per_second=2) as live:

        def draw(trials: Mapping[int, TrialResult], ended: int | None) -> None:
            best = sorted(trials.values(), key=lambda trial: (trial.finished, -trial.score))
            finished = sum(trial.finished for trial in best)
            live.update(_table(wanted, best[:_SHOWN], f"{finished} of {wanted.samples} trials ended"))

        yield draw


def _table(wanted: Search, trials: Sequence[TrialResult], title: str, at_work: str = "runs") -> Table:
    table = Table(title=title)
    for name in ("trial", "score", "iteration", *(dimension.name for dimension in wanted.space), ""):
        table.add_column(name, justify="right" if name in ("score", "iteration") else "left")
    for trial in trials:
        state = trial.error or ("" if trial.finished else at_work)
        values = [_text(trial.values[dimension.name]) for dimension in wanted.space]
        table.add_row(str(trial.number), _score(trial), str(trial.iteration), *values, state)
    return table


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _score(trial: TrialResult) -> str:
    """Returns and accuracies alike."""
    return f"{trial.score:.4g}" if abs(trial.score) < 100 else f"{trial.score:.2f}"
