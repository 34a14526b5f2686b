"""Tensors and what belongs to them in one file: safetensors with a JSON header; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from maml_rl.tools.files import write_atomically

FORMAT = 2
"""1 was a pair of files."""
_HEADER = "maml_rl"


class TensorFileError(ValueError):
    """A file is missing, truncated, changed, or of another kind or format."""


@dataclass(frozen=True)
class TensorFile:
    """What a file holds: arrays by name, what belongs to them, and the checksum of both."""

    tensors: dict[str, np.ndarray]
    info: dict[str, Any]
    sha256: str


def save_tensors(path: Path, kind: str, tensors: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
    """Write one file atomically; a reader sees the old or the new one, whole.

    Args:
        kind: of the file, e.g. ``"policy"``; a reader asks for it.
        info: anything that strict JSON can hold.
    """
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    text = json.dumps(info, allow_nan=False)
    header = {"format": FORMAT, "kind": kind, "sha256": _checksum(arrays, text), "info": text}
    write_atomically(path, save(arrays, metadata={_HEADER: json.dumps(header)}))


def load_tensors(path: Path, kind: str) -> TensorFile:
    """Read what ``save_tensors`` wrote.

    Raises:
        TensorFileError: naming the file and what is wrong with it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TensorFileError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        tensors = load(data)
        header = _header(data)
        if (header["format"], header["kind"]) != (FORMAT, kind):
            raise ValueError(f"it holds a {header['kind']!r} in format {header['format']!r}")
        text = header["info"]
        if not isinstance(text, str):
            raise TypeError("its description is not a text")
        if header["sha256"] != _checksum(tensors, text):
            raise TensorFileError(f"{path}: checksum does not match; the file was changed")
        info = json.loads(text)
        if not isinstance(info, dict):
            raise TypeError("its description is not an object")
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, TensorFileError):
            raise
        raise TensorFileError(
            f"{path}: truncated, or not a {kind} of this version's format {FORMAT} ({error})"
        ) from error
    return TensorFile(tensors, info, header["sha256"])


def _header(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")  # as the format defines it
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    if _HEADER not in metadata:
        raise ValueError("it has no description of its own")
    header = json.loads(metadata[_HEADER])
    if not isinstance(header, dict):
        raise TypeError("its header is not an object")
    return header


def _checksum(tensors: Mapping[str, np.ndarray], info: str) -> str:
    """Of names, types, shapes and values, and of the description."""
    digest = hashlib.sha256(info.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\n{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
