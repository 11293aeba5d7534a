"""The width of a whole network, plain or a sub-network: the context that sets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pretrain.slimmable.base import AtWidth, slimmable_layers
from pretrain.slimmable.structure import canonical
from rundir.subnet import Subnet, Width


@contextmanager
def at_width(model: nn.Module, width: Width) -> Iterator[None]:
    """Run ``model`` at ``width`` inside the block; the width each layer had before comes back afterwards, errors or not.

    Raises:
        ValueError: ``width`` is not in (0, 1], or is a sub-network that ``model`` does not have.
    """
    if isinstance(width, Subnet):
        width = canonical(model, width)
    elif not 0.0 < width <= 1.0:
        raise ValueError(f"width {width} is not in (0, 1]")
    layers = [(layer, layer.width) for layer in model.modules() if isinstance(layer, AtWidth)]
    try:  # __dict__: nn.Module looks a while at what is set on it
        for layer, _ in layers:
            layer.__dict__["width"] = width
        yield
    finally:
        for layer, before in layers:
            layer.__dict__["width"] = before


def channel_signature(model: nn.Module, width: Width) -> tuple[object, ...]:
    """Channels of every layer at ``width``, in and out, and what else a sub-network keeps: two widths with the same signature are
    the same network.
    """
    rules = (rule for layer in slimmable_layers(model) for rule in (layer.channels_in, layer.channels_out))
    channels = tuple(rule(width) for rule in rules if rule is not None)
    found = canonical(model, width)
    more = (found.depth, found.kernel, found.resolution, found.patches) if isinstance(found, Subnet) else (None,) * 4
    return (*channels, *more)
