"""Losses and accuracy of each task: ``(outputs [tasks, n, ...], targets [tasks, n, ...]) -> [tasks]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""``(outputs [tasks, n, ...], targets [tasks, n, ...]) -> [tasks]``."""
UserLoss = Callable[[Tensor, Tensor], Tensor]
"""``(outputs, targets)`` of one task to a scalar, e.g. ``torch.nn.functional.mse_loss``."""


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


def loss_of_each_task(loss: UserLoss) -> TaskLoss:
    """A loss of one task as a loss of several.

    Raises (when called):
        ValueError: the loss is not a scalar, or refuses the outputs or targets.
    """

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        values = [_apply(loss, *task) for task in zip(outputs, targets, strict=True)]
        for value in values:
            if not isinstance(value, Tensor) or value.ndim != 0:
                found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"the loss of a task is {found}; it must be a scalar tensor (use reduction='mean')"
                )
        return torch.stack(values)

    return losses


def _apply(loss: UserLoss, outputs: Tensor, targets: Tensor) -> Any:
    try:
        return loss(outputs, targets)
    except (IndexError, RuntimeError) as error:  # what torch raises for labels and shapes that do not fit
        raise ValueError(
            f"the loss of a task with outputs {list(outputs.shape)} and targets {list(targets.shape)} failed: "
            f"{error}"
        ) from error
