"""Slimmable Vision Transformers (arXiv 2010.11929) with timm's parameter names, as MoCo v3 (arXiv 2104.02057) trains them.

Two slimmings (METHOD section 3):

- ``input``, the authors': every linear layer reads the first features of its full input. Residual stream and LayerNorms
  keep their full width. Outputs that no later layer reads (of the MLP's hidden layer, of whole heads) are not computed: the
  function is the same, and time and weights are saved.
- ``heads``: attention heads, embedding and MLP hidden layer are slimmed together, as in AutoFormer (arXiv 2107.00651): the
  nearest number of heads to w * heads, at least one, of constant size; the embedding is as wide as they are; the MLP's hidden
  layer keeps the first make_divisible(w * C, 8). LayerNorms follow. A width is a smaller ViT.

A sub-network can also skip the last blocks of each quarter, name the heads and the MLP ratio of each block, and compute on a share
of the patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pretrain.models.encoder import Encoder
from pretrain.slimmable import (
    BlockRule,
    ChannelRule,
    Channels,
    KeepPatches,
    Resize,
    Skippable,
    SlimmableConv2d,
    SlimmableLayerNorm,
    SlimmableLinear,
    Subnet,
    Width,
    at_width,
    slimmable_layers,
)

TEMPERATURE = 10000.0  # of the position embedding
MLP_RATIO = 4


class NearestHeads(ChannelRule):
    """Channels of the nearest number of whole heads to w * heads, at least one."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__(heads * head_dim, sliced=True)
        self.heads, self.head_dim = heads, head_dim

    def __call__(self, width: Width) -> int:
        share = width.width_of(None) if isinstance(width, Subnet) else width
        return self.head_dim * max(1, math.floor(share * self.heads + 0.5))


