"""The paper's figures from run directories: which runs belong into which panel, and their numbers as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from maml_rl.envs import OF_METHODS
from maml_rl.experiments.evaluation import AdaptationResult, adaptation
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.methods import METHODS
from maml_rl.experiments.presets import get_experiment
from maml_rl.experiments.run import Run
from maml_rl.policies.module_policy import UnknownModule
from maml_rl.policies.normalizer import ObservationScale
from maml_rl.tools.pictures import save
from maml_rl.tools.run_directory import RunError
from maml_rl.views.plots import (
    Against,
    Measure,
    Panel,
    adaptation_curves,
    learning_curve,
    learning_curves,
    plane_trajectories,
    success_by_group,
)

Groups = dict[str, dict[str, list[Run]]]
"""Runs by preset, then by method in the order of ``METHODS``."""

_DRAWN_EPISODES = 5
MEASURES: dict[Measure, str] = {"return": "learning_curve", "success_rate": "success_curve"}
"""What learning curves show, and the names of their files."""


def draw_all(
    runs: Sequence[Run], folder: Path, *, seed: int = 0, against: Against = "iteration"
) -> list[Path]:
    """Every figure the runs have the data for; returns the files written.

    Args:
        seed: of the rollouts whose trajectories are drawn.
        against: what learning curves are drawn against.

    Raises:
        RunError: a run cannot be read, or the runs do not belong together: see ``group_runs``.
    """
    groups = group_runs(runs)
    files = draw_learning(groups, folder, against) + draw_adaptation(groups, folder)
    if "point-nav" in groups:
        files += draw_trajectories(groups["point-nav"], folder, seed)
    return files


def group_runs(runs: Sequence[Run]) -> Groups:
    """Runs by preset and method.

    Raises:
        RunError: two runs of a preset had different environments or were measured differently.
    """
    groups: Groups = {}
    for preset in dict.fromkeys(run.description()["preset"] for run in runs):
        of_preset = [run for run in runs if run.description()["preset"] == preset]
        _check_comparable(of_preset)
        groups[preset] = {
            method: members
            for method in METHODS
            if (members := [run for run in of_preset if run.description()["method"] == method])
        }
    return groups


def _check_comparable(runs: Sequence[Run]) -> None:
    """Runs of one panel share environment and horizon, and were evaluated on the same tasks."""
    for what, properties in (("settings", _environment_of), ("evaluation", _evaluation_of)):
        known = [(run, found) for run in runs if (found := properties(run)) is not None]
        for run, found in known[1:]:
            first_run, first = known[0]
            for name, value in found.items():
                if value != first[name]:
                    raise RunError(
                        f"{run.place} and {first_run.place} do not belong together: {name} of their {what} is "
                        f"{value!r} and {first[name]!r}"
                    )


def _environment_of(run: Run) -> dict[str, Any]:
    config = run.description()["config"]
    told = {k: v for k, v in config["env_config"].items() if k not in OF_METHODS}
    return {"env": config["env"], "env_config": told, "horizon": config["horizon"]}


def _evaluation_of(run: Run) -> dict[str, Any] | None:
    result = run.adaptation()
    if result is None:
        return None
    known = {name: result[name] for name in ("standard_tasks", "tasks", "episodes")}
    return known | {"deterministic": result.get("deterministic", False)}


# --- learning curves


def draw_learning(groups: Groups, folder: Path, against: Against = "iteration") -> list[Path]:
    """One run: its returns before and after adaptation. Several: the returns after it, a figure per preset.

    Where the environment tells successes, their rates likewise.
    """
    files: list[Path] = []
    for preset, methods in groups.items():
        curves = {
            method: [with_total_steps(run.progress()) for run in runs if run.has_progress]
            for method, runs in methods.items()
        }
        curves = {method: found for method, found in curves.items() if found}
        if not curves:
            continue
        alone = sum(map(len, methods.values())) == 1 and len(groups) == 1
        suffix = "" if len(groups) == 1 else f"_{preset}"
        for measure, stem in MEASURES.items():
            if not all(f"{measure}_post" in row for found in curves.values() for run in found for row in run):
                continue
            if alone:
                ((progress,),) = curves.values()
                figure = learning_curve(progress, preset, against=against, measure=measure)
            else:
                figure = learning_curves(curves, preset, against=against, measure=measure)
            files += save(figure, folder / f"{stem}{suffix}")
    return files


def with_total_steps(progress: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Rows of ``progress.csv`` with the environment steps since the beginning in place of an iteration's."""
    total, rows = 0.0, []
    for row in progress:
        total += row.get("env_steps", 0)
        rows.append({**row, "env_steps": total})
    return rows


