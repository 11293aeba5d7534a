"""Scores: the share of all images that are right, or its mean over classes, as is the convention of the data set."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rundir.errors import check_choice
from rundir.records import image_error
from rundir.subnet import Width

# Table 1 of Kornblith et al. 2019 (arXiv 1805.08974): these are scored class by class, all others image by image.
MEAN_PER_CLASS = ("flowers102", "pets", "aircraft", "caltech101")
Scores = dict[Width, dict[str, float | int] | None]  # by width, what :func:`measured` gives; None where outputs were not finite


def top1(predicted: Tensor, labels: Tensor) -> float:
    """Share of the N images whose class ``predicted`` (N,) is that of ``labels`` (N,)."""
    return int((predicted == labels).sum()) / len(labels)


def mean_per_class(predicted: Tensor, labels: Tensor) -> float:
    """Mean over classes of the share of a class's images that are right, of classes with images."""
    counts = torch.bincount(labels)
    right = torch.bincount(labels[predicted == labels], minlength=len(counts))
    there = counts > 0
    return float((right[there].double() / counts[there]).mean())


def measured(score: str, predicted: Tensor, labels: Tensor) -> dict[str, float | int]:
    """What a record says of these predictions: ``value``, ``correct`` images, and ``image_error``, the value's standard error that
    comes from the choice of images alone (of a mean over classes, drawn class by class).
    """
    right = predicted == labels
    groups = [right] if score == "top1" else [right[labels == label] for label in torch.bincount(labels).nonzero().flatten()]
    errors = [image_error(int(group.sum()), len(group)) for group in groups]
    return {
        "value": SCORES[score](predicted, labels),
        "correct": int(right.sum()),
        "image_error": math.sqrt(sum(error**2 for error in errors)) / len(groups),
    }


SCORES: dict[str, Callable[[Tensor, Tensor], float]] = {"top1": top1, "mean_per_class": mean_per_class}
NAMES = {"top1": "top-1 accuracy", "mean_per_class": "mean per-class accuracy"}


def score_of(dataset: str) -> str:
    """The conventional score on a data set of ``pretrain.data``."""
    return "mean_per_class" if dataset in MEAN_PER_CLASS else "top1"


def chance(score: str, labels: Tensor) -> float:
    """The score of always naming the most frequent class of ``labels`` (N,)."""
    return SCORES[score](torch.full_like(labels, int(torch.bincount(labels).argmax())), labels)


def check_score(score: str | None) -> None:
    """Raise :class:`UserError` where there is no such score."""
    if score is not None:
        check_choice("--score", score, SCORES)
