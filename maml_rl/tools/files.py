"""Files that are either whole or absent, and JSON that every reader takes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Errors of the file system name ``path``: a full disk does not say by itself where it was met."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with errors_of(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def remove_leftovers(folder: Path) -> None:
    """Delete what writers that were killed left half-written in a folder; nobody else may write there now."""
    for path in folder.glob(".*.tmp"):
        path.unlink()


def strict_json(value: Any) -> str:
    """JSON in which what is not a finite number is null: JSON has no NaN."""
    return json.dumps(_strict(value), indent=1, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _strict(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
