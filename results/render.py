"""Make every generated table and figure from the files in this folder: ``python results/render.py [--check]``.

A page holds, between ``<!-- results: BLOCK -->`` and ``<!-- /results -->``, what is made here. BLOCK is the name of
a preset, ``supervised``, ``overview`` (a row per experiment of the paper), ``success`` (one per benchmark of
Meta-World) or ``few-shot`` (what MAML came to in regression and images). With ``--check`` nothing is written, and
pages that differ from the files are an error.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from figures import Figures, draw_all, of_preset, of_supervised, rates_of, rows_of

from maml_rl.experiments.methods import RL2
from maml_rl.experiments.presets import EXPERIMENTS, Return
from maml_rl.tools.intervals import interquartile_mean, interval_95, mean, with_bootstrap, with_interval
from maml_rl.tools.published import Published, by_kind
from supervised.experiments.presets import PRESETS as SUPERVISED
from supervised.views.tables import Entry, entries, markdown

HERE = Path(__file__).parent
ROOT = HERE.parent
PAGES = ("README.md", "RESULTS.md")
BLOCK = re.compile(r"(<!-- results: (?P<name>[\w-]+) -->\n)(.*?)(<!-- /results -->)", re.DOTALL)
PAPERS = ("point-nav", "half-cheetah-dir", "half-cheetah-vel", "ant-vel", "ant-dir")
PUBLISHED_SUCCESS: dict[
    str, dict[str, float]
] = {  # Yu et al. 2019, arXiv 1910.10897v2: Table 1 and the text; more steps than ours
    "metaworld-ml1-reach": {"maml": 100},
    "metaworld-ml10": {"maml": 31.6, "rl2": 35.8},
    "metaworld-ml45": {"maml": 39.9, "rl2": 33.3},
}
SHIPPED = "policy shipped"
SUCCESS = "success_rate"
WORSE = " ▼"
OUR_SINUSOID = "sinusoid-best"


def load_all(folder: Path = HERE) -> list[Published]:
    """All results, in the order of their names."""
    return [Published.load(path) for path in sorted(folder.glob("*.json"))]


# --- tables


def block(name: str, results: Sequence[Published]) -> str:
    """What belongs between the marks of ``name``."""
    if name == "overview":
        return "\n".join(_overview(results))
    if name == "success":
        return "\n".join(_success(results))
    if name in ("supervised", "few-shot"):
        lines = _supervised if name == "supervised" else _few_shot
        of_program = [r for r in results if r.program == "supervised"]
        return "\n".join(lines(sorted(of_program, key=lambda r: list(SUPERVISED).index(r.preset))))
    ours = [r for r in results if r.program == "maml-rl" and r.preset == name]
    if not ours:
        raise SystemExit(f"results: {name!r} names no preset that there are results of")
    return "\n".join(_of_preset(name, ours))


def _of_preset(preset: str, results: Sequence[Published]) -> Iterator[str]:
    paper = EXPERIMENTS[preset].paper
    kinds = by_kind(results)
    yield from _table(kinds, "return", lambda method: paper.get(method, ()), 2)
    if any(SUCCESS in r.rows for r in results):
        yield "\nSuccess in percent:\n"
        yield from _table(
            [k for k in kinds if SUCCESS in k[0].rows], SUCCESS, lambda method: (), 1, scale=100
        )
        yield from _families(kinds)
    yield from _shown(of_preset(preset, results))
    yield from _origins(results)


def _shown(figures: Figures) -> Iterator[str]:
    for name, (meaning, _) in figures.items():
        yield f"\n![{meaning}](docs/figures/{name}.svg)"


def _overview(results: Sequence[Published]) -> Iterator[str]:
    """What the whole runs of the paper's presets came to, or else the policies that come with the package."""
    steps = 4
    yield "| return after gradient steps | " + " | ".join(map(str, range(steps))) + " |"
    yield "|---" * (1 + steps) + "|"
    for preset in PAPERS:
        ours = [r for r in results if r.program == "maml-rl" and r.preset == preset]
        kinds = {members[0].title: members for members in by_kind(ours)}
        members = kinds.get("maml") or next((kinds[name] for name in kinds if SHIPPED in name), None)
        if members is None:
            continue
        scores = np.stack([r.rows["return"] for r in members])
        plural = "s" * (len(members) > 1)
        seeds = "shipped policy" if SHIPPED in members[0].title else f"{len(members)} seed{plural}"
        guided = "" if members[0].method == "maml" else f", {members[0].method}"
        paper = EXPERIMENTS[preset].paper["maml"]
        marks = [_mark(scores[:, k], paper[k : k + 1]) for k in range(scores.shape[1])]
        cells = [cell + mark for cell, mark in zip_longest(_means(scores, steps), marks, fillvalue="")]
        yield f"| {preset}{guided}: {seeds} | " + " | ".join(cells) + " |"
        yield "| &nbsp; Finn et al. 2017 | " + " | ".join(_told(paper)) + " |"


