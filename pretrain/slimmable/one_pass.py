"""Features of a sub-network that has no BatchNorm statistics yet, for one forward pass: what a search over thousands needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pretrain.slimmable.calibrate import batch_norms
from pretrain.slimmable.folding import folded
from pretrain.slimmable.layers import SlimmableBatchNorm2d
from pretrain.slimmable.slices import sliced_once
from pretrain.slimmable.width import at_width
from rundir.subnet import Width


@torch.no_grad()
def calibrated_features(model: nn.Module, width: Width, batches: Iterable[Tensor]) -> Tensor:
    """Features (N, D) of ``model`` at ``width`` for ``batches`` of images (B, 3, H, W), calibrated on the first of them.

    Each layer takes the mean and the unbiased variance of the first batch as it comes out of the calibrated layers before, and
    normalises it by them: so the pass that calibrates is already the pass of the calibrated network, and no image is computed
    twice. For the other batches, BatchNorms are folded into the convolutions before them.
    :func:`~pretrain.slimmable.calibrate` on that batch alone gives the same statistics but for the factor n / (n - 1) of the
    variances that it normalises by, n being a layer's values per channel. What the model had calibrated stays as it was.

    Raises:
        ValueError: the first batch has a single image, or there is none.
    """
    found, training, left = [], model.training, iter(batches)
    first = next(left, None)
    if first is None:
        raise ValueError("calibration needs at least one batch of images")
    if len(first) < 2:
        raise ValueError("calibration needs at least two images")
    norms = list(batch_norms(model).values())
    with at_width(model, width), sliced_once(model), _statistics_kept(norms):
        try:
            model.eval()
            with _collecting(norms):
                found.append(model(first))
            with folded(model):
                found += map(model, left)
        finally:
            model.train(training)
    return torch.cat(found)


@contextmanager
def _statistics_kept(norms: Sequence[SlimmableBatchNorm2d]) -> Iterator[None]:
    before = [dict(norm.statistics) for norm in norms]
    try:
        yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.statistics = own


@contextmanager
def _collecting(norms: Sequence[SlimmableBatchNorm2d]) -> Iterator[None]:
    try:
        for norm in norms:
            norm.collecting = True
        yield
    finally:
        for norm in norms:
            norm.collecting = False
