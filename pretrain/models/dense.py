"""Ordinary networks of torchvision and timm behind the interface of this project's encoders, at width 1.0 only.

They exist so that any pretrained backbone can stand in the same tables. Which network it is is read from the shapes of its
weights; what shapes do not tell (a ViT's number of heads) from what the two libraries use for that embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pretrain.lazy import Lazy
from pretrain.models.encoder import Encoder
from pretrain.slimmable import ChannelRule

torchvision_models = Lazy("torchvision.models")
State = dict[str, Tensor]
# Attention heads by embedding: DeiT, ViT and their descendants in timm; MoCo v3's small ViT has 12 (its section 5).
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1664: 16}
MOCO_V3_HEADS = {192: 6, 384: 12, 768: 12}
HEAD_DIM = 64  # of any other embedding
CIFAR_SIZE, IMAGENET_SIZE = 32, 224


class DenseEncoder(Encoder):
    """Images (B, 3, H, W) to features (B, D) of an ordinary network, and its feature maps.

    Args:
        network: images to features (B, D), its classifier taken off.
        features: D.
        stages: the four layers whose outputs are the feature maps, by name, and their channels.
        patch_size: side of a patch where these outputs are tokens (B, 1 + N, C) with the class token first; 0: they are maps.
        size: pixels of the images it was made for.
        fixed_size: whether it takes no others.
    """

    def __init__(self, network: nn.Module, features: int, stages: dict[str, int], size: int, patch_size: int = 0,
                 fixed_size: bool = False):
        super().__init__()
        self.network, self.stage_layers = network, list(stages)
        self.feature_rule = ChannelRule(features, sliced=False)
        self.stage_rules = [ChannelRule(channels, sliced=False) for channels in stages.values()]
        self.size, self.patch_size, self.fixed_size = size, patch_size, fixed_size

    @property
    def body(self) -> nn.Module:
        """The library's network."""
        return self.network

    def stages(self, x: Tensor) -> list[Tensor]:
        """Four feature maps (B, C_i, H_i, W_i); a ViT's after each quarter of its blocks, before the last LayerNorm."""
        maps: list[Tensor] = []
        hooks = [self.network.get_submodule(name).register_forward_hook(lambda layer, inputs, output: maps.append(output))
                 for name in self.stage_layers]
        try:
            self.network(x)
        finally:
            for hook in hooks:
                hook.remove()
        if not self.patch_size:
            return maps
        grid = tuple(side // self.patch_size for side in x.shape[-2:])
        return [tokens[:, 1:].transpose(1, 2).unflatten(2, grid) for tokens in maps]

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def resnet(state: State, heads: dict[int, int]) -> DenseEncoder:
    """torchvision's ResNet, ResNeXt or wide ResNet, names as timm's; a 3x3 stem is taken for CIFAR's: stride 1 and no max-pool."""
    depths = [max(1, _count(state, f"layer{stage}.")) for stage in (1, 2, 3, 4)]
    bottleneck = "layer1.0.conv3.weight" in state
    block = torchvision_models.resnet.Bottleneck if bottleneck else torchvision_models.resnet.BasicBlock
    outputs, per_group = _shape(state, "layer1.0.conv2.weight", 4, (64, 64))[:2] if bottleneck else (64, 64)
    network = torchvision_models.resnet.ResNet(block, depths, groups=max(1, outputs // per_group), width_per_group=per_group)
    network.fc = nn.Identity()
    cifar = _shape(state, "conv1.weight", 4, (64, 3, 7, 7))[-1] == 3
    if cifar:
        network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    channels = [64 * 2**stage * block.expansion for stage in range(4)]
    stages = {f"layer{stage + 1}": count for stage, count in enumerate(channels)}
    return DenseEncoder(network, channels[-1], stages, CIFAR_SIZE if cifar else IMAGENET_SIZE)


def mobilenetv2_torchvision(state: State, heads: dict[int, int]) -> DenseEncoder:
    """torchvision's ``mobilenet_v2``."""
    network = torchvision_models.mobilenet_v2()
    network.classifier = nn.Identity()
    stages = {"features.3": 24, "features.6": 32, "features.13": 96, "features.18": 1280}
    return DenseEncoder(network, 1280, stages, IMAGENET_SIZE)


def mobilenetv2_timm(state: State, heads: dict[int, int]) -> DenseEncoder:
    """timm's ``mobilenetv2_100``."""
    import timm  # slow, and seldom needed

    network = timm.create_model("mobilenetv2_100", num_classes=0)
    stages = {"blocks.1": 24, "blocks.2": 32, "blocks.4": 96, "bn2": 1280}
    return DenseEncoder(network, 1280, stages, IMAGENET_SIZE)


def vit_timm(state: State, heads: dict[int, int]) -> DenseEncoder:
    """timm's ``VisionTransformer`` with a class token; its features are that token after the last LayerNorm."""
    import timm  # slow, and seldom needed

    dim, _, _, patch = _shape(state, "patch_embed.proj.weight", 4, (768, 3, 16, 16))
    tokens = _shape(state, "pos_embed", 3, (1, 197, dim))[1]
    depth, size = max(1, _count(state, "blocks.")), patch * max(1, math.isqrt(tokens - 1))
    hidden = _shape(state, "blocks.0.mlp.fc1.weight", 2, (4 * dim, dim))[0]
    network = timm.models.VisionTransformer(
        size, patch, embed_dim=dim, depth=depth, num_heads=_heads(dim, heads), mlp_ratio=(hidden + 0.5) / dim, num_classes=0,
        qkv_bias="blocks.0.attn.qkv.bias" in state, init_values=1.0 if "blocks.0.ls1.gamma" in state else None,
        dynamic_img_size=True, weight_init="skip")
    return DenseEncoder(network, dim, _quarters("blocks.", depth, dim), size, patch)


def vit_torchvision(state: State, heads: dict[int, int]) -> DenseEncoder:
    """torchvision's ``VisionTransformer``, which takes images of its own size only."""
    dim, _, _, patch = _shape(state, "conv_proj.weight", 4, (768, 3, 16, 16))
    tokens = _shape(state, "encoder.pos_embedding", 3, (1, 197, dim))[1]
    depth, size = max(1, _count(state, "encoder.layers.encoder_layer_")), patch * max(1, math.isqrt(tokens - 1))
    hidden = _shape(state, "encoder.layers.encoder_layer_0.mlp.0.weight", 2, (4 * dim, dim))[0]
    network = torchvision_models.VisionTransformer(size, patch, depth, _heads(dim, heads), dim, hidden)
    network.heads = nn.Identity()
    return DenseEncoder(network, dim, _quarters("encoder.layers.encoder_layer_", depth, dim), size, patch, fixed_size=True)


FAMILIES: dict[str, Callable[[State, dict[int, int]], DenseEncoder]] = {
    "resnet": resnet, "mobilenetv2_torchvision": mobilenetv2_torchvision, "mobilenetv2_timm": mobilenetv2_timm,
    "vit": vit_timm, "vit_torchvision": vit_torchvision,
}


def shaped_like(family: str, state: State, heads: dict[int, int] = HEADS) -> DenseEncoder:
    """The encoder of ``family`` that ``state`` (its weights by the library's names) is of, on the meta device.

    ``heads`` gives a ViT's number of attention heads by its embedding. Where ``state`` is broken this is the network that it
    should have been, so that the first difference can be named.
    """
    with torch.device("meta"):
        return FAMILIES[family](state, heads).eval()


def _shape(state: State, name: str, rank: int, default: tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(state[name].shape) if name in state else ()
    return shape if len(shape) == rank and min(shape) > 0 else default


def _count(state: State, prefix: str) -> int:
    """Blocks whose names are ``prefix``, a number, a dot and more."""
    return len({name[len(prefix):].split(".")[0] for name in state if name.startswith(prefix)})


def _heads(dim: int, heads: dict[int, int]) -> int:
    return heads.get(dim, next(n for n in range(max(1, dim // HEAD_DIM), 0, -1) if dim % n == 0))


def _quarters(prefix: str, depth: int, dim: int) -> dict[str, int]:
    """The last block of each quarter; of fewer than four blocks the last ones, repeated names falling together."""
    return {f"{prefix}{max(0, (quarter * depth) // 4 - 1)}": dim for quarter in (1, 2, 3, 4)}
