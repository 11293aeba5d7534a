"""The two losses of the guidelines, absolute and relative distance (METHOD section 2), and what baselines use for them.

All take outputs of the student and targets of equal shape (B, D), any float type; targets carry no gradient. They are computed in
float32 whatever the autocast type (float64 stays float64), and return a scalar of that type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pretrain.config import ObjectiveConfig
from pretrain.distributed import rows_of_processes, several
from pretrain.objective.queue import Queue
from pretrain.slimmable.layers import wide


def negative_cosine(student: Tensor, target: Tensor) -> Tensor:
    """Absolute distance: -mean_i cos(s_i, t_i), in [-1, 1] (SimSiam, arXiv 2011.10566, eq. 1).

    Half the squared distance of the unit vectors, less one: what the literature calls the MSE loss.
    """
    return -F.cosine_similarity(wide(student), wide(target.detach()), dim=1).mean()


def infonce(student: Tensor, target: Tensor, temperature: float, gather: bool = False) -> Tensor:
    """Relative distance: NT-Xent over the 2B rows of [student; target] (SimCLR, arXiv 2002.05709, eq. 1).

    The positive of a row is its counterpart in the other half, all other rows are its negatives; the mean is over 2B rows.
    With ``gather`` the rows of all ranks stand in one batch (equal B on each), else negatives are those of this process.
    """
    device = student.device.type
    with torch.autocast(device, enabled=False):
        s = F.normalize(wide(student), dim=1)
        t = F.normalize(wide(target.detach()), dim=1)
        if gather and several():
            s, t = rows_of_processes(s), rows_of_processes(t)
        rows = torch.cat([s, t])
        logits = rows @ rows.T / temperature
        logits.fill_diagonal_(float("-inf"))
        positives = torch.arange(len(rows), device=rows.device).roll(len(s))
        return F.cross_entropy(logits, positives)


def infonce_keys(student: Tensor, target: Tensor, temperature: float, gather: bool = False) -> Tensor:
    """Relative distance as MoCo v3 has it (arXiv 2104.02057, algorithm 1): the negatives of a row are the other images' targets.

    2T times the mean cross-entropy of the B rows of s t^T / T with their diagonal. With ``gather`` the targets are those of all
    ranks (equal B on each).
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(wide(student), dim=1), F.normalize(wide(target.detach()), dim=1)
        first = 0
        if gather and several():
            first = len(s) * dist.get_rank()
            t = rows_of_processes(t)
        positives = first + torch.arange(len(s), device=s.device)
        return 2 * temperature * F.cross_entropy(s @ t.T / temperature, positives)


def infonce_queue(student: Tensor, target: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Relative distance as MoCo has it (arXiv 1911.05722, eq. 1): a row's negatives are the unit rows of ``queue`` (K, D)."""
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(wide(student), dim=1), F.normalize(wide(target.detach()), dim=1)
        logits = torch.cat([(s * t).sum(1, keepdim=True), s @ queue.T], dim=1) / temperature
        return F.cross_entropy(logits, torch.zeros(len(s), dtype=torch.int64, device=s.device))


def seed(student: Tensor, target: Tensor, queue: Tensor, student_temperature: float, teacher_temperature: float) -> Tensor:
    """Distillation of similarities (SEED, arXiv 2101.04731, section 3): cross-entropy of teacher's and student's distributions.

    Each is a softmax of cosines, with its temperature, over the unit rows of ``queue`` (K, D) and the row's own target. Mean over
    rows.
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(wide(student), dim=1), F.normalize(wide(target.detach()), dim=1)
        guided = torch.cat([(s * t).sum(1, keepdim=True), s @ queue.T], dim=1) / student_temperature
        guiding = torch.cat([(t * t).sum(1, keepdim=True), t @ queue.T], dim=1) / teacher_temperature
        return F.cross_entropy(guided, guiding.softmax(1))


def objective_loss(cfg: ObjectiveConfig, name: str, queue: Queue | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss ``name`` (``mse``, ``infonce`` or ``seed``) of (student, target), with the temperatures and negatives of ``cfg``."""
    if name == "seed":
        return lambda s, t: seed(s, t, queue.rows, cfg.seed_student_temperature, cfg.seed_teacher_temperature)
    if name == "infonce" and queue is not None:
        return lambda s, t: infonce_queue(s, t, queue.rows, cfg.temperature)
    if name == "infonce" and cfg.negatives == "keys":
        return lambda s, t: infonce_keys(s, t, cfg.temperature, cfg.gather_negatives)
    return loss_function(name, cfg.temperature, cfg.gather_negatives)


def loss_function(name: str, temperature: float, gather: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """``mse`` or ``infonce`` as a function of (student, target)."""
    if name == "mse":
        return negative_cosine
    return lambda student, target: infonce(student, target, temperature, gather)


def symmetric(loss: Callable[[Tensor, Tensor], Tensor], outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over the two pairings of a view's output with the other view's target."""
    return 0.5 * (loss(outputs[0], targets[1]) + loss(outputs[1], targets[0]))


def same_view(loss: Callable[[Tensor, Tensor], Tensor], outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over both views of a view's output with its own target: SEED's student and teacher see one view."""
    return 0.5 * (loss(outputs[0], targets[0]) + loss(outputs[1], targets[1]))


def loss_weights(cfg: ObjectiveConfig, widths: Sequence[float]) -> list[float]:
    """The factor of the loss at each of ``widths`` (widest first).

    Narrower widths have ``distill_weight``, unless they are trained by their own base losses (the naive baseline). ``slimclr``
    multiplies the widest's by 1 plus the sum of the other widths (loss re-weighting of SlimCLR, arXiv 2209.15525).
    """
    narrower = 1.0 if cfg.distill_loss == "none" else cfg.distill_weight
    widest = 1.0 + (sum(widths[1:]) if cfg.width_weights == "slimclr" else 0.0)
    return [widest, *[narrower] * (len(widths) - 1)]
