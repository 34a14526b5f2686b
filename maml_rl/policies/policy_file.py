"""A trained policy on disk: tensors as safetensors, everything else as JSON; nothing is unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from maml_rl.policies.meta_params import INNER_LR
from maml_rl.policies.mlp import GaussianMLP, Params
from maml_rl.tools.files import write_atomically
from maml_rl.tools.run_directory import RunDirectory, RunError

FORMAT = 1
POLICY = "policy.safetensors"
"""Name of the best policy in a run directory."""
PRETRAINED = Path(__file__).parent / "pretrained"


class PolicyFileError(ValueError):
    """A policy file is missing, truncated, tampered with, or of another format."""


@dataclass(frozen=True)
class PolicyFile:
    """A meta-trained policy and what is needed to adapt it the way it was trained.

    Attributes:
        params: theta, and the learned step sizes if any.
        info: environment, horizon, step size and so on: see ``save_policy``.
    """

    spec: GaussianMLP
    params: Params
    info: dict[str, Any]


def save_policy(path: Path, spec: GaussianMLP, params: dict[str, np.ndarray], info: dict[str, Any]) -> None:
    """Write ``path`` (``*.safetensors``) and the JSON beside it, each atomically.

    The JSON holds the tensors' checksum: the pair is only ever read together.
    """
    data = save_tensors({name: np.ascontiguousarray(value) for name, value in params.items()})
    description = {
        "format": FORMAT,
        "sha256": hashlib.sha256(data).hexdigest(),
        "policy": dataclasses.asdict(spec),
        **info,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    write_atomically(path.with_suffix(".json"), (json.dumps(description, indent=1) + "\n").encode())


def load_policy(path: Path) -> PolicyFile:
    """Read what ``save_policy`` wrote.

    Raises:
        PolicyFileError: naming the file and what is wrong with it.
    """
    info = _read_json(path.with_suffix(".json"))
    if info.get("format") != FORMAT:
        raise PolicyFileError(f"{path}: format is {info.get('format')!r}; this version reads {FORMAT}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PolicyFileError(f"{path}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != info.get("sha256"):
        raise PolicyFileError(f"{path}: checksum does not match; the file is truncated or was changed")
    try:
        spec = GaussianMLP(**{**info["policy"], "hidden_sizes": tuple(info["policy"]["hidden_sizes"])})
        params = {name: torch.from_numpy(x) for name, x in load_tensors(data).items()}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise PolicyFileError(f"{path}: not a policy of this format ({error})") from error
    shapes = {k: tuple(v.shape) for k, v in params.items() if not k.startswith(INNER_LR)}
    if shapes != spec.shapes:
        raise PolicyFileError(f"{path}: tensors {shapes} do not fit the policy {spec}")
    return PolicyFile(spec, params, info)


def pretrained_policy(preset: str) -> Path:
    """The policy of a preset that comes with the package.

    Raises:
        PolicyFileError: there is none; the message lists what exists.
    """
    path = PRETRAINED / f"{preset}.safetensors"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in PRETRAINED.glob("*.safetensors")))
        raise PolicyFileError(f"no policy of {preset!r} comes with the package; there are: {known}")
    return path


def policy_file_in(source: Path) -> Path:
    """A ``*.safetensors`` file itself, or the best policy of a run directory.

    Raises:
        RunError: ``source`` is a directory without one.
    """
    if source.suffix == ".safetensors":
        return source
    path = RunDirectory.open(source).path / POLICY
    if not path.exists():
        raise RunError(f"{source} holds no {POLICY}: the run has not finished an iteration")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise PolicyFileError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise PolicyFileError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise PolicyFileError(f"{path}: not a JSON object")
    return value
