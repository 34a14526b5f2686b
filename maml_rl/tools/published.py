"""Results to be published: one small JSON file per trained and evaluated run, from which tables are made."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np

from maml_rl.tools.files import strict_json, write_atomically
from maml_rl.tools.provenance import provenance
from maml_rl.tools.run_directory import RunDirectory, RunError

FOLDER = Path("results")
"""Where ``--publish`` writes, beside where it is called."""
RUN = "RUN"
"""Stands for the run directory in published commands: where it was is nobody else's business."""
FORMAT = 1
CURVE_POINTS = 60
"""A learning curve keeps this many points; each is a mean of consecutive rows."""
_DIGITS = 6
_LONGEST_NAME = 100
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9=.,+_-]+")


@dataclass(frozen=True)
class Published:
    """What was trained, how it was measured, what came out, and how to do it again.

    Attributes:
        program: ``maml-rl`` or ``supervised``.
        settings: where the run differs from its preset and method.
        protocol: where the evaluation differs from the preset's.
        seed: of the training.
        commands: that train and evaluate.
        model: which one of the run was measured, its iteration and checksum.
        training: length, seconds, environment steps, commit, machine, learning curve; of a policy that comes
            with the package what its file says.
        evaluation: how it was measured, commit, machine.
        rows: name of a measure -> values, of each task after each number of gradient steps ``[steps + 1, tasks]``.
        groups: what each task belongs to, or nothing.
    """

    program: str
    preset: str
    method: str
    settings: Mapping[str, Any]
    protocol: Mapping[str, Any]
    seed: int
    commands: Sequence[str]
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    rows: Mapping[str, np.ndarray]
    groups: Sequence[str] = ()
    format: int = field(default=FORMAT)

    @property
    def name(self) -> str:
        """Of its file: preset, method, what differs, seed."""
        differences = [f"{k}={_plain(v)}" for k, v in (*self.settings.items(), *self.protocol.items())]
        name = ".".join([self.preset, self.method, *differences])
        if len(name) > _LONGEST_NAME:
            name = f"{name[:_LONGEST_NAME]}.{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return _NOT_IN_NAMES.sub("-", f"{name}.seed{self.seed}")

    @property
    def title(self) -> str:
        """The method, and what differs."""
        differences = ", ".join(f"{k} {v}" for k, v in {**self.settings, **self.protocol}.items())
        return f"{self.method} ({differences})" if differences else self.method

    def save(self, folder: Path = FOLDER) -> Path:
        """Write the file, in place of an earlier one of the same name, and return its path."""
        rows = {name: _rounded(values) for name, values in self.rows.items()}
        content = {**asdict(self), "rows": rows}
        path = folder / f"{self.name}.json"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (_compact(strict_json(content)) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """What ``save`` wrote; a value that was not finite is NaN.

        Raises:
            RunError: naming the file and what is wrong with it.
        """
        try:
            content = json.loads(path.read_text())
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}, and {FORMAT} is known")
            rows = {name: np.array(values, float) for name, values in content["rows"].items()}
            return cls(**{**content, "rows": rows})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is no published result: {error}") from error


def by_kind(results: Iterable[Published]) -> list[list[Published]]:
    """The seeds of each method, settings and protocol."""

    def kind(r: Published) -> str:
        return json.dumps([r.method, r.settings, r.protocol])

    return [list(members) for _, members in groupby(sorted(results, key=kind), kind)]


def training_of(run: RunDirectory) -> dict[str, Any]:
    """What a run directory tells of its training."""
    told = run.description()
    kept = ("commit", "machine", "versions", "started", "start_from")
    rows = run.progress() if run.has_progress else []
    return {
        "iterations": int(rows[-1]["iteration"]) if rows else 0,
        "seconds": round(_seconds(rows), 1),
        **(
            {"env_steps": int(sum(row["env_steps"] for row in rows))}
            if rows and "env_steps" in rows[0]
            else {}
        ),
        **{name: told.get(name) for name in kept},
        "curve": _curve(rows),
    }


def evaluation_now(**protocol: Any) -> dict[str, Any]:
    """How something is measured, and where: here and now."""
    return {**protocol, **provenance()}


def _seconds(rows: Sequence[Mapping[str, float]]) -> float:
    """Of all iterations: a row tells those of its own, or the mean of those since the row before (supervised)."""
    ends = [row["iteration"] for row in rows]
    each = [row.get("seconds_total", row.get("seconds", 0.0)) for row in rows]
    return sum(s * (end - start) for s, start, end in zip(each, [0, *ends], ends, strict=False))


def _curve(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Columns of ``progress.csv`` but for seconds; environment steps are counted up."""
    if not rows:
        return {}
    size = -(-len(rows) // CURVE_POINTS)
    curve = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        if name.startswith("seconds"):
            continue
        if name == "env_steps":
            values = values.cumsum()
        take = np.max if name in ("iteration", "env_steps") else np.mean
        curve[name] = [float(take(values[i : i + size])) for i in range(0, len(rows), size)]
    return {name: _rounded(values) for name, values in curve.items()}


def _rounded(values: Any) -> Any:
    """Nested lists of numbers with six digits; more would not be worth their place."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [_rounded(value) for value in values]
    return values if isinstance(values, int) else float(f"{values:.{_DIGITS}g}")


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def _compact(text: str) -> str:
    """JSON with every innermost list on one line."""
    return re.sub(
        r"\[[^][{}]*\]",
        lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"),
        text,
    )