def _success(results: Sequence[Published]) -> Iterator[str]:
    """Success on held-out tasks of Meta-World's presets, of whole runs without other settings.

    After adaptation is after one gradient step, or of RL2 the last episode of a trial.
    """
    yield "| success in percent | seeds | million steps | before adaptation | after | published |"
    yield "|---" * 6 + "|"
    of_all = [r for r in results if r.preset.startswith("metaworld") and not (r.settings or r.protocol)]
    for preset in (name for name in EXPERIMENTS if name.startswith("metaworld")):
        for members in by_kind(r for r in of_all if r.preset == preset):
            scores = 100 * np.stack([r.rows[SUCCESS] for r in members])
            method = members[0].method
            ends = scores[:, [0, -1]] if method == RL2 else scores[:, :2]
            title = preset if method == "maml" else f"{preset}, {method}"
            before, after = _means(ends, 2)
            published = PUBLISHED_SUCCESS.get(preset, {})
            after += _mark(ends[:, -1], [(published[method], None)] if method in published else [])
            told = ", ".join(f"{name.upper()} {percent}" for name, percent in published.items())
            cells = [title, str(len(members)), _per_run(members, "env_steps", 1e6), before, after, told]
            yield "| " + " | ".join(cells) + " |"


def _origins(results: Sequence[Published]) -> Iterator[str]:
    yield "\n<details><summary>Commands, seeds, commits, machines</summary>\n"
    yield "| file | model of iteration | trained at | evaluated at | machine | commands |"
    yield "|---|---|---|---|---|---|"
    for r in results:
        yield "| " + " | ".join(_origin(r)) + " |"
    yield "\n</details>"


def _origin(r: Published) -> list[str]:
    machine = r.training.get("machine") or r.evaluation["machine"]
    return [
        f"[{r.name}](results/{r.name}.json)",
        f"{r.model['iteration']} of {r.training.get('iterations', '?')}",
        r.training.get("commit") or "?",
        r.evaluation["commit"] or "?",
        ", ".join([f"{machine['cores']} cores", machine["processor"], *machine["gpus"]]),
        "<br>".join(f"`{command}`" for command in r.commands),
    ]


def _table(
    kinds: Sequence[Sequence[Published]],
    measure: str,
    papers: Callable[[str], Sequence[Return]],
    digits: int,
    scale: float = 1,
) -> Iterator[str]:
    """Columns are gradient steps; RL2 has episodes of a trial that came before in their place."""
    steps = max(len(r.rows[measure]) for members in kinds for r in members)
    head = [*map(str, range(steps))]
    yield "| | seeds | million steps | hours | after " + " | ".join(head) + " |"
    yield "|---" * (4 + steps) + "|"
    shown: set[str] = set()
    for members in kinds:
        first = members[0]
        paper = papers(first.method)
        scores = scale * np.stack([r.rows[measure] for r in members])  # runs, steps, tasks
        cells = [
            _mean(scores[:, k], digits) + _mark(scores[:, k], paper[k : k + 1])
            for k in range(scores.shape[1])
        ]
        length = [_per_run(members, "env_steps", 1e6), _per_run(members, "seconds", 3600)]
        title = first.title + (": after episodes of a trial" if first.method == RL2 else "")
        yield "| " + " | ".join([title, str(len(members)), *length, *cells]) + " |"
        if len(members) > 1:
            iqm = [with_bootstrap(scores[:, k], interquartile_mean, digits) for k in range(scores.shape[1])]
            yield "| " + " | ".join(["&nbsp; IQM", "", "", "", *iqm]) + " |"
        if paper and first.method not in shown:
            shown.add(first.method)
            yield "| " + " | ".join([f"&nbsp; paper's {first.method}", "", "", "", *_told(paper)]) + " |"