class CoveringHeads(ChannelRule):
    """Channels of the heads that hold the first make_divisible(w * C, 8) channels."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__(heads * head_dim, sliced=True)
        self.head_dim = head_dim

    def __call__(self, width: Width) -> int:
        return self.head_dim * math.ceil(super().__call__(width) / self.head_dim)


@dataclass(frozen=True)
class Slimming:
    """What a width keeps: of the residual stream, of what linear layers read of it, of each of q, k and v, of what is read of the
    heads' outputs, of the hidden layer.
    """

    stream: ChannelRule
    read: ChannelRule
    attention: ChannelRule
    joined: ChannelRule
    hidden: ChannelRule

    @classmethod
    def named(cls, name: str, dim: int, heads: int) -> Slimming:
        """``input`` or ``heads``, for ``heads`` heads in ``dim`` channels."""
        hidden = ChannelRule(MLP_RATIO * dim, sliced=True)
        if name == "input":
            read = ChannelRule(dim, sliced=True)
            return cls(ChannelRule(dim, sliced=False), read, CoveringHeads(heads, dim // heads), read, hidden)
        if name == "heads":
            kept = NearestHeads(heads, dim // heads)
            return cls(kept, kept, kept, kept, hidden)
        raise ValueError(f"slimming {name!r} is not known; set input or heads")

    def of_block(self, block: int, heads: int) -> Slimming:
        """That of one block, whose heads and MLP ratio a sub-network can name. Slimmed by ``input`` it can only keep less of them
        than the width does, since what nothing reads need not be computed.
        """
        capped = self.read is not self.stream
        attention = BlockRule(self.attention, "heads", block, heads, capped)
        joined = BlockRule(self.joined, "heads", block, heads, capped) if capped else attention
        return replace(self, attention=attention, joined=joined, hidden=BlockRule(self.hidden, "mlp", block, float(MLP_RATIO)))


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, N, C(w))."""

    def __init__(self, slimming: Slimming, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        prefix = slimming.read is not slimming.stream
        self.qkv = SlimmableLinear(slimming.read, slimming.attention, parts=3, prefix=prefix)
        self.proj = SlimmableLinear(slimming.joined, slimming.stream, prefix=prefix)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)  # each (B, heads(w), N, head_dim)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with GELU between, over tokens (B, N, C(w))."""

    def __init__(self, slimming: Slimming):
        super().__init__()
        self.fc1 = SlimmableLinear(slimming.read, slimming.hidden, prefix=slimming.read is not slimming.stream)
        self.fc2 = SlimmableLinear(slimming.hidden, slimming.stream)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(Skippable):
    """Pre-norm transformer block over tokens (B, N, C(w))."""

    def __init__(self, slimming: Slimming, head_dim: int):
        super().__init__()
        self.norm1 = SlimmableLayerNorm(slimming.stream)
        self.attn = Attention(slimming, head_dim)
        self.norm2 = SlimmableLayerNorm(slimming.stream)
        self.mlp = Mlp(slimming)

    def forward(self, x: Tensor) -> Tensor:
        if self.skipped:
            return x
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Images (B, 3, H, W) to patch features (B, C(w), H/p, W/p)."""

    def __init__(self, stream: ChannelRule, patch_size: int):
        super().__init__()
        self.proj = SlimmableConv2d(3, stream, patch_size, patch_size, bias=True, slice_in=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def position_embedding(rows: Tensor, columns: Tensor, dim: int, interleaved: bool) -> Tensor:
    """Fixed 2-d sine and cosine embedding (1, 1 + R * S, dim), float32, of patches at ``rows`` (R,) and ``columns`` (S,).

    The class token's is zero. MoCo v3 (section 4.3.2 and its code) puts all sines of the row first, then its cosines, then the
    column's; with ``interleaved`` the four alternate from high to low frequency, so that any first channels tell both coordinates.
    """
    frequencies = TEMPERATURE ** -(torch.arange(dim // 4, dtype=torch.float32, device=rows.device) / (dim // 4))
    row, column = (torch.outer(grid.flatten(), frequencies) for grid in torch.meshgrid(rows, columns, indexing="ij"))
    waves = torch.stack([row.sin(), row.cos(), column.sin(), column.cos()], dim=2 if interleaved else 1)
    return F.pad(waves.flatten(1), (0, 0, 1, 0))[None]


class VisionTransformer(Encoder):
    """Images (B, 3, H, W), H and W multiples of the patch size, to the class token's features (B, D(w)).

    Feature maps, and the pixels of hidden patches, need all patches: they are not of sub-networks that leave some out.

    The position embedding is that of ``size`` pixels; for other sizes it is computed anew, its coordinates stretched over
    the same range.

    Args:
        size: input size in pixels that the position embedding is made for.
        patch_size: side of a patch in pixels.
        dim, depth, heads: embedding, blocks and attention heads of the full width; the depth is a multiple of 4.
        slimming: ``input`` or ``heads``.
    """

    can_recompute = True  # see recomputed

    def __init__(self, size: int, patch_size: int, dim: int, depth: int, heads: int, slimming: str = "input"):
        super().__init__()
        if dim % (4 * heads) or depth % 4 or size % patch_size:
            raise ValueError(
                f"dim {dim} must be a multiple of 4 * heads ({heads}), depth {depth} of 4, size {size} of the patch "
                f"size {patch_size}"
            )
        rules = Slimming.named(slimming, dim, heads)
        self.patch_size, self.grid_size, self.interleaved = patch_size, size // patch_size, slimming == "heads"
        self.patch_embed = PatchEmbed(rules.stream, patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.feature_rule, self.stage_rules = rules.stream, [rules.stream] * 4
        side = self.grid_size
        self.pos_embed = nn.Parameter(self.positions(side, side, self.cls_token.device), requires_grad=False)
        self.resize, self.keep = Resize(patch_size), KeepPatches()
        self.blocks = nn.Sequential(*(Block(rules.of_block(index, heads), dim // heads) for index in range(depth)))
        for index, block in enumerate(self.blocks):
            block.stage, block.place, block.optional = 4 * index // depth, index % (depth // 4), index > 0
        self.norm = SlimmableLayerNorm(rules.stream)
        for layer in slimmable_layers(self):
            if isinstance(layer, SlimmableLinear):
                layer.grouped_inputs = True
        self._initialise()

    def _initialise(self) -> None:
        """MoCo v3's: Xavier-uniform weights, q, k and v each as a layer of its own, zero biases."""
        for layer in slimmable_layers(self):
            if isinstance(layer, SlimmableLinear):
                bound = math.sqrt(6 / (layer.channels_in.channels + layer.channels_out.channels))
                nn.init.uniform_(layer.weight, -bound, bound)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.cls_token, std=1e-6)
        projection = self.patch_embed.proj
        nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))

    def freeze_patch_projection(self) -> None:
        self.patch_embed.proj.requires_grad_(False)

    def parameters_at(self, width: Width) -> dict[str, Tensor]:
        channels = self.feature_rule(width)
        return {"cls_token": self.cls_token[..., :channels], "pos_embed": self.pos_embed[..., :channels]}

    def positions(self, height: int, width: int, device: torch.device) -> Tensor:
        """Position embedding (1, 1 + height * width, dim) of a grid of patches that spans the range of the configured one."""
        rows, columns = (
            (torch.arange(n, dtype=torch.float32, device=device) + 0.5) * (self.grid_size / n) - 0.5 for n in (height, width)
        )
        return position_embedding(rows, columns, self.feature_rule.channels, self.interleaved)

    def _tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embedded tokens (B, 1 + N, C(w)), the class token first, and the grid of the N patches."""
        x = self.resize(x)
        height, width = x.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"an image of {height} x {width} pixels is not a whole number of patches of {self.patch_size}")
        patches = self.patch_embed(x)
        grid, channels = tuple(patches.shape[-2:]), patches.shape[1]
        configured = grid == (self.grid_size, self.grid_size)
        positions = (self.pos_embed if configured else self.positions(*grid, x.device))[..., :channels]  # type: ignore[call-arg]
        patches = patches.flatten(2).transpose(1, 2) + positions[:, 1:]
        first = (self.cls_token[..., :channels] + positions[:, :1]).expand(x.shape[0], -1, -1)
        return torch.cat([first, patches], dim=1), grid

    def visible_tokens(self, x: Tensor, visible: Tensor) -> Tensor:
        """Tokens (B, 1 + V, C(w)), the class token first, of images whose patches ``visible`` (B, V), int64, alone are seen.

        Raises:
            ValueError: the sub-network leaves patches out itself.
        """
        self._check_whole("masked images")
        tokens = self._tokens(x)[0]
        seen = tokens[:, 1:].gather(1, visible[..., None].expand(-1, -1, tokens.shape[2]))
        return self.norm(self._through(torch.cat([tokens[:, :1], seen], dim=1)))

    def channel_groups(self, after: Sequence[nn.Module]) -> list[Channels]:
        """Channels that can be reordered: the heads and the hidden layer of each block. The order of the residual stream, and so of
        the features that ``after`` reads, is that of the position embedding, which is computed anew for other image sizes.
        """
        return [
            group
            for block in self.blocks
            for group in (
                Channels([block.attn.qkv], [block.attn.proj], block.attn.head_dim),
                Channels([block.mlp.fc1], [block.mlp.fc2]),
            )
        ]

    def stages(self, x: Tensor) -> list[Tensor]:
        """Patch features after each quarter of the blocks, before the last LayerNorm: four maps (B, C(w), H/p, W/p).

        Raises:
            ValueError: the sub-network leaves patches out.
        """
        self._check_whole("feature maps")
        tokens, grid = self._tokens(x)
        maps = []
        for index, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if index % (len(self.blocks) // 4) == 0:
                maps.append(tokens[:, 1:].transpose(1, 2).unflatten(2, grid))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self._through(self.keep(*self._tokens(x)))[:, 0])

    def _check_whole(self, what: str) -> None:
        if self.keep.share is not None:
            raise ValueError(f"{what} need all patches, and p{self.keep.share:g} leaves some out; leave out p{self.keep.share:g}")

    def _through(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C(w)) behind all blocks."""
        for block in self.blocks:
            again = self.recompute and torch.is_grad_enabled() and isinstance(block, Block)
            tokens = recomputed(block, tokens) if again else block(tokens)
        return tokens


