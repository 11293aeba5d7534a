"""Relative distance: a student's output should be nearer to its target than to others (InfoNCE)."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pretrain.distributed import rows_of_processes, several
from pretrain.slimmable.layers import wide


def infonce(student: Tensor, target: Tensor, temperature: float, gather: bool = False, two_sided: bool = False) -> Tensor:
    """NT-Xent over the 2B rows of [student; target] (SimCLR, arXiv 2002.05709, eq. 1).

    The positive of a row is its counterpart in the other half, all other rows are its negatives; the mean is over 2B rows.
    With ``gather`` the rows of all ranks stand in one batch (equal B on each), else negatives are those of this process. With
    ``two_sided`` the gradient passes through the targets too, as SimCLR's does.
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(wide(student), dim=1), F.normalize(wide(target if two_sided else target.detach()), dim=1)
        if gather and several():
            s, t = rows_of_processes(s), rows_of_processes(t)
        rows = torch.cat([s, t])
        logits = rows @ rows.T / temperature
        logits.fill_diagonal_(float("-inf"))
        positives = torch.arange(len(rows), device=rows.device).roll(len(s))
        return F.cross_entropy(logits, positives)


def infonce_keys(student: Tensor, target: Tensor, temperature: float, gather: bool = False) -> Tensor:
    """InfoNCE as MoCo v3 has it (arXiv 2104.02057, algorithm 1): the negatives of a row are the other images' targets.

    2T times the mean cross-entropy of the B rows of s t^T / T with their diagonal. With ``gather`` the targets are those of all
    ranks (equal B on each).
    """
    with torch.autocast(student.device.type, enabled=False):
        first = len(student) * dist.get_rank() if gather and several() else 0
        positives = first + torch.arange(len(student), device=student.device)
        return 2 * temperature * F.cross_entropy(cosines_to_keys(student, target, gather) / temperature, positives)


def infonce_queue(student: Tensor, target: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE as MoCo has it (arXiv 1911.05722, eq. 1): a row's negatives are the unit rows of ``queue`` (K, D)."""
    with torch.autocast(student.device.type, enabled=False):
        logits = cosines_to_queue(student, target, queue) / temperature
        return F.cross_entropy(logits, torch.zeros(len(student), dtype=torch.int64, device=student.device))


def cosines_to_keys(student: Tensor, target: Tensor, gather: bool = False) -> Tensor:
    """Cosines (B, N) of each of the student's rows (B, D) with every target: those of this process, or with ``gather`` of all."""
    s, t = F.normalize(wide(student), dim=1), F.normalize(wide(target.detach()), dim=1)
    return s @ (rows_of_processes(t) if gather and several() else t).T


def cosines_to_queue(student: Tensor, target: Tensor, queue: Tensor) -> Tensor:
    """Cosines (B, 1 + K) of each of the student's rows (B, D) with its own target, and with the unit rows of ``queue`` (K, D)."""
    s, t = F.normalize(wide(student), dim=1), F.normalize(wide(target.detach()), dim=1)
    return torch.cat([(s * t).sum(1, keepdim=True), s @ queue.T], dim=1)