# --- adaptation curves


def draw_adaptation(groups: Groups, folder: Path) -> list[Path]:
    """Returns of the test tasks against gradient steps, a panel per preset, and the numbers as CSV."""
    panels = [panel for preset, methods in groups.items() if (panel := make_panel(preset, methods))]
    if not panels:
        return []
    files = save(adaptation_curves(panels), folder / "adaptation_curve")
    for preset, methods in groups.items():
        for method, runs in methods.items():
            told = [r for run in runs if (r := run.adaptation()) and "groups" in r]
            if told:
                name = "_".join(("success_by_family", *([] if len(panels) == 1 else [preset]), method))
                figure = success_by_group(success_rates(told), f"{preset}, {method}")
                files += save(figure, folder / name)
    return [*files, _write_panels(panels, folder / "adaptation_curve.csv")]


def make_panel(preset: str, methods: Mapping[str, Sequence[Run]]) -> Panel | None:
    """Adaptation curves of a preset's runs that were evaluated, with the paper's; None without any."""
    results = {method: [r for run in runs if (r := run.adaptation())] for method, runs in methods.items()}
    results = {method: found for method, found in results.items() if found}
    if not results:
        return None
    curves = {method: combine(found) for method, found in results.items()}
    on_standard_tasks = all(result["standard_tasks"] for found in results.values() for result in found)
    paper = get_experiment(preset).paper if on_standard_tasks else {}
    return Panel(preset, curves, {method: paper[method] for method in curves if method in paper})


def combine(results: Sequence[Mapping[str, Any]]) -> list[tuple[float, float | None]]:
    """Mean and 95 % interval over tasks of the evaluations of one method's runs, averaged task by task."""
    steps = min(len(result["returns"]) for result in results)
    # null, in the file, is the return of a task whose adaptation diverged
    returns = np.array([result["returns"][:steps] for result in results], np.float64)
    combined = AdaptationResult(returns.mean(0)).as_dict()
    return list(zip(combined["mean"], combined["interval_95"], strict=True))


def success_rates(results: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Mean success rate of the tasks of each group before and after adaptation, over runs."""
    rates: dict[str, tuple[float, float]] = {}
    for group in dict.fromkeys(results[0]["groups"]):
        first, last = [], []
        for result in results:
            values = np.array(result["success"], np.float64)[:, [g == group for g in result["groups"]]]
            first.append(values[0].mean())
            last.append(values[-1].mean())
        rates[group] = (float(np.mean(first)), float(np.mean(last)))
    return rates


def _write_panels(panels: Sequence[Panel], file: Path) -> Path:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["preset", "source", "method", "gradient_steps", "mean", "interval_95"])
        for panel in panels:
            for source, curves in (("maml_rl", panel.curves), ("paper", panel.paper)):
                for method, curve in curves.items():
                    for step, (mean, width) in enumerate(curve):
                        row = (panel.title, source, method, step, mean, "" if width is None else width)
                        writer.writerow(row)
    return file


# --- trajectories


def draw_trajectories(methods: Mapping[str, Sequence[Run]], folder: Path, seed: int) -> list[Path]:
    """Point navigation: positions before and after one gradient step, of each method's first run."""
    paths = {}
    for method, runs in methods.items():
        policy = runs[0].policy("best")
        # A module is not imported because a file names it.
        if METHODS[method].adapts and not isinstance(policy.spec, UnknownModule):
            held_out = HeldOut(policy, steps=1, seed=seed)
            goal = held_out.tasks[0]
            paths[method] = _paths(held_out, goal)
    return save(plane_trajectories(paths, goal), folder / "trajectories") if paths else []


def _paths(held_out: HeldOut, goal: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    protocol = replace(held_out.protocol, steps=1)
    positions = ObservationScale(protocol.normalizer)  # trajectories keep observations as the policy saw them
    before, after = (
        [
            positions.inverse(episode[:length])
            for episode, length in zip(trajectories.observations, trajectories.lengths, strict=True)
        ][:_DRAWN_EPISODES]
        for _, (trajectories,), *_ in adaptation(held_out.make_env(), protocol, [goal])
    )
    return before, after
