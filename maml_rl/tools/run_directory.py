"""A run on disk, whatever it trains: configuration, progress, the checkpoint to go on from; one writer at a time.

::

    config.json             every field of the configuration, preset, commit, machine, package versions
    progress.csv            one row per iteration: a log, from which nothing is resumed
    events.out.tfevents*    the same for TensorBoard
    checkpoint.safetensors  all that later iterations depend on
    .lock                   held, and naming the process, while one writes here

A run at a URI is worked on in a local mirror (``tools.storage``), and stored with each checkpoint.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import logging
import os
import shlex
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from maml_rl.tools.files import errors_of, remove_leftovers, write_atomically
from maml_rl.tools.provenance import provenance
from maml_rl.tools.storage import Mirror, Place, StorageError, child, local_path

logger = logging.getLogger("maml_rl")

CHECKPOINT = "checkpoint.safetensors"
RETRIES_S = (1.0, 5.0)
"""Seconds before the second and third attempt to store what a run leaves behind."""
_JOB_FOLDERS = "/runtime_resources/working_dir_files/"
"""In the path of every working directory that Ray unpacks for a job; it is deleted some time after the job."""


class RunError(ValueError):
    """A run directory cannot be used as asked."""


class RunFailedError(RuntimeError):
    """A run cannot go on; what it finished is kept."""


class RunDirectory:
    """Paths and files of one run.

    Attributes:
        place: where it is, a path or a URI; for messages and commands.
        path: where its files are read and written.
    """

    def __init__(self, place: Place) -> None:
        """Raises RunError: it is at a URI that cannot be used."""
        try:
            path = local_path(place)
            self._mirror = None if path is not None else Mirror(str(place))
        except StorageError as error:
            raise RunError(str(error)) from error
        self.place: Place = path or place
        self.path: Path = self._mirror.local if self._mirror else path or Path()

    @classmethod
    def free(cls, place: Place) -> Self:
        """A directory that a run may be created in; nothing is written yet.

        Raises:
            RunError: it is not empty, cannot be written, or would be lost with the job that this process is.
        """
        run = cls(place)
        run._check_free()
        return run

    def _check_free(self) -> None:
        if self._mirror:
            try:
                if self._mirror.names():
                    raise RunError(self._not_empty())
                self._mirror.check_writable()
            except StorageError as error:
                raise RunError(str(error)) from error
            return
        path = self.path
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; a run needs a directory")
        if path.is_dir() and any(path.iterdir()):
            raise RunError(self._not_empty())
        if _JOB_FOLDERS in path.absolute().as_posix():
            raise RunError(
                f"output is {str(self.place)!r}, in Ray's temporary copy of the working directory, and would "
                "be lost with it; choose an --output that lasts: an absolute path on shared storage, or a URI such "
                "as s3://BUCKET/runs/NAME"
            )
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise RunError(f"{path} cannot be written: {there} is not a writable directory")

    def _not_empty(self) -> str:
        return (
            f"{self.place} exists and is not empty; choose another --output, or continue it with "
            f"--resume {shlex.quote(str(self.place))}"
        )

    @classmethod
    def create(cls, place: Place, description: Mapping[str, Any]) -> Self:
        """A new run in a free directory: see ``begin``."""
        run = cls(place)
        run.begin(description)
        return run

    def begin(self, description: Mapping[str, Any]) -> None:
        """Begin a new run here; ``description`` goes into ``config.json`` with its provenance.

        Raises:
            RunError: the directory is not empty, or cannot be written.
        """
        self._check_free()
        self.describe_again(description)

    def describe_again(self, description: Mapping[str, Any]) -> None:
        """Replace ``config.json``.

        Raises:
            RunError: it cannot be written.
        """
        content = {**description, **provenance()}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "config.json", (json.dumps(content, indent=1) + "\n").encode())
            if self._mirror:
                self._mirror.store()
        except OSError as error:
            raise RunError(f"{self.place} cannot be written: {error.strerror}") from error
        except StorageError as error:
            raise RunError(str(error)) from error

    @classmethod
    def open(cls, place: Place) -> Self:
        """An existing run; raises RunError when there is none."""
        run = cls(place)
        if run._mirror:
            try:
                run._mirror.fetch()
            except StorageError as error:
                raise RunError(str(error)) from error
        run.description()
        return run

    def shown(self, file: str = "") -> str:
        """The name of a file here as the user knows it."""
        return str(child(self.place, file) if file else self.place)

    # --- storage

    def store(self) -> None:
        """Bring what is new to the run's URI, if it has one; when that fails, the next call tries again."""
        if self._mirror:
            try:
                self._mirror.store()
            except StorageError as error:
                logger.warning("%s; it is tried again with the next checkpoint", error)

    @contextmanager
    def stored(self) -> Iterator[None]:
        """What was written inside the block is stored at its end, also when the block raises.

        Raises:
            RunFailedError: it cannot be; the message says where the files are kept.
        """
        try:
            yield
        finally:
            if self._mirror:
                self._store_or_keep(self._mirror)

    def _store_or_keep(self, mirror: Mirror) -> None:
        for pause_s in RETRIES_S:
            try:
                mirror.store()
            except StorageError as error:
                logger.warning("%s; it is tried again in %g s", error, pause_s)
                time.sleep(pause_s)
            else:
                return
        try:
            mirror.store()
        except StorageError as error:
            raise RunFailedError(f"{error}; the run is kept in {mirror.keep()}") from error

    def description(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        file = self.path / "config.json"
        try:
            description: dict[str, Any] = json.loads(file.read_text())
            if not isinstance(description["config"], dict):
                raise TypeError("config is not an object")
        except OSError as error:
            raise RunError(f"{self.place} is not a run: {file.name}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(f"{self.shown(file.name)} is damaged: {error}") from error
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
                    f"{self.place} is being written by {file.read().strip() or 'another process'}"
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
        shown = self.shown(file.name)
        try:
            # Lines that a crash tore may hold anything.
            lines = file.read_text(errors="replace").splitlines(keepends=True)
        except OSError as error:
            return [], f"{self.place} holds no progress.csv that can be read: {error.strerror}"
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
            return rows, f"{shown} is damaged after {len(rows)} rows: {error}"
        if torn:
            return rows, f"{shown} ends within a row"
        return rows, "" if rows else f"{shown} holds no iteration"

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
                f"{self.place} is a run of version 0.1, whose checkpoints hold pickles and links; this version "
                "reads neither: train again"
            )
        raise RunError(f"{self.place} holds no checkpoint: the run was stopped before its first one")


def check_output(output: Path, suffixes: Sequence[str]) -> None:
    """Refuse a file to be written whose suffix is not among ``suffixes``, or whose folder does not exist.

    Raises:
        RunError: naming what is allowed.
    """
    if output.suffix.lower() not in suffixes:
        raise RunError(f"output is {str(output)!r}; it must end in {' or '.join(suffixes)}")
    if not output.parent.is_dir():
        raise RunError(f"output is {str(output)!r}, but there is no folder {str(output.parent)!r}")
