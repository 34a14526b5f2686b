"""One self-contained HTML file about one or several runs: settings, curves, tables, pictures, videos."""

from __future__ import annotations

import base64
import math
import mimetypes
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from maml_rl.experiments.methods import METHODS
from maml_rl.experiments.presets import Return, get_experiment
from maml_rl.experiments.run import Run
from maml_rl.policies.policy_file import POLICY
from maml_rl.tools.files import write_atomically
from maml_rl.tools.intervals import with_interval
from maml_rl.tools.run_directory import RunError, check_output, package_version
from maml_rl.views.figures import Groups, draw_adaptation, draw_learning, draw_trajectories, group_runs

MAX_EMBEDDED = 20_000_000
"""Bytes of a video that become part of the page; larger ones are linked."""
PAPER = "Finn et al. 2017"
CAPTIONS = {
    "learning_curve": "Learning curve: mean return of the training tasks against meta-iterations",
    "adaptation_curve": "Adaptation: mean return of the held-out tasks against gradient steps",
    "trajectories": "Trajectories before and after one gradient step",
}


@dataclass(frozen=True)
class Table:
    """A table: column heads, and rows of text whose first cell names the row."""

    title: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Media:
    """A picture or video; ``kind`` is ``picture``, ``video`` or ``link``, ``address`` a data URI or a path."""

    kind: str
    address: str
    caption: str


@dataclass(frozen=True)
class Note:
    """Something that is missing, and the command that makes it."""

    text: str
    command: str


@dataclass(frozen=True)
class Section:
    """A part of the page: a run, or the comparison of all."""

    id: str
    title: str
    tables: Sequence[Table]
    media: Sequence[Media]
    notes: Sequence[Note] = ()
    details: Sequence[Table] = field(default_factory=list)


def write_report(
    runs: Sequence[Run], output: Path, on_progress: Callable[[str], None] = lambda message: None
) -> None:
    """Write ``output``, which opens in any browser and loads nothing from elsewhere.

    What a run does not have yet is named with the command that makes it.

    Raises:
        RunError: no run, one given twice, a damaged one, or runs that do not belong together (``group_runs``).
        PolicyFileError: a run's policy is damaged.
    """
    check_output(output, (".html", ".htm"))
    _check_runs(runs)
    groups = group_runs(runs)
    sections = []
    if len(runs) > 1:
        on_progress("comparing runs")
        sections.append(comparison_section(runs, groups))
    for number, run in enumerate(runs, 1):
        on_progress(f"reading {run.place}")
        sections.append(run_section(run, f"run-{number}", output.parent))
    title = f"maml_rl: {_identity(runs[0]).name}" if len(runs) == 1 else f"maml_rl: {len(runs)} runs"
    write_atomically(output, render(title, sections).encode())


