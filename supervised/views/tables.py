"""The paper's Tables 1, 2 and 3 from evaluated runs, with the paper's values beside them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maml_rl.tools.intervals import with_interval
from supervised.experiments.presets import PAPER, PRESETS

REGRESSION_ROW = "5-shot"
REGRESSION_STEPS = (1, 5, 10)  # paper, Table 2


@dataclass(frozen=True)
class Entry:
    """One number of a table.

    Attributes:
        name: method, or baseline that a run was put to use as.
        steps: gradient steps before it.
        mean: accuracy in percent, or mean squared error.
        interval: half width of its 95 % interval; None for one task.
        paper: the paper's mean and half width; None where it has none.
    """

    preset: str
    name: str
    steps: int
    mean: float
    interval: float | None
    paper: tuple[float, float | None] | None

    @property
    def is_regression(self) -> bool:
        """Whether the number is an error, of which less is better."""
        return PRESETS[self.preset].problem == "sinusoid"

    @property
    def is_worse(self) -> bool:
        """Whether the mean is worse than the paper's."""
        if self.paper is None:
            return False
        sign = -1 if self.is_regression else 1
        return sign * (self.mean - self.paper[0]) < 0


def entries(preset: str, method: str, rows: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """What the paper's tables say of a run: images after all steps, 5-shot sinusoids after 1, 5 and 10.

    Args:
        rows: what the run's ``evaluation.json`` holds.
    """
    result = []
    for row in rows:
        last = len(row["mean"]) - 1
        steps: tuple[int, ...] = (last,)
        if PRESETS[preset].problem != "sinusoid":
            name = row["name"]
        elif row["name"] == REGRESSION_ROW:
            name, steps = method, tuple(step for step in REGRESSION_STEPS if step <= last)
        else:
            continue
        paper = PAPER.get((preset, name), ())
        result += [
            Entry(
                preset,
                name,
                step,
                row["mean"][step],
                row["interval_95"][step],
                paper[position] if position < len(paper) else None,
            )
            for position, step in enumerate(steps)
        ]
    return result


def markdown(table: Sequence[Entry]) -> str:
    """A line per entry; ▼ marks what is worse than in the paper."""
    lines = ["| preset | method | gradient steps | measured | paper |", "|---|---|---|---|---|"]
    for entry in table:
        digits = 3 if entry.is_regression else 2
        measured = with_interval(entry.mean, entry.interval, digits) + (" ▼" if entry.is_worse else "")
        paper = "" if entry.paper is None else with_interval(*entry.paper, 2)
        lines.append(f"| {entry.preset} | {entry.name} | {entry.steps} | {measured} | {paper} |")
    return "\n".join(lines)


def save_csv(table: Sequence[Entry], path: Path) -> None:
    """The same, unrounded."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["preset", "method", "gradient_steps", "mean", "interval_95", "paper", "paper_interval_95"]
        )
        for entry in table:
            measured = (entry.preset, entry.name, entry.steps, entry.mean, entry.interval)
            writer.writerow([*measured, *(entry.paper or (None, None))])
