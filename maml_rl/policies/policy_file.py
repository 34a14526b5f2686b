"""A trained policy on disk: one safetensors file whose header says everything else; nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maml_rl.policies.heads import make_head
from maml_rl.policies.meta_params import INNER_LR
from maml_rl.policies.mlp import MLP
from maml_rl.policies.module_policy import UnknownModule
from maml_rl.policies.network_policy import NetworkPolicy
from maml_rl.policies.normalizer import NORMALIZER, Normalizer
from maml_rl.policies.policy import Params, Policy
from maml_rl.tools.run_directory import RunDirectory, RunError
from maml_rl.tools.storage import Place, child, fetched_file
from maml_rl.tools.tensor_file import TensorFileError, load_tensors, save_tensors

KIND = "policy"
POLICY = "policy.safetensors"
"""Name of the best policy in a run directory."""
PRETRAINED = Path(__file__).parent / "pretrained"
STATE = "state/"
"""Prefix of what a checkpoint holds beside the policy of its moment: optimisers, critic."""


class PolicyFileError(ValueError):
    """A policy file is missing, truncated, changed, or of another format; or its numbers are not finite."""


_KINDS: dict[str, type[MLP] | type[NetworkPolicy] | type[UnknownModule]] = {
    kind.kind: kind for kind in (MLP, NetworkPolicy, UnknownModule)
}


@dataclass(frozen=True)
class PolicyFile:
    """A meta-trained policy and what is needed to adapt it the way it was trained.

    Attributes:
        params: theta, and the learned step sizes if any.
        info: environment, horizon, step size and so on.
        sha256: of the file's content.
        state: what else a checkpoint holds, to go on training.
        normalizer: of what the policy observes, and of rewards.
    """

    spec: Policy
    params: Params
    info: dict[str, Any]
    sha256: str = ""
    state: dict[str, np.ndarray] = field(default_factory=dict)
    normalizer: Normalizer | None = None

    def meta_params(self) -> dict[str, np.ndarray]:
        """What ``MAML.meta_params`` returned."""
        statistics = {} if self.normalizer is None else self.normalizer.as_arrays()
        return {name: value.numpy() for name, value in self.params.items()} | statistics


def save_policy(
    path: Path,
    spec: Policy,
    params: Mapping[str, np.ndarray],
    info: Mapping[str, Any],
    state: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write ``path`` (``*.safetensors``) atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {**params, **{STATE + name: value for name, value in (state or {}).items()}}
    save_tensors(path, KIND, tensors, {"policy": spec.as_dict(), **info})


def load_policy(path: Path) -> PolicyFile:
    """Read what ``save_policy`` wrote.

    Raises:
        PolicyFileError: naming the file and what is wrong with it.
    """
    if path.with_suffix(".json").exists():
        raise PolicyFileError(
            f"{path}: a policy of version 0.1, whose description is in {path.with_suffix('.json').name}; "
            "this version keeps both in one file and cannot read it: train again"
        )
    try:
        file = load_tensors(path, KIND)
        spec = policy_from_dict(file.info["policy"])
    except TensorFileError as error:
        raise PolicyFileError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyFileError(f"{path}: not a policy ({error})") from error
    arrays = {name: value for name, value in file.tensors.items() if not name.startswith((STATE, NORMALIZER))}
    _check(path, spec, arrays)
    return PolicyFile(
        spec,
        {name: torch.from_numpy(value.copy()) for name, value in arrays.items()},
        file.info,
        file.sha256,
        {n.removeprefix(STATE): value for n, value in file.tensors.items() if n.startswith(STATE)},
        _normalizer(path, spec, file.tensors),
    )


def policy_from_dict(described: Mapping[str, Any]) -> Policy:
    """The policy that ``Policy.as_dict`` described; also as files did that know Gaussian MLPs only.

    Raises:
        KeyError, TypeError, ValueError: it is no such description.
    """
    arguments = {"kind": MLP.kind, **described}
    kind = arguments.pop("kind")
    if kind not in _KINDS:
        raise ValueError(f"policy is {kind!r}; it must be one of: {', '.join(_KINDS)}")
    if "head" in arguments:
        return _KINDS[kind].from_dict({**arguments, "head": make_head(arguments["head"])})
    return MLP.gaussian(**{**arguments, "hidden_sizes": tuple(arguments["hidden_sizes"])})


def _check(path: Path, spec: Policy, arrays: Mapping[str, np.ndarray]) -> None:
    shapes = {name: value.shape for name, value in arrays.items() if not name.startswith(INNER_LR)}
    step_sizes = {n.removeprefix(INNER_LR): v.shape for n, v in arrays.items() if n.startswith(INNER_LR)}
    if shapes != spec.shapes or step_sizes not in ({}, spec.shapes):
        raise PolicyFileError(f"{path}: tensors {shapes | step_sizes} do not fit the policy {spec}")
    for name, value in arrays.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise PolicyFileError(f"{path}: {name} must be finite numbers of type float32")


def _normalizer(path: Path, spec: Policy, tensors: Mapping[str, np.ndarray]) -> Normalizer | None:
    try:
        normalizer = Normalizer.from_arrays(tensors)
    except ValueError as error:
        raise PolicyFileError(f"{path}: {error}") from error
    if normalizer is None:
        return None
    for moments, size in ((normalizer.observations, spec.observation_size), (normalizer.returns, 1)):
        if moments is None:
            continue
        shapes = [moments.mean.shape, moments.squares.shape]
        if shapes != [(size,), (size,)]:
            raise PolicyFileError(
                f"{path}: running statistics of shapes {shapes} do not fit the policy {spec}"
            )
        if not all(np.isfinite(x).all() for x in vars(moments).values()) or (moments.squares < 0).any():
            raise PolicyFileError(f"{path}: running statistics must be finite, and squares not negative")
    return normalizer


def pretrained_policy(preset: str) -> Path:
    """The policy of a preset that comes with the package, or that in a folder which ``maml-rl export`` wrote.

    Raises:
        PolicyFileError: there is none; the message lists what exists.
    """
    exported = Path(preset) / POLICY
    if exported.is_file():
        return exported
    known = shipped_policies()
    if preset not in known:
        raise PolicyFileError(
            f"no policy of {preset!r} comes with the package, and it is no folder with a {POLICY}; there are: "
            f"{', '.join(known)}"
        )
    return PRETRAINED / f"{preset}.safetensors"


def shipped_policies() -> list[str]:
    """The presets of which a policy comes with the package."""
    return sorted(path.stem for path in PRETRAINED.glob("*.safetensors"))


def policy_file_in(source: Place) -> Path:
    """A ``*.safetensors`` file itself, or the best policy of a run directory; fetched if it is at a URI.

    Raises:
        RunError: ``source`` is a directory without one.
        StorageError: ``source`` is at a URI that cannot be read.
    """
    if str(source).partition("?")[0].endswith(".safetensors"):
        return fetched_file(source)
    run = RunDirectory.open(source)
    if not (run.path / POLICY).exists():
        raise RunError(f"{source} holds no {POLICY}: the run has not finished an iteration")
    return fetched_file(child(run.place, POLICY))
