"""Meta-parameters by role: theta, and the inner step sizes where those are learned beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from maml_rl.policies.normalizer import NORMALIZER
from maml_rl.policies.policy import Params, Policy

Value = TypeVar("Value")

INNER_LR = "inner_lr."
"""Prefix of the learned step sizes among the meta-parameters: ``inner_lr.<name of the parameter>``."""


def theta_of(meta_params: Mapping[str, Value]) -> dict[str, Value]:
    """The policy's parameters among the meta-parameters."""
    return {k: v for k, v in meta_params.items() if not k.startswith((INNER_LR, NORMALIZER))}


def split_meta_params(
    policy: Policy, meta_params: Params, inner_lr: float
) -> tuple[Params, float | Mapping[str, Tensor | float]]:
    """(theta, alpha): alpha is the fixed ``inner_lr``, or the learned step sizes among the meta-parameters.

    It is 0 for parameters that the inner loop does not change.
    """
    theta = theta_of(meta_params)
    learned = {k.removeprefix(INNER_LR): v for k, v in meta_params.items() if k.startswith(INNER_LR)}
    if learned or policy.adapts_all:
        return theta, learned or inner_lr
    return theta, {name: inner_lr if policy.adapted(name) else 0.0 for name in theta}
