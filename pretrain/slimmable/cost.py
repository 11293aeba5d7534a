"""What a width costs: floating-point operations and parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from pretrain.slimmable.extract import extract
from rundir.subnet import Width


@dataclass(frozen=True)
class Cost:
    """``flops``: two per multiply-add, one image, forward, convolutions and matrix products. ``parameters``: all weights."""

    flops: int
    parameters: int


def dense_cost(network: nn.Module, size: int | tuple[int, int]) -> Cost:
    """Cost of an ordinary network on one image of ``size`` (height, width), or square, counted by torch.

    It is moved to the meta device and of no use afterwards.
    """
    height, width = (size, size) if isinstance(size, int) else size
    parameters = sum(p.numel() for p in network.parameters())
    for norm in network.modules():
        if isinstance(norm, _BatchNorm):  # not counted, slow without data, and without statistics it would want more than one value
            norm.forward = lambda x: x
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.to("meta").eval()(torch.empty(1, 3, height, width, device="meta"))
    return Cost(counter.get_total_flops(), parameters)


def cost(model: nn.Module, width: Width, size: int) -> Cost:
    """Cost of ``model`` at ``width`` on one image (3, ``size``, ``size``); ``model`` itself is left alone."""
    return dense_cost(extract(model, width), size)
