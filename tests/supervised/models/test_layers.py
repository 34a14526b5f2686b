"""Layers over stacked parameters against torch's own, their derivatives, and batch normalisation's meaning."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from supervised.models.layers import EPSILON, batch_norm, conv3x3, linear, max_pool2x2, out_size


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("tasks", [1, 3])
def test_convolution_is_torchs_of_each_task(stride: int, size: int, tasks: int) -> None:
    images, weight = random(tasks, 2, size, size, 3), random(tasks, 27, 4, seed=1)
    rows = conv3x3(images, weight, stride)
    side = out_size(size, stride)
    for task in range(tasks):
        kernel = weight[task].view(3, 3, 3, 4).permute(3, 2, 0, 1)
        expected = F.conv2d(images[task].permute(0, 3, 1, 2), kernel, stride=stride, padding=1)
        found = rows[task].view(2, side, side, 4).permute(0, 3, 1, 2)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("tasks", [1, 2])
def test_convolution_can_be_differentiated_twice(stride: int, tasks: int) -> None:
    arguments = (random(tasks, 1, 4, 5, 2), random(tasks, 18, 2, seed=1))
    assert torch.autograd.gradcheck(lambda x, w: conv3x3(x, w, stride), arguments)
    assert torch.autograd.gradgradcheck(lambda x, w: conv3x3(x, w, stride), arguments)


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("with_scale", [False, True])
def test_batch_norm_is_torchs_of_each_task(tasks: int, with_scale: bool) -> None:
    rows, offset = random(tasks, 6, 4), random(tasks, 4, seed=1)
    scale = random(tasks, 4, seed=2) if with_scale else None
    for task in range(tasks):
        weight = None if scale is None else scale[task]
        expected = F.batch_norm(rows[task], None, None, weight, offset[task], training=True, eps=EPSILON)
        torch.testing.assert_close(batch_norm(rows, offset, scale)[task], expected)


@pytest.mark.parametrize("tasks", [1, 2])
def test_batch_norm_can_be_differentiated_twice(tasks: int) -> None:
    arguments = (random(tasks, 4, 2), random(tasks, 2, seed=1), random(tasks, 2, seed=2))
    assert torch.autograd.gradcheck(batch_norm, arguments)
    assert torch.autograd.gradgradcheck(batch_norm, arguments)


def test_batch_norm_uses_the_present_batch_of_each_task_alone() -> None:
    rows, offset = random(2, 6, 4).detach(), torch.zeros(2, 4, dtype=torch.float64)
    normal = batch_norm(rows, offset)
    torch.testing.assert_close(normal.mean(1), offset)
    torch.testing.assert_close(normal.var(1, correction=0), torch.ones(2, 4).double(), rtol=0.01, atol=0.01)
    other_task = rows.clone()
    other_task[1] += 5 * torch.rand(6, 4)
    assert torch.equal(batch_norm(other_task, offset)[0], normal[0])
    other_example = rows.clone()
    other_example[0, 5] += 1  # transductive: each example of a batch depends on the others
    assert not torch.allclose(batch_norm(other_example, offset)[0, 0], normal[0, 0])
    assert torch.equal(batch_norm(rows, offset), normal)  # and on nothing that came before


def test_pooling_drops_an_odd_row() -> None:
    images = torch.arange(2 * 5 * 5).view(1, 2, 5, 5, 1).double()
    pooled = max_pool2x2(images)
    assert pooled.shape == (1, 2, 2, 2, 1)
    assert pooled[0, 0, ..., 0].tolist() == [[6, 8], [16, 18]]


def test_linear_known_answer() -> None:
    inputs = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    weight, bias = torch.tensor([[[1.0], [1.0]], [[2.0], [0.5]]]), torch.tensor([[0.5], [-1.0]])
    assert linear(inputs, weight, bias).flatten().tolist() == [3.5, 7.0]
    # One output and several are computed differently.
    several = linear(inputs, torch.cat([weight, -weight], -1), torch.cat([bias, bias], -1))
    assert several.tolist() == [[[3.5, -2.5]], [[7.0, -9.0]]]
