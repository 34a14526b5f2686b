"""One self-contained HTML file about one or several runs: settings, curves, tables, pictures, videos."""

from __future__ import annotations

import base64
import csv
import mimetypes
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from maml_rl.experiments.methods import METHODS
from maml_rl.experiments.run import Run
from maml_rl.policies.policy_file import POLICY
from maml_rl.tools.files import write_atomically
from maml_rl.tools.progress import Show, unseen
from maml_rl.tools.provenance import package_version
from maml_rl.tools.run_directory import RunError, check_output
from maml_rl.tools.search.searched import RESULTS, trial_place
from maml_rl.views.figures import Groups, draw_adaptation, draw_learning, draw_trajectories, group_runs
from maml_rl.views.report_tables import (
    Table,
    adaptation_table,
    comparison_table,
    differences_table,
    run_table,
    seeds_table,
    settings_tables,
)

MAX_EMBEDDED = 20_000_000
"""Bytes of a video that become part of the page; larger ones are linked."""
SHOWN_TRIALS = 5
"""Of a search, this many trials are shown as runs, best first."""
CAPTIONS = {
    "learning_curve": "Learning curve: mean return of the training tasks against meta-iterations",
    "success_curve": "Learning curve: success rate of the training tasks",
    "success_by_family": "Success rate of the held-out tasks by family, before and after adaptation",
    "adaptation_curve": "Adaptation: mean return of the held-out tasks against gradient steps",
    "trajectories": "Trajectories before and after one gradient step",
}


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


def write_report(runs: Sequence[Run], output: Path, show: Show = unseen) -> None:
    """Write ``output``, which opens in any browser and loads nothing from elsewhere.

    What a run does not have yet is named with the command that makes it. Of a search, its trials are shown, and the
    best of them as runs.

    Raises:
        RunError: no run, one given twice, a damaged one, or runs that do not belong together (``group_runs``).
        PolicyFileError: a run's policy is damaged.
    """
    check_output(output, (".html", ".htm"))
    _check_runs(runs)
    sections: list[Section] = []
    title = f"maml_rl: {_identity(runs[0]).name}" if len(runs) == 1 else f"maml_rl: {len(runs)} runs"
    if len(runs) == 1 and (rows := trials(runs[0])):
        sections.append(search_section(runs[0], rows))
        numbers = [int(row["trial"]) for row in rows if not row["error"]]
        runs = [Run.open(trial_place(runs[0].place, number)) for number in numbers[:SHOWN_TRIALS]]
    groups = group_runs(runs)
    if len(runs) > 1:
        sections.append(comparison_section(runs, groups))
    for number, run in enumerate(runs, 1):
        sections.append(run_section(run, f"run-{number}", output.parent))
        show("runs", number, len(runs))
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
    tables = [comparison_table(runs), *seeds_table(groups), differences_table(runs)]
    with tempfile.TemporaryDirectory() as folder:
        files = draw_learning(groups, Path(folder)) + draw_adaptation(groups, Path(folder))
        return Section("comparison", "Comparison", tables, _curves(files))


def search_section(search: Run, rows: Sequence[Mapping[str, str]]) -> Section:
    """A search: every trial, best first, and its picture."""
    table = Table("Trials", "Best first", list(rows[0]), [list(row.values()) for row in rows])
    files = search.path.glob("search.svg")
    pictures = [_embedded("picture", file, "Configurations and learning curves") for file in files]
    return Section("search", f"Search {search.place}", [table], pictures)


def trials(run: Run) -> list[dict[str, str]]:
    """The rows of a search's ``results.csv``; none of what is no search.

    Raises:
        RunError: the search has not ended.
    """
    if "space" not in run.description():
        return []
    file = run.path / RESULTS
    if not file.exists():
        raise RunError(
            f"{run.place} is a search that has not ended; go on with it: maml-rl search --resume {run.place}"
        )
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


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
    tables = [run_table(run, policy_info), *([adaptation_table(result)] if result else [])]
    notes = _notes(run, has_policy, bool(videos))
    return Section(identifier, str(run.place), tables, media, notes, settings_tables(run))


def _notes(run: Run, has_policy: bool, has_video: bool) -> list[Note]:
    """What the run lacks, each with the command that makes it."""
    if not has_policy:
        command = f"maml-rl train --resume {run.place}"
        return [Note("No policy, tables and curves yet: the run has not finished an iteration.", command)]
    notes = []
    if run.adaptation() is None:
        notes.append(Note("No adaptation table and curve yet:", f"maml-rl evaluate {run.place}"))
    if not has_video:
        notes.append(Note("No video yet:", f"maml-rl video {run.place}"))
    return notes


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
    adapts = METHODS[run.description()["method"]].adapts
    caption = f"{file.name}: the policy" + (" before (left) and after adaptation (right)" if adapts else "")
    if file.stat().st_size > MAX_EMBEDDED:
        at_uri = isinstance(run.place, str)
        return Media(
            "link", run.shown(file.name) if at_uri else quote(os.path.relpath(file, page_folder)), caption
        )
    return _embedded("picture" if file.suffix == ".gif" else "video", file, caption)


def _embedded(kind: str, file: Path, caption: str) -> Media:
    content = base64.b64encode(file.read_bytes()).decode()
    return Media(kind, f"data:{mimetypes.guess_type(file.name)[0]};base64,{content}", caption)
