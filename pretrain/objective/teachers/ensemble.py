"""All widths of the step together."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from pretrain.config import Config
from pretrain.objective.networks import Student
from pretrain.objective.teaching import Guide, Pass, Seen, TeacherSetting
from pretrain.slimmable import at_width
from rundir.errors import UserError


class Ensemble(Guide):
    """A narrower width learns from the mean of the unit projections of all widths of the step; the widest is its own teacher.

    The projections are those before the first narrower width is trained, so that all of these learn from the same.
    """

    def __init__(self, setting: TeacherSetting):
        super().__init__()
        self.mean: Seen | None = None

    def update(self, student: Student, momentum: float) -> None:
        self.mean = None

    def targets(self, now: Pass) -> Seen:
        if now.base:
            return now.seen
        if self.mean is None:
            self.mean = self._mean(now)
        return self.mean

    @torch.no_grad()
    def _mean(self, now: Pass) -> Seen:
        widths, sums = sorted(set(now.widths)), [0.0] * len(now.views)
        for width in widths:
            with at_width(now.student, width):
                sums = [total + F.normalize(now.student.project(x), dim=1) for total, x in zip(sums, now.views, strict=True)]
        z = tuple(total / len(widths) for total in sums)
        return Seen(z, z)

    @classmethod
    def passes(cls, cfg: Config, widths: Sequence[float]) -> list[float]:
        return sorted(set(widths)) if cfg.objective.distill_loss != "none" and len(set(widths)) > 1 else []


def check(cfg: Config) -> None:
    """Raise :class:`UserError` for feature distillation, of which there is no mean, and for CUDA graphs: a pass is not the same
    sequence of operations in every step, since the first narrower one makes the mean.
    """
    if cfg.objective.teacher == "ensemble" and cfg.train.graphs:
        raise UserError(
            "train.graphs=true cannot record objective.teacher=ensemble, whose first narrower pass does more than the "
            "others; set train.graphs=false"
        )
    if cfg.objective.teacher == "ensemble" and cfg.objective.feature_weight:
        raise UserError("objective.feature_weight: objective.teacher=ensemble has no feature maps; set objective.feature_weight=0")
