"""Meta-parameters by role: theta, and the inner step sizes where those are learned beside it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from maml_rl.policies.mlp import CONTEXT, Params

INNER_LR = "inner_lr."
"""Prefix of the learned step sizes among the meta-parameters: ``inner_lr.<name of the parameter>``."""


def split_meta_params(
    meta_params: Params, inner_lr: float
) -> tuple[Params, float | Mapping[str, Tensor | float]]:
    """(theta, alpha): alpha is the fixed ``inner_lr``, or the learned step sizes among the meta-parameters.

    Of a policy with a context, only the context takes fixed steps: alpha is 0 for everything else.
    """
    theta = {k: v for k, v in meta_params.items() if not k.startswith(INNER_LR)}
    learned = {k.removeprefix(INNER_LR): v for k, v in meta_params.items() if k.startswith(INNER_LR)}
    if CONTEXT in theta and not learned:
        return theta, {name: inner_lr if name == CONTEXT else 0.0 for name in theta}
    return theta, learned or inner_lr
