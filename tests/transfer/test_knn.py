"""Weighted k-NN against a loop, against scikit-learn, and by its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from tests.transfer.clusters import clusters, on_disk
from transfer.classification import knn
from transfer.classification.knn import knn_predict, knn_votes


def votes_by_loop(train, labels, queries, classes, k, temperature):
    """The definition, one query and one neighbour at a time."""
    rows = []
    for query in queries.tolist():
        similar = []
        for vector, label in zip(train.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, vector, strict=True))
            similar.append((dot / math.hypot(*query) / math.hypot(*vector), label))
        row = [0.0] * classes
        for similarity, label in sorted(similar, reverse=True)[:k]:
            row[label] += math.exp(similarity / temperature)
        rows.append([value / sum(row) for value in row])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(("count", "dim", "classes", "k"), [(1, 1, 1, 1), (7, 3, 2, 7), (31, 5, 4, 1), (53, 13, 11, 9)])
def test_equals_the_loop(count, dim, classes, k):
    train, labels = clusters(1, count, dim, classes)
    queries, _ = clusters(2, 5, dim, classes)
    expected = votes_by_loop(train, labels, queries, classes, k, 0.07)
    assert torch.allclose(knn_votes(train, labels, queries, classes, k), expected, atol=1e-12)


def test_equals_scikit_learn():
    train, labels = clusters(3, 400, 24, 7, torch.float32)
    queries, _ = clusters(4, 150, 24, 7, torch.float32)
    reference = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    reference.fit(train.double().numpy(), labels.numpy())
    votes = knn_votes(train, labels, queries, 7)
    np.testing.assert_allclose(votes, reference.predict_proba(queries.double().numpy()), atol=1e-4)
    assert (knn_predict(train, labels, queries, 7).numpy() == reference.predict(queries.double().numpy())).mean() > 0.99


def test_chunks_change_nothing(monkeypatch):
    train, labels = clusters(5, 60, 6, 3)
    queries, _ = clusters(6, 23, 6, 3)
    whole = knn_votes(train, labels, queries, 3, 5)
    monkeypatch.setattr(knn, "CHUNK_ELEMENTS", 4 * len(train))  # four queries at once, the last time three
    assert torch.allclose(knn_votes(train, labels, queries, 3, 5), whole, atol=1e-14)


@pytest.mark.parametrize("block", [60, 59, 16, 1])
def test_blocks_of_the_training_images_change_nothing(monkeypatch, tmp_path, block):
    train, labels = clusters(5, 60, 6, 3, torch.float32)
    queries, _ = clusters(6, 23, 6, 3, torch.float32)
    whole = knn_votes(train, labels, queries, 3, 20)
    monkeypatch.setattr(knn, "BLOCK", block)
    monkeypatch.setattr(knn, "CHUNK_ELEMENTS", 4 * block)
    mapped = on_disk(train, tmp_path), on_disk(queries, tmp_path)
    for some, asked in ((train, queries), mapped):
        assert torch.allclose(knn_votes(some, labels, asked, 3, 20), whole, atol=1e-6)
        assert torch.equal(knn_predict(some, labels, asked, 3, 20), whole.argmax(1))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 30), exponent=st.integers(-20, 20))
def test_scale_of_a_feature_vector_does_not_matter(seed, k, exponent):
    train, labels = clusters(seed, 30, 5, 4)
    queries, _ = clusters(seed + 1, 8, 5, 4)
    scales = 2.0**exponent * torch.logspace(-1, 1, 30, dtype=torch.float64)[:, None]
    scaled = knn_votes(train * scales, labels, queries * 2.0**-exponent, 4, k)
    assert torch.allclose(scaled, knn_votes(train, labels, queries, 4, k), atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 30))
def test_order_of_the_training_images_does_not_matter(seed, k):
    train, labels = clusters(seed, 30, 5, 4)
    queries, _ = clusters(seed + 1, 8, 5, 4)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    shuffled = knn_votes(train[order], labels[order], queries, 4, k)
    assert torch.allclose(shuffled, knn_votes(train, labels, queries, 4, k), atol=1e-9)


@pytest.mark.parametrize("k", [0, 6])
def test_k_must_be_in_range(k):
    train, labels = clusters(7, 5, 3, 2)
    with pytest.raises(ValueError, match=f"k={k} is not between 1 and the 5 training images"):
        knn_predict(train, labels, train, 2, k)
