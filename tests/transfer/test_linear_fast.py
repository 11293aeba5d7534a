"""The fast linear probe against scikit-learn's LogisticRegression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.preprocessing import StandardScaler

from pretrain.checkpoints import open_checkpoint
from tests.transfer.clusters import clusters, on_disk
from transfer.classification import Options, linear_fast
from transfer.classification.linear_fast import fit
from transfer.classification.task import Task


def reference(features, labels, C):
    scaler = StandardScaler().fit(features)
    solver = Reference(C=C, tol=1e-9, max_iter=10000).fit(scaler.transform(features), labels)
    return lambda x: solver.predict_proba(scaler.transform(x)), solver


@pytest.mark.parametrize(("classes", "C"), [(2, 1.0), (3, 0.01), (5, 1.0), (5, 30.0)])
def test_equals_scikit_learn(classes, C):
    x, y = clusters(1, 240, 9, classes)
    queries, _ = clusters(2, 60, 9, classes)
    x, queries = x * 5 + 3, queries * 5 + 3  # far from standardised
    probabilities, solver = reference(x.numpy(), y.numpy(), C)
    ours = fit(x, y, classes, C, tolerance=1e-9)
    np.testing.assert_allclose(ours.weight, solver.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.logits(queries).softmax(1), probabilities(queries.numpy()), atol=1e-5)


def test_equals_scikit_learn_on_features_of_a_checkpoint(trained):
    task = Task(open_checkpoint(trained), None, None, Options(limit=300), torch.device("cpu"))
    task.prepare([0.5])
    features = task.features
    probabilities, _ = reference(features.train[0.5].double().numpy(), features.train_labels.numpy(), 1.0)
    ours = fit(features.train[0.5], features.train_labels, 10)
    expected = probabilities(features.val[0.5].double().numpy())
    np.testing.assert_allclose(ours.logits(features.val[0.5]).softmax(1), expected, atol=1e-3)
    theirs = (expected.argmax(1) == features.val_labels.numpy()).mean()
    accuracy = (ours.predict(features.val[0.5]) == features.val_labels).double().mean().item()
    assert accuracy == pytest.approx(theirs, abs=0.003)


@pytest.mark.parametrize("classes", [2, 5])
def test_blocks_give_the_same_up_to_the_order_of_sums(classes, monkeypatch, tmp_path):
    x, y = clusters(1, 240, 9, classes, torch.float32)
    whole, predicted = fit(x, y, classes), fit(x, y, classes).predict(x)
    stored = on_disk(x, tmp_path)
    same = fit(stored, y, classes)
    assert torch.equal(same.weight, whole.weight) and torch.equal(same.predict(stored), predicted)
    monkeypatch.setattr(linear_fast, "BLOCK_NUMBERS", 50 * (9 + 2 * classes))  # the last block has 40
    for features in (x, stored):
        ours = fit(features, y, classes)
        np.testing.assert_allclose(ours.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(ours.weight, whole.weight, atol=1e-5)  # of the solver, which stops at 1e-6
        assert torch.equal(ours.predict(features), predicted)
    reference_weights = reference(x.double().numpy(), y.numpy(), 1.0)[1].coef_
    np.testing.assert_allclose(fit(stored, y, classes, tolerance=1e-9).weight, reference_weights, atol=1e-5)


def test_constant_features_are_ignored():
    x, y = clusters(3, 100, 4, 3)
    dead = torch.cat([x, torch.full((100, 2), 7.3, dtype=x.dtype)], 1)
    ours = fit(dead, y, 3)
    assert torch.equal(ours.predict(dead), fit(x, y, 3).predict(x))
    assert ours.weight[:, 4:].abs().max() < 1e-6


def test_a_class_without_images_is_not_predicted():
    x, y = clusters(4, 80, 4, 3)
    assert set(fit(x, y, 6).predict(x).tolist()) <= {0, 1, 2}


@pytest.mark.parametrize(("classes", "C"), [(1, 1.0), (3, 0.0), (3, float("nan"))])
def test_bad_arguments(classes, C):
    x, y = clusters(5, 10, 4, 1)
    with pytest.raises(ValueError, match=r"at least two classes|must be above 0"):
        fit(x, y, classes, C)
