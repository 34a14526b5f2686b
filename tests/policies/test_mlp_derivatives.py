"""The written-out derivatives of the network against autograd, in float64."""

from __future__ import annotations

import pytest
import torch
from curvature_helpers import (
    COUNTS,
    DOUBLE,
    EXACT,
    INNER_LR,
    NETWORKS,
    network_outputs,
    random_blocks,
    task_blocks,
)
from helpers import (
    random_params,
    random_samples,
    relative_error,
    small_spec,
)
from torch import Tensor

from maml_rl.learning.curvature import InnerStep
from maml_rl.learning.meta_learner import stack_params
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Blocks, Network, Scratch, from_blocks, to_blocks

# --- blocks


@pytest.mark.parametrize("stacked", [False, True])
def test_blocks_and_back(stacked: bool) -> None:
    spec = small_spec()
    params = random_params(spec)
    params = stack_params(params, 2) if stacked else params
    again = from_blocks(spec, to_blocks(spec, params))
    assert list(again) == list(spec.shapes)
    for name, value in params.items():
        assert torch.equal(again[name], value)


def network_vjp(spec: MLP, blocks: Blocks, observations: Tensor, cotangents: Blocks) -> Blocks:
    blocks = [b if b.requires_grad else b.clone().requires_grad_() for b in blocks]
    outputs = network_outputs(spec, blocks, observations)
    return list(torch.autograd.grad(outputs, blocks, cotangents, create_graph=True))


def make_network(spec: MLP, blocks: Blocks, *, keep: bool = True, seed: int = 0) -> tuple[Network, Tensor]:
    observations = random_samples(spec, COUNTS, seed).observations
    return spec.network(blocks, observations, Scratch(), keep=keep), observations


def random_outputs(network: Network, seed: int) -> Blocks:
    return random_blocks(list(network.outputs.parts), seed)


# --- the network


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("spec", NETWORKS)
def test_network_outputs(spec: MLP, keep: bool) -> None:
    blocks = task_blocks(spec)
    network, observations = make_network(spec, blocks, keep=keep)
    assert relative_error(network.outputs.parts, network_outputs(spec, blocks, observations)) < EXACT


@pytest.mark.parametrize("spec", NETWORKS)
def test_network_jvp(spec: MLP) -> None:
    blocks = task_blocks(spec)
    network, observations = make_network(spec, blocks)
    tangents = random_blocks(blocks, 1)
    # The transpose of the transpose: differentiate <c, vjp(c)> in c, which is linear, by autograd.
    cotangents = [torch.zeros_like(x, requires_grad=True) for x in network.outputs.parts]
    pulled = network_vjp(spec, blocks, observations, cotangents)
    expected = torch.autograd.grad(pulled, cotangents, tangents)
    assert relative_error(network.jvp(tangents), expected) < EXACT


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("spec", NETWORKS)
def test_network_vjp(spec: MLP, keep: bool) -> None:
    blocks = task_blocks(spec)
    network, observations = make_network(spec, blocks, keep=keep)
    cotangents = random_outputs(network, 1)
    expected = network_vjp(spec, blocks, observations, cotangents)
    assert relative_error(network.vjp(cotangents, keep_errors=keep), [x.detach() for x in expected]) < EXACT


@pytest.mark.parametrize("spec", NETWORKS)
def test_network_second_vjp(spec: MLP) -> None:
    blocks = [b.requires_grad_() for b in task_blocks(spec)]
    network, observations = make_network(spec, [b.detach() for b in blocks])
    tangents, cotangents = random_blocks(blocks, 1), random_outputs(network, 2)
    moved = random_outputs(network, 3)

    # Directional derivative of vjp(blocks, cotangents) along (tangents, moved), by double backward.
    live = [x.requires_grad_() for x in cotangents]
    pulled = network_vjp(spec, blocks, observations, live)
    probe = [torch.zeros_like(x, requires_grad=True) for x in pulled]
    transposed = torch.autograd.grad(
        pulled, [*blocks, *live], probe, create_graph=True, materialize_grads=True
    )
    expected = torch.autograd.grad(transposed, probe, [*tangents, *moved], materialize_grads=True)

    network.vjp([x.detach() for x in cotangents], keep_errors=True)
    network.jvp(tangents)
    assert relative_error(network.second_vjp(tangents, moved), expected) < EXACT


@pytest.mark.parametrize("spec", NETWORKS)
def test_products_repeat_although_work_arrays_are_reused(spec: MLP) -> None:
    blocks = task_blocks(spec)
    samples = random_samples(spec, COUNTS)
    step = InnerStep(spec, blocks, samples, INNER_LR, Scratch())
    v, w = random_blocks(blocks, 1), random_blocks(blocks, 2)
    first = step.hessian_product(v)
    step.hessian_product(w)
    step.vjp(w)
    assert relative_error(step.hessian_product(v), first) == 0


def test_a_clamped_standard_deviation_has_no_derivative() -> None:
    spec = small_spec(min_std=0.5)
    blocks = task_blocks(spec)
    blocks[-1][:, 1] = -5.0
    network, _ = make_network(spec, blocks)
    tangents, cotangents = random_blocks(blocks, 1), random_outputs(network, 2)
    live = torch.tensor([1.0, 0.0, 1.0], dtype=DOUBLE)
    assert torch.equal(network.jvp(tangents)[1], tangents[-1] * live)
    assert torch.equal(network.vjp(cotangents)[-1], cotangents[1] * live)
