"""Scores of a sub-network that need no label, each higher for a better one.

Features are rows (N, D) of N images, float32. All take milliseconds, so that thousands of sub-networks can be scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from transfer.analysis import measures

CHUNK_ELEMENTS = 2**24  # similarities held at once


@dataclass(frozen=True)
class Features:
    """What a sub-network gives: ``plain`` (N, D) for the images as they are; ``first`` and ``second`` (N, D) for two augmented
    views of each, where they are needed.
    """

    plain: Tensor
    first: Tensor | None = None
    second: Tensor | None = None


class Reference:
    """What sub-networks are compared with: the full network's features (N, D), and each image's ``k`` nearest others in them."""

    def __init__(self, features: Tensor, k: int):
        self.features, self.k = features, k
        self.neighbours = nearest(features, k)


def overlap(own: Features, full: Reference) -> float:
    """Agreement with the full network: share of an image's ``k`` nearest other images, by cosine, in the full network's features
    that are so in its own; mean over images. ``transfer.analysis.measures.neighbour_overlap`` of the same features, but that a tie
    for the last place counts for none of those that tie: features that are all alike agree with nothing.

    An image is among the k nearest where at most k are as near as it. Of the full network's neighbours, from near to far, those
    that are form the beginning, whose end bisection finds by counting: a third of the time of choosing the k nearest.
    """
    unit, found = F.normalize(own.plain, dim=1), 0
    for part, rows in _chunks(unit, len(unit)):
        similarity = _to_others(part, rows, unit)
        candidates = similarity.gather(1, full.neighbours[rows]).sort(1, descending=True).values
        found += int(_leading(similarity, candidates, full.k).sum())
    return found / full.neighbours.numel()


def _leading(similarity: Tensor, candidates: Tensor, k: int) -> Tensor:
    """How many (n,) of each row's ``candidates`` (n, k), descending, at most ``k`` values of ``similarity`` (n, N) reach."""
    least = torch.zeros(len(similarity), 1, dtype=torch.int64, device=similarity.device)
    most = torch.full_like(least, k)
    reach = torch.empty_like(similarity)  # a comparison into floats and their sum are vectorised, those of booleans are not
    for _ in range(k.bit_length()):
        middle = (least + most + 1) // 2
        torch.ge(similarity, candidates.gather(1, (middle - 1).clamp(min=0)), out=reach)
        fits = reach.sum(1, keepdim=True) <= k
        least, most = torch.where(fits, middle, least), torch.where(fits, most, middle - 1)
    return least.squeeze(1)


def cka(own: Features, full: Reference) -> float | None:
    """Agreement with the full network: linear CKA of the features (:func:`transfer.analysis.measures.linear_cka`)."""
    return measures.linear_cka(own.plain, full.features)


def rankme(own: Features, full: Reference) -> float | None:
    """Effective rank of the features (:func:`transfer.analysis.measures.rankme`); it grows with their number too."""
    return measures.rankme(own.plain)


def views(own: Features, full: Reference) -> float:
    """k-NN on unlabelled pairs, k = 1: how often, of two views of each image, the nearest second view (by cosine) of a first one is
    that of the same image; mean of both directions. Its chance is 1 / N.
    """
    assert own.first is not None and own.second is not None
    a, b = (F.normalize(features, dim=1) for features in (own.first, own.second))
    return (_found(a, b) + _found(b, a)) / 2


def _found(queries: Tensor, keys: Tensor) -> float:
    """Share of the rows of ``queries`` whose nearest key is the one of the same number."""
    hits = 0
    for part, rows in _chunks(queries, len(keys)):
        hits += int(((part @ keys.T).argmax(1) == rows).sum())
    return hits / len(queries)


Score = Callable[[Features, Reference], "float | None"]
SCORES: dict[str, Score] = {"overlap": overlap, "cka": cka, "rankme": rankme, "views": views}
MEANINGS = {
    "overlap": "share of nearest neighbours that the full network has too",
    "cka": "linear CKA with the full network",
    "rankme": "effective rank of the features",
    "views": "share of views whose nearest is the other view of the same image",
}


def score(name: str, own: Features, full: Reference) -> float | None:
    """The score called ``name``; None where it is undefined or the features are not finite."""
    if not bool(own.plain.isfinite().all()):
        return None
    value = SCORES[name](own, full)
    return value if value is not None and math.isfinite(value) else None


def nearest(features: Tensor, k: int) -> Tensor:
    """Numbers (N, k) int64 of each image's nearest others by cosine, in no order."""
    unit = F.normalize(features, dim=1)
    parts = _chunks(unit, len(unit))
    return torch.cat([_to_others(part, rows, unit).topk(k, dim=1, sorted=False).indices for part, rows in parts])


def _to_others(part: Tensor, rows: Tensor, unit: Tensor) -> Tensor:
    """Similarities (n, N) of rows ``rows`` of ``unit`` (N, D), which are ``part``, to all; to themselves, −∞."""
    return (part @ unit.T).scatter_(1, rows[:, None], -math.inf)


def _chunks(features: Tensor, columns: int):
    rows = max(1, CHUNK_ELEMENTS // columns)
    return zip(features.split(rows), torch.arange(len(features), device=features.device).split(rows), strict=True)
