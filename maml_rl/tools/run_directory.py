"""A run on disk, whatever it trains: configuration, progress, checkpoints.

::

    config.json           every field of the configuration, preset, package versions
    progress.csv          one row per iteration
    events.out.tfevents*  the same for TensorBoard
    checkpoints/          iteration_000123/, links ``latest`` and ``best``
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from maml_rl.tools.files import write_atomically

PACKAGES = ("maml-rl", "ray", "torch", "numpy", "gymnasium", "mujoco")


class RunError(ValueError):
    """A run directory cannot be used as asked."""


class RunDirectory:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, description: dict[str, Any]) -> Self:
        """A new run; ``description`` goes into ``config.json`` with the package versions.

        Raises:
            RunError: the directory is not empty, or cannot be written.
        """
        if path.is_dir() and any(path.iterdir()):
            raise RunError(
                f"{path} exists and is not empty; choose another --output, or continue it with --resume {path}"
            )
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            versions = {name: package_version(name) for name in PACKAGES}
            versions["python"] = platform.python_version()
            content = {**description, "versions": versions}
            write_atomically(path / "config.json", (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing run; raises RunError when there is none."""
        run = cls(path)
        run.description()
        return run

    def description(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        file = self.path / "config.json"
        try:
            description: dict[str, Any] = json.loads(file.read_text())
            description["config"]
        except OSError as error:
            raise RunError(f"{self.path} is not a run: {file.name}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged: {error}") from error
        return description

    # --- progress

    def append_progress(self, row: dict[str, Any]) -> None:
        """Add one iteration to ``progress.csv``."""
        file = self.path / "progress.csv"
        new = not file.exists()
        with file.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def progress(self) -> list[dict[str, float]]:
        """All rows of ``progress.csv`` in order; raises RunError when there are none."""
        file = self.path / "progress.csv"
        if not file.exists():
            raise RunError(f"{self.path} holds no progress.csv: the run has not finished an iteration")
        with file.open(newline="") as stream:
            try:
                return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
            except (TypeError, ValueError) as error:
                raise RunError(f"{file} is damaged: {error}") from error

    def truncate_progress(self, iteration: int) -> None:
        """Forget the rows after ``iteration``: a resumed run computes them again."""
        if not (self.path / "progress.csv").exists():
            return
        rows = [row for row in self.progress() if row["iteration"] <= iteration]
        buffer = io.StringIO(newline="")
        if rows:
            writer = csv.DictWriter(buffer, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            write_atomically(self.path / "progress.csv", buffer.getvalue().encode())
        else:
            (self.path / "progress.csv").unlink()

    @property
    def has_progress(self) -> bool:
        """Whether an iteration was finished."""
        return (self.path / "progress.csv").exists()

    # --- checkpoints

    def checkpoint(self, name: str) -> Path:
        """The checkpoint called ``latest`` or ``best``; raises RunError when there is none."""
        link = self.path / "checkpoints" / name
        if not link.exists():
            raise RunError(f"{self.path} holds no checkpoint called {name!r}")
        return link.resolve()

    def new_checkpoint(self, iteration: int) -> Path:
        """An empty directory to write a checkpoint into, before ``publish`` gives it a name."""
        path = self.path / "checkpoints" / f".iteration_{iteration:06d}.tmp"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def publish(self, written: Path, iteration: int, names: list[str]) -> None:
        """Make a finished checkpoint the ``latest`` and/or ``best`` one, atomically; drop unnamed ones."""
        folder = self.path / "checkpoints"
        final = folder / f"iteration_{iteration:06d}"
        if final.exists():  # the same iteration computed again after a resume
            shutil.rmtree(final)
        written.rename(final)
        for name in names:
            temporary = folder / f".{name}.tmp"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(final.name)
            os.replace(temporary, folder / name)
        named = {link.resolve() for link in folder.iterdir() if link.is_symlink()}
        for old in folder.glob("iteration_*"):
            if old.resolve() not in named and not old.is_symlink():
                shutil.rmtree(old)


def check_output(output: Path, suffixes: Sequence[str]) -> None:
    """Refuse a file to be written whose suffix is not among ``suffixes``, or whose folder does not exist.

    Raises:
        RunError: naming what is allowed.
    """
    if output.suffix.lower() not in suffixes:
        raise RunError(f"output is {str(output)!r}; it must end in {' or '.join(suffixes)}")
    if not output.parent.is_dir():
        raise RunError(f"output is {str(output)!r}, but there is no folder {str(output.parent)!r}")


def package_version(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree, as a submitted job does
        return None
