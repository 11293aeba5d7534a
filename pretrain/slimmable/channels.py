"""The order of channels: a width keeps the first ones, so their order decides what a narrow network is.

The order is a matter of naming: permuting what writes a channel together with what reads it leaves the function of the full width
as it is. Train-free pruning sorts the channels of a trained network by importance before it is sliced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pretrain.slimmable.base import ChannelRule
from pretrain.slimmable.layers import SlimmableConv2d, SlimmableLinear, _SlimmableBatchNorm
from rundir.subnet import Width, width_key


@dataclass
class Channels:
    """Channels that several layers share and that can therefore only be reordered together.

    Attributes:
        written: layers with these channels as outputs: what computes them, and depthwise convolutions and BatchNorms on the way.
        read: layers with these channels as inputs.
        unit: neighbours that stay together and keep their order (the channels of an attention head).
    """

    written: list[nn.Module] = field(default_factory=list)
    read: list[nn.Module] = field(default_factory=list)
    unit: int = 1

    @property
    def rule(self) -> ChannelRule:
        """What a width keeps of them."""
        return self.written[0].channels_out

    @property
    def sources(self) -> list[nn.Module]:
        """The written layers that compute a channel from others: convolutions that are not depthwise, and linear layers."""
        return [
            layer
            for layer in self.written
            if isinstance(layer, SlimmableLinear) or (isinstance(layer, SlimmableConv2d) and not layer.depthwise)
        ]


@torch.no_grad()
def reorder(channels: Channels, order: Tensor) -> None:
    """Put ``channels`` in ``order`` (C,), int64: the first becomes the one that was at ``order[0]``. The full width computes
    what it did before; BatchNorm statistics of narrower widths, which are now of other channels, are dropped.

    Raises:
        ValueError: ``order`` is not a permutation of the channels, or splits a unit.
    """
    count = channels.rule.channels
    if sorted(order.tolist()) != list(range(count)):
        raise ValueError(f"an order of {count} channels must name each of them once")
    offsets = order.view(-1, channels.unit) - order.view(-1, channels.unit)[:, :1]
    if not (offsets == torch.arange(channels.unit, device=order.device)).all():
        raise ValueError(f"runs of {channels.unit} channels must stay together")
    for layer in channels.written:
        _reorder_outputs(layer, order)
    for layer in channels.read:
        layer.weight.copy_(layer.weight[:, order])


def _reorder_outputs(layer: nn.Module, order: Tensor) -> None:
    if isinstance(layer, _SlimmableBatchNorm):
        layer.statistics = {
            width: (mean[order], variance[order]) for width, (mean, variance) in layer.statistics.items() if len(mean) == len(order)
        }
    for parameter in filter(lambda found: found is not None, (layer.weight, layer.bias)):
        parameter.copy_(parameter.unflatten(0, (layer.parts, -1))[:, order].flatten(0, 1))


def cut_statistics(norms: Iterable[_SlimmableBatchNorm], widths: Iterable[Width], full: Width) -> None:
    """Give ``norms`` at each of ``widths`` the first of the statistics of width ``full``: slicing without calibration."""
    for norm in norms:
        mean, variance = norm.statistics_at(full)
        for width in widths:
            kept = norm.channels_out(width)
            norm.statistics[width_key(width)] = mean[:kept].clone(), variance[:kept].clone()
