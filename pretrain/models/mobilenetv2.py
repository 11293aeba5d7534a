"""Slimmable MobileNetV2 (arXiv 1801.04381, table 2) for ImageNet and for CIFAR.

A block's expanded layers keep the rounded count of its input times the expansion ratio; the last 1x1 convolution keeps its 1280
outputs at every width (METHOD section 3; US-Nets, arXiv 1903.05134). The CIFAR variant has stride 1 in the stem and in the
24-channel stage, so that 32 pixels end as 4. Parameters are called ``features.N.body.M``, as the authors of US3L have them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pretrain.models.encoder import Encoder
from pretrain.slimmable import ChannelRule, Channels, Resize, Skippable, SlimmableBatchNorm2d, SlimmableConv2d

STEM_CHANNELS, LAST_CHANNELS = 32, 1280
# (expansion, channels, blocks, stride of the first block)
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
CIFAR_STRIDE_ONE = 24  # channels of the stage that does not stride there
OUTPUTS = (3, 6, 13, 18)  # of features: the last at each resolution
OUTPUT_STAGES = (1, 2, 4)  # that the first three of them end


class InvertedResidual(Skippable):
    """1x1 expansion (none for ratio 1), depthwise, 1x1 projection without activation, and the identity where shapes allow.

    ``kernels``: sides of the depthwise convolution, largest first.
    """

    def __init__(self, inputs: ChannelRule, outputs: ChannelRule, stride: int, expansion: int, kernels: tuple[int, ...] = (3,)):
        super().__init__()
        self.residual = stride == 1 and inputs.channels == outputs.channels
        hidden = ChannelRule(inputs.channels * expansion, sliced=True, expansion=expansion, stage=inputs.stage)
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [SlimmableConv2d(inputs, hidden, 1), SlimmableBatchNorm2d(hidden), nn.ReLU6(inplace=True)]
        self.body = nn.Sequential(
            *layers,
            SlimmableConv2d(
                hidden, hidden, kernels[0], stride, kernels[0] // 2, depthwise=True, kernels=kernels, kernel_stage=outputs.stage
            ),
            SlimmableBatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            SlimmableConv2d(hidden, outputs, 1),
            SlimmableBatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.skipped:
            return x
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(Encoder):
    """Images (B, 3, H, W) to pooled features (B, 1280) at every width. ``cifar`` chooses the strides of the CIFAR variant.

    Its stages are the seven rows of the table; the stem has the width of the first. ``kernels``: sides of the depthwise
    convolutions, largest first; several: a sub-network names one for each stage.
    """

    def __init__(self, cifar: bool = False, kernels: tuple[int, ...] = (3,)):
        super().__init__()
        self.resize = Resize()
        inputs = ChannelRule(STEM_CHANNELS, sliced=True, stage=0)
        layers: list[nn.Module] = [
            nn.Sequential(
                SlimmableConv2d(3, inputs, 3, 1 if cifar else 2, 1, slice_in=False),
                SlimmableBatchNorm2d(inputs),
                nn.ReLU6(inplace=True),
            )
        ]
        for stage, (expansion, channels, blocks, stride) in enumerate(STAGES):
            first = 1 if cifar and channels == CIFAR_STRIDE_ONE else stride
            outputs = ChannelRule(channels, sliced=True, stage=stage)
            for index in range(blocks):
                block = InvertedResidual(inputs, outputs, first if index == 0 else 1, expansion, kernels)
                block.stage, block.place, block.optional = stage, index, index > 0
                layers.append(block)
                inputs = outputs
        layers.append(
            nn.Sequential(
                SlimmableConv2d(inputs, LAST_CHANNELS, 1, slice_out=False),
                SlimmableBatchNorm2d(LAST_CHANNELS, slice_channels=False),
                nn.ReLU6(inplace=True),
            )
        )
        self.features = nn.Sequential(*layers)
        self.stage_layers = [f"features.{index}" for index in OUTPUTS]
        self.stage_norms = [
            *(f"features.{i}.body.{len(self.features[i].body) - 1}" for i in OUTPUTS[:-1]),
            f"features.{OUTPUTS[-1]}.1",
        ]
        self.feature_rule = ChannelRule(LAST_CHANNELS, sliced=False)
        ends = [ChannelRule(STAGES[stage][1], sliced=True, stage=stage) for stage in OUTPUT_STAGES]
        self.stage_rules = [*ends, self.feature_rule]

    def channel_groups(self, after: Sequence[nn.Module]) -> list[Channels]:
        """Channels that can be reordered: those of each residual stream and of each block's expanded layers; not the features,
        since every width keeps all of them, so ``after``, the layers that read these, stay as they are.
        """
        stream = Channels(list(self.features[0][:2]))
        groups = [stream]
        for block in self.features[1:-1]:
            layers = [layer for layer in block.body if not isinstance(layer, nn.ReLU6)]
            if len(layers) > 4:  # with an expansion in front
                stream.read.append(layers[0])
                groups.append(Channels(layers[:-2], [layers[-2]]))
            else:  # the depthwise convolution is on the stream itself
                stream.written += layers[:-2]
                stream.read.append(layers[-2])
            if block.residual:
                stream.written += layers[-2:]
            else:
                stream = Channels(layers[-2:])
                groups.append(stream)
        stream.read.append(self.features[-1][0])
        return groups

    def stages(self, x: Tensor) -> list[Tensor]:
        """The last feature map at each of four resolutions, (B, C_i, H_i, W_i): strides 4, 8, 16, 32 (1, 2, 4, 8 for CIFAR)."""
        maps, x = [], self.resize(x)
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in OUTPUTS:
                maps.append(x)
        return maps
