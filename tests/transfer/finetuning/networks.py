"""Checkpoints of every family with random weights, calibrated on noise where they have BatchNorm."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from pretrain import config
from pretrain.checkpoints import Checkpoint, open_checkpoint
from pretrain.models import ARCHITECTURES, build
from pretrain.models.resnet import BasicBlock, Bottleneck, ResNet
from pretrain.slimmable import calibrate, calibration_state

# Small networks of each kind, under names that say what they are.
ARCHITECTURES.setdefault("resnet_tiny_of_tests", lambda: ResNet(BasicBlock, (1, 1, 1, 1), base_channels=8, stem="imagenet"))
ARCHITECTURES.setdefault("resnet_bottleneck_of_tests", lambda: ResNet(Bottleneck, (1, 1, 1, 1), base_channels=16, stem="imagenet"))
WIDTHS = [1.0, 0.5, 0.25]


def checkpoint(folder: Path, arch: str, size: int = 32) -> Checkpoint:
    """A checkpoint of ``arch`` on disk, read back; BatchNorm scales and shifts are random."""
    torch.manual_seed(0)
    encoder = build(arch)
    for name, parameter in encoder.named_parameters():
        if name.endswith(("bias", ".bn1.weight", ".bn2.weight")):
            torch.nn.init.uniform_(parameter, 0.1, 0.5)
    calibrate(encoder, WIDTHS, [torch.randn(8, 3, size, size) for _ in range(2)])
    cfg = config.load("digits", [f"model.arch={arch}", f"data.size={size}", "augment.flip=0"])
    payload = {
        "format": 1,
        "config": config.to_dict(cfg),
        "encoder": encoder.state_dict(),
        "epoch": cfg.optimizer.epochs,
        "calibration": calibration_state(encoder),
    }
    path = folder / f"{arch}.pt"
    torch.save(payload, path)
    return open_checkpoint(path)


def foreign_resnet(folder: Path) -> Checkpoint:
    """torchvision's ResNet-18, as a file of somebody else's."""
    torch.manual_seed(0)
    path = folder / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return open_checkpoint(path)
