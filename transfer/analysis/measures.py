"""Label-free measures of features, each a formula of its paper, in float64.

Features are rows: (N, D) of N images, or (N, V, D) of V views of each. A measure that is undefined (features that are not finite,
or all equal where that matters) is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import wraps

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

EPSILON = 1e-7  # added to each share of a spectrum (RankMe section 3, LiDAR eq. 1)
DELTA = 1e-4  # added to the diagonal of LiDAR's within-class scatter
TINY = 1e-12  # a spread below this is none
CHUNK_ELEMENTS = 2**24  # similarities held at once

Measure = Callable[..., float | None]


def _defined(measure: Measure) -> Measure:
    """``measure`` of its tensors in float64; None where one of them, or the value, is not finite."""

    @wraps(measure)
    def checked(*arguments: Tensor | float, **more: float) -> float | None:
        tensors = [each for each in arguments if isinstance(each, Tensor)]
        if not all(bool(each.isfinite().all()) for each in tensors):
            return None
        value = measure(*(each.double() if isinstance(each, Tensor) else each for each in arguments), **more)
        return value if value is not None and math.isfinite(value) else None

    return checked


@_defined
def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance between the unit-length features of two views of an image (Wang and Isola, arXiv 2005.10242, section
    4.1, with exponent 2); from 0, where both views are one point, to 4. Both (..., D).
    """
    return float((F.normalize(first, dim=-1) - F.normalize(second, dim=-1)).square().sum(-1).mean())


@_defined
def uniformity(features: Tensor) -> float:
    """Logarithm of the mean over pairs of images of exp(-2 squared distance) of unit-length features (N, D), N > 1
    (arXiv 2005.10242, section 4.1, with t = 2); from 0, where all are one point, down to about -4.
    """
    unit, count = F.normalize(features, dim=1), len(features)
    total = 0.0
    for part, rows in _chunks(unit, count):
        near = (4 * (part @ unit.T).clamp(-1, 1) - 4).exp()  # ||a - b||^2 = 2 - 2 a.b
        near[torch.arange(len(part)), rows] = 0
        total += float(near.sum())
    return math.log(total / (count * (count - 1)))


@_defined
def rankme(features: Tensor) -> float | None:
    """RankMe (Garrido et al., arXiv 2210.02885, eq. 1): exp of the entropy of the singular values of features (N, D) as shares of
    their sum; from 1 to min(N, D). The features are not centred.
    """
    return _spectrum_rank(torch.linalg.svdvals(features))


@_defined
def lidar(views: Tensor) -> float | None:
    """LiDAR (Thilak et al., arXiv 2312.04000, section 4) of features (N, V, D), V > 1: each image is a class, its views are the
    class's members, and the rank is that of the linear discriminant matrix, exp of the entropy of its eigenvalues as shares of
    their sum. From 1 to min(N - 1, D). Scatter matrices are the unbiased estimates, the within-class one plus 1e-4 on its
    diagonal.
    """
    images, count, _ = views.shape
    means = views.mean(1)
    spread = (views - means[:, None]).flatten(0, 1)
    values, vectors = torch.linalg.eigh(spread.T @ spread / (images * (count - 1)))
    whitening = vectors * (values.clamp(min=0) + DELTA).rsqrt()
    return _spectrum_rank(torch.linalg.svdvals((means - means.mean(0)) @ whitening).square() / (images - 1))


def _spectrum_rank(values: Tensor) -> float | None:
    total = float(values.sum())
    if total <= TINY:
        return None
    share = values / total + EPSILON
    return float((-share * share.log()).sum().exp())


@_defined
def linear_cka(first: Tensor, second: Tensor) -> float | None:
    """Linear centred kernel alignment (Kornblith et al., arXiv 1905.00414, eq. 5) of two networks' features of the same images,
    (N, D) and (N, E); from 0 to 1, where they are equal up to rotation and scale.
    """
    x, y = first - first.mean(0), second - second.mean(0)
    scale = torch.linalg.norm(x.T @ x) * torch.linalg.norm(y.T @ y)
    return float(torch.linalg.norm(x.T @ y).square() / scale) if float(scale) > TINY else None


@_defined
def neighbour_overlap(first: Tensor, second: Tensor, k: int) -> float:
    """Share of an image's ``k`` nearest other images, by cosine, that are so in both features, (N, D) and (N, E), k < N; mean over
    images. What two unrelated networks have in common is about k / (N - 1).
    """
    a, b = (_nearest(features, k) for features in (first, second))
    return float((a[:, :, None] == b[:, None, :]).double().sum() / a.numel())


@_defined
def order_agreement(first: Tensor, second: Tensor) -> float | None:
    """Spearman's rho between the cosine similarities of an image to all others in two features, (N, D) and (N, E), N > 2; mean over
    images. 1 where both put all images in the same order. Images that are equally far from all others do not count.
    """
    one, two = F.normalize(first, dim=1), F.normalize(second, dim=1)
    found = []
    for part, rows in _chunks(one, len(one)):
        ranks = [_ranks(part @ one.T, rows), _ranks(two[rows] @ two.T, rows)]
        centred = [rank - rank.mean(1, keepdim=True) for rank in ranks]
        scale = (centred[0].square().sum(1) * centred[1].square().sum(1)).sqrt()
        found.append(((centred[0] * centred[1]).sum(1) / scale)[scale > TINY])
    values = torch.cat(found)
    return float(values.mean()) if len(values) else None


def _ranks(similarities: Tensor, rows: Tensor) -> Tensor:
    """Average ranks (R, N - 1) of similarities (R, N), without each row's image itself."""
    others = torch.ones_like(similarities, dtype=torch.bool)
    others[torch.arange(len(rows)), rows] = False
    kept = similarities[others].view(len(rows), -1).round(decimals=9)  # equal vectors' products differ by rounding
    return torch.from_numpy(stats.rankdata(kept.cpu().numpy(), axis=1)).to(similarities)


def _nearest(features: Tensor, k: int) -> Tensor:
    """Indices (N, k) of each image's nearest others."""
    unit = F.normalize(features, dim=1)
    found = []
    for part, rows in _chunks(unit, len(unit)):
        similarities = part @ unit.T
        similarities[torch.arange(len(rows)), rows] = -math.inf
        found.append(similarities.topk(k, dim=1).indices)
    return torch.cat(found)


def _chunks(features: Tensor, columns: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of ``features`` and their indices, few enough that a matrix of them with ``columns`` columns fits into memory."""
    rows = max(1, CHUNK_ELEMENTS // columns)
    yield from zip(features.split(rows), torch.arange(len(features), device=features.device).split(rows), strict=True)
