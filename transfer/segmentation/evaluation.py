"""mIoU, mAcc, aAcc and IoU by class from mmsegmentation's own counts, in double precision and with undefined values kept apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from torch import Tensor

SCORES = ("mIoU", "mAcc", "aAcc")


def scores_of(intersection: Tensor, union: Tensor, labelled: Tensor) -> dict:
    """Scores from pixel counts by class, each (K,) float64.

    Returns:
        ``mIoU``, ``mAcc``, ``aAcc`` as fractions or None, and ``IoU`` and ``Acc``, lists over classes. A class that is neither
        labelled nor predicted anywhere has no IoU and one that is not labelled no accuracy: None, and left out of the mean.
    """
    iou, accuracy = (_fractions(intersection, whole) for whole in (union, labelled))
    total = float(labelled.sum())
    return {
        "mIoU": _mean(iou),
        "mAcc": _mean(accuracy),
        "aAcc": float(intersection.sum()) / total if total else None,
        "IoU": iou,
        "Acc": accuracy,
    }


def _fractions(part: Tensor, whole: Tensor) -> list[float | None]:
    return [float(p) / float(w) if w else None for p, w in zip(part, whole, strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


@METRICS.register_module()
class ExactIoU(IoUMetric):
    """mmsegmentation's IoU metric without its rounding to two decimals; all scores are None where an output was not finite.

    ``scores`` holds the scores of the last evaluation, as :func:`scores_of` gives them, with ``count`` images.
    """

    scores: dict

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        super().process(data_batch, data_samples)
        # A label is found for any logits; those that are not numbers must not count as a prediction.
        for place, sample in enumerate(data_samples, start=len(self.results) - len(data_samples)):
            finite = bool(torch.isfinite(sample["seg_logits"]["data"]).all())
            self.results[place] = (*self.results[place], finite)

    def compute_metrics(self, results: list) -> dict[str, float]:
        intersections, unions, _, labelled, finite = zip(*results, strict=True)
        totals = [torch.stack(counts).double().sum(0) for counts in (intersections, unions, labelled)]
        found = scores_of(*totals)
        if not all(finite):
            found = {name: [None] * len(value) if isinstance(value, list) else None for name, value in found.items()}
        self.scores = {**found, "count": len(results)}
        return {name: math.nan if found[name] is None else found[name] for name in SCORES}
