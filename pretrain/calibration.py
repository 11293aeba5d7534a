"""BatchNorm statistics from the images of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pretrain.config import Config
from pretrain.data import ImageSource, calibration_batches, evaluation_batches
from pretrain.slimmable import calibrate
from rundir.subnet import Width


def calibrate_on(encoder: nn.Module, widths: Sequence[Width], source: ImageSource, cfg: Config) -> None:
    """Calibrate ``encoder`` at ``widths`` on images of ``source``, as ``cfg.calibration`` says."""
    device = next(encoder.parameters()).device
    images = calibration_batches(source, cfg.calibration, cfg.augment, cfg.data.size, cfg.seed, device)
    calibrate(encoder, widths, images, running=cfg.calibration.average == "running")


def calibration_images(source: ImageSource, cfg: Config, device: torch.device, batch_size: int = 256) -> Iterator[Tensor]:
    """Batches (B, 3, H, W) of at most ``cfg.calibration.images`` training images, chosen by the seed, without augmentation."""
    count = min(cfg.calibration.images, len(source))
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(cfg.seed))[:count]
    return (x for x, _ in evaluation_batches(source, cfg.data.size, min(batch_size, count), device, chosen))
