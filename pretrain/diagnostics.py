"""Diagnostics on a fixed set of images: collapse, and the temporal consistency of the guidance.

METHOD section 1: with an absolute-distance loss, drift of a target between two visits of an image is noise; with a relative one
only the drift of similarities among images matters. Both are recorded here once an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.config import Config, usable_widths
from pretrain.data import ImageSource, evaluation_batches
from pretrain.objective.networks import Student, Teacher
from pretrain.slimmable import at_width
from pretrain.slimmable.calibrate import local_statistics
from rundir.subnet import plain_widths


def feature_std(features: Tensor) -> float:
    """Mean over channels of the standard deviation of L2-normalised rows, times sqrt(D). features (N, D).

    0 for a collapsed output, about 1 for an isotropic one (SimSiam, arXiv 2011.10566, section 4.1).
    """
    unit = F.normalize(features.double(), dim=1)
    return float(unit.std(0, unbiased=False).mean() * features.shape[1] ** 0.5)


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred features (N, D); from 1 to min(N, D).

    Roy and Vetterli, EUSIPCO 2007. 0 where all rows are equal, nan where a feature is not finite.
    """
    if not features.isfinite().all():
        return math.nan
    centred = features.double() - features.double().mean(0)
    values = torch.linalg.svdvals(centred)
    if values[0] <= 1e-9 * max(1.0, float(features.abs().max())):
        return 0.0
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


def absolute_drift(now: Tensor, before: Tensor) -> float:
    """1 - mean cosine between each image's target now and before. Both (N, D)."""
    return float(1 - F.cosine_similarity(now.double(), before.double(), dim=1).mean())


def relative_drift(now: Tensor, before: Tensor) -> float | None:
    """1 - Pearson correlation of the pairwise cosine similarities of N images now and before; None where one is constant."""
    upper = torch.triu_indices(len(now), len(now), offset=1)
    pairs = []
    for targets in (now, before):
        unit = F.normalize(targets.double(), dim=1)
        pairs.append((unit @ unit.T)[upper[0], upper[1]])
    if min(float(p.std()) for p in pairs) < 1e-12:
        return None
    return float(1 - torch.corrcoef(torch.stack(pairs))[0, 1])


def cka_drift(now: Tensor, before: Tensor) -> float | None:
    """1 - linear CKA (Kornblith et al., arXiv 1905.00414, eq. 4) of targets now and before; None where one is constant."""
    x, y = (t.double() - t.double().mean(0) for t in (now, before))
    scale = torch.linalg.norm(x.T @ x) * torch.linalg.norm(y.T @ y)
    return float(1 - torch.linalg.norm(x.T @ y) ** 2 / scale) if scale > 1e-24 else None


def fixed_images(source: ImageSource, cfg: Config, device: torch.device) -> Tensor:
    """The images (N, 3, H, W) that a run's diagnostics are measured on, chosen by its seed; the same at every measurement."""
    count = min(cfg.diagnostics.images, len(source))
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(cfg.seed))[:count]
    return torch.cat([x for x, _ in evaluation_batches(source, cfg.data.size, count, device, chosen)])


class Diagnostics:
    """Measures on ``images`` (N, 3, H, W), normalised and without augmentation, with batch statistics of these N images.

    ``guidance`` holds the previous measurement's targets by width and belongs in the checkpoint.
    """

    def __init__(self, cfg: Config, images: Tensor):
        widths = plain_widths(usable_widths(cfg, [*cfg.diagnostics.widths, cfg.widths.max]))
        self.images, self.widths = images, widths
        # The naive baseline's targets are each width's own; otherwise all widths share the widest network's.
        self.guided = widths if cfg.objective.distill_loss == "none" else [cfg.widths.max]
        if cfg.objective.base_loss == "mae":  # the images themselves, which do not drift
            self.guided = []
        self.guidance: dict[str, Tensor] = {}

    @torch.no_grad()
    def measure(self, student: Student, teacher: Teacher | None) -> list[tuple[str, float, float | None]]:
        """(name, width, value) of every diagnostic; drifts from the second call on; None for what is undefined or not finite."""
        with local_statistics(student, *([] if teacher is None else [teacher])):
            features = {width: self._at(width, student, student.encoder) for width in self.widths}
            projections = {width: self._at(width, student, partial(_projected, student, features[width])) for width in self.widths}
            targets = {
                str(width): (projections[width] if teacher is None else self._at(width, teacher, teacher)).float()
                for width in self.guided
            }
        rows: list[tuple[str, float, float | None]] = []
        for width in self.widths:
            rows += [
                ("feature_std", width, feature_std(features[width])),
                ("effective_rank", width, effective_rank(features[width])),
                ("projection_std", width, feature_std(projections[width])),
                ("projection_rank", width, effective_rank(projections[width])),
            ]
        for key, now in targets.items():
            if key in self.guidance:
                before = self.guidance[key].to(now.device)
                rows += [
                    ("drift/absolute", float(key), absolute_drift(now, before)),
                    ("drift/relative", float(key), relative_drift(now, before)),
                    ("drift/cka", float(key), cka_drift(now, before)),
                ]
        self.guidance = targets
        return [(name, width, None if value is None or not math.isfinite(value) else value) for name, width, value in rows]

    def _at(self, width: float, model: nn.Module, function: Callable[[Tensor], Tensor]) -> Tensor:
        with at_width(model, width):
            return function(self.images)


def _projected(student: Student, features: Tensor, _: Tensor) -> Tensor:
    return student.projector(features)
