"""Width: how many channels a layer keeps, and the context that sets it for a whole network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

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


class Slimmable(nn.Module):
    """Base of every layer that :func:`at_width` reaches. ``width`` is 1.0 outside such a context."""

    width: float = 1.0
    channels_in: Callable[[float], int] | None = None  # None where the layer has as many as come in
    channels_out: Callable[[float], int] | None = None
    parts: int = 1  # the output is this many equal runs of channels
    reuse: bool = False  # see pretrain.slimmable.slices.sliced_once
    slices: tuple[Tensor | None, ...] | None = None

    def active(self, width: float) -> tuple[Tensor | None, ...]:
        """The parts of the parameters that ``width`` uses."""
        raise NotImplementedError

    def sliced(self) -> tuple[Tensor | None, ...]:
        """:meth:`active` at the present width."""
        if not self.reuse:
            return self.active(self.width)
        if self.slices is None:
            self.slices = tuple(map(_cast, self.active(self.width)))
        return self.slices

    def extract_at(self, width: float) -> nn.Module:
        """An ordinary ``torch.nn`` module that computes what this one computes at ``width`` in evaluation mode."""
        raise NotImplementedError


class ParametersAtWidth(nn.Module):
    """Base of modules whose own parameters, besides those of their layers, may follow the width."""

    def parameters_at(self, width: float) -> dict[str, Tensor]:
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


@contextmanager
def at_width(model: nn.Module, width: float) -> Iterator[None]:
    """Run ``model`` at ``width`` inside the block; the width each layer had before comes back afterwards, errors or not.

    Raises:
        ValueError: ``width`` is not in (0, 1].
    """
    if not 0.0 < width <= 1.0:
        raise ValueError(f"width {width} is not in (0, 1]")
    layers = [(layer, layer.width) for layer in slimmable_layers(model)]
    try:
        for layer, _ in layers:
            layer.width = width
        yield
    finally:
        for layer, before in layers:
            layer.width = before


def width_key(width: float) -> float:
    """The width as it is used for look-ups: 0.1 + 0.2 and 0.3 are one width."""
    return round(float(width), 6)


def channel_signature(model: nn.Module, width: float) -> tuple[int, ...]:
    """Channels of every layer at ``width``, in and out: two widths with the same signature are the same network."""
    rules = (rule for layer in slimmable_layers(model) for rule in (layer.channels_in, layer.channels_out))
    return tuple(rule(width) for rule in rules if rule is not None)
