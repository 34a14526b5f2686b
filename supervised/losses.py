"""Losses and accuracy of each task: ``(outputs [tasks, n, ...], targets [tasks, n, ...]) -> [tasks]``."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def mean_squared_error(
    outputs: Float[Tensor, "tasks n dims"], targets: Float[Tensor, "tasks n dims"]
) -> Float[Tensor, " tasks"]:
    """Mean over a task's examples (paper, eq. 2, up to the constant)."""
    squares = F.mse_loss(outputs, targets, reduction="none").flatten(1)
    return squares.sum(1) / squares.shape[1]  # for small tensors half the time of mean


def cross_entropy(
    logits: Float[Tensor, "tasks n classes"], labels: Int[Tensor, "tasks n"]
) -> Float[Tensor, " tasks"]:
    """Mean over a task's examples (paper, eq. 3)."""
    return (
        F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
    )


def cross_entropy_summed_over_classes(
    logits: Float[Tensor, "tasks n classes"], labels: Int[Tensor, "tasks n"]
) -> Float[Tensor, " tasks"]:
    """N times ``cross_entropy``: the inner loss of the code, to which the paper's step sizes belong.

    The code divides the sum over a task's examples by the shots K, not by their number N K.
    """
    return logits.shape[-1] * cross_entropy(logits, labels)


def accuracy(
    logits: Float[Tensor, "tasks n classes"], labels: Int[Tensor, "tasks n"]
) -> Float[Tensor, " tasks"]:
    """Share of a task's examples whose label has the largest logit."""
    return (logits.argmax(-1) == labels).float().mean(1)
