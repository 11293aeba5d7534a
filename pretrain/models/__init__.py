"""Encoders by name. What an encoder offers: :class:`pretrain.models.encoder.Encoder`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from pretrain.models import vit
from pretrain.models.encoder import Encoder
from pretrain.models.mobilenetv2 import MobileNetV2
from pretrain.models.resnet import BasicBlock, Bottleneck, ResNet
from pretrain.slimmable import make_switchable
from rundir.errors import UserError, suggestion

ARCHITECTURES: dict[str, Callable[[], Encoder]] = {
    "resnet_small": partial(ResNet, BasicBlock, (1, 1, 1, 1), base_channels=16),
    "resnet_medium": partial(ResNet, BasicBlock, (2, 2, 2, 2), base_channels=16),
    "resnet18_cifar": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34_cifar": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50_cifar": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2), stem="imagenet"),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3), stem="imagenet"),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3), stem="imagenet"),
    "mobilenetv2": MobileNetV2,
    "mobilenetv2_cifar": partial(MobileNetV2, cifar=True),
    # with kernels that a sub-network names
    "resnet_small_elastic": partial(ResNet, BasicBlock, (2, 2, 2, 2), base_channels=16, kernels=(5, 3)),
    "mobilenetv2_elastic": partial(MobileNetV2, kernels=(7, 5, 3)),
    "mobilenetv2_cifar_elastic": partial(MobileNetV2, cifar=True, kernels=(7, 5, 3)),
    **vit.architectures(),
}


def build(arch: str, switchable: Sequence[float] = ()) -> Encoder:
    """A freshly initialised slimmable encoder; with BatchNorms for the widths of ``switchable`` only, if there are any.

    Raises:
        UserError: there is no architecture of that name.
    """
    if arch not in ARCHITECTURES:
        raise UserError(f"unknown architecture {arch!r}; {suggestion(arch, ARCHITECTURES)}")
    encoder = ARCHITECTURES[arch]()
    if switchable:
        make_switchable(encoder, switchable)
    return encoder
