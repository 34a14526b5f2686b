"""Gradient and curvature of the whole meta-objective against double backward, in float64."""

from __future__ import annotations

import pytest
import torch
from curvature_helpers import COUNTS, DOUBLE, EXACT, INNER_LR, NETWORKS, TASKS, Case, inner, random_blocks
from helpers import (
    flat,
    random_samples,
    relative_error,
    small_spec,
)

from maml_rl.learning.curvature import ChunkCurvature
from maml_rl.learning.losses import INNER_LOSSES
from maml_rl.policies.heads import LOG_STD
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Scratch


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("inner_loss", INNER_LOSSES)
@pytest.mark.parametrize("spec", NETWORKS)
def test_gradient_and_exact_product_are_those_of_double_backward(
    spec: MLP, inner_loss: str, steps: int, learned: bool, first_order: bool
) -> None:
    case = Case(spec, steps=steps, learned=learned, first_order=first_order, inner_loss=inner_loss)
    gradient, product = case.reference()
    assert relative_error(case.curvature.loss_gradient(), gradient) < EXACT
    assert relative_error(case.curvature.exact_product(case.blocks(case.direction)), product) < EXACT


def test_exact_product_where_a_standard_deviation_is_clamped() -> None:
    spec = small_spec(min_std=0.5)
    case = Case(spec, steps=2)
    case.meta_params[LOG_STD][1] = -5.0
    case.curvature = ChunkCurvature(
        spec, case.blocks(case.meta_params), case.pre, case.post, INNER_LR, Scratch(), first_order=False
    )
    gradient, product = case.reference()
    assert relative_error(case.curvature.loss_gradient(), gradient) < EXACT
    assert relative_error(case.curvature.exact_product(case.blocks(case.direction)), product) < EXACT


def test_second_order_terms_matter() -> None:
    # Negative control: were they missing, first and second order would agree.
    first, second = (Case(small_spec(), first_order=first_order) for first_order in (True, False))
    v = second.blocks(second.direction)
    assert relative_error(first.curvature.loss_gradient(), second.curvature.loss_gradient()) > 0.05
    assert relative_error(first.curvature.exact_product(v), second.curvature.exact_product(v)) > 0.05


def test_the_inner_losses_differ_in_second_order_only() -> None:
    log_prob, ratio = (Case(small_spec(), inner_loss=inner_loss) for inner_loss in INNER_LOSSES)
    for theirs, ours in zip(log_prob.curvature._adapted, ratio.curvature._adapted, strict=True):
        torch.testing.assert_close(theirs, ours)
    assert relative_error(log_prob.curvature.loss_gradient(), ratio.curvature.loss_gradient()) > 0.05
    first = [Case(small_spec(), inner_loss=inner_loss, first_order=True) for inner_loss in INNER_LOSSES]
    gradients = [case.curvature.loss_gradient() for case in first]
    assert relative_error(*gradients) < EXACT


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("learned", [False, True])
def test_pull_back_is_the_transpose_of_the_adaptations_jacobian(steps: int, learned: bool) -> None:
    case = Case(small_spec(), steps=steps, learned=learned)
    v = case.blocks(case.direction)
    pushed = case.curvature._push_forward(v)
    w = random_blocks(pushed, 5)
    assert inner(w, pushed) == pytest.approx(inner(case.curvature.pull_back(w), v), rel=1e-10)


@pytest.mark.parametrize("spec", NETWORKS)
@pytest.mark.parametrize("learned", [False, True])
def test_exact_product_is_linear_symmetric_and_positive_semidefinite(spec: MLP, learned: bool) -> None:
    case = Case(spec, learned=learned)
    like = case.blocks(case.meta_params)
    for seed in range(3):
        u, v = random_blocks(like, seed), random_blocks(like, seed + 10)
        hu, hv = case.curvature.exact_product(u), case.curvature.exact_product(v)
        assert inner(u, hv) == pytest.approx(inner(hu, v), rel=1e-9)
        assert inner(u, hu) > 0
        both = case.curvature.exact_product([2 * x - y for x, y in zip(u, v, strict=True)])
        assert relative_error(both, [2 * x - y for x, y in zip(hu, hv, strict=True)]) < EXACT


def test_whole_matrix_has_no_negative_eigenvalue() -> None:
    case = Case(small_spec(hidden_sizes=(3,)), learned=True)
    like = case.blocks(case.meta_params)
    sizes = [x.numel() for x in like]
    columns = []
    for unit in torch.eye(sum(sizes), dtype=DOUBLE):
        v = [part.view_as(x) for part, x in zip(unit.split(sizes), like, strict=True)]
        columns.append(flat(case.curvature.exact_product(v)))
    matrix = torch.stack(columns)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > -1e-10 * eigenvalues.max()


def test_results_are_sums_over_tasks() -> None:
    case = Case(small_spec(), steps=2)
    v = case.blocks(case.direction)
    gradients, products = [], []
    for task in range(TASKS):
        pre, post = [s.tasks(task, task + 1) for s in case.pre], case.post.tasks(task, task + 1)
        alone = ChunkCurvature(
            case.spec, case.blocks(case.meta_params), pre, post, INNER_LR, Scratch(), first_order=False
        )
        gradients.append(alone.loss_gradient())
        products.append(alone.exact_product(v))
    for parts, whole in (
        (gradients, case.curvature.loss_gradient()),
        (products, case.curvature.exact_product(v)),
    ):
        assert relative_error([sum(x) for x in zip(*parts, strict=True)], whole) < EXACT  # type: ignore[misc]


def test_chunks_may_share_work_arrays() -> None:
    # Chunks of equal shape use the same arrays; what they keep from product to product must be their own.
    spec, scratch = small_spec(), Scratch()
    case = Case(spec, steps=2)
    meta, v = case.blocks(case.meta_params), case.blocks(case.direction)
    noise = random_samples(spec, COUNTS, 99)
    shared, other = (
        ChunkCurvature(spec, meta, pre, post, INNER_LR, scratch, first_order=False)
        for pre, post in ((case.pre, case.post), ([noise] * 2, noise.tasks(0, 3)))
    )
    other.loss_gradient()
    other.finite_difference_product(v, 1e-3)
    expected = case.curvature.exact_product(v)
    assert relative_error(shared.exact_product(v), expected) == 0
    assert relative_error(shared.loss_gradient(), case.curvature.loss_gradient()) == 0


def test_pre_and_post_samples_may_have_the_same_shape() -> None:
    # Then the networks before and after adaptation share their work arrays too.
    spec = small_spec()
    case = Case(spec, steps=2, counts=[5, 5, 5])
    _, product = case.reference()
    assert relative_error(case.curvature.exact_product(case.blocks(case.direction)), product) < EXACT
