"""What thousands of sub-networks cost, without building any: a table of the layers of a network, read off once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretrain.slimmable.base import ParametersAtWidth, Skippable, Slimmable
from pretrain.slimmable.cost import Cost, cost
from pretrain.slimmable.layers import SlimmableConv2d, SlimmableLinear
from pretrain.slimmable.width import at_width
from rundir.subnet import Subnet, Width

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Load:
    """What a sub-network asks of a device.

    Attributes:
        flops, parameters: as :class:`~pretrain.slimmable.Cost` has them.
        memory: bytes, in float32: all weights, and input and output of the layer where these are largest, for one image.
    """

    flops: int
    parameters: int
    memory: int


@dataclass(frozen=True)
class _Layer:
    """A layer of the table: numbers per channel that it reads and writes, and the multiply-adds of attention per channel."""

    layer: Slimmable
    skippers: tuple[nn.Module, ...]
    read: int
    written: int
    attention: int


class CostTable:
    """What all sub-networks of ``model`` cost on one image (3, ``size``, ``size``), and which of them are one network.

    A multiplication by a weight happens once for each position of a layer's output, and no width, depth or kernel changes how many
    positions there are, only the resolution and the share of the patches do. So one pass of the full network tells the positions,
    and the shapes of the weights that a sub-network uses tell the rest. Attention (a layer with three parts gives query, key and
    value) multiplies each pair of tokens twice. Where this is not all that :func:`~pretrain.slimmable.cost` counts of the full
    network, that function is asked each time: then it is not :attr:`complete`.
    """

    def __init__(self, model: nn.Module, size: int):
        self.model, self.size = copy.deepcopy(model).to("meta").eval(), size
        self._layers: dict[Subnet, list[_Layer]] = {}
        self._others = self._other_parameters()
        self.complete = self._sum(1.0)[0] == cost(model, 1.0, size).flops

    def load(self, width: Width) -> Load:
        """What ``width`` costs; FLOPs and parameters equal those of :func:`~pretrain.slimmable.cost`."""
        flops, parameters, peak = self._sum(width)
        if not self.complete:
            flops, parameters = self._counted(width)
        return Load(flops, parameters, FLOAT * (parameters + peak))

    def network(self, width: Width) -> object:
        """What names the network of ``width``: equal for two that have the same layers of the same shapes."""
        resolution = width.resolution if isinstance(width, Subnet) else None
        return resolution, tuple((each.written, self._shapes(each, width)) for each in self._at(width))

    def _shapes(self, each: _Layer, width: Width) -> tuple[torch.Size, ...] | None:
        """Of the parts of the layer's parameters that ``width`` uses; None where it is skipped."""
        if any(block.skipped_at(width) for block in each.skippers):
            return None
        return tuple(part.shape for part in each.layer.active(width) if part is not None)

    def _at(self, width: Width) -> list[_Layer]:
        """The table where there are as many positions as at ``width``."""
        whole = Subnet(resolution=width.resolution, patches=width.patches) if isinstance(width, Subnet) else Subnet()
        if whole not in self._layers:
            self._layers[whole] = self._measure(whole)
        return self._layers[whole]

    def _counted(self, width: Width) -> tuple[int, int]:
        found: Cost = cost(self.model, width, self.size)
        return found.flops, found.parameters

    def _sum(self, width: Width) -> tuple[int, int, int]:
        """FLOPs, parameters, and the most numbers that a layer reads and writes."""
        flops = parameters = peak = 0
        for each in self._at(width):
            shapes = self._shapes(each, width)
            if shapes is None:
                continue
            parameters += sum(shape.numel() for shape in shapes)
            if each.written:
                out = each.layer.channels_out(width)
                flops += 2 * (shapes[0].numel() * each.written + each.attention * out)
                inputs = out if getattr(each.layer, "depthwise", False) else each.layer.channels_in(width)
                peak = max(peak, inputs * each.read + each.layer.parts * out * each.written)
        return flops, parameters + self._rest(width), peak

    def _rest(self, width: Width) -> int:
        """Parameters that are no layer's."""
        total = 0
        for module, names, skippers in self._others:
            if not any(block.skipped_at(width) for block in skippers):
                cut = module.parameters_at(width) if isinstance(module, ParametersAtWidth) else {}
                total += sum(cut.get(name, parameter).numel() for name, parameter in names.items())
        return total

    def _other_parameters(self) -> list[tuple[nn.Module, dict[str, nn.Parameter], tuple[nn.Module, ...]]]:
        found = []
        for module, skippers in _with_skippers(self.model):
            if not isinstance(module, Slimmable):
                own = dict(module.named_parameters(recurse=False))
                found += [(module, own, skippers)] if own else []
        return found

    def _measure(self, whole: Subnet) -> list[_Layer]:
        """One pass of ``whole``, whose layers are those of the full network, and what each reads and writes in it."""
        shapes: dict[nn.Module, tuple[torch.Size, torch.Size]] = {}

        def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            shapes[layer] = inputs[0].shape, output.shape

        found = [(module, skippers) for module, skippers in _with_skippers(self.model) if isinstance(module, Slimmable)]
        counted = [module for module, _ in found if isinstance(module, SlimmableConv2d | SlimmableLinear)]
        handles = [layer.register_forward_hook(note) for layer in counted]
        try:
            with at_width(self.model, whole), torch.no_grad():  # two images: BatchNorm has batch statistics here
                self.model.train()(torch.empty(2, 3, self.size, self.size, device="meta"))
        finally:
            self.model.eval()
            for handle in handles:
                handle.remove()
        return [_layer(module, skippers, *shapes.get(module, (None, None))) for module, skippers in found]


def _layer(layer: Slimmable, skippers: tuple[nn.Module, ...], read: torch.Size | None, written: torch.Size | None) -> _Layer:
    """``read``, ``written``: shapes of the input and the output of two images; None of a layer that is not counted."""
    if read is None or written is None:
        return _Layer(layer, skippers, 0, 0, 0)
    channels = 1 if isinstance(layer, SlimmableConv2d) else -1
    before, after = (shape.numel() // shape[channels] // 2 for shape in (read, written))
    return _Layer(layer, skippers, before, after, 2 * after**2 if layer.parts == 3 else 0)


def _with_skippers(module: nn.Module, above: tuple[nn.Module, ...] = ()) -> Iterator[tuple[nn.Module, tuple[nn.Module, ...]]]:
    """Every module in ``module`` with the blocks around it that a sub-network can skip; of a layer not what is inside it."""
    own = (*above, module) if isinstance(module, Skippable) else above
    yield module, own
    for child in () if isinstance(module, Slimmable) else module.children():
        yield from _with_skippers(child, own)
