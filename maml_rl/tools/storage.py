"""Folders and files that a user names by a path or by a URI of pyarrow's file systems, such as ``s3://``.

What is at a URI is worked on in a folder of this machine's temporary files, its mirror: fetched when it is opened,
stored when there is something new. ``file://`` is the local path.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

Place = str | Path
"""A path, or a URI as text."""

ANSWER_S = 15.0
"""Seconds in which a store must say whether it is there; its own patience is minutes."""
TRANSFER_S = 600.0
"""Seconds that fetching or storing a whole folder may take."""

Result = TypeVar("Result")


class _Process:
    """What ends with the process."""


_PROCESS = _Process()


class StorageError(ValueError):
    """A place cannot be used as asked; the message names it."""


class _Stamp(NamedTuple):
    """By what a changed file is told from an unchanged one."""

    modified: int | None
    size: int


def is_uri(place: Place) -> bool:
    """Whether a place is named by a URI; a path, also as text, has no ``scheme://``."""
    return isinstance(place, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place) is not None


def local_path(place: Place) -> Path | None:
    """The path of a local place, ``file://`` among them; None for one that needs a mirror.

    Raises:
        StorageError: a file of another host.
    """
    if not is_uri(place):
        return Path(place)
    parts = urlsplit(str(place))
    if parts.scheme.lower() != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise StorageError(f"{place} is on the host {parts.netloc!r}; a file is at file:///PATH")
    return Path(unquote(parts.path))


def child(place: Place, *names: str) -> Place:
    """What is called ``names`` in the folder ``place``."""
    if not is_uri(place):
        return Path(place, *names)
    parts = urlsplit(str(place))
    return urlunsplit(parts._replace(path=posixpath.join(parts.path or "/", *names)))


