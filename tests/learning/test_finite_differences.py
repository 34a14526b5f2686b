"""Finite-difference products against the exact ones, and where the difference comes from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from curvature_helpers import DOUBLE, Case, random_blocks
from helpers import (
    flat,
    point_nav_samples,
    relative_error,
    small_spec,
    to_dtype,
)

from maml_rl.learning.curvature import ChunkCurvature
from maml_rl.learning.losses import INNER_LOSSES
from maml_rl.learning.meta_update import MetaUpdateSettings
from maml_rl.policies.mlp import MLP
from maml_rl.policies.mlp_derivatives import MLPNetwork
from maml_rl.policies.policy import Scratch, to_blocks


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("inner_loss", INNER_LOSSES)
@pytest.mark.parametrize("steps", [1, 2])
def test_finite_differences_converge_to_the_exact_product(
    steps: int, inner_loss: str, learned: bool, first_order: bool
) -> None:
    case = Case(small_spec(), steps=steps, learned=learned, first_order=first_order, inner_loss=inner_loss)
    v = case.blocks(case.direction)
    exact = case.curvature.exact_product(v)
    coarse, fine = (
        relative_error(case.curvature.finite_difference_product(v, step / float(flat(v).norm())), exact)
        for step in (1e-3, 1e-4)
    )
    assert fine < 1e-6
    # Symmetric differences: a tenth of the step is a hundredth of the error.
    assert fine < 0.03 * coarse


ANY_STEP = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
"""Lengths of the displacement; the default is 0.005."""


@pytest.mark.parametrize(("learned", "context_size"), [(False, 0), (True, 0), (False, 3)])
@pytest.mark.parametrize("steps", [1, 2])
def test_units_stay_on_and_off_as_at_theta(steps: int, learned: bool, context_size: int) -> None:
    """A long displacement, in every direction, and the exact product all the same."""
    case = Case(small_spec(activation="relu", context_size=context_size), steps=steps, learned=learned)
    for seed in range(3):
        v = random_blocks(case.blocks(case.direction), seed)
        # What is left is the truncation error of a smooth function: a tenth of the step is a hundredth of it.
        exact, length = case.curvature.exact_product(v), float(flat(v).norm())
        coarse, fine = (
            relative_error(case.curvature.finite_difference_product(v, step / length), exact)
            for step in (1e-2, 1e-3)
        )
        assert fine < 1e-4
        assert fine < 0.03 * coarse


class Batch:
    """Samples of a float32 policy at its initialisation, on point navigation."""

    def __init__(self, activation: str, episodes: int, seed: int) -> None:
        self.spec = MLP.gaussian(2, 2, activation=activation)
        params = self.spec.init_params(seed)
        self.meta = to_blocks(self.spec, params)
        self.pre, self.post = point_nav_samples(
            self.spec, params, tasks=3, episodes=episodes, horizon=50, inner_lr=0.1, seed=seed
        )

    def curvature(self, dtype: torch.dtype) -> ChunkCurvature:
        meta = [block.to(dtype) for block in self.meta]
        pre, post = to_dtype(self.pre, dtype), to_dtype(self.post, dtype)
        return ChunkCurvature(self.spec, meta, [pre], post, 0.1, Scratch(), first_order=False)


@pytest.mark.parametrize("episodes", [3, 20])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_single_precision_is_enough_in_any_direction_at_any_step(activation: str, episodes: int) -> None:
    batch = Batch(activation, episodes, seed=0)
    single, double = batch.curvature(torch.float32), batch.curvature(DOUBLE)
    for v in (single.loss_gradient(), *(random_blocks(batch.meta, seed) for seed in range(3))):
        exact = [x.float() for x in double.exact_product([x.double() for x in v])]
        for step in ANY_STEP:
            product = single.finite_difference_product(v, step / float(flat(v).norm()))
            assert relative_error(product, exact) < 2e-3


def test_where_units_may_switch_the_difference_is_no_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the frozen pattern is for: without it few samples give noise in directions of little curvature."""
    batch = Batch("relu", 3, seed=0)
    frozen = batch.curvature(DOUBLE)
    v = random_blocks([x.double() for x in batch.meta], 0)
    step = MetaUpdateSettings().hvp_step / float(flat(v).norm())
    exact = frozen.exact_product(v)
    assert relative_error(frozen.finite_difference_product(v, step), exact) < 1e-4
    init = MLPNetwork.__init__

    def without_pattern(*args: Any, pattern: MLPNetwork | None = None, **kwargs: Any) -> None:
        init(*args, **kwargs)

    monkeypatch.setattr(MLPNetwork, "__init__", without_pattern)
    assert relative_error(batch.curvature(DOUBLE).finite_difference_product(v, step), exact) > 0.1
