"""Finite-difference products against the exact ones, and where the difference comes from."""

from __future__ import annotations

import pytest
import torch
from curvature_helpers import DOUBLE, Case
from helpers import (
    flat,
    point_nav_samples,
    relative_error,
    small_spec,
    to_dtype,
)
from torch import Tensor

from maml_rl.learning.curvature import ChunkCurvature
from maml_rl.learning.meta_update import MetaUpdateSettings
from maml_rl.policies.mlp import GaussianMLP
from maml_rl.policies.mlp_derivatives import Scratch, to_blocks


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_finite_differences_converge_to_the_exact_product(
    steps: int, learned: bool, first_order: bool
) -> None:
    case = Case(small_spec(), steps=steps, learned=learned, first_order=first_order)
    v = case.blocks(case.direction)
    exact = case.curvature.exact_product(v)
    coarse, fine = (
        relative_error(case.curvature.finite_difference_product(v, step / float(flat(v).norm())), exact)
        for step in (1e-3, 1e-4)
    )
    assert fine < 1e-6
    # Symmetric differences: a tenth of the step is a hundredth of the error.
    assert fine < 0.03 * coarse


@pytest.mark.parametrize("steps", [1, 2])
def test_relu_finite_differences_are_exact_where_no_kink_is_crossed(steps: int) -> None:
    case = Case(small_spec(activation="relu"), steps=steps)
    v = case.blocks(case.direction)
    product = case.curvature.finite_difference_product(v, 1e-7 / float(flat(v).norm()))
    assert relative_error(product, case.curvature.exact_product(v)) < 1e-5


def products_on_real_data(activation: str, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Finite-difference product at the default step, and exact product, along the gradient of the loss.

    The samples are those of a float32 policy at its initialisation, on point navigation, for any ``dtype``.
    """
    spec = GaussianMLP(2, 2, activation=activation)
    params = spec.init_params(seed)
    pre, post = point_nav_samples(spec, params, tasks=4, episodes=20, horizon=100, inner_lr=0.1, seed=seed)
    meta = [block.to(dtype) for block in to_blocks(spec, params)]
    curvature = ChunkCurvature(
        spec, meta, [to_dtype(pre, dtype)], to_dtype(post, dtype), 0.1, Scratch(), first_order=False
    )
    v = curvature.loss_gradient()
    step = MetaUpdateSettings(inner_lr=0.1).hvp_step / float(flat(v).norm())
    return flat(curvature.finite_difference_product(v, step)), flat(curvature.exact_product(v))


@pytest.mark.parametrize("seed", range(4))
def test_relu_finite_differences_at_the_default_step(seed: int) -> None:
    # A sample whose hidden unit switches on or off between theta - step v and theta + step v makes the inner
    # gradient jump; the Hessian at theta, which is all that the exact product knows, has no such jumps. They
    # are the whole difference: 0.7 to 2.2 % over twelve seeds with these 2,000 samples per task. It is
    # smaller with more samples, and larger for directions of little curvature and for larger inner steps. The
    # step trades two errors: a large one averages over far kinks, a small one divides few jumps by little.
    finite, exact = products_on_real_data("relu", seed, torch.float32)
    assert relative_error([finite], [exact]) < 0.05


def test_the_difference_is_due_to_kinks_and_not_to_rounding() -> None:
    single, exact = products_on_real_data("relu", 0, torch.float32)
    double, _ = products_on_real_data("relu", 0, DOUBLE)
    # Rounding moves a few samples across a kink or back, no more.
    assert relative_error([single], [double.float()]) < 0.5 * relative_error([single], [exact])
    # A smooth network has no kinks: 0.05 % at most over twelve seeds.
    finite, exact = products_on_real_data("tanh", 0, torch.float32)
    assert relative_error([finite], [exact]) < 2e-3
