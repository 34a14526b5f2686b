"""A run on disk, whatever it trains: configuration, progress, the checkpoint to go on from; one writer at a time.

::

    config.json             every field of the configuration, preset, package versions
    progress.csv            one row per iteration: a log, from which nothing is resumed
    events.out.tfevents*    the same for TensorBoard
    checkpoint.safetensors  all that later iterations depend on
    .lock                   held, and naming the process, while one writes here
"""

from __future__ import annotations

import csv
import fcntl
import importlib.metadata
import io
import json
import os
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from maml_rl.tools.files import errors_of, remove_leftovers, write_atomically

CHECKPOINT = "checkpoint.safetensors"
PACKAGES = ("maml-rl", "ray", "torch", "numpy", "gymnasium", "mujoco")


class RunError(ValueError):
    """A run directory cannot be used as asked."""


class RunFailedError(RuntimeError):
    """A run cannot go on; what it finished is kept."""


class RunDirectory:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def free(cls, path: Path) -> Self:
        """A directory that a run may be created in; nothing is written yet.

        Raises:
            RunError: it is not empty, or cannot be written.
        """
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; a run needs a directory")
        if path.is_dir() and any(path.iterdir()):
            raise RunError(
                f"{path} exists and is not empty; choose another --output, or continue it with --resume {path}"
            )
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise RunError(f"{path} cannot be written: {there} is not a writable directory")
        return cls(path)

    @classmethod
    def create(cls, path: Path, description: Mapping[str, Any]) -> Self:
        """A new run; ``description`` goes into ``config.json`` with the package versions.

        Raises:
            RunError: the directory is not empty, or cannot be written.
        """
        run = cls.free(path)
        versions = {name: package_version(name) for name in PACKAGES}
        versions["python"] = platform.python_version()
        content = {**description, "versions": versions}
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_atomically(path / "config.json", (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}") from error
        return run

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
            if not isinstance(description["config"], dict):
                raise TypeError("config is not an object")
        except OSError as error:
            raise RunError(f"{self.path} is not a run: {file.name}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(f"{file} is damaged: {error}") from error
        return description

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The right to write here, for this process alone; what a killed writer left half-written is removed.

        Raises:
            RunError: another process has it, and is named.
        """
        with (self.path / ".lock").open("a+") as file:
            try:
                # The system lets go of it when the process ends, however it ends: no lock is ever stale.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise RunError(
                    f"{self.path} is being written by {file.read().strip() or 'another process'}"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            remove_leftovers(self.path)
            yield

    # --- progress

    def append_progress(self, row: Mapping[str, Any]) -> None:
        """Add one iteration to ``progress.csv``."""
        file = self.path / "progress.csv"
        with errors_of(file), file.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, list(row))
            if stream.tell() == 0:
                writer.writeheader()
            writer.writerow(row)

    def progress(self) -> list[dict[str, float]]:
        """All rows of ``progress.csv`` in order; raises RunError when there are none."""
        rows, damage = self._read_progress()
        if damage and not rows:
            raise RunError(damage)
        return [{name: float(text) for name, text in row.items()} for row in rows]

    def _read_progress(self) -> tuple[list[dict[str, str]], str]:
        """The rows before the first damaged one, as text; and what is wrong, if anything is."""
        file = self.path / "progress.csv"
        try:
            # Lines that a crash tore may hold anything.
            lines = file.read_text(errors="replace").splitlines(keepends=True)
        except OSError as error:
            return [], f"{self.path} holds no progress.csv that can be read: {error.strerror}"
        torn = bool(lines) and not lines[-1].endswith("\n")
        reader = csv.DictReader(lines[:-1] if torn else lines)
        rows: list[dict[str, str]] = []
        try:
            for row in reader:
                if None in row:
                    raise ValueError("a row is longer than the header")
                _ = [float(text) for text in row.values()]
                if int(row["iteration"]) <= (int(rows[-1]["iteration"]) if rows else 0):
                    raise ValueError("iterations do not rise")
                rows.append(row)
        except (TypeError, ValueError, KeyError, csv.Error) as error:
            return rows, f"{file} is damaged after {len(rows)} rows: {error}"
        if torn:
            return rows, f"{file} ends within a row"
        return rows, "" if rows else f"{file} holds no iteration"

    def repair_progress(self, iteration: int) -> str:
        """Forget the rows after ``iteration``, which a resumed run computes again, and damaged ones.

        Returns:
            What was wrong with the file, for a warning; empty when nothing was.
        """
        rows, damage = self._read_progress()
        kept = [row for row in rows if int(row["iteration"]) <= iteration]
        buffer = io.StringIO(newline="")
        if kept:
            writer = csv.DictWriter(buffer, list(kept[0]))
            writer.writeheader()
            writer.writerows(kept)
        write_atomically(self.path / "progress.csv", buffer.getvalue().encode())
        return damage

    @property
    def has_progress(self) -> bool:
        """Whether an iteration was finished, as far as the log knows."""
        return bool(self._read_progress()[0])

    # --- checkpoints

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's file; raises RunError when there is none."""
        path = self.path / CHECKPOINT
        if path.exists():
            return path
        if (self.path / "checkpoints").is_dir():
            raise RunError(
                f"{self.path} is a run of version 0.1, whose checkpoints hold pickles and links; this version "
                "reads neither: train again"
            )
        raise RunError(f"{self.path} holds no checkpoint: the run was stopped before its first one")


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
