"""One inner step: its gradient, Hessian product and Jacobian against autograd, in float64."""

from __future__ import annotations

import pytest
import torch
from curvature_helpers import (
    COUNTS,
    EXACT,
    INNER_LR,
    NETWORKS,
    inner,
    policy_at,
    random_blocks,
    task_blocks,
)
from helpers import (
    meta_blocks,
    random_inner_lr,
    random_params,
    random_samples,
    relative_error,
)

from maml_rl.learning.batch import Samples
from maml_rl.learning.curvature import InnerStep
from maml_rl.learning.losses import policy_gradient_loss
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Blocks, Scratch


def inner_gradient(spec: MLP, blocks: Blocks, samples: Samples) -> Blocks:
    loss = policy_gradient_loss(policy_at(spec, blocks, samples.observations), samples).sum()
    return list(torch.autograd.grad(loss, blocks, create_graph=True))


def inner_lr_blocks(spec: MLP) -> Blocks:
    return meta_blocks(spec, random_params(spec) | random_inner_lr(spec))[len(spec.shapes) :]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("spec", NETWORKS)
def test_inner_step_gradient_and_adapted_blocks(spec: MLP, keep: bool) -> None:
    blocks = [b.requires_grad_() for b in task_blocks(spec)]
    samples = random_samples(spec, COUNTS)
    expected = [g.detach() for g in inner_gradient(spec, blocks, samples)]
    for inner_lr in (INNER_LR, inner_lr_blocks(spec)):
        start = [b.detach() for b in blocks]
        step = InnerStep(spec, start, samples, inner_lr, Scratch(), keep=keep)
        assert relative_error(step.gradient, expected) < EXACT
        alphas = inner_lr if isinstance(inner_lr, list) else [inner_lr] * len(blocks)
        adapted = [b - a * g for b, a, g in zip(start, alphas, expected, strict=True)]
        assert relative_error(step.adapted, adapted) < EXACT


@pytest.mark.parametrize("spec", NETWORKS)
def test_inner_hessian_product(spec: MLP) -> None:
    blocks = [b.requires_grad_() for b in task_blocks(spec)]
    samples = random_samples(spec, COUNTS)
    v = random_blocks(blocks, 1)
    expected = torch.autograd.grad(inner_gradient(spec, blocks, samples), blocks, v)
    step = InnerStep(spec, [b.detach() for b in blocks], samples, INNER_LR, Scratch())
    assert relative_error(step.hessian_product(v), expected) < EXACT


@pytest.mark.parametrize("spec", NETWORKS)
@pytest.mark.parametrize("learned", [False, True])
def test_inner_step_jacobian_and_its_transpose(spec: MLP, learned: bool) -> None:
    blocks, samples = task_blocks(spec), random_samples(spec, COUNTS)
    inner_lr = inner_lr_blocks(spec) if learned else INNER_LR
    step = InnerStep(spec, blocks, samples, inner_lr, Scratch())
    v, w = random_blocks(blocks, 1), random_blocks(blocks, 2)
    assert inner(w, step.jvp(v)) == pytest.approx(inner(step.vjp(w), v), rel=1e-10)
    alphas = inner_lr if isinstance(inner_lr, list) else [inner_lr] * len(blocks)
    expected = [x - a * h for x, a, h in zip(v, alphas, step.hessian_product(v), strict=True)]
    assert relative_error(step.jvp(v), expected) < EXACT
    assert relative_error(step.jvp(v), v) > 1e-2, "the Hessian must matter, or this test sees nothing"
