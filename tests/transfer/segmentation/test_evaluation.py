"""Scores against scikit-learn's confusion matrix, and what is undefined."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from transfer.segmentation.evaluation import ExactIoU


def evaluated(pairs, classes: int, logits: float = 0.0) -> ExactIoU:
    """The metric after images given as (truth, prediction)."""
    metric = ExactIoU()
    metric.dataset_meta = {"classes": list(range(classes))}
    for truth, guess in pairs:
        fields = {"pred_sem_seg": guess, "gt_sem_seg": truth}
        sample = {name: {"data": torch.from_numpy(labels)[None]} for name, labels in fields.items()}
        metric.process({}, [{**sample, "seg_logits": {"data": torch.full((1,), logits)}}])
    metric.compute_metrics(metric.results)
    return metric


def expected(pairs, classes: int):
    """mIoU, mAcc, aAcc and IoU by class from one confusion matrix of all pixels."""
    truth, guess = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    seen = truth != 255
    matrix = confusion_matrix(truth[seen], guess[seen], labels=range(classes)).astype(float)
    right = np.diag(matrix)
    with np.errstate(invalid="ignore"):
        iou = right / (matrix.sum(0) + matrix.sum(1) - right)
        accuracy = right / matrix.sum(1)
    return np.nanmean(iou), np.nanmean(accuracy), right.sum() / matrix.sum(), iou


@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 10_000))
def test_scores_equal_those_of_a_confusion_matrix(classes, images, seed):
    random = np.random.default_rng(seed)
    used = random.choice(classes, random.integers(1, classes + 1), replace=False)  # some classes may be absent
    truths = random.choice([*used, 255], (images, 7, 5))
    truths[0, 0, 0] = used[0]
    pairs = list(zip(truths, random.choice(used, (images, 7, 5)), strict=True))
    scores = evaluated(pairs, classes).scores
    m_iou, m_acc, a_acc, iou = expected(pairs, classes)
    np.testing.assert_allclose([scores["mIoU"], scores["mAcc"], scores["aAcc"]], [m_iou, m_acc, a_acc], atol=1e-12)
    assert [value is None for value in scores["IoU"]] == np.isnan(iou).tolist()
    np.testing.assert_allclose([value for value in scores["IoU"] if value is not None], iou[~np.isnan(iou)])
    assert scores["count"] == images


def test_a_class_that_is_nowhere_is_undefined_and_one_that_is_only_predicted_is_zero():
    truth, guess = np.array([[0, 0, 0, 255]]), np.array([[0, 0, 1, 2]])
    scores = evaluated([(truth, guess)], classes=3).scores
    assert scores["IoU"] == [2 / 3, 0.0, None]  # class 2 was predicted where no pixel has a class
    assert scores["Acc"] == [2 / 3, None, None]
    assert (scores["mIoU"], scores["mAcc"], scores["aAcc"]) == (1 / 3, 2 / 3, 2 / 3)


def test_nothing_labelled_and_outputs_that_are_no_numbers():
    nothing = evaluated([(np.full((2, 2), 255), np.zeros((2, 2), int))], classes=2).scores
    assert nothing["mIoU"] is nothing["mAcc"] is nothing["aAcc"] is None
    perfect = np.array([[0, 1]])
    broken = evaluated([(perfect, perfect)], classes=2, logits=math.nan).scores
    assert broken["mIoU"] is None and broken["IoU"] == [None, None] and broken["count"] == 1