def render(title: str, sections: Sequence[Section]) -> str:
    """The page; every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    versions = {"written": time.strftime("%F"), "version": package_version("maml-rl") or "(source tree)"}
    return environment.get_template("report.html").render(title=title, sections=sections, **versions)


def _check_runs(runs: Sequence[Run]) -> None:
    if not runs:
        raise RunError("runs is empty; a report needs at least one run directory")
    seen: set[PurePath] = set()
    for run in runs:
        if _identity(run) in seen:
            raise RunError(f"runs holds {run.place} twice")
        seen.add(_identity(run))


def _identity(run: Run) -> PurePath:
    """What two names of a run share."""
    return PurePosixPath(run.place.partition("?")[0]) if isinstance(run.place, str) else run.place.resolve()


# --- sections


def comparison_section(runs: Sequence[Run], groups: Groups) -> Section:
    """All runs side by side."""
    tables = [_comparison_table(runs), _differences_table(runs)]
    with tempfile.TemporaryDirectory() as folder:
        files = draw_learning(groups, Path(folder)) + draw_adaptation(groups, Path(folder))
        return Section("comparison", "Comparison", tables, _curves(files))


def run_section(run: Run, identifier: str, page_folder: Path) -> Section:
    """One run: what it is, what was measured, its pictures and videos."""
    has_policy = (run.path / POLICY).exists()
    policy_info = run.policy("best").info if has_policy else None
    with tempfile.TemporaryDirectory() as folder:
        groups = group_runs([run])
        files = draw_learning(groups, Path(folder)) + draw_adaptation(groups, Path(folder))
        if has_policy and "point-nav" in groups:
            files += draw_trajectories(groups["point-nav"], Path(folder), seed=0)
        media = _curves(files)
    drawn = {file.stem for file in files}
    others = (file for file in sorted(run.path.glob("*.png")) if file.stem not in {*drawn, *CAPTIONS})
    videos = [file for suffix in ("mp4", "gif") for file in sorted(run.path.glob(f"[!.]*.{suffix}"))]
    media += [_embedded("picture", file, file.stem.replace("_", " ")) for file in others]
    media += [_video(run, file, page_folder) for file in videos]
    result = run.adaptation()
    tables = [_run_table(run, policy_info), *([_adaptation_table(result)] if result else [])]
    notes = _notes(run, has_policy, bool(videos))
    return Section(identifier, str(run.place), tables, media, notes, _settings_tables(run))


def _notes(run: Run, has_policy: bool, has_video: bool) -> list[Note]:
    """What the run lacks, each with the command that makes it."""
    description = run.description()
    if not has_policy:
        command = f"maml-rl train --resume {run.place}"
        return [Note("No policy, tables and curves yet: the run has not finished an iteration.", command)]
    notes = []
    if run.adaptation() is None:
        notes.append(Note("No adaptation table and curve yet:", f"maml-rl evaluate {run.place}"))
    if not has_video and METHODS[description["method"]].adapts:
        notes.append(Note("No video yet:", f"maml-rl video {run.place}"))
    return notes


# --- tables


def _run_table(run: Run, policy_info: Mapping[str, Any] | None) -> Table:
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


def _adaptation_table(result: Mapping[str, Any]) -> Table:
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


def _comparison_table(runs: Sequence[Run]) -> Table:
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


def _differences_table(runs: Sequence[Run]) -> Table:
    settings = [_settings(run) for run in runs]
    names = dict.fromkeys(name for found in settings for name in found)
    rows = []
    for name in names:
        values = [found.get(name, "") for found in settings]
        if len(set(values)) > 1:
            rows.append([name, *values])
    caption = "Settings in which the runs differ" if rows else "The runs do not differ in any setting"
    return Table("Differences", caption, ["setting", *(str(run.place) for run in runs)], rows)


def _settings_tables(run: Run) -> list[Table]:
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


# --- pictures and videos


def _curves(files: Sequence[Path]) -> list[Media]:
    """The SVG pictures among freshly drawn files, with captions."""
    pictures = [file for file in files if file.suffix == ".svg"]
    return [_embedded("picture", file, _caption(file.stem)) for file in pictures]


def _caption(stem: str) -> str:
    """What a drawn file shows; a name may go on with the preset, as in ``learning_curve_ant-vel``."""
    for name, caption in CAPTIONS.items():
        if stem.startswith(name):
            rest = stem.removeprefix(name).lstrip("_")
            return f"{caption} ({rest})" if rest else caption
    return stem


def _video(run: Run, file: Path, page_folder: Path) -> Media:
    caption = f"{file.name}: the policy before (left) and after adaptation (right)"
    if file.stat().st_size > MAX_EMBEDDED:
        at_uri = isinstance(run.place, str)
        return Media(
            "link", run.shown(file.name) if at_uri else quote(os.path.relpath(file, page_folder)), caption
        )
    return _embedded("picture" if file.suffix == ".gif" else "video", file, caption)


def _embedded(kind: str, file: Path, caption: str) -> Media:
    content = base64.b64encode(file.read_bytes()).decode()
    return Media(kind, f"data:{mimetypes.guess_type(file.name)[0]};base64,{content}", caption)
