"""Label-free scores against slow independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from transfer.analysis import measures
from transfer.search import scores
from transfer.search.scores import SCORES, Features, Reference, score

SEEDS = st.integers(0, 10**6)


def features(seed, count=40, dim=6):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).abs()


@settings(deadline=None)
@given(SEEDS, st.integers(1, 10))
def test_overlap_is_that_of_scikit_learns_neighbours(seed, k):
    own, full = features(seed), features(seed + 1, dim=9)
    near = [
        NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(x).kneighbors(return_distance=False)
        for x in (own.double().numpy(), full.double().numpy())
    ]
    expected = np.mean([len(set(a) & set(b)) / k for a, b in zip(*near, strict=True)])
    assert scores.overlap(Features(own), Reference(full, k)) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(SEEDS, st.integers(2, 30), st.integers(1, 29), st.integers(1, 5))
def test_an_image_is_among_the_k_nearest_where_at_most_k_are_as_near(seed, count, k, levels):
    """Against counting in a loop, with many exact ties: features of few different values."""
    k = min(k, count - 1)
    generator = torch.Generator().manual_seed(seed)
    own = torch.randint(0, levels, (count, 2), generator=generator).float()
    reference = Reference(features(seed, count), k)
    unit = torch.nn.functional.normalize(own, dim=1)
    similarity = (unit @ unit.T).tolist()
    hits = 0
    for i in range(count):
        for j in reference.neighbours[i].tolist():
            hits += sum(similarity[i][other] >= similarity[i][j] for other in range(count) if other != i) <= k
    assert scores.overlap(Features(own), reference) == pytest.approx(hits / (count * k))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_collapsed_features_agree_with_nothing(value):
    assert scores.overlap(Features(torch.full((40, 6), value)), Reference(features(0), 5)) == 0


@settings(deadline=None)
@given(SEEDS)
def test_overlap_cka_and_rankme_are_those_of_the_analysis(seed):
    own, full = features(seed), features(seed + 1)
    reference = Reference(full, 5)
    assert scores.overlap(Features(own), reference) == pytest.approx(measures.neighbour_overlap(own, full, 5), abs=1e-6)
    assert scores.cka(Features(own), reference) == measures.linear_cka(own, full)
    assert scores.rankme(Features(own), reference) == measures.rankme(own)


@settings(deadline=None)
@given(SEEDS, st.floats(0.01, 1.0))
def test_views_is_the_share_of_pairs_found(seed, noise):
    first = features(seed)
    second = first + noise * features(seed + 1)
    a, b = (x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1, keepdims=True) for x in (first, second))
    hits = sum(max(range(40), key=lambda j: a[i] @ b[j]) == i for i in range(40))
    hits += sum(max(range(40), key=lambda j: b[i] @ a[j]) == i for i in range(40))
    own = Features(first, first, second)
    assert scores.views(own, Reference(first, 5)) == pytest.approx(hits / 80)


def test_the_full_network_agrees_with_itself():
    full = features(0)
    own = Features(full, full, full)
    found = {name: score(name, own, Reference(full, 5)) for name in SCORES}
    assert found["overlap"] == found["views"] == 1 and found["cka"] == pytest.approx(1)
    assert set(found) == set(scores.MEANINGS)


def test_chunks_change_nothing(monkeypatch):
    own, full = Features(features(0), features(1), features(2)), features(3)
    whole = {name: score(name, own, Reference(full, 5)) for name in SCORES}
    monkeypatch.setattr(scores, "CHUNK_ELEMENTS", 80)
    assert {name: score(name, own, Reference(full, 5)) for name in SCORES} == whole


def test_what_is_undefined_has_no_score():
    full = Reference(features(0), 5)
    broken = features(1)
    broken[3, 2] = float("nan")
    assert score("overlap", Features(broken), full) is None
    assert score("cka", Features(torch.ones(40, 6)), full) is None
