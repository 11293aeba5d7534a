"""Masked autoencoding (MAE, arXiv 2111.06377): most patches are hidden, and their pixels are to be told from the others.

The target is the image itself. It is the same whenever the image is seen, so there is no guidance that could drift.
"""

from __future__ import annotations

import random

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.config import Config
from pretrain.config.methods import BASE_LOSS, find
from pretrain.config.signatures import options_of
from pretrain.distributed import several
from pretrain.models.vit import MLP_RATIO, Block, Slimming, VisionTransformer, position_embedding
from pretrain.objective.base_losses.mae import HEAD_DIM
from pretrain.slimmable import ChannelRule, SlimmableLayerNorm, SlimmableLinear

EPSILON = 1e-6  # of the variance of a patch's pixels


class Decoder(nn.Module):
    """Tokens of the visible patches to the pixels of the hidden ones; but for its first layer's input it has one width.

    Which patches are hidden is drawn from ``seed``, the process and the number of passes so far, which checkpoints hold.

    Args:
        encoder: the ViT whose tokens it reads.
        mask: share of the patches that are hidden; at least one is, and at least one is not.
        dim, depth: of its transformer blocks.
        normalised: whether the pixels of a patch are given mean 0 and variance 1 first.
    """

    def __init__(self, encoder: VisionTransformer, seed: int, mask: float, dim: int, depth: int, normalised: bool):
        super().__init__()
        self.patch_size, self.seed, self.mask, self.dim, self.normalised = encoder.patch_size, seed, mask, dim, normalised
        self.passes = 0
        full = ChannelRule(dim, sliced=False)
        rules = Slimming(full, full, full, full, ChannelRule(MLP_RATIO * dim, sliced=False))
        self.embed = SlimmableLinear(encoder.feature_rule, dim, slice_out=False)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.blocks = nn.Sequential(*(Block(rules, HEAD_DIM) for _ in range(depth)))
        self.norm = SlimmableLayerNorm(full)
        self.predict = SlimmableLinear(dim, 3 * self.patch_size**2, slice_in=False, slice_out=False)

    def get_extra_state(self) -> int:
        return self.passes

    def set_extra_state(self, state: int) -> None:
        self.passes = state

    def forward(self, encoder: VisionTransformer, x: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted and true pixels, each (B, hidden * 3 * p * p), of the hidden patches of images (B, 3, H, W)."""
        height, width = (side // self.patch_size for side in x.shape[-2:])
        order = self._drawn(len(x), height * width).to(x.device)
        visible = order[:, : self.kept(height * width)]
        tokens = self.embed(encoder.visible_tokens(x, visible))
        everything = self.mask_token.to(tokens.dtype).expand(len(x), height * width, -1)
        everything = everything.scatter(1, visible[..., None].expand(-1, -1, self.dim), tokens[:, 1:])
        rows, columns = (torch.arange(n, dtype=torch.float32, device=x.device) for n in (height, width))
        positions = position_embedding(rows, columns, self.dim, interleaved=False)
        decoded = self.blocks(torch.cat([tokens[:, :1], everything], dim=1) + positions)
        hidden = order[:, visible.shape[1] :, None]
        predicted = self.predict(self.norm(decoded[:, 1:].gather(1, hidden.expand(-1, -1, self.dim))))
        pixels = self._pixels(x)
        return predicted.flatten(1), pixels.gather(1, hidden.expand(-1, -1, pixels.shape[2])).flatten(1)

    def kept(self, patches: int) -> int:
        """How many of so many patches are visible."""
        return min(max(1, round(patches * (1 - self.mask))), patches - 1)

    def _drawn(self, images: int, patches: int) -> Tensor:
        """A random order (B, N) of the patches of each image, the visible ones first."""
        self.passes += 1
        name = f"mask/{self.seed}/{dist.get_rank() if several() else 0}/{self.passes}"
        draw = torch.Generator().manual_seed(random.Random(name).getrandbits(63))
        return torch.rand(images, patches, generator=draw).argsort(dim=1)

    @torch.no_grad()
    def _pixels(self, x: Tensor) -> Tensor:
        """The pixels (B, N, 3 * p * p) of the patches of images (B, 3, H, W)."""
        pixels = F.unfold(x, self.patch_size, stride=self.patch_size).transpose(1, 2)
        if not self.normalised:
            return pixels
        return (pixels - pixels.mean(2, keepdim=True)) / (pixels.var(2, keepdim=True) + EPSILON).sqrt()


class Masked(nn.Module):
    """Encoder and decoder as one network of images (B, 3, H, W), for the cost of a pass."""

    def __init__(self, encoder: VisionTransformer, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder, x)[0]


def decoder_of(cfg: Config, encoder: nn.Module) -> Decoder | None:
    """The decoder that the base loss of ``cfg`` needs; None for other losses than ``mae``."""
    if cfg.objective.base_loss != "mae":
        return None
    options = options_of(find(BASE_LOSS, "mae"))(**cfg.objective.base_options)
    return Decoder(encoder, cfg.seed, options.mask, options.decoder_dim, options.decoder_depth, options.normalised)
