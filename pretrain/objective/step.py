"""One training step of universally slimmable self-supervised learning: METHOD section 2 in one screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from pretrain.config import ObjectiveConfig
from pretrain.objective.frozen import FrozenTeacher
from pretrain.objective.losses import loss_weights, objective_loss, same_view, symmetric
from pretrain.objective.networks import Student, Teacher
from pretrain.objective.queue import Queue
from pretrain.slimmable import at_width

Backward = Callable[[Tensor], None]


class Objective:
    """The method: which outputs learn from which targets under which loss.

    ``network`` is ``student`` itself, its data-parallel wrapper or either compiled; ``teacher`` is None for an online teacher;
    ``teacher_width`` is the width of the momentum teacher's targets (1.0 but for an individually trained network); ``autocast``
    makes the context that the forward passes run in; ``queue`` keeps the widest network's targets of past steps, where losses use
    them.
    """

    def __init__(self, cfg: ObjectiveConfig, student: Student, network: Callable, teacher: Teacher | FrozenTeacher | None,
                 teacher_width: float, autocast: Callable[[], AbstractContextManager], queue: Queue | None = None):
        self.cfg, self.student, self.network, self.teacher = cfg, student, network, teacher
        self.teacher_width, self.autocast, self.queue = teacher_width, autocast, queue
        self.naive = cfg.distill_loss == "none"
        self.base_loss = objective_loss(cfg, cfg.base_loss, queue)
        self.distill_loss = None if self.naive else objective_loss(cfg, cfg.distill_loss, queue)
        self.pairing = same_view if cfg.base_loss == "seed" else symmetric

    def step(self, x1: Tensor, x2: Tensor, widths: Sequence[float], ema_momentum: float, backward: Backward,
             update: Callable[[], None]) -> list[Tensor]:
        """Train ``widths`` (widest first) on views x1, x2 (B, 3, H, W).

        ``backward(loss)`` adds gradients, ``update()`` takes one optimizer step and clears them. Returns the loss at each width,
        detached, without the penalty and before its weight.
        """
        if self.teacher is not None:
            self.teacher.update(self.student, ema_momentum)
        targets, keys, losses = None, None, []
        for width, weight in zip(widths, loss_weights(self.cfg, widths), strict=True):
            distill = targets is not None and not self.naive
            with at_width(self.student, width), self.autocast():
                z, outputs = self.network(x1, x2, distill)
                if not distill:
                    targets = self.targets(x1, x2, z, width if self.naive else self.teacher_width)
                    keys = keys or targets
                loss = self.pairing(self.distill_loss if distill else self.base_loss, outputs, targets)
            backward(loss * weight)
            losses.append(loss.detach())
            if self.cfg.update == "per_width":
                update()
        if self.cfg.update == "accumulate":
            update()
        if self.queue is not None:
            self.queue.enqueue(*keys)
        return losses

    def targets(self, x1: Tensor, x2: Tensor, z: tuple[Tensor, Tensor], width: float) -> tuple[Tensor, Tensor]:
        """Targets of both views: the teacher's at ``width``, or the student's own projections without gradient."""
        if self.teacher is None:
            return z[0].detach(), z[1].detach()
        with at_width(self.teacher, width):
            return self.teacher(x1), self.teacher(x2)
