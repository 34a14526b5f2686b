"""Layers over parameters stacked over tasks: one call computes the layer of every task.

Everything here can be differentiated twice, exactly. Images are ``[tasks, images, height, width, channels]``:
with the channels last, the rows of a feature map are the rows of a matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-3  # code: the default of its batch normalisation


def linear(
    inputs: Float[Tensor, "tasks n inputs"],
    weight: Float[Tensor, "tasks inputs outputs"],
    bias: Float[Tensor, "tasks outputs"],
) -> Float[Tensor, "tasks n outputs"]:
    """A dense layer."""
    if weight.shape[-1] == 1:  # matrix products with a single column are slower than no matrix product
        return (inputs * weight.mT).sum(-1, keepdim=True) + bias[:, None]
    return torch.baddbmm(bias[:, None], inputs, weight)


def batch_norm(
    rows: Float[Tensor, "tasks n channels"],
    offset: Float[Tensor, "tasks channels"],
    scale: Float[Tensor, "tasks channels"] | None = None,
) -> Float[Tensor, "tasks n channels"]:
    """Normalise each task's channels by the mean and variance of its own ``rows``, then scale and shift.

    There are no running statistics: test batches are normalised by themselves, too (transductive), as in the
    paper's experiments. Not ``torch.func.vmap`` over ``F.batch_norm``, whose second derivative with respect to
    an adapted scale is silently wrong (torch 2.13).
    """
    if len(rows) == 1:
        weight = None if scale is None else scale[0]
        return F.batch_norm(rows[0], None, None, weight, offset[0], training=True, eps=EPSILON)[None]
    # A difference of nearly equal numbers needs more digits. (F.batch_norm sees to it itself.)
    if rows.dtype == torch.bfloat16:
        rows = rows.float()
    centred = rows - rows.mean(1, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + EPSILON)
    if scale is not None:
        normal = normal * scale[:, None]
    return normal + offset[:, None]


def conv3x3(
    images: Float[Tensor, "tasks n height width inputs"],
    weight: Float[Tensor, "tasks taps outputs"],
    stride: int,
) -> Float[Tensor, "tasks rows outputs"]:
    """A 3x3 convolution, padded by one; ``weight`` is ``[tasks, 9 * inputs, outputs]``.

    Returns:
        ``[tasks, n * out_height * out_width, outputs]``: reshape with ``out_size``.
    """
    if len(images) > 1:
        return torch.bmm(_Patches.apply(images, stride), weight)
    channels = images.shape[-1]
    kernel = weight[0].view(3, 3, channels, -1).permute(3, 2, 0, 1)
    # A view of memory format channels_last, in which torch computes at once.
    maps = F.conv2d(images[0].permute(0, 3, 1, 2), kernel, stride=stride, padding=1)
    return maps.permute(0, 2, 3, 1).reshape(1, -1, weight.shape[-1])


def out_size(size: int, stride: int) -> int:
    """Height or width of a map after ``conv3x3``."""
    return (size + stride - 1) // stride


def max_pool2x2(
    images: Float[Tensor, "tasks n height width channels"],
) -> Float[Tensor, "tasks n half_height half_width channels"]:
    """The maximum of each 2x2 block; an odd last row or column is dropped."""
    pooled = F.max_pool2d(images.flatten(0, 1).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    return pooled.unflatten(0, images.shape[:2])


def _padded_view(padded: Tensor, stride: int) -> Tensor:
    """``[tasks, n, out_height, out_width, 3, 3, channels]``: every 3x3 patch, without a copy."""
    tasks, n, height, width, channels = padded.shape
    t, i, y, x, c = padded.stride()
    shape = (tasks, n, out_size(height - 2, stride), out_size(width - 2, stride), 3, 3, channels)
    return padded.as_strided(shape, (t, i, stride * y, stride * x, y, x, c))


class _Patches(torch.autograd.Function):
    """Gather 3x3 patches as rows ``[tasks, n * out_height * out_width, 9 * channels]``.

    Linear, so its derivative is its adjoint ``_Fold`` and the second derivative is itself. Autograd's own
    derivative of slicing allocates a full map for each of the nine taps.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, stride: int) -> Tensor:
        ctx.size, ctx.stride = images.shape, stride
        patches = _padded_view(F.pad(images, (0, 0, 1, 1, 1, 1)), stride)
        return patches.reshape(len(images), -1, 9 * images.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Fold.apply(gradients[0], ctx.size, ctx.stride), None


class _Fold(torch.autograd.Function):
    """Add the rows of patches up where they came from: the adjoint of ``_Patches``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, size: torch.Size, stride: int) -> Tensor:
        ctx.stride = stride
        tasks, n, height, width, channels = size
        padded = rows.new_zeros(tasks, n, height + 2, width + 2, channels)
        patches = rows.view(_padded_view(padded, stride).shape)
        for i in range(3):
            for j in range(3):
                _padded_view(padded, stride)[..., i, j, :].add_(patches[..., i, j, :])
        return padded[:, :, 1:-1, 1:-1].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Patches.apply(gradients[0], ctx.stride), None, None
