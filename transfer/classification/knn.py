"""Weighted k-nearest-neighbour classification of frozen features.

Every neighbour votes for its class with weight exp(cosine similarity / temperature), as in instance discrimination
(arXiv 1805.01978, section 3.4) and DINO (arXiv 2104.14294).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

K, TEMPERATURE = 20, 0.07
CHUNK_ELEMENTS = 2**25  # similarities held at once


def knn_votes(train: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int = K,
              temperature: float = TEMPERATURE) -> Tensor:
    """Share of the neighbours' weight that each class gets.

    Args:
        train: features (N, D), floating; labels: their classes (N,), int64.
        queries: features (M, D) of the images to classify.
        k: neighbours, in [1, N].

    Returns:
        (M, classes) in the dtype of ``train``, rows summing to 1.

    Raises:
        ValueError: ``k`` is not in [1, N].
    """
    if not 1 <= k <= len(train):
        raise ValueError(f"k={k} is not between 1 and the {len(train)} training images")
    train, votes = F.normalize(train, dim=1), queries.new_zeros(len(queries), classes)
    rows = max(1, CHUNK_ELEMENTS // len(train))
    for part, out in zip(F.normalize(queries, dim=1).split(rows), votes.split(rows), strict=True):
        similarity, nearest = (part @ train.T).topk(k, dim=1)
        out.scatter_add_(1, labels[nearest], torch.softmax(similarity / temperature, dim=1))
    return votes


def knn_predict(train: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int = K,
                temperature: float = TEMPERATURE) -> Tensor:
    """The class (M,) int64 with the most weight among the ``k`` nearest of ``train``; see :func:`knn_votes`."""
    return knn_votes(train, labels, queries, classes, k, temperature).argmax(1)
