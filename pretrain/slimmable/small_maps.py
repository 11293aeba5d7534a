"""Convolution whose weight gradient is one matrix product, for feature maps of a few pixels on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def largest(capability: str) -> int:
    """Output pixels up to which it is the faster one on a processor of that ``capability``, as torch names it; measured
    (benchmarks/README.md): oneDNN's weight gradient is slow on larger maps too with AVX2, and on none with AVX-512."""
    if capability.startswith("AVX512"):
        return 0
    return 64 if capability == "AVX2" else 16


LARGEST = largest(torch.backends.cpu.get_cpu_capability())


def suits(x: Tensor, weight: Tensor, stride: int, padding: int) -> bool:
    """Whether :func:`small_map_conv2d` is the faster one here: oneDNN's weight gradient is slow on maps of few pixels."""
    kernel = weight.shape[-1]
    rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[2:])
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and kernel > 1
        and rows * columns <= LARGEST
        and torch.is_grad_enabled()
        and weight.requires_grad
        and not torch.is_autocast_enabled("cpu")
    )


class _SmallMapConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.nn.grad.conv2d_input(x.shape, weight, gradient, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(gradient, x, weight.shape[-1], ctx.stride, ctx.padding)
        return of_x, of_weight, None, None


def _weight_gradient(gradient: Tensor, x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """(O, C, k, k): the product of the output's gradient (O, pixels) with the patches (pixels, k * k * C) that each pixel saw."""
    images, outputs, rows, columns = gradient.shape
    channels = x.shape[1]
    padded = F.pad(x, [padding] * 4).permute(0, 2, 3, 1).contiguous()
    down, right = padded.stride(1), padded.stride(2)
    patches = padded.as_strided(
        (images, rows, columns, kernel, kernel, channels), (padded.stride(0), stride * down, stride * right, down, right, 1)
    )
    flat = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
    product = flat.T @ patches.reshape(-1, kernel * kernel * channels)
    return product.view(outputs, kernel, kernel, channels).permute(0, 3, 1, 2)


def small_map_conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """``F.conv2d`` of x (B, C, H, W) and weight (O, C, k, k), float32; only how the weight's gradient is computed differs."""
    return _SmallMapConv2d.apply(x, weight, stride, padding)
