"""Ordinary networks of torchvision and timm behind the interface of this project's encoders, at width 1.0 only.

They exist so that any pretrained backbone can appear in the same tables. Which network it is is read from the shapes of its
weights. What shapes do not tell (:class:`Untold`) is taken as the two libraries have it, unless the caller says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.lazy import Lazy
from pretrain.models.encoder import Encoder
from pretrain.slimmable import ChannelRule
from rundir.errors import UserError, check_choice

torchvision_models = Lazy("torchvision.models")
State = dict[str, Tensor]
# Attention heads by embedding: DeiT, ViT and their descendants in timm; MoCo v3's small ViT has 12 (its section 5).
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1664: 16}
MOCO_V3_HEADS = {192: 6, 384: 12, 768: 12}
HEAD_DIM = 64  # of any other embedding
CIFAR_SIZE, IMAGENET_SIZE = 32, 224
LARGEST = 1 << 16  # side of a weight that is taken seriously
# Settings in --arch and their values; None: any number.
SETTINGS: dict[str, dict[str, int] | None] = {
    "padding": {"0": 0, "1": 1, "2": 2},
    "max_pool": {"yes": True, "no": False},
    "stride": {"1": 1, "3": 3},
    "heads": None,
}


@dataclass(frozen=True)
class Untold:
    """What the shapes of weights do not tell, and what is assumed.

    Attributes:
        padding: of a 3x3 stem; 1 keeps the size of an image, solo-learn's ResNets for CIFAR have 2.
        max_pool: whether a max-pool follows a 3x3 stem.
        stride: kernel of the convolution of a bottleneck that has its stride: 3 (torchvision, "v1.5"), or 1 (the paper, "v1").
        heads: attention heads of a ViT; 0: as many as the libraries' ViTs of that embedding have (``heads_of``).
        heads_of: heads by embedding.
        told: names of those that the user has said.
    """

    padding: int = 1
    max_pool: bool = False
    stride: int = 3
    heads: int = 0
    heads_of: dict[int, int] = field(default_factory=lambda: HEADS)
    told: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, settings: str, heads_of: dict[int, int]) -> Untold:
        """From what a user writes, ``padding=2,max_pool=yes``; :class:`UserError` for anything else."""
        values: dict[str, Any] = {}
        for setting in filter(None, settings.split(",")):
            key, _, value = setting.partition("=")
            check_choice("--arch", key, SETTINGS, "setting in --arch")
            known = SETTINGS[key]
            if known and value not in known:
                raise UserError(f"--arch has {setting}; set {key} to one of {', '.join(known)}")
            if not known and not (value.isascii() and value.isdigit() and 0 < int(value) < LARGEST):
                raise UserError(f"--arch has {setting}; set {key} to a number of at least 1")
            values[key] = known[value] if known else int(value)
        return cls(**values, heads_of=heads_of, told=frozenset(values))

    def with_heads(self, heads: int) -> Untold:
        """With this number of attention heads, which the file says."""
        return replace(self, heads=heads, told=self.told | {"heads"})


PLAIN = Untold()


class DenseEncoder(Encoder):
    """Images (B, 3, H, W) to features (B, D) of an ordinary network, and its feature maps.

    Args:
        network: images to features (B, D), its classifier taken off.
        features: D.
        stages: the four layers whose outputs are the feature maps, by name, and their channels.
        patch_size: side of a patch where these outputs are tokens (B, P + N, C) of N patches; 0: they are maps.
        size: pixels of the images it was made for.
        fixed_size: whether it takes no others.
        first: P, the number of tokens before those of the patches (a class token, registers).
        untold: what its weights do not tell of it, by the names in :class:`Untold`.
    """

    def __init__(
        self,
        network: nn.Module,
        features: int,
        stages: dict[str, int],
        size: int,
        patch_size: int = 0,
        fixed_size: bool = False,
        first: int = 1,
        untold: dict[str, object] | None = None,
    ):
        super().__init__()
        self.network, self.stage_layers = network, list(stages)
        self.feature_rule = ChannelRule(features, sliced=False)
        self.stage_rules = [ChannelRule(channels, sliced=False) for channels in stages.values()]
        self.first, self.untold = first, untold or {}
        self.aligned = self.untold.get("padding", 1) == 1
        self.size, self.patch_size, self.fixed_size = size, patch_size, fixed_size

    @property
    def body(self) -> nn.Module:
        """The library's network."""
        return self.network

    def stages(self, x: Tensor) -> list[Tensor]:
        """Four feature maps (B, C_i, H_i, W_i); a ViT's after each quarter of its blocks, before the last LayerNorm."""
        maps: list[Tensor] = []
        hooks = [
            self.network.get_submodule(name).register_forward_hook(lambda layer, inputs, output: maps.append(output))
            for name in self.stage_layers
        ]
        try:
            self.network(x)
        finally:
            for hook in hooks:
                hook.remove()
        if not self.patch_size:
            return maps
        grid = tuple(side // self.patch_size for side in x.shape[-2:])
        return [tokens[:, self.first :].transpose(1, 2).unflatten(2, grid) for tokens in maps]

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def resnet(state: State, untold: Untold) -> DenseEncoder:
    """torchvision's ResNet, ResNeXt or wide ResNet, names as timm's; a 3x3 stem is CIFAR's, of stride 1."""
    depths = [max(1, _count(state, f"layer{stage}.")) for stage in (1, 2, 3, 4)]
    bottleneck = "layer1.0.conv3.weight" in state
    block = torchvision_models.resnet.Bottleneck if bottleneck else torchvision_models.resnet.BasicBlock
    outputs, per_group = _shape(state, "layer1.0.conv2.weight", 4, (64, 64))[:2] if bottleneck else (64, 64)
    network = torchvision_models.resnet.ResNet(block, depths, groups=max(1, outputs // per_group), width_per_group=per_group)
    network.fc = nn.Identity()
    used: dict[str, object] = {}
    cifar = _shape(state, "conv1.weight", 4, (64, 3, 7, 7))[-1] == 3
    if cifar:
        used |= {"padding": untold.padding, "max_pool": untold.max_pool}
        network.conv1 = nn.Conv2d(3, 64, 3, 1, untold.padding, bias=False)
        network.maxpool = network.maxpool if untold.max_pool else nn.Identity()
    if bottleneck:
        used["stride"] = untold.stride
        for stage in (2, 3, 4) if untold.stride == 1 else ():
            first = network.get_submodule(f"layer{stage}")[0]
            first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    channels = [64 * 2**stage * block.expansion for stage in range(4)]
    stages = {f"layer{stage + 1}": count for stage, count in enumerate(channels)}
    return DenseEncoder(network, channels[-1], stages, CIFAR_SIZE if cifar else IMAGENET_SIZE, untold=used)


def mobilenetv2_torchvision(state: State, untold: Untold) -> DenseEncoder:
    """torchvision's ``mobilenet_v2``."""
    network = torchvision_models.mobilenet_v2()
    network.classifier = nn.Identity()
    stages = {"features.3": 24, "features.6": 32, "features.13": 96, "features.18": 1280}
    return DenseEncoder(network, 1280, stages, IMAGENET_SIZE)


def mobilenetv2_timm(state: State, untold: Untold) -> DenseEncoder:
    """timm's ``mobilenetv2_100``."""
    import timm  # slow, and seldom needed

    network = timm.create_model("mobilenetv2_100", num_classes=0)
    stages = {"blocks.1": 24, "blocks.2": 32, "blocks.4": 96, "bn2": 1280}
    return DenseEncoder(network, 1280, stages, IMAGENET_SIZE)


def vit_timm(state: State, untold: Untold) -> DenseEncoder:
    """timm's ``VisionTransformer``; its features are the class token after the last LayerNorm, or else the mean of the patches.

    They are that mean where there is no class token, or where a ``fc_norm`` stands instead of the last LayerNorm (fine-tuned MAE).
    """
    import timm  # slow, and seldom needed

    dim, _, _, patch = _shape(state, "patch_embed.proj.weight", 4, (768, 3, 16, 16))
    tokens = _shape(state, "pos_embed", 3, (1, 197, dim))[1]
    class_token = "cls_token" in state or ("fc_norm.weight" not in state and "norm.weight" not in state)
    registers = _shape(state, "reg_token", 3, (1, 0, dim))[1]
    with_position = positions_before_patches(tokens, int(class_token), registers)
    depth, size = max(1, _count(state, "blocks.")), patch * max(1, math.isqrt(max(0, tokens - with_position)))
    hidden = _shape(state, "blocks.0.mlp.fc1.weight", 2, (4 * dim, dim))[0]
    mean_norm = "fc_norm.weight" in state and "norm.weight" not in state
    heads = _heads(dim, untold)
    network = timm.models.VisionTransformer(
        size,
        patch,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=(hidden + 0.5) / dim,
        num_classes=0,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        init_values=1.0 if "blocks.0.ls1.gamma" in state else None,
        class_token=class_token,
        reg_tokens=registers,
        no_embed_class=with_position == 0,
        fc_norm=mean_norm,
        global_pool="token" if class_token and not mean_norm else "avg",
        dynamic_img_size=True,
        weight_init="skip",
    )
    return DenseEncoder(
        network, dim, _quarters("blocks.", depth, dim), size, patch, first=class_token + registers, untold={"heads": heads}
    )


def positions_before_patches(tokens: int, class_token: int, registers: int) -> int:
    """How many of ``tokens`` position embeddings are not of patches, whose number is a square.

    All the tokens before the patches may have one (timm), the class token alone (DINOv2), or none of them (DeiT III).
    """
    for count in (class_token + registers, class_token, 0):
        if tokens > count and math.isqrt(tokens - count) ** 2 == tokens - count:
            return count
    return class_token + registers


def vit_torchvision(state: State, untold: Untold) -> DenseEncoder:
    """torchvision's ``VisionTransformer``, which takes images of its own size only."""
    dim, _, _, patch = _shape(state, "conv_proj.weight", 4, (768, 3, 16, 16))
    tokens = _shape(state, "encoder.pos_embedding", 3, (1, 197, dim))[1]
    depth, size = max(1, _count(state, "encoder.layers.encoder_layer_")), patch * max(1, math.isqrt(tokens - 1))
    hidden = _shape(state, "encoder.layers.encoder_layer_0.mlp.0.weight", 2, (4 * dim, dim))[0]
    heads = _heads(dim, untold)
    network = torchvision_models.VisionTransformer(size, patch, depth, heads, dim, hidden)
    network.heads = nn.Identity()
    return DenseEncoder(
        network, dim, _quarters("encoder.layers.encoder_layer_", depth, dim), size, patch, fixed_size=True, untold={"heads": heads}
    )


FAMILIES: dict[str, Callable[[State, Untold], DenseEncoder]] = {
    "resnet": resnet,
    "mobilenetv2_torchvision": mobilenetv2_torchvision,
    "mobilenetv2_timm": mobilenetv2_timm,
    "vit": vit_timm,
    "vit_torchvision": vit_torchvision,
}


def shaped_like(family: str, state: State, untold: Untold = PLAIN) -> DenseEncoder:
    """The encoder of ``family`` that ``state`` (its weights by the library's names) is of, on the meta device.

    Where ``state`` is broken this is the network that it should have been, so that the first difference can be named.

    Raises:
        UserError: ``untold`` says what cannot be of such a network.
    """
    with torch.device("meta"):
        encoder = FAMILIES[family](state, untold).eval()
    idle = sorted(untold.told - encoder.untold.keys())
    if idle:
        raise UserError(f"--arch sets {idle[0]}, which this {family} has no place for; leave out {idle[0]}")
    encoder.settings = {key: value for key, value in encoder.untold.items() if key in untold.told and value != getattr(PLAIN, key)}
    return encoder


def _shape(state: State, name: str, rank: int, default: tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(state[name].shape) if name in state else ()
    return shape if len(shape) == rank and min(shape) > 0 and max(shape) <= LARGEST else default


def _count(state: State, prefix: str) -> int:
    """Blocks whose names are ``prefix``, a number, a dot and more."""
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _heads(dim: int, untold: Untold) -> int:
    if untold.heads:
        if dim % untold.heads:
            raise UserError(
                f"--arch has heads={untold.heads}, which do not divide the ViT's {dim} channels; set heads to a divisor of {dim}"
            )
        return untold.heads
    return untold.heads_of.get(dim, next(n for n in range(max(1, dim // HEAD_DIM), 0, -1) if dim % n == 0))


def _quarters(prefix: str, depth: int, dim: int) -> dict[str, int]:
    """The last block of each quarter; of fewer than four blocks the last ones, repeated names falling together."""
    return {f"{prefix}{max(0, (quarter * depth) // 4 - 1)}": dim for quarter in (1, 2, 3, 4)}
