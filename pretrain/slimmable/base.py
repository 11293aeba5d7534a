"""What is built so that it follows the width: how many channels a layer keeps, and the bases of layers and blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rundir.subnet import Subnet, Width

DIVISOR = 8


def make_divisible(value: float, divisor: int = DIVISOR) -> int:
    """Nearest multiple of ``divisor`` to ``value``, never below ``divisor`` and never under 90 % of ``value``.

    The rounding of the MobileNets, which slimmable networks inherited (METHOD: US-Nets, arXiv 1903.05134, section 3).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def channels_at(channels: int, width: float) -> int:
    """Channels that a layer of ``channels`` keeps at ``width`` in (0, 1]; all of them at 1.0."""
    return channels if width >= 1.0 else min(channels, make_divisible(width * channels))


class ChannelRule:
    """Channels kept at a width: none sliced, or ``expansion`` times the rounded unexpanded count.

    MobileNetV2 rounds the channel count before its expansion, so that the expanded and the narrow layers of a block always
    agree (METHOD section 3). Of a sub-network the width is that of ``stage``.
    """

    def __init__(self, channels: int, sliced: bool, expansion: int = 1, stage: int | None = None):
        if channels % expansion:
            raise ValueError(f"{channels} channels are not a multiple of the expansion {expansion}")
        self.channels, self.sliced, self.expansion, self.stage = channels, sliced, expansion, stage

    def __call__(self, width: Width) -> int:
        if not self.sliced:
            return self.channels
        if isinstance(width, Subnet):
            width = width.width_of(self.stage)
        return channels_at(self.channels // self.expansion, width) * self.expansion


class BlockRule(ChannelRule):
    """Channels of one block of a ViT, which a sub-network can name block by block: ``count`` times ``unit`` channels.

    Args:
        base: what a width keeps where the sub-network names nothing.
        named: attribute of :class:`rundir.subnet.Subnet`: ``heads`` or ``mlp``.
        block: number of the block, from 0.
        most: the largest count.
        capped: never more than ``base`` keeps.
    """

    def __init__(self, base: ChannelRule, named: str, block: int, most: float, capped: bool = False):
        super().__init__(base.channels, base.sliced)
        self.base, self.named, self.block, self.most, self.capped = base, named, block, most, capped

    def __call__(self, width: Width) -> int:
        counts = getattr(width, self.named) if isinstance(width, Subnet) else None
        if counts is None:
            return self.base(width)
        kept = self.kept(counts[self.block], width.width_of(None))  # type: ignore[union-attr]
        return min(kept, self.base(width)) if self.capped else kept

    def kept(self, count: float, width: float) -> int:
        """Channels of ``count`` heads, or of a hidden layer of that MLP ratio on a residual stream of ``width``."""
        if self.named == "heads":
            return int(count * self.channels // self.most)
        return channels_at(self.channels, width * count / self.most)


class AtWidth(nn.Module):
    """Base of every module that :func:`pretrain.slimmable.at_width` reaches. ``width`` is 1.0 outside such a context."""

    width: Width = 1.0


class Skippable(AtWidth):
    """Base of blocks of which a sub-network may skip the last ones of a stage. Skipped, a block hands on what it gets.

    Attributes:
        stage: number of the stage it is in, from 0; None: it always runs.
        place: its number within the stage, from 0.
        optional: whether it can be skipped: its output has the shape of its input at every width.
    """

    stage: int | None = None
    place: int = 0
    optional = False

    @property
    def skipped(self) -> bool:
        """Whether the present width leaves it out."""
        return isinstance(self.width, Subnet) and self.skipped_at(self.width)

    def skipped_at(self, width: Width) -> bool:
        """Whether ``width`` leaves it out."""
        depth = width.depth if isinstance(width, Subnet) else None
        return depth is not None and self.stage is not None and self.place >= depth[self.stage]


class Resize(AtWidth):
    """Images (B, 3, S, S) to those of the sub-network's resolution (B, 3, r, r), antialiased; as they are where it names none.

    ``multiple``: of which a resolution must be one.
    """

    def __init__(self, multiple: int = 1):
        super().__init__()
        self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        return resized(x, self.width.resolution if isinstance(self.width, Subnet) else None)


class Resized(nn.Module):
    """Images (B, 3, S, S) to (B, 3, ``side``, ``side``); of an extracted sub-network."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return resized(x, self.side)


def resized(x: Tensor, side: int | None) -> Tensor:
    """Square images (B, C, S, S) to (B, C, ``side``, ``side``) by antialiased bilinear interpolation; None: as they are.

    Raises:
        ValueError: they are not square.
    """
    if side is None or x.shape[-2:] == (side, side):
        return x
    if x.shape[-2] != x.shape[-1]:
        raise ValueError(f"images of {x.shape[-2]} x {x.shape[-1]} pixels have no single resolution; leave out r{side}")
    return F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)


class Slimmable(AtWidth):
    """Base of every layer that has parameters and follows the width."""

    kernels: tuple[int, ...] = ()  # sides of an elastic convolution, largest first
    kernel_stage: int = 0  # whose kernel it has
    channels_in: ChannelRule | None = None  # None where the layer has as many as come in
    channels_out: ChannelRule | None = None
    parts: int = 1  # the output is this many equal runs of channels
    reuse: bool = False  # see pretrain.slimmable.slices.sliced_once
    slices: tuple[Tensor | None, ...] | None = None

    def active(self, width: Width) -> tuple[Tensor | None, ...]:
        """The parts of the parameters that ``width`` uses."""
        raise NotImplementedError

    def sliced(self) -> tuple[Tensor | None, ...]:
        """:meth:`active` at the present width."""
        if not self.reuse:
            return self.active(self.width)
        if self.slices is None:
            self.slices = tuple(map(_cast, self.active(self.width)))
        return self.slices

    def extract_at(self, width: Width) -> nn.Module:
        """An ordinary ``torch.nn`` module that computes what this one computes at ``width`` in evaluation mode."""
        raise NotImplementedError


class ParametersAtWidth(nn.Module):
    """Base of modules whose own parameters, besides those of their layers, may follow the width."""

    def parameters_at(self, width: Width) -> dict[str, Tensor]:
        """The parts that ``width`` uses of this module's own parameters, by name; what is not named is used whole."""
        return {}


def _cast(part: Tensor | None) -> Tensor | None:
    """In the type of autocast, which would otherwise cast a slice at every use; vectors and whole parameters stay as they are."""
    if part is None or part.ndim < 2 or part.is_leaf or not torch.is_autocast_enabled(part.device.type):
        return part
    return part.to(torch.get_autocast_dtype(part.device.type))


def slimmable_layers(model: nn.Module) -> Iterator[Slimmable]:
    """Every slimmable layer of ``model``, in definition order."""
    return (module for module in model.modules() if isinstance(module, Slimmable))
