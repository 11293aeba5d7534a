"""One training step of universally slimmable self-supervised learning: METHOD section 2 in one screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from pretrain.config import ObjectiveConfig
from pretrain.objective import losses
from pretrain.objective.networks import Student
from pretrain.objective.queue import Queue
from pretrain.objective.teaching import Guide, Pass
from pretrain.slimmable import at_width

Backward = Callable[[Tensor], None]


class Objective:
    """The method: which outputs learn from which targets under which loss.

    ``network`` is ``student`` itself, its data-parallel wrapper or either compiled; ``teacher`` is None for an online teacher; what
    the base loss remembers of past steps is in ``state``;
    ``teacher_width`` is the width of the momentum teacher's targets (1.0 but for an individually trained network); ``autocast``
    makes the context that the forward passes run in; ``queue`` keeps the widest network's targets of past steps, where losses use
    them. The losses are those of ``student.chunks`` parts of the batch, averaged, unless negatives are gathered.
    """

    def __init__(self, cfg: ObjectiveConfig, student: Student, network: Callable, teacher: Guide | None,
                 teacher_width: float, autocast: Callable[[], AbstractContextManager], queue: Queue | None = None):
        self.cfg, self.student, self.network, self.teacher = cfg, student, network, teacher or Guide()
        self.teacher_width, self.autocast, self.queue = teacher_width, autocast, queue
        self.naive, self.every_pass = cfg.distill_loss == "none", cfg.ema_update == "pass"
        self.pairing = losses.Pairing(cfg.pairings, crossed=cfg.base_loss != "seed")
        chunks = 1 if cfg.gather_negatives else student.chunks
        setting = losses.LossSetting(student.dim, cfg, queue)
        base = losses.base_loss(setting)
        self.state = base.to(next(student.parameters()).device) if isinstance(base, losses.LossModule) else losses.LossModule()
        self.base_loss = losses.in_chunks(base, chunks)
        self.distill_loss = None if self.naive else losses.in_chunks(losses.distill_loss(setting, base), chunks)

    def step(self, x1: Tensor, x2: Tensor, widths: Sequence[float], ema_momentum: float, backward: Backward,
             update: Callable[[float], None]) -> list[Tensor]:
        """Train ``widths`` (the widest first) on views x1, x2 (B, 3, H, W).

        ``backward(loss)`` adds gradients, ``update(width)`` takes one optimizer step, of which the last pass was at ``width``, and
        clears them. Returns the loss at each width, detached, without the penalty and before its weight.
        """
        widest, queries, views = widths[0], self.pairing.queries(x1, x2), self.pairing.keys(x1, x2)
        seen, guide, keys, top, values = None, None, (), (), []
        for width, weight in zip(widths, losses.loss_weights(self.cfg, widths), strict=True):
            if guide is None or self.every_pass:
                self.teacher.update(self.student, ema_momentum)
            base, wider = self.naive or width == widest, seen
            with at_width(self.student, width), self.autocast():
                seen = self.network(queries, not base)
                guide = self.teacher.targets(Pass(self.student, views, width, widths, base, base or self.every_pass,
                                                  width if self.naive else self.teacher_width, seen, wider, guide))
                if base:
                    loss = self.pairing(self.base_loss, seen.outputs, guide.z)
                    self.state.observe(guide.z)
                    top = [output.detach() for output in seen.outputs]
                    keys = guide.z if width == widest else keys
                else:
                    loss = self.pairing(self.distill_loss, seen.outputs, guide.z, top, wider.z)
                    if self.cfg.feature_weight:
                        loss = loss + self.cfg.feature_weight * self.pairing(losses.feature_distance, seen.maps, guide.maps)
            backward(loss * weight)
            values.append(loss.detach())
            if self.cfg.update == "per_width":
                update(width)
        if self.cfg.update == "accumulate":
            update(widths[-1])
        if self.queue is not None:
            self.queue.enqueue(*keys)
        return values
