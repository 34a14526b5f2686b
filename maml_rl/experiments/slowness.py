"""Why an iteration was slow, in one line."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping

SLOW = 1.5
"""An iteration that takes this many times the median of those before it is explained."""
HISTORY = 20
"""Iterations that are looked back on; with fewer than three there is no median worth the name."""

PHASES = {"rollouts": "rollouts", "adaptation": "adaptation", "meta_update": "meta-update"}


class Slowness:
    """Looks at every iteration and explains those that stand out."""

    def __init__(self) -> None:
        self._history: deque[dict[str, float]] = deque(maxlen=HISTORY)

    def look(self, row: Mapping[str, float], cluster: Mapping[str, float]) -> str:
        """What made this iteration slow, or nothing if it was not.

        Args:
            row: of ``progress.csv``.
            cluster: the result's numbers about the cluster, see ``maml_rl.rllib.activity``.
        """
        seconds = {PHASES[name]: row[f"seconds_{name}"] for name in PHASES}
        seconds["the rest"] = row["seconds_total"] - sum(seconds.values())
        seconds["total"] = row["seconds_total"]
        before = list(self._history)
        self._history.append(seconds)
        if len(before) < 3:
            return ""
        usual = {name: statistics.median(past[name] for past in before) for name in seconds}
        if seconds["total"] <= SLOW * usual["total"]:
            return ""
        slowest = max((name for name in seconds if name != "total"), key=lambda n: seconds[n] - usual[n])
        text = (
            f"iteration {row['iteration']:.0f} took {seconds['total']:.1f} s, "
            f"{seconds['total'] / usual['total']:.1f} times the median: "
            f"{slowest} {seconds[slowest]:.1f} s instead of {usual[slowest]:.1f} s"
        )
        causes = [
            f"{cluster[name]:.0f} {what}"
            for name, what in (
                ("learner_restarts", "learner restart(s)"),
                ("runner_restarts", "runner restart(s)"),
                ("lost_blocks", "block(s) of tasks lost with their runner"),
                ("reissued_blocks", "slow block(s) given to a second runner"),
            )
            if cluster[name]
        ]
        if slowest == "rollouts":
            block, median = cluster["slowest_block_s"], cluster["median_block_s"]
            if block > 2 * median:
                causes.append(
                    f"runner {cluster['slowest_runner']:.0f} needed {block:.1f} s for a block of tasks, "
                    f"the median is {median:.1f} s"
                )
            else:
                causes.append(
                    f"all blocks of tasks alike, {median:.1f} s each: longer episodes or busy machines"
                )
        return "; ".join([text, *causes])
