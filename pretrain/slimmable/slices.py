"""The part of a weight that a width uses, cut once for all uses within a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pretrain.slimmable.base import slimmable_layers


class _Cut(torch.autograd.Function):
    """The first entries of a tensor along its first dimensions, as a dense copy.

    Two slices in a row are the same mathematics, but each of their backward passes fills a tensor of the full size.
    """

    @staticmethod
    def forward(ctx, tensor: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.full = tensor.shape, tensor.stride()
        ctx.part = tuple(slice(size) for size in sizes)
        return tensor[ctx.part].clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        full = torch.empty_strided(*ctx.full, dtype=gradient.dtype, device=gradient.device).zero_()
        full[ctx.part] = gradient
        return full, None


def cut(tensor: Tensor, *sizes: int) -> Tensor:
    """The first ``sizes`` entries of ``tensor`` along its first dimensions: itself where that is all of it, a dense copy where it
    takes part in a gradient, else a view.
    """
    if tensor.shape[: len(sizes)] == sizes:
        return tensor
    if torch.is_grad_enabled() and tensor.requires_grad and len(sizes) > 1:
        return _Cut.apply(tensor, sizes)
    return tensor[tuple(slice(size) for size in sizes)]


@contextmanager
def sliced_once(model: nn.Module) -> Iterator[None]:
    """Let every layer of ``model`` cut its weights once inside the block, however often it is used: its parameters and its width
    must not change there.
    """
    layers = list(slimmable_layers(model))
    try:
        for layer in layers:
            layer.__dict__.update(reuse=True, slices=None)
        yield
    finally:
        for layer in layers:
            layer.__dict__.update(reuse=False, slices=None)