class Mirror:
    """A local folder that stands for the one at ``uri``.

    Attributes:
        local: the folder; it is deleted with this process unless ``keep`` was called.
    """

    def __init__(self, uri: str) -> None:
        """Reach the store; nothing is fetched yet.

        Raises:
            StorageError: there is no such file system, or it does not answer.
        """
        if urlsplit(uri).password is not None:
            raise StorageError(
                f"{urlsplit(uri).scheme}:// with a password in it would be printed and stored with the run; give "
                "credentials by the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        self.uri = uri
        self._fs, self._root = self._asked(lambda: _file_system(uri))
        self.local = Path(tempfile.mkdtemp(prefix="maml_rl-"))
        # With the process and not with this object: somebody may hold a path into it.
        self._delete = weakref.finalize(_PROCESS, shutil.rmtree, self.local, ignore_errors=True)
        self._stored: dict[str, _Stamp] = {}
        self._theirs: dict[str, _Stamp] = {}

    def keep(self) -> Path:
        """Leave the local folder where it is when this process ends."""
        self._delete.detach()
        return self.local

    def names(self) -> list[str]:
        """The files at the URI, relative to it.

        Raises:
            StorageError: the store does not answer.
        """
        return list(self._asked(self._listing))

    def check_writable(self) -> None:
        """Write and delete a file.

        Raises:
            StorageError: that is not possible.
        """
        self._asked(self._try_to_write)

    def fetch(self, only: str | None = None) -> None:
        """Copy what is at the URI, or only the file of that name, into the local folder.

        Raises:
            StorageError: the store does not answer.
        """
        self._asked(lambda: self._fetch(only), TRANSFER_S)

    def store(self) -> None:
        """Copy local files that are new or changed to the URI; those whose name begins with a dot stay here.

        Raises:
            StorageError: the store does not answer, or another writer has changed one of these files there.
        """
        self._asked(self._store, TRANSFER_S)

    def replace(self) -> None:
        """As ``store``, over whatever is there.

        Raises:
            StorageError: the store does not answer; what could not be stored is kept in a local folder.
        """
        try:
            self._theirs = {name: _stamp_of(info) for name, info in self._asked(self._listing).items()}
            self.store()
        except StorageError as error:
            raise StorageError(f"{error}; it is kept in {self.keep()}") from error

    # --- the work, in a thread of its own

    def _listing(self) -> dict[str, FileInfo]:
        from pyarrow.fs import FileSelector, FileType

        found = self._fs.get_file_info(FileSelector(self._root, allow_not_found=True, recursive=True))
        files = (info for info in found if info.type == FileType.File)
        return {posixpath.relpath(info.path, self._root): info for info in files}

    def _try_to_write(self) -> None:
        probe = posixpath.join(self._root, f".{self.local.name}")
        if not self._keeps_objects:
            self._fs.create_dir(self._root)
        with self._fs.open_output_stream(probe) as stream:
            stream.write(b"")
        self._fs.delete_file(probe)

    def _fetch(self, only: str | None) -> None:
        for name, info in self._listing().items():
            if only not in (None, name):
                continue
            file = self.local / name
            if not file.resolve().is_relative_to(self.local.resolve()):
                raise StorageError(f"{self.uri} holds {name!r}, which leads out of it")
            file.parent.mkdir(parents=True, exist_ok=True)
            with self._fs.open_input_stream(info.path) as source, file.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            self._stored[name], self._theirs[name] = _stamp_of_file(file), _stamp_of(info)

    def _store(self) -> None:
        new = {name: stamp for name, stamp in self._local_files().items() if self._stored.get(name) != stamp}
        if not new:
            return
        there = self._listing()
        for name in new:
            if name in there and _stamp_of(there[name]) != self._theirs.get(name):
                raise StorageError(f"{child(self.uri, name)} was changed by another writer")
        for name, stamp in new.items():
            self._upload(name)
            self._stored[name] = stamp
            self._theirs[name] = _stamp_of(self._fs.get_file_info(posixpath.join(self._root, name)))

    def _local_files(self) -> dict[str, _Stamp]:
        files = (file for file in sorted(self.local.rglob("*")) if file.is_file())
        names = {file.relative_to(self.local): file for file in files}
        return {
            name.as_posix(): _stamp_of_file(file)
            for name, file in names.items()
            if not any(part.startswith(".") for part in name.parts)
        }

    def _upload(self, name: str) -> None:
        """A reader finds the old or the new content: object stores see to that, elsewhere a file is renamed."""
        target = posixpath.join(self._root, name)
        written = target if self._keeps_objects else f"{target}.part"
        if not self._keeps_objects:
            self._fs.create_dir(posixpath.dirname(target))
        with (self.local / name).open("rb") as source, self._fs.open_output_stream(written) as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
        if not self._keeps_objects:
            self._fs.move(written, target)

    @property
    def _keeps_objects(self) -> bool:
        """Whether the store has no folders."""
        return self._fs.type_name in ("s3", "gcs", "abfs")

    def _asked(self, work: Callable[[], Result], seconds: float | None = None) -> Result:
        """The result of ``work``; a library that does not return in time is left behind in its thread."""
        results: list[Result] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(work())
            except Exception as error:  # whatever a file system raises
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        seconds = ANSWER_S if seconds is None else seconds
        thread.join(seconds)
        if results:
            return results[0]
        if errors and isinstance(errors[0], StorageError):
            raise errors[0]
        reason = _reason(errors[0]) if errors else f"no answer within {seconds:g} s"
        raise StorageError(f"{self.uri} cannot be used: {reason}") from (errors[0] if errors else None)


def fetched_file(place: Place) -> Path:
    """A local path of the file at ``place``, fetched if it is not here.

    Raises:
        StorageError: the store does not answer, or has no such file.
    """
    path = local_path(place)
    if path is not None:
        return path
    folder, name = _split(str(place))
    mirror = Mirror(folder)
    mirror.fetch(name)
    if not (mirror.local / name).exists():
        raise StorageError(f"there is no file {place}")
    return mirror.local / name


@contextmanager
def writable_folder(place: Place) -> Iterator[Path]:
    """A local folder to write to; what is in it is stored at ``place`` afterwards.

    Raises:
        StorageError: that is not possible, or it could not be stored and is kept where the message says.
    """
    path = local_path(place)
    if path is not None:
        yield path
        return
    mirror = Mirror(str(place))
    mirror.check_writable()
    yield mirror.local
    mirror.replace()


@contextmanager
def writable_file(place: Place) -> Iterator[Path]:
    """A local path to write a file to, which is stored at ``place`` afterwards.

    Raises:
        StorageError: that is not possible, or it could not be stored and is kept where the message says.
    """
    path = local_path(place)
    folder, name = ("", "") if path is not None else _split(str(place))
    with nullcontext(path) if path is not None else writable_folder(folder) as there:
        yield there if path is not None else there / name


def _split(uri: str) -> tuple[str, str]:
    """The URI of the folder that something is in, and its name there."""
    parts = urlsplit(uri)
    folder, name = posixpath.split(parts.path.rstrip("/"))
    return urlunsplit(parts._replace(path=folder)), name


def _file_system(uri: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FileSystem

    found: tuple[Any, str] = FileSystem.from_uri(uri)
    return found


def _stamp_of(info: FileInfo) -> _Stamp:
    return _Stamp(info.mtime_ns, info.size)


def _stamp_of_file(file: Path) -> _Stamp:
    status = file.stat()
    return _Stamp(status.st_mtime_ns, status.st_size)


def _reason(error: Exception) -> str:
    """The first sentence of what a file system says, which may be pages."""
    return " ".join(str(error).partition("\n")[0].split())[:300] or type(error).__name__
