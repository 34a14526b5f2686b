"""Meta-parameters on disk, alone or with all that training goes on from; nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_rl.learning.meta_learner import Params
from maml_rl.tools.tensor_file import TensorFileError, load_tensors, save_tensors

KIND = "model"
MODEL = "model.safetensors"
"""Name of the best model in a run directory."""
STATE = "state/"
"""Prefix of what a checkpoint holds beside the model of its moment."""


class ModelFileError(ValueError):
    """A file is missing, truncated, changed, or not one of this package."""


@dataclass(frozen=True)
class ModelFile:
    """What a file holds: meta-parameters, what belongs to them, and what a trainer goes on from."""

    params: Params
    info: dict[str, Any]
    state: dict[str, np.ndarray]


def save(
    path: Path,
    params: Mapping[str, Tensor],
    info: Mapping[str, Any],
    state: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write meta-parameters and what belongs to them, atomically."""
    arrays = {name: value.detach().cpu().numpy() for name, value in params.items()}
    remembered = {STATE + name: value for name, value in (state or {}).items()}
    save_tensors(path, KIND, arrays | remembered, info)


def load(path: Path) -> ModelFile:
    """What ``save`` wrote.

    Raises:
        ModelFileError: naming the file and what is wrong with it.
    """
    try:
        file = load_tensors(path, KIND)
    except TensorFileError as error:
        raise ModelFileError(str(error)) from error
    params: Params = {}
    for name, value in file.tensors.items():
        if not name.startswith(STATE):
            if not np.isfinite(value).all():
                raise ModelFileError(f"{path}: {name} holds a NaN or an infinity")
            params[name] = torch.from_numpy(value.copy())
    state = {name.removeprefix(STATE): v for name, v in file.tensors.items() if name not in params}
    return ModelFile(params, file.info, state)
