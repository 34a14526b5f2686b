"""The tables of a report: what was trained, what was measured, and how several runs differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maml_rl.experiments.methods import METHODS
from maml_rl.experiments.presets import Return, get_experiment
from maml_rl.experiments.run import Run
from maml_rl.tools.intervals import interquartile_mean, mean, with_bootstrap, with_interval
from maml_rl.views.figures import Groups

PAPER = "Finn et al. 2017"


@dataclass(frozen=True)
class Table:
    """A table: column heads, and rows of text whose first cell names the row."""

    title: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def run_table(run: Run, policy_info: Mapping[str, Any] | None) -> Table:
    description = run.description()
    rows = [
        ("preset", description["preset"]),
        ("method", f"{description['method']}: {METHODS[description['method']].summary}"),
        ("environment", description["config"]["env"]),
        ("seed", description["config"]["seed"]),
        ("started", description.get("started", "")),
    ]
    if run.has_progress:
        progress = run.progress()
        seconds = sum(row["seconds_total"] for row in progress)
        rows += [
            ("iterations", f"{len(progress)} of {description['iterations']}"),
            ("environment steps", f"{sum(row['env_steps'] for row in progress):,.0f}"),
            ("time", f"{seconds / 3600:.2f} h"),
        ]
    if policy_info is not None:
        rows.append(("best policy", f"of iteration {policy_info['iteration']}"))
    return Table(
        "Run", "What was trained", ("property", "value"), [(name, _text(value)) for name, value in rows]
    )


def adaptation_table(result: Mapping[str, Any]) -> Table:
    rows = [(result["method"], _returns(_curve(result)))]
    paper = _papers_curve(result)
    if paper:
        rows.append((f"{PAPER}, {result['method']}", _returns(paper)))
    of_trials = "episode" in result
    when, how_many = (
        ("in each episode of", "trials per task")
        if of_trials
        else ("after gradient steps on", "episodes per step")
    )
    caption = (
        f"Mean return {when} {result['tasks']} held-out tasks, {result['episodes']} {how_many}, "
        f"policy of iteration {result['iteration']}"
    )
    return _returns_table(
        "Adaptation", caption, "policy", [], [(name, [], curve) for name, curve in rows], of_trials=of_trials
    )


def comparison_table(runs: Sequence[Run]) -> Table:
    rows = []
    paper: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        description, result = run.description(), run.adaptation()
        preset, method = description["preset"], description["method"]
        finished = str(len(run.progress())) if run.has_progress else "0"
        facts = [preset, method, _text(description["config"]["seed"]), finished]
        name = f"{run.place} (episodes 1, 2, ...)" if result and "episode" in result else str(run.place)
        rows.append((name, facts, _returns(_curve(result)) if result else ["not evaluated"]))
        if result and (curve := _papers_curve(result)):
            paper[preset, method] = _returns(curve)
    rows += [(PAPER, [*key, "", ""], curve) for key, curve in paper.items()]
    caption = "Mean return of the held-out tasks after gradient steps"
    return _returns_table("Returns", caption, "run", ["preset", "method", "seed", "iterations"], rows)


def seeds_table(groups: Groups) -> list[Table]:
    """Mean and interquartile mean over the seeds of each method, with intervals of the stratified bootstrap."""
    rows = []
    for preset, methods in groups.items():
        for method, runs in methods.items():
            told = [r["returns"] for run in runs if (r := run.adaptation())]
            if len(told) < 2 or len({np.shape(returns) for returns in told}) > 1:
                continue
            scores = np.array(told, np.float64)  # runs, steps, tasks; NaN where an adaptation diverged
            for name, statistic in (("mean", mean), ("interquartile mean", interquartile_mean)):
                cells = [with_bootstrap(scores[:, step], statistic, 2) for step in range(scores.shape[1])]
                rows.append((f"{preset}, {method}: {name}", [str(len(told))], cells))
    if not rows:
        return []
    caption = (
        "Over seeds and held-out tasks after gradient steps, with 95 % intervals of the stratified bootstrap"
    )
    return [_returns_table("Seeds", caption, "runs", ["seeds"], rows)]


def _returns_table(
    title: str,
    caption: str,
    corner: str,
    facts: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    *,
    of_trials: bool = False,
) -> Table:
    """Rows of (name, facts, returns after 0, 1, ... gradient steps or in episode 1, 2, ...), filled up."""
    steps = max(len(returns) for _, _, returns in rows)
    columns = [f"episode {k + 1}" if of_trials else f"{k} step{'' if k == 1 else 's'}" for k in range(steps)]
    head = [corner, *facts, *columns]
    return Table(
        title,
        caption,
        head,
        [[name, *known, *returns, *[""] * (steps - len(returns))] for name, known, returns in rows],
    )


def differences_table(runs: Sequence[Run]) -> Table:
    settings = [_settings(run) for run in runs]
    names = dict.fromkeys(name for found in settings for name in found)
    rows = []
    for name in names:
        values = [found.get(name, "") for found in settings]
        if len(set(values)) > 1:
            rows.append([name, *values])
    caption = "Settings in which the runs differ" if rows else "The runs do not differ in any setting"
    return Table("Differences", caption, ["setting", *(str(run.place) for run in runs)], rows)


def settings_tables(run: Run) -> list[Table]:
    versions = run.description().get("versions", {})
    return [
        Table(
            "Settings", "Every field of the configuration", ("setting", "value"), list(_settings(run).items())
        ),
        Table("Versions", "Packages", ("package", "version"), [(k, _text(v)) for k, v in versions.items()]),
    ]


def _settings(run: Run) -> dict[str, str]:
    return {name: _text(value) for name, value in run.description()["config"].items()}


def _curve(result: Mapping[str, Any]) -> list[Return]:
    means = (math.nan if mean is None else mean for mean in result["mean"])  # where adaptation diverged
    return list(zip(means, result["interval_95"], strict=True))


def _papers_curve(result: Mapping[str, Any]) -> Sequence[Return]:
    """The paper's returns of the same method on the same tasks, if there are any."""
    if not result["standard_tasks"]:
        return ()
    return get_experiment(result["preset"]).paper.get(result["method"], ())


def _returns(curve: Iterable[Return]) -> list[str]:
    return [with_interval(mean, width, 2) for mean, width in curve]


def _text(value: Any) -> str:
    """A setting as text: mappings as ``name: value``, sequences separated by commas."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)
