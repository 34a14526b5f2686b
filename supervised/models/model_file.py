"""Meta-parameters and training states on disk: safetensors with a JSON header; nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from maml_rl.tools.files import write_atomically

FORMAT = 1


class ModelFileError(ValueError):
    """A file is missing, truncated, or not one of this package."""


def save(path: Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write tensors and what belongs to them, atomically."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = {"supervised": json.dumps({"format": FORMAT, **info})}
    write_atomically(path, save_tensors(contiguous, metadata=header))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``save`` wrote.

    Raises:
        ModelFileError: naming the file and what is wrong with it.
    """
    try:
        data = path.read_bytes()
        tensors = load_tensors(data)
        length = int.from_bytes(data[:8], "little")  # of the header, as the format defines it
        info: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["supervised"])
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: truncated, or not a file of this package ({error})") from error
    if info.get("format") != FORMAT:
        raise ModelFileError(f"{path}: format is {info.get('format')!r}; this version reads {FORMAT}")
    return {name: value.clone() for name, value in tensors.items()}, info
