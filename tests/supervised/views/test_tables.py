"""The paper's tables: which numbers of a run they hold, and what is marked as worse."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from supervised.views.tables import entries, markdown, save_csv


def row(name: str, mean: list[float]) -> dict[str, object]:
    return {"name": name, "mean": mean, "interval_95": [0.5] * len(mean)}


def test_images_are_taken_after_the_last_step() -> None:
    (entry,) = entries("omniglot-5w1s", "maml", [row("maml", [20, 98, 98.6])])
    assert (entry.name, entry.steps, entry.mean, entry.paper) == ("maml", 2, 98.6, (98.7, 0.4))
    assert entry.is_worse
    assert "| omniglot-5w1s | maml | 2 | 98.60 ± 0.50 ▼ | 98.70 ± 0.40 |" in markdown([entry])


def test_higher_accuracy_and_lower_error_are_better() -> None:
    (better,) = entries("omniglot-5w1s", "maml", [row("maml", [99])])
    assert not better.is_worse
    errors = entries("sinusoid", "maml", [row("5-shot", [3, 0.6, 1, 1, 1, 0.5])])
    assert [(entry.steps, entry.is_worse) for entry in errors] == [(1, False), (5, True)]


def test_sinusoids_are_those_of_table_2() -> None:
    rows = [row("5-shot", list(range(11))), row("10-shot", list(range(11)))]
    found = entries("sinusoid", "pretrained", rows)
    assert [(entry.steps, entry.mean) for entry in found] == [(1, 1), (5, 5), (10, 10)]
    assert [entry.paper for entry in found] == [(2.41, None), (2.23, None), (2.19, None)]


def test_a_classifier_has_two_rows() -> None:
    rows = [row("fine-tuning", [20, 30]), row("nearest neighbour", [40, 40])]
    found = entries("miniimagenet-1shot", "classifier", rows)
    assert [(entry.name, entry.is_worse) for entry in found] == [
        ("fine-tuning", False),
        ("nearest neighbour", True),
    ]


@pytest.mark.parametrize("method", ["anil", "first-order"])
def test_what_the_paper_does_not_have_is_not_compared(method: str, tmp_path: Path) -> None:
    table = entries("omniglot-5w1s", method, [row(method, [20, 30])])
    assert table[0].paper is None
    assert not table[0].is_worse
    save_csv(table, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["mean"], line["paper"]) == ("30", "")
