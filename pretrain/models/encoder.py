"""The contract of an encoder: what a network must offer to be pretrained, calibrated, extracted and transferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import Tensor, nn

from pretrain.slimmable import ChannelRule, Channels, ParametersAtWidth, Width


class Encoder(ParametersAtWidth):
    """Normalised images (B, 3, H, W) to features (B, D(w)), and to four feature maps.

    A network sets ``stage_rules`` and ``feature_rule`` and implements :meth:`stages`; its features are the mean over the last map
    unless it has a ``forward`` of its own. What differs from a convolutional network is said by the attributes below.

    Attributes:
        feature_rule: D(w), the number of features at a width.
        stage_rules: C_i(w), the channels of each of the four feature maps at a width.
        patch_size: side of a patch in pixels, for a ViT: its maps are of patches, and image sides are multiples of it. 0: none.
        size: side in pixels of the images it was made for; 0: any.
        fixed_size: whether it takes no images of another size.
        stage_layers: names, within :attr:`body`, of the layers whose outputs are the four maps, where there are such layers.
        stage_norms: names of the BatchNorms that the four stages end in, before a shortcut is added, where there are such.
        aligned: whether pixels of its maps lie at multiples of their strides, so that maps can be put on each other.
        settings: what decides, besides the weights, what the network computes and its architecture's name does not say.
        can_recompute: whether it can compute activations again in the backward pass, where ``recompute`` is set, to save memory.
    """

    feature_rule: ChannelRule
    stage_rules: Sequence[ChannelRule]
    patch_size: int = 0
    size: int = 0
    fixed_size: bool = False
    stage_layers: Sequence[str] = ()
    stage_norms: Sequence[str] = ()
    aligned: bool = True
    settings: Mapping[str, object] = MappingProxyType({})
    can_recompute: bool = False
    recompute: bool = False

    @property
    def body(self) -> nn.Module:
        """The module whose layers have the names of the network's library: the encoder itself, or what it wraps."""
        return self

    @property
    def is_vit(self) -> bool:
        """Whether its feature maps are made of patch tokens."""
        return self.patch_size > 0

    @property
    def size_divisor(self) -> int:
        """The number of pixels of which an image's sides must be multiples."""
        return max(1, self.patch_size)

    def feature_dim(self, width: Width = 1.0) -> int:
        """D(w), the number of features at ``width``."""
        return self.feature_rule(width)

    def stage_dims(self, width: Width = 1.0) -> list[int]:
        """C_i(w), the channels of each of the four feature maps at ``width``."""
        return [rule(width) for rule in self.stage_rules]

    def freeze_patch_projection(self) -> None:
        """Leave the patch projection at its random start, which steadies the training of a ViT (MoCo v3, section 4.2)."""
        raise ValueError(f"{type(self).__name__} has no patch projection")

    def channel_groups(self, after: Sequence[nn.Module]) -> list[Channels]:
        """Channels that can be reordered together without changing what the full width computes, for pruning by importance; none
        where the network does not say. ``after``: the layers behind the encoder that read its features.
        """
        return []

    def stages(self, x: Tensor) -> list[Tensor]:
        """Four feature maps (B, C_i(w), H_i, W_i) of images (B, 3, H, W), from fine to coarse."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[-1].mean((2, 3))
