"""One trust-region step (Schulman et al. 2015) on a flat parameter vector; knows neither RL nor networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Vector = Float[Tensor, " params"]
LinearOperator = Callable[[Tensor], Tensor]


def conjugate_gradient(
    product: LinearOperator, b: Vector, *, iterations: int = 10, residual_tol: float = 1e-10
) -> tuple[Vector, Vector]:
    """Approximate solution x of ``product(x) = b`` for a symmetric positive definite operator.

    Starts at x = 0 and stops after ``iterations`` products, or once the squared residual falls below
    ``residual_tol`` (Hestenes & Stiefel 1952).

    Returns:
        x and ``product(x)``, the latter as a by-product of the iterations.
    """
    x = torch.zeros_like(b)
    product_of_x = torch.zeros_like(b)
    residual = b.clone()
    direction = b.clone()
    squared = residual.dot(residual)
    for _ in range(iterations):
        if squared < residual_tol:
            break
        image = product(direction)
        step = squared / direction.dot(image)
        x = x + step * direction
        product_of_x = product_of_x + step * image
        residual = residual - step * image
        previous, squared = squared, residual.dot(residual)
        direction = residual + (squared / previous) * direction
    return x, product_of_x


@dataclass(frozen=True)
class LineSearch:
    """Backtracking along a step: ``ratio ** k`` for k = 0 .. ``steps`` - 1 (the published code's values)."""

    steps: int = 15
    ratio: float = 0.8


@dataclass(frozen=True)
class StepResult:
    """What one trust-region step did; ``accepted`` is False when the parameters were left as they were."""

    params: Tensor
    loss_before: float
    loss_after: float
    kl: float
    accepted: bool
    backtracks: int
    gradient_norm: float


def natural_step(
    gradient: Vector,
    product: LinearOperator,
    *,
    max_kl: float,
    cg_iterations: int = 10,
    cg_residual_tol: float = 1e-10,
) -> Vector:
    """The step ``-sqrt(2 delta / (d . H d)) d`` with ``H d = gradient`` (Schulman et al. 2015, app. C).

    To second order it spends the whole trust region ``max_kl`` in the natural-gradient direction.
    """
    direction, image = conjugate_gradient(
        product, gradient, iterations=cg_iterations, residual_tol=cg_residual_tol
    )
    curvature = direction.dot(image).clamp(min=0)
    return -torch.sqrt(2 * max_kl / (curvature + 1e-8)) * direction


def line_search(
    params: Vector,
    step: Vector,
    evaluate: Callable[[Tensor], tuple[float, float]],
    *,
    loss_before: float,
    max_kl: float,
    search: LineSearch,
) -> tuple[Vector, float, float, int] | None:
    """First point ``params + ratio**k step`` where the loss falls and the KL is at most ``max_kl``.

    Args:
        evaluate: ``params -> (loss, kl)``, the very objective whose gradient gave ``step``.

    Returns:
        ``(params, loss, kl, k)``, or None when no k is acceptable.
    """
    for k in range(search.steps):
        trial = params + search.ratio**k * step
        loss, kl = evaluate(trial)
        # Written so that a NaN is a refusal.
        if loss < loss_before and kl <= max_kl:
            return trial, loss, kl, k
    return None


def trust_region_step(
    params: Vector,
    gradient: Vector,
    product: LinearOperator,
    evaluate: Callable[[Tensor], tuple[float, float]],
    *,
    loss_before: float,
    max_kl: float,
    cg_iterations: int = 10,
    cg_residual_tol: float = 1e-10,
    search: LineSearch | None = None,
) -> StepResult:
    """Minimise a loss subject to KL <= ``max_kl``: natural step, then line search.

    Args:
        gradient: gradient of the loss at ``params``.
        product: ``v -> H v`` with the Hessian of the KL at ``params`` (damping included).
        evaluate: ``params -> (loss, kl)``.
        loss_before: ``evaluate(params)[0]``.

    Returns:
        The result; when no step is acceptable ``result.params`` is ``params`` itself.
    """
    search = search or LineSearch()
    norm = float(gradient.norm())
    step = natural_step(
        gradient,
        product,
        max_kl=max_kl,
        cg_iterations=cg_iterations,
        cg_residual_tol=cg_residual_tol,
    )
    found = line_search(params, step, evaluate, loss_before=loss_before, max_kl=max_kl, search=search)
    if found is None:
        return StepResult(params, loss_before, loss_before, 0.0, False, search.steps, norm)
    trial, loss, kl, backtracks = found
    return StepResult(trial, loss_before, loss, kl, True, backtracks, norm)
