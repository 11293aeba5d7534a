"""Distillation of similarities: a student's output should be as near to others as its teacher's is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.objective.losses.relative import cosines_to_queue


def seed(student: Tensor, target: Tensor, queue: Tensor, student_temperature: float, teacher_temperature: float) -> Tensor:
    """Cross-entropy of the teacher's and the student's distributions of similarity (SEED, arXiv 2101.04731, section 3).

    Each is a softmax of cosines, with its temperature, over the unit rows of ``queue`` (K, D) and the row's own target. Mean over
    rows.
    """
    with torch.autocast(student.device.type, enabled=False):
        guided = cosines_to_queue(student, target, queue) / student_temperature
        guiding = cosines_to_queue(target.detach(), target, queue) / teacher_temperature
        return F.cross_entropy(guided, guiding.softmax(1))


def kl(student: Tensor, widest: Tensor, temperature: float) -> Tensor:
    """KL divergence of the student's distribution from the widest network's (SlimCLR, arXiv 2209.15525, section 3.3).

    Both are softmaxes of logits (B, N) / temperature; the widest network's carry no gradient. Mean over rows.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, guide = (F.log_softmax(logits / temperature, dim=1) for logits in (student, widest.detach()))
        return F.kl_div(own, guide, reduction="batchmean", log_target=True)
