"""Prototypes at the end of the projector, as SwAV (arXiv 2006.09882) and DINO (arXiv 2104.14294) have them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.config import Config
from rundir.errors import UserError


class Prototypes(nn.Module):
    """Rows (B, D) to their cosines (B, K) with K learned directions: an L2 normalisation and a linear layer with unit rows."""

    def __init__(self, dim: int, count: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim) / dim**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) @ F.normalize(self.weight, dim=1).T


def check_prototypes(cfg: Config, base_loss: str) -> None:
    """Raise :class:`UserError` where ``base_loss`` is to be trained without prototypes."""
    if cfg.objective.base_loss == base_loss and not cfg.model.prototypes:
        raise UserError(
            f"objective.base_loss={base_loss} compares distributions over prototypes; set for example model.prototypes=64"
        )
