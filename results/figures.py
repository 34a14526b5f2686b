"""The figures of the results: which there are, what they show, and how they are drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from maml_rl.experiments.presets import EXPERIMENTS
from maml_rl.tools.intervals import interval_95
from maml_rl.tools.published import Published, by_kind
from maml_rl.views.figures import combine, success_rates
from maml_rl.views.plots import Measure, Panel, adaptation_curves, learning_curves, success_by_group
from supervised.views.plots import draw_comparison

Kinds = Sequence[Sequence[Published]]
"""The seeds of each kind of run."""
RETURN: Measure = "return"
SUCCESS: Measure = "success_rate"
_WIDTH = 42
"""Letters in a line of a legend."""
Figures = dict[str, tuple[str, Callable[[], Figure]]]
"""Name of the file -> what it shows, and what draws it."""


def of_preset(preset: str, results: Sequence[Published]) -> Figures:
    """Adaptation and learning curves, and success by family, of a preset's results.

    Runs that were measured by the preset's own protocol are drawn, those with its own settings first; the tables
    have the others, too.
    """
    kinds = sorted(
        by_kind(r for r in results if not r.protocol), key=lambda members: len(members[0].settings)
    )
    found: Figures = {}
    if not kinds:
        return found
    found[f"{preset}-adaptation"] = (
        f"{preset}: return after gradient steps",
        partial(_adaptation, preset, kinds),
    )
    trained = [members for members in kinds if members[0].training.get("curve")]
    for measure, of in ((RETURN, "return"), (SUCCESS, "success")):
        told = [members for members in trained if f"{measure}_post" in members[0].training["curve"]]
        if told:
            found[f"{preset}-{of}-learning"] = (
                f"{preset}: {of} of the training tasks after adaptation, against environment steps",
                partial(_learning, preset, told, measure),
            )
    for members in kinds:
        if members[0].groups:
            found.setdefault(
                f"{preset}-{members[0].method}-families",
                (
                    f"{preset}, {members[0].method}: success by family before and after adaptation",
                    partial(_families, preset, members),
                ),
            )
    return found


def of_supervised(results: Sequence[Published]) -> Figures:
    """The methods of a preset beside each other, where there are several."""
    found: Figures = {}
    for preset in dict.fromkeys(r.preset for r in results):
        rows = {r.title: rows_of(r) for r in results if r.preset == preset}
        if len(rows) > 1:
            meaning = f"{preset}: test tasks after gradient steps, by method"
            found[f"{preset}-comparison"] = meaning, partial(draw_comparison, rows)
    return found


def rows_of(r: Published) -> list[dict[str, Any]]:
    """What ``evaluation.json`` of a supervised run holds: mean and interval after each number of steps."""
    return [
        {"name": name, "mean": values.mean(1).tolist(), "interval_95": interval_95(values).tolist()}
        for name, values in r.rows.items()
    ]


def rates_of(members: Sequence[Published]) -> dict[str, tuple[float, float]]:
    """Success rate by family before and after adaptation, in the mean over seeds."""
    return success_rates([{"groups": r.groups, "success": r.rows[SUCCESS]} for r in members])


def draw_all(results: Sequence[Published], folder: Path) -> None:
    """Draw the figures of all presets, say which, and remove those that are no longer among them."""
    folder.mkdir(parents=True, exist_ok=True)
    found = of_supervised([r for r in results if r.program == "supervised"])
    for preset in dict.fromkeys(r.preset for r in results if r.program == "maml-rl"):
        found |= of_preset(preset, [r for r in results if r.program == "maml-rl" and r.preset == preset])
    for name, (_, make) in found.items():
        _save(make(), folder / f"{name}.svg")
        print(f"{folder.name}/{name}.svg")
    for path in folder.glob("*.svg"):
        if path.stem not in found:
            path.unlink()


def _save(figure: Figure, path: Path) -> None:
    """An SVG file that is the same when nothing has changed."""
    with plt.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _adaptation(preset: str, kinds: Kinds) -> Figure:
    curves = {_label(members): combine([{"returns": r.rows[RETURN]} for r in members]) for members in kinds}
    paper = EXPERIMENTS[preset].paper
    methods = dict.fromkeys(members[0].method for members in kinds)
    return adaptation_curves([Panel(preset, curves, {m: paper[m] for m in methods if m in paper})])


def _learning(preset: str, kinds: Kinds, measure: Measure) -> Figure:
    curves = {_title(members): [_rows(r) for r in members] for members in kinds}
    return learning_curves(curves, preset, against="env_steps", measure=measure)


def _families(preset: str, members: Sequence[Published]) -> Figure:
    return success_by_group(rates_of(members), f"{preset}, {_label(members)}")


def _label(members: Sequence[Published]) -> str:
    return _title(members) + (f" ({len(members)} runs)" if len(members) > 1 else "")


def _title(members: Sequence[Published]) -> str:
    """In lines that leave room for the curves."""
    return textwrap.fill(members[0].title, _WIDTH)


def _rows(r: Published) -> list[dict[str, float]]:
    curve = r.training["curve"]
    return [dict(zip(curve, values, strict=True)) for values in zip(*curve.values(), strict=True)]
