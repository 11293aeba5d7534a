"""Slimmable ResNets (arXiv 1512.03385) with torchvision's parameter names, CIFAR stem or ImageNet stem.

The CIFAR stem is one 3x3 convolution of stride 1 without max-pool (METHOD section 6). Every convolution slices both sides but
the first, whose input is the image. Activations and sums are computed in place: the gradient of a BatchNorm does not need what it
gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.models.encoder import Encoder
from pretrain.slimmable import ChannelRule, Channels, Resize, Skippable, SlimmableBatchNorm2d, SlimmableConv2d


class BasicBlock(Skippable):
    """Two convolutions, 3x3 unless ``kernels`` names other sides, and a shortcut."""

    expansion = 1

    def __init__(self, inputs: ChannelRule, planes: ChannelRule, stride: int, kernels: tuple[int, ...] = (3,)):
        super().__init__()
        elastic: dict[str, Any] = {"kernels": kernels, "kernel_stage": planes.stage}
        self.conv1 = SlimmableConv2d(inputs, planes, kernels[0], stride, kernels[0] // 2, **elastic)
        self.bn1 = SlimmableBatchNorm2d(planes)
        self.conv2 = SlimmableConv2d(planes, planes, kernels[0], 1, kernels[0] // 2, **elastic)
        self.bn2 = SlimmableBatchNorm2d(planes)
        self.downsample = shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        if self.skipped:
            return x
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class Bottleneck(Skippable):
    """1x1, 3x3 (with the stride, as torchvision has it), 1x1 to four times the planes, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: ChannelRule, planes: ChannelRule, stride: int, kernels: tuple[int, ...] = (3,)):
        super().__init__()
        outputs = ChannelRule(planes.channels * self.expansion, sliced=True, stage=planes.stage)
        self.conv1 = SlimmableConv2d(inputs, planes, 1)
        self.bn1 = SlimmableBatchNorm2d(planes)
        self.conv2 = SlimmableConv2d(
            planes, planes, kernels[0], stride, kernels[0] // 2, kernels=kernels, kernel_stage=planes.stage
        )
        self.bn2 = SlimmableBatchNorm2d(planes)
        self.conv3 = SlimmableConv2d(planes, outputs, 1)
        self.bn3 = SlimmableBatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        if self.skipped:
            return x
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


def shortcut(inputs: ChannelRule, outputs: ChannelRule, stride: int) -> nn.Sequential | None:
    """1x1 projection where the shape changes, else None (the identity)."""
    if stride == 1 and inputs.channels == outputs.channels:
        return None
    return nn.Sequential(SlimmableConv2d(inputs, outputs, 1, stride), SlimmableBatchNorm2d(outputs))


class ResNet(Encoder):
    """Images (B, 3, H, W) to pooled features (B, D(w)).

    Args:
        block: BasicBlock or Bottleneck.
        depths: blocks in each of the four stages.
        base_channels: planes of the first stage; they double with every stage.
        stem: ``cifar`` or ``imagenet`` (7x7 stride 2 and max-pool).
        kernels: sides of the kernels in blocks that are not 1x1, largest first; several: a sub-network names one for each stage.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        base_channels: int = 64,
        stem: str = "cifar",
        kernels: tuple[int, ...] = (3,),
    ):
        super().__init__()
        self.stem = stem
        stream = ChannelRule(base_channels, sliced=True, stage=0)
        self.resize = Resize()
        self.conv1 = (
            SlimmableConv2d(3, stream, 3, 1, 1, slice_in=False)
            if stem == "cifar"
            else SlimmableConv2d(3, stream, 7, 2, 3, slice_in=False)
        )
        self.bn1 = SlimmableBatchNorm2d(stream)
        self.stage_rules = []
        last_norm = "bn3" if block is Bottleneck else "bn2"
        self.stage_norms = [f"layer{stage + 1}.{depth - 1}.{last_norm}" for stage, depth in enumerate(depths)]
        self.stage_layers = [f"layer{stage + 1}" for stage in range(len(depths))]
        for stage, depth in enumerate(depths):
            planes, blocks = ChannelRule(base_channels * 2**stage, sliced=True, stage=stage), []
            for index in range(depth):
                made = block(stream, planes, 2 if stage > 0 and index == 0 else 1, kernels)
                made.stage, made.place, made.optional = stage, index, index > 0
                blocks.append(made)
                stream = ChannelRule(planes.channels * block.expansion, sliced=True, stage=stage)
            self.add_module(self.stage_layers[stage], nn.Sequential(*blocks))
            self.stage_rules.append(stream)
        self.feature_rule = self.stage_rules[-1]

    def channel_groups(self, after: Sequence[nn.Module]) -> list[Channels]:
        """Channels that can be reordered: those of each residual stream (one per stage; the stem's is the first stage's where that
        has no projection) and those inside each block. ``after``: the layers that read the features.
        """
        stream = Channels([self.conv1, self.bn1])
        groups = [stream]
        for name in self.stage_layers:
            for block in self.get_submodule(name):
                path = [
                    (conv, block.get_submodule(name.replace("conv", "bn")))
                    for name, conv in block.named_children()
                    if name.startswith("conv")
                ]
                stream.read.append(path[0][0])
                groups += [Channels([conv, norm], [following]) for (conv, norm), (following, _) in pairwise(path)]
                if block.downsample is None:
                    stream.written += path[-1]
                else:
                    stream.read.append(block.downsample[0])
                    stream = Channels([*path[-1], *block.downsample])
                    groups.append(stream)
        stream.read += after
        return groups

    def stages(self, x: Tensor) -> list[Tensor]:
        """Feature maps after each of the four stages, (B, C_i(w), H_i, W_i)."""
        x = F.relu(self.bn1(self.conv1(self.resize(x))), inplace=True)
        if self.stem == "imagenet":
            x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for name in self.stage_layers:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps
