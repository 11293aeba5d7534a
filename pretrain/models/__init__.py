"""Encoders by name.

An encoder maps normalised images (B, 3, H, W) to features (B, D), says D at a width with ``feature_dim(width)``, has its full
width's D in ``out_channels`` (its rule in ``feature_rule``), gives four feature maps with ``stages(x)`` and their channels with
``stage_dims(width)`` (full width: ``stage_channels``).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

from torch import nn

from pretrain.errors import UserError
from pretrain.models import vit
from pretrain.models.mobilenetv2 import MobileNetV2
from pretrain.models.resnet import BasicBlock, Bottleneck, ResNet

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "resnet_small": partial(ResNet, BasicBlock, (1, 1, 1, 1), base_channels=16),
    "resnet18_cifar": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34_cifar": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50_cifar": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101_cifar": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
    "resnet152_cifar": partial(ResNet, Bottleneck, (3, 8, 36, 3)),
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2), stem="imagenet"),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3), stem="imagenet"),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3), stem="imagenet"),
    "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3), stem="imagenet"),
    "mobilenetv2": MobileNetV2,
    "mobilenetv2_cifar": partial(MobileNetV2, cifar=True),
    **vit.architectures(),
}


def build(arch: str) -> nn.Module:
    """A freshly initialised slimmable encoder.

    Raises:
        UserError: there is no architecture of that name.
    """
    if arch not in ARCHITECTURES:
        near = difflib.get_close_matches(arch, ARCHITECTURES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(ARCHITECTURES)}"
        raise UserError(f"unknown architecture {arch!r}; {hint}")
    return ARCHITECTURES[arch]()
