"""Adaptation by differentiable gradient steps: the inner loop of MAML (Finn et al. 2017, eq. 1).

Model-agnostic: it knows neither RL nor networks. A model is a dictionary of tensors stacked over tasks, and
a loss is a function from such parameters and some data to one number per task. Since task i's loss depends
on slice i alone, one backward pass through the sum of the losses gives every task's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Params = dict[str, Tensor]
InnerLR = float | Mapping[str, Tensor | float]
"""Step size alpha: one number, or one per parameter (a number or a tensor of its shape), which may itself be
meta-learned ("alpha may be fixed as a hyperparameter or meta-learned", Finn et al. 2017, sec. 2.2)."""

Data = TypeVar("Data")
LossFn = Callable[[Params, Data], Float[Tensor, " tasks"]]


def stack_params(params: Mapping[str, Tensor], tasks: int) -> Params:
    """The same parameters for each of ``tasks`` tasks: shape ``[tasks, *shape]``, without a copy.

    Differentiable: the gradient of the shared parameters is the sum over tasks.
    """
    return {name: value.expand(tasks, *value.shape) for name, value in params.items()}


def adapt(
    loss_fn: LossFn[Data],
    params: Params,
    data_per_step: Iterable[Data],
    inner_lr: InnerLR,
    *,
    first_order: bool = False,
) -> Params:
    """theta'_i after one gradient step per element of ``data_per_step``, for all tasks at once.

    Args:
        loss_fn: ``(params, data) -> losses [tasks]``; loss i may depend on slice i of the parameters only.
        params: parameters stacked over tasks, ``[tasks, *shape]`` each (see ``stack_params``).
        data_per_step: the data of each step (the same object repeated for several steps on one data set).
        inner_lr: alpha, shared by all tasks.
        first_order: drop the second derivatives: the result depends on ``params`` by the identity only, and
            the gradient that is subtracted is a constant (Finn et al. 2017, sec. 5.2).

    Returns:
        The adapted parameters; differentiable with respect to ``params`` and ``inner_lr``.
    """
    own, shared = (inner_lr, 1.0) if isinstance(inner_lr, Mapping) else (None, inner_lr)
    for data in data_per_step:
        with torch.enable_grad():
            # A first-order step is taken from a detached copy: its graph ends here and is freed at once.
            if first_order or not any(value.requires_grad for value in params.values()):
                start = {name: value.detach().requires_grad_() for name, value in params.items()}
            else:
                start = params
            losses = loss_fn(start, data)
            # A step size that all share multiplies the losses: fewer operations than on every parameter.
            weights = torch.full_like(losses, -shared)
            # The gradient of a parameter that the loss does not use is zero.
            steps = torch.autograd.grad(
                losses,
                list(start.values()),
                weights,
                create_graph=not first_order,
                allow_unused=True,
                materialize_grads=True,
            )
        params = {
            name: value + (step if own is None else own[name] * step)
            for (name, value), step in zip(params.items(), steps, strict=True)
        }
    return params