def recomputed(block: Block, tokens: Tensor) -> Tensor:
    """``block`` of tokens (B, N, C(w)), whose activations are not kept but computed again in the backward pass, at the same width
    (activation checkpointing, arXiv 1604.06174).
    """
    width = block.width

    def run(x: Tensor) -> Tensor:
        with at_width(block, width):  # the backward pass comes when the network is at another one
            return block(x)

    return checkpoint(run, tokens, use_reentrant=False)


# dim, depth and heads. The small ones have heads of 32 channels, as MoCo v3 and the authors of US3L have them (timm: 64).
SIZES = {"tiny": (192, 12, 6), "small": (384, 12, 12), "base": (768, 12, 12)}


def architectures() -> dict[str, partial[VisionTransformer]]:
    """Every ViT by name: ``vit_SIZE`` (224 pixels, patch 16), ``vit_SIZE_cifar`` (32, patch 4) and ``vit_micro`` (16, patch 4).

    These are slimmed by ``input``; names that end in ``_heads`` are slimmed by ``heads``.
    """
    table = {}
    for slimming, suffix in (("input", ""), ("heads", "_heads")):
        for name, (dim, depth, heads) in SIZES.items():
            table[f"vit_{name}{suffix}"] = partial(VisionTransformer, 224, 16, dim, depth, heads, slimming)
            table[f"vit_{name}_cifar{suffix}"] = partial(VisionTransformer, 32, 4, dim, depth, heads, slimming)
        table[f"vit_micro{suffix}"] = partial(VisionTransformer, 16, 4, 64, 4, 4, slimming)
    return table
