"""Features of a sub-network that has no BatchNorm statistics yet, for one forward pass: what a search over thousands needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pretrain.slimmable.calibrate import batch_norms
from pretrain.slimmable.width import at_width
from rundir.subnet import Width


@torch.no_grad()
def calibrated_features(model: nn.Module, width: Width, batches: Iterable[Tensor]) -> Tensor:
    """Features (N, D) of ``model`` at ``width`` for ``batches`` of images (B, 3, H, W), calibrated on the first of them.

    Each layer takes the mean and the unbiased variance of the first batch as it comes out of the calibrated layers before, and
    normalises it by them: so the pass that calibrates is already the pass of the calibrated network, and no image is computed
    twice. :func:`~pretrain.slimmable.calibrate` on that batch alone gives the same statistics but for the factor n / (n - 1) of
    the variances that it normalises by, n being a layer's values per channel. What the model had calibrated stays as it was.

    Raises:
        ValueError: the first batch has a single image, or there is none.
    """
    found, training = [], model.training
    with at_width(model, width), _statistics_kept(model):
        try:
            model.eval()
            for number, x in enumerate(batches):
                if number == 0 and len(x) < 2:
                    raise ValueError("calibration needs at least two images")
                with _collecting(model, number == 0):
                    found.append(model(x))
        finally:
            model.train(training)
    if not found:
        raise ValueError("calibration needs at least one batch of images")
    return torch.cat(found)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    norms = list(batch_norms(model).values())
    before = [dict(norm.statistics) for norm in norms]
    try:
        yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.statistics = own


@contextmanager
def _collecting(model: nn.Module, wanted: bool) -> Iterator[None]:
    norms = list(batch_norms(model).values()) if wanted else []
    try:
        for norm in norms:
            norm.collecting = True
        yield
    finally:
        for norm in norms:
            norm.collecting = False
