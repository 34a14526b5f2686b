"""What the tests of both programs' searches read."""

from __future__ import annotations

import csv
from pathlib import Path

from maml_rl.tools.run_directory import RunDirectory


def results(folder: Path) -> list[dict[str, str]]:
    """The rows of ``results.csv``."""
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def three_best_first(folder: Path) -> list[tuple[dict[str, str], RunDirectory]]:
    """The rows of a search of three trials, which must stand in the order of their scores, and their runs."""
    rows = results(folder)
    assert sorted(row["trial"] for row in rows) == ["0", "1", "2"]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    return [(row, RunDirectory.open(folder / f"trial-0000{row['trial']}")) for row in rows]
