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
        neighbours = nearest(features, k)
        self.is_neighbour = torch.zeros(len(features), len(features), dtype=torch.bool, device=features.device)
        self.is_neighbour.scatter_(1, neighbours, True)


def overlap(own: Features, full: Reference) -> float:
    """Agreement with the full network: share of an image's ``k`` nearest other images, by cosine, that are so in the full network's
    features too; mean over images. ``transfer.analysis.measures.neighbour_overlap`` of the same features.
    """
    return float(full.is_neighbour.gather(1, nearest(own.plain, full.k)).float().mean())


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
    unit, found = F.normalize(features, dim=1), []
    for part, rows in _chunks(unit, len(unit)):
        similarity = part @ unit.T
        similarity.scatter_(1, rows[:, None], -math.inf)
        found.append(similarity.topk(k, dim=1, sorted=False).indices)
    return torch.cat(found)


def _chunks(features: Tensor, columns: int):
    rows = max(1, CHUNK_ELEMENTS // columns)
    return zip(features.split(rows), torch.arange(len(features), device=features.device).split(rows), strict=True)
