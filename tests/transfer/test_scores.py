"""Scores against scikit-learn, and which one is a data set's convention."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from pretrain.data.sources import NAMES
from transfer.classification.scores import SCORES, chance, mean_per_class, measured, score_of, top1

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@settings(max_examples=60, deadline=None)
@given(pairs=PAIRS)
def test_scores_equal_scikit_learns(pairs):
    predicted, labels = (torch.tensor(column) for column in zip(*pairs, strict=True))
    assert top1(predicted, labels) == pytest.approx(accuracy_score(labels, predicted))
    assert mean_per_class(predicted, labels) == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_chance_is_the_score_of_the_best_constant():
    labels = torch.tensor([0, 1, 1, 1, 3])
    assert chance("top1", labels) == 0.6
    assert chance("mean_per_class", labels) == pytest.approx(1 / 3)
    for name, score in SCORES.items():
        assert chance(name, labels) == pytest.approx(max(score(torch.full_like(labels, k), labels) for k in range(4)))


def test_customs():
    assert {name for name in NAMES if score_of(name) == "mean_per_class"} == {"flowers102", "pets", "aircraft", "caltech101"}


@settings(max_examples=30, deadline=None)
@given(pairs=PAIRS)
def test_a_score_comes_with_the_images_that_are_right_and_the_error_that_their_choice_makes(pairs):
    predicted, labels = (torch.tensor(column) for column in zip(*pairs, strict=True))
    found = measured("top1", predicted, labels)
    right, count = accuracy_score(labels, predicted, normalize=False), len(pairs)
    assert found["correct"] == right and found["value"] == top1(predicted, labels)
    assert found["image_error"] == pytest.approx(stats.beta(right + 0.5, count - right + 0.5).std())
    by_class = measured("mean_per_class", predicted, labels)
    parts = [(predicted[labels == k] == k) for k in sorted(set(labels.tolist()))]
    errors = [stats.beta(int(part.sum()) + 0.5, len(part) - int(part.sum()) + 0.5).std() for part in parts]
    assert by_class["correct"] == right and by_class["value"] == mean_per_class(predicted, labels)
    assert by_class["image_error"] == pytest.approx(sum(error**2 for error in errors) ** 0.5 / len(parts))