def _mark(scores: np.ndarray, paper: Sequence[Return]) -> str:
    """Whether a mean is worse than the paper's, if that has one."""
    return WORSE if paper and scores.mean() < paper[0][0] else ""


def _told(paper: Sequence[Return]) -> list[str]:
    return [f"{m:g}" + ("" if w is None else f" ± {w:g}") for m, w in paper]


def _per_run(members: Sequence[Published], name: str, unit: float) -> str:
    values = [r.training[name] / unit for r in members if name in r.training]
    if not values:
        return ""
    average = float(np.mean(values))
    return f"{average:.2g}" if average < 100 else f"{average:.0f}"  # 160, not 1.6e+02


def _means(scores: np.ndarray, steps: int) -> list[str]:
    """After 0, 1, ... of ``steps``; empty where nothing was measured."""
    return [_mean(scores[:, k], 1) if k < scores.shape[1] else "" for k in range(steps)]


def _mean(scores: np.ndarray, digits: int) -> str:
    """Mean; ± over tasks for one run, the bootstrap's ends over several."""
    if len(scores) == 1:
        return with_interval(float(mean(scores)), float(interval_95(scores[0])), digits)
    return with_bootstrap(scores, mean, digits)


def _families(kinds: Sequence[Sequence[Published]]) -> Iterator[str]:
    """Success by family of tasks, before and after the last gradient step that all have."""
    grouped = [members for members in kinds if members[0].groups]
    if not grouped:
        return
    families = list(dict.fromkeys(grouped[0][0].groups))
    yield "\nSuccess in percent by family, before -> after:\n"
    yield "| | " + " | ".join(families) + " |"
    yield "|---" * (1 + len(families)) + "|"
    for members in grouped:
        rates = rates_of(members)
        cells = ["{:.0f} -> {:.0f}".format(*(100 * rate for rate in rates[f])) for f in families]
        yield "| " + " | ".join([members[0].title, *cells]) + " |"


def _supervised(results: Sequence[Published]) -> Iterator[str]:
    yield markdown([entry for r in results for entry in _entries(r)])
    yield from _shown(of_supervised(results))
    yield from _origins(results)


def _few_shot(results: Sequence[Published]) -> Iterator[str]:
    """What MAML came to, and the preset that is not the paper's: a line per run."""
    yield "| | after gradient steps | maml_rl | published |"
    yield "|---|---|---|---|"
    for r in results:
        ours = r.preset == OUR_SINUSOID
        found = [entry for entry in _entries(r) if ours or (r.method == "maml" and entry.paper)]
        if found:
            measure = "squared error" if found[0].is_regression else "accuracy in percent"
            paper = [with_interval(*entry.paper, 2) for entry in found if entry.paper]
            measured = [
                with_interval(entry.mean, entry.interval, 2) + (WORSE if entry.is_worse else "")
                for entry in found
            ]
            columns = [str(entry.steps) for entry in found], measured, paper
            yield f"| {r.preset}: {measure} | " + " | ".join(" / ".join(cells) for cells in columns) + " |"


def _entries(r: Published) -> list[Entry]:
    return [
        replace(entry, name=r.title) if entry.name == r.method else entry
        for entry in entries(r.preset, r.method, rows_of(r))
    ]


# --- pages


def main(arguments: Sequence[str] | None = None) -> None:
    """Render, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args(arguments).check
    results = load_all()
    stale = []
    for name in PAGES:
        page = ROOT / name
        text = page.read_text()
        made = BLOCK.sub(lambda m: f"{m[1]}\n{block(m['name'], results)}\n\n{m[4]}", text)
        if made != text:
            stale.append(name)
            if not check:
                page.write_text(made)
    if check and stale:
        sys.exit(f"{', '.join(stale)}: tables differ from the files in results/; run: make results")
    if not check:
        draw_all(results, ROOT / "docs" / "figures")


if __name__ == "__main__":
    main()
