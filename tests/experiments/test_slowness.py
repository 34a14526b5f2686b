"""Slow iterations are explained by what made them slow, others not at all."""

from __future__ import annotations

from typing import Any

import pytest

from maml_rl.experiments.slowness import Slowness
from maml_rl.rllib.activity import Activity


def row(iteration: int, rollouts: float = 2.0, update: float = 1.0, rest: float = 0.1) -> dict[str, float]:
    return {
        "iteration": iteration,
        "seconds_rollouts": rollouts,
        "seconds_adaptation": 0.1,
        "seconds_meta_update": update,
        "seconds_total": rollouts + 0.1 + update + rest,
    }


def cluster(**changes: Any) -> dict[str, float]:
    activity = Activity(block_s=changes.pop("blocks", [(0.5, 1), (0.5, 2), (0.6, 1)]))
    return activity.numbers() | changes


def looked_at(*rows: dict[str, float]) -> Slowness:
    slowness = Slowness()
    for each in rows:
        assert slowness.look(each, cluster()) == ""
    return slowness


def test_usual_iterations_are_not_explained() -> None:
    slowness = looked_at(*(row(i) for i in range(10)))
    assert slowness.look(row(10, rollouts=2.9), cluster()) == ""


def test_the_first_ones_have_nothing_to_be_compared_with() -> None:
    looked_at(row(1, rollouts=30.0), row(2), row(3))


@pytest.mark.parametrize(
    ("slow", "told", "message"),
    [
        (
            row(4, rollouts=8.0),
            {"blocks": [(0.5, 1), (0.5, 2), (7.0, 3)]},
            "iteration 4 took 9.2 s, 2.9 times the median: rollouts 8.0 s instead of 2.0 s; "
            "runner 3 needed 7.0 s for a block of tasks, the median is 0.5 s",
        ),
        (
            row(4, rollouts=8.0),
            {"blocks": [(2.0, 1), (2.0, 2), (2.1, 1)]},
            "rollouts 8.0 s instead of 2.0 s; all blocks of tasks alike, 2.0 s each",
        ),
        (row(4, update=5.0), {}, "meta-update 5.0 s instead of 1.0 s"),
        (row(4, rest=6.0), {"learner_restarts": 1}, "the rest 6.0 s instead of 0.1 s; 1 learner restart(s)"),
        (row(4, rollouts=8.0), {"lost_blocks": 2, "runner_restarts": 1}, "1 runner restart(s); 2 block(s)"),
        (row(4, rollouts=8.0), {"reissued_blocks": 3}, "3 slow block(s) given to a second runner"),
    ],
)
def test_a_slow_one_is_explained_in_one_line(
    slow: dict[str, float], told: dict[str, Any], message: str
) -> None:
    slowness = looked_at(*(row(i) for i in range(1, 4)))
    text = slowness.look(slow, cluster(**told))
    assert message in text
    assert "\n" not in text


def test_a_run_that_has_become_slower_is_explained_until_that_is_usual() -> None:
    slowness = looked_at(*(row(i) for i in range(20)))
    explained = [bool(slowness.look(row(20 + i, rollouts=8.0), cluster())) for i in range(20)]
    assert explained[0]
    assert not explained[-1]
