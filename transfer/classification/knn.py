"""Weighted k-nearest-neighbour classification of frozen features.

Every neighbour votes for its class with weight exp(cosine similarity / temperature), as in instance discrimination
(arXiv 1805.01978, section 3.4) and DINO (arXiv 2104.14294).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from transfer.classification.rows import Rows, blocks

K, TEMPERATURE = 20, 0.07
CHUNK_ELEMENTS = 2**25  # similarities held at once
BLOCK = 2**17  # training images at once; more give the same votes up to the rounding of the similarities


def knn_votes(train: Rows, labels: Tensor, queries: Rows, classes: int, k: int = K, temperature: float = TEMPERATURE) -> Tensor:
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
    return torch.cat(list(_votes(train, labels, queries, classes, k, temperature)))


def knn_predict(train: Rows, labels: Tensor, queries: Rows, classes: int, k: int = K, temperature: float = TEMPERATURE) -> Tensor:
    """The class (M,) int64 with the most weight among the ``k`` nearest of ``train``; see :func:`knn_votes`."""
    return torch.cat([votes.argmax(1) for votes in _votes(train, labels, queries, classes, k, temperature)])


def _votes(train: Rows, labels: Tensor, queries: Rows, classes: int, k: int, temperature: float) -> Iterator[Tensor]:
    """The rows of :func:`knn_votes` in parts.

    The training features are read once, block by block; of each query the nearest so far are kept.
    """
    if not 1 <= k <= len(train):
        raise ValueError(f"k={k} is not between 1 and the {len(train)} training images")
    rows = max(1, CHUNK_ELEMENTS // min(len(train), BLOCK))
    best: list[tuple[Tensor, Tensor]] = []
    for number, block in enumerate(blocks(train, BLOCK)):
        block = F.normalize(block, dim=1)
        for part, asked in enumerate(blocks(queries, rows)):
            similarity, nearest = (F.normalize(asked, dim=1) @ block.T).topk(min(k, len(block)), dim=1)
            nearest = nearest + number * BLOCK
            if number == 0:
                best.append((similarity, nearest))
                continue
            similarity, nearest = (torch.cat(pair, 1) for pair in zip(best[part], (similarity, nearest), strict=True))
            similarity, order = similarity.topk(min(k, similarity.shape[1]), dim=1)
            best[part] = similarity, nearest.gather(1, order)
    for similarity, nearest in best:
        votes = similarity.new_zeros(len(similarity), classes)
        yield votes.scatter_add_(1, labels[nearest], torch.softmax(similarity / temperature, dim=1))
