"""The patches that the blocks of a ViT compute on: a share of them, evenly spread, the others being left out (PatchDropout, arXiv
2208.07220).

Left out are always the same ones, of every image, in training and afterwards: a sub-network is one network, and what is trained is
what is used. (PatchDropout draws them anew for each image, since it uses the network with all patches.) They are left out behind
the patch projection, with the position embeddings that are theirs; the class token stays.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from pretrain.slimmable.base import AtWidth
from rundir.subnet import Subnet, Width


@functools.lru_cache(maxsize=256)
def patch_order(height: int, width: int) -> tuple[int, ...]:
    """The patches of a grid, numbered row by row, in the order in which they are kept: of any first ones each part of the image has
    about the same share.

    By the thresholds of ordered dithering (Bayer, ICC 1973): the bits of row and column interleaved, the lowest counting most. A
    quarter of the patches are every second one of every second row, a half a chequerboard.
    """
    bits = range(max(height, width).bit_length())

    def threshold(patch: int) -> int:
        row, column = divmod(patch, width)
        digits = ((row >> bit & 1 ^ column >> bit & 1) << 1 | row >> bit & 1 for bit in bits)
        return functools.reduce(lambda above, digit: above << 2 | digit, digits, 0)

    return tuple(sorted(range(height * width), key=threshold))


def patches_kept(height: int, width: int, share: float) -> int:
    """How many patches of a grid are kept: the nearest number to ``share`` of them.

    Raises:
        ValueError: that is none.
    """
    patches = height * width
    kept = math.floor(share * patches + 0.5)
    if not kept:
        raise ValueError(
            f"p{share:g} keeps none of the {patches} patches of an image; set p{math.ceil(1e4 / patches) / 1e4:g} or more"
        )
    return kept


@functools.lru_cache(maxsize=256)
def places_kept(height: int, width: int, share: float) -> tuple[int, ...]:
    """The numbers, rising, of the patches of a grid that are kept. Those of a smaller share are among those of a larger one."""
    return tuple(sorted(patch_order(height, width)[: patches_kept(height, width, share)]))


class KeepPatches(AtWidth):
    """Tokens (B, 1 + N, C) of a ``grid`` of N patches, the class token first, to those (B, 1 + K, C) that the sub-network keeps."""

    @property
    def share(self) -> float | None:
        """Of the patches; None: all of them."""
        return share_of(self.width)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return tokens_kept(tokens, grid, self.share)


class KeptPatches(nn.Module):
    """:class:`KeepPatches` of an extracted sub-network."""

    def __init__(self, share: float | None):
        super().__init__()
        self.share = share

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return tokens_kept(tokens, grid, self.share)


def share_of(width: Width) -> float | None:
    """The share of the patches that ``width`` keeps; None: all of them."""
    return width.patches if isinstance(width, Subnet) else None


def tokens_kept(tokens: Tensor, grid: tuple[int, int], share: float | None) -> Tensor:
    """The class token and the kept patches of ``tokens`` (B, 1 + N, C); None: all of them."""
    if share is None:
        return tokens
    places = torch.tensor([0, *(1 + place for place in places_kept(*grid, share))], device=tokens.device)
    return tokens.index_select(1, places)
