"""Statistics of a batch that losses of redundancy reduction are made of."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-5  # of a variance, as BatchNorm's


def standardised(x: Tensor) -> Tensor:
    """Rows (B, D) with mean 0 and (biased) variance 1 of every dimension over the batch."""
    return (x - x.mean(0)) / (x.var(0, unbiased=False) + EPSILON).sqrt()


def covariance(x: Tensor) -> Tensor:
    """Unbiased covariance (D, D) of rows (B, D)."""
    centred = x - x.mean(0)
    return centred.T @ centred / max(len(x) - 1, 1)


def off_diagonal_sum(matrix: Tensor) -> Tensor:
    """The sum of a square matrix without its diagonal, a scalar."""
    return matrix.sum() - matrix.diagonal().sum()


def whitened(x: Tensor, group: int, epsilon: float) -> Tensor:
    """Rows (B, D) with mean 0 and identity covariance within each ``group`` of consecutive dimensions, by Cholesky factors.

    The covariance of a group is S = (1 - epsilon) cov + epsilon I = L L^T, its rows become (x - mean) L^-T.
    """
    parts = []
    for part in (x - x.mean(0)).split(group, dim=1):
        eye = torch.eye(part.shape[1], dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky((1 - epsilon) * covariance(part) + epsilon * eye)
        parts.append(torch.linalg.solve_triangular(factor, part.T, upper=False).T)
    return torch.cat(parts, dim=1)


@torch.no_grad()
def balanced_codes(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes (B, K), a distribution a row, that use all K prototypes about alike, of scores (B, K).

    The entropic assignment of SwAV (arXiv 2006.09882, eq. 3 and its pseudo-code) by Sinkhorn-Knopp steps, on logarithms.
    """
    logits = scores / epsilon
    for _ in range(iterations):
        logits = logits - logits.logsumexp(0, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()
