"""BatchNorm calibration: the statistics that a width is evaluated with (METHOD section 3; US-Nets section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.slimmable.base import Skippable
from pretrain.slimmable.extract import extract
from pretrain.slimmable.layers import _SlimmableBatchNorm, wide
from pretrain.slimmable.structure import canonical
from rundir.subnet import Width, parse_width

RUNNING = 0.1  # torch's momentum of running statistics


def batch_norms(model: nn.Module) -> dict[str, _SlimmableBatchNorm]:
    """Every slimmable BatchNorm of ``model`` by its name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _SlimmableBatchNorm)}


def norms_at(model: nn.Module, width: Width) -> dict[str, _SlimmableBatchNorm]:
    """Those of :func:`batch_norms` that ``width`` uses: none in blocks that it skips."""
    skipped = [f"{name}." for name, module in model.named_modules() if isinstance(module, Skippable) and module.skipped_at(width)]
    return {name: norm for name, norm in batch_norms(model).items() if not name.startswith(tuple(skipped))}


@contextmanager
def local_statistics(*models: nn.Module) -> Iterator[None]:
    """BatchNorms of ``models`` see this process's batch alone: for work that one process does while the others do not."""
    synchronized = [norm for model in models for norm in batch_norms(model).values() if norm.synchronized]
    try:
        for norm in synchronized:
            norm.synchronized = False
        yield
    finally:
        for norm in synchronized:
            norm.synchronized = True


@torch.no_grad()
def calibrate(model: nn.Module, widths: Sequence[Width], batches: Iterable[Tensor], running: bool = False) -> None:
    """Set the BatchNorm statistics of ``model`` at each of ``widths`` from ``batches`` of images (B, 3, H, W), B > 1.

    Each layer is normalised by its own batch statistics while they are collected, and what is kept is the cumulative mean of
    the per-batch means and unbiased variances (what ``torch.nn.BatchNorm2d(momentum=None)`` keeps, except that batches of
    different sizes are weighted by their size). With ``running`` it is the running average that training would have kept: from 0
    and 1, moved by 0.1 to each batch's (METHOD section 7: the authors' evaluation). One pass over the data serves all widths; a
    network without BatchNorm needs none.

    Raises:
        ValueError: ``batches`` is empty, so that nothing can be computed.
    """
    if not batch_norms(model):
        return
    # Dense networks, channels last: nothing is sliced, and their BatchNorms average what they compute anyway.
    like = next(model.parameters())
    networks = {canonical(model, w): extract(model, w).to(memory_format=torch.channels_last) for w in widths}
    norms = {width: norms_at(model, width) for width in networks}
    averages = {
        width: [_average(network.get_submodule(name), like, running) for name in norms[width]]
        for width, network in networks.items()
    }
    images = 0
    for x in batches:
        images += len(x)
        for width, network in networks.items():
            for average in averages[width]:
                average.momentum = RUNNING if running else len(x) / images
            network(x)
    for width, layers in averages.items():
        for norm, average in zip(norms[width].values(), layers, strict=True):
            if not average.num_batches_tracked:
                raise ValueError("calibration needs at least one batch of images that passes through every BatchNorm")
            norm.statistics[width] = (average.running_mean, average.running_var)


def _average(norm: _BatchNorm, like: Tensor, running: bool) -> _BatchNorm:
    """``norm`` normalising by batch statistics, whatever it had before, and moving its running ones by ``momentum``.

    They are on the device of ``like``, float32 or as wide as it is.
    """
    norm.track_running_stats = True
    norm.running_mean, norm.running_var = (wide(like.new_zeros(norm.num_features)) for _ in range(2))
    norm.running_var.fill_(float(running))
    norm.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return norm.train()


def is_calibrated(model: nn.Module, width: Width) -> bool:
    """Whether ``model`` can be evaluated at ``width``: every BatchNorm has its statistics, or there is no BatchNorm."""
    key = canonical(model, width)
    return all(key in norm.statistics for norm in norms_at(model, key).values())


def calibrated_widths(model: nn.Module) -> list[Width]:
    """Widths at which every BatchNorm of ``model`` has statistics, widest first; empty where there is no BatchNorm, so ask
    :func:`is_calibrated` about a width.
    """
    found = set().union(*(norm.statistics for norm in batch_norms(model).values()))
    return sorted(
        (width for width in found if all(width in norm.statistics for norm in norms_at(model, width).values())), reverse=True
    )


def calibration_state(model: nn.Module) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Statistics of all calibrated widths as ``{width: {layer: {"mean", "variance"}}}``, for a checkpoint."""
    names = ("mean", "variance")
    return {
        str(width): {
            name: dict(zip(names, norm.statistics_at(width), strict=True)) for name, norm in norms_at(model, width).items()
        }
        for width in calibrated_widths(model)
    }


def load_calibration_state(model: nn.Module, state: dict[str, dict[str, dict[str, Tensor]]]) -> None:
    """Put back what :func:`calibration_state` returned, on the device of each layer's weight.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: it is not of this network.
    """
    norms = batch_norms(model)
    for width, layers in state.items():
        key = canonical(model, parse_width(width))
        for name, moments in layers.items():
            if not isinstance(moments, dict):
                raise TypeError(f"{name} at width {width} has no mean and variance")
            norm, pair = norms[name], (moments["mean"], moments["variance"])
            channels = norm.channels_out(key)
            if any(moment.shape != (channels,) for moment in pair):
                raise ValueError(f"{name} at width {width} has {channels} channels")
            norm.statistics[key] = (pair[0].to(norm.device), pair[1].to(norm.device))
