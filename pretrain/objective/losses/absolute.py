"""Absolute distance: a student's output should be where its target is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.slimmable.layers import wide


def negative_cosine(student: Tensor, target: Tensor) -> Tensor:
    """-mean_i cos(s_i, t_i), in [-1, 1], of rows (B, D) (SimSiam, arXiv 2011.10566, eq. 1).

    Half the squared distance of the unit vectors, less one: what the literature calls the MSE loss.
    """
    return -F.cosine_similarity(wide(student), wide(target.detach()), dim=1).mean()


def feature_distance(student: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Mean over stages of the mean squared error of feature maps (B, C_i, H_i, W_i) (METHOD section 7: feature distillation)."""
    return torch.stack([F.mse_loss(wide(s), wide(t.detach())) for s, t in zip(student, target, strict=True)]).mean()
