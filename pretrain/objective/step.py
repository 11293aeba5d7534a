"""One training step of universally slimmable self-supervised learning: METHOD section 2 in one screen."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import Tensor

from pretrain.config import ObjectiveConfig
from pretrain.config.methods import BASE_LOSS, is_own, said_of
from pretrain.objective import losses
from pretrain.objective.networks import Student
from pretrain.objective.queue import Queue
from pretrain.objective.teaching import Guide, Pass, Seen, check_targets
from pretrain.slimmable import Width, at_width

Backward = Callable[[Tensor], None]
Run = Callable[[Hashable, Callable[..., Any], Sequence], Any]


class Objective:
    """The method: which outputs learn from which targets under which loss.

    ``network`` is ``student`` itself or compiled; ``teacher`` is None for an online teacher; what
    the base loss remembers of past steps is in ``state``;
    ``teacher_width`` is the width of the momentum teacher's targets (1.0 but for an individually trained network); ``autocast``
    makes the context that the forward passes run in; ``queue`` keeps the widest network's targets of past steps, where losses use
    them. The losses are those of ``student.chunks`` parts of the batch, averaged, unless negatives are gathered. ``run(key, work,
    inputs)`` computes ``work(*inputs)``, a pass that is the same sequence of operations whenever ``key`` is (see pretrain.graphs).
    """

    def __init__(
        self,
        cfg: ObjectiveConfig,
        student: Student,
        network: Callable,
        teacher: Guide | None,
        teacher_width: float,
        autocast: Callable[[], AbstractContextManager],
        queue: Queue | None = None,
        run: Run = lambda key, work, inputs: work(*inputs),
    ):
        self.cfg, self.student, self.network, self.teacher = cfg, student, network, teacher or Guide()
        self.teacher_width, self.autocast, self.queue, self.run = teacher_width, autocast, queue, run
        self.naive, self.every_pass = cfg.distill_loss == "none", cfg.ema_update == "pass"
        self.pairing = losses.Pairing(cfg.pairings, crossed=not said_of(BASE_LOSS, cfg.base_loss, "OWN_VIEW"))
        chunks = 1 if cfg.gather_negatives else student.chunks
        setting = losses.LossSetting(student.dim, cfg, queue)
        base = losses.base_loss(setting)
        self.state = base.to(next(student.parameters()).device) if isinstance(base, losses.LossModule) else losses.LossModule()
        self.base_loss = losses.in_chunks(base, chunks)
        self.distill_loss = None if self.naive else losses.in_chunks(losses.distill_loss(setting, base), chunks)

    def step(
        self,
        x1: Tensor,
        x2: Tensor,
        widths: Sequence[Width],
        ema_momentum: float,
        backward: Backward,
        update: Callable[[Width], None],
    ) -> list[Tensor]:
        """Train ``widths`` (the widest first) on views x1, x2 (B, 3, H, W).

        ``backward(loss)`` adds gradients, ``update(width)`` takes one optimizer step, of which the last pass was at ``width``, and
        clears them. Returns the loss at each width, detached, without the penalty and before its weight.
        """
        seen, guide, keys, top, values = None, None, (), (), []
        for width, weight in zip(widths, losses.loss_weights(self.cfg, widths), strict=True):
            if guide is None or self.every_pass:
                self.teacher.update(self.student, ema_momentum)
            base = self.naive or width == widths[0]
            work = partial(self._pass, width, weight, base, widths, backward)
            loss, seen, guide, top = self.run((width, weight, base), work, (x1, x2, seen, guide, top))
            if base:
                self.state.observe(guide.z)
            keys = guide.z if width == widths[0] else keys
            values.append(loss.clone())
            if self.cfg.update == "per_width":
                update(width)
        if self.cfg.update == "accumulate":
            update(widths[-1])
        if self.queue is not None:
            self.queue.enqueue(*keys)
        return values

    def _pass(
        self,
        width: Width,
        weight: float,
        base: bool,
        widths: Sequence[Width],
        backward: Backward,
        x1: Tensor,
        x2: Tensor,
        wider: Seen | None,
        guide: Seen | None,
        top: Sequence[Tensor],
    ) -> tuple[Tensor, Seen, Seen, Sequence[Tensor]]:
        """Forward and backward at ``width``: its loss, what the network made of the views, what that learned from, and the widest
        network's outputs, all without gradient.
        """
        with at_width(self.student, width), self.autocast():
            seen = self.network(self.pairing.queries(x1, x2), not base)
            found = self.teacher.targets(
                Pass(
                    self.student,
                    self.pairing.keys(x1, x2),
                    width,
                    widths,
                    base,
                    base or self.every_pass,
                    width if self.naive else self.teacher_width,
                    seen,
                    wider,
                    guide,
                )
            )
            if is_own(self.cfg.teacher):
                check_targets(found, seen, self.cfg.teacher)
            if base:
                loss = self.pairing(self.base_loss, seen.outputs, found.z)
                top = [output.detach() for output in seen.outputs]
            else:
                loss = self.pairing(self.distill_loss, seen.outputs, found.z, top, wider.z)
                if self.cfg.feature_weight:
                    loss = loss + self.cfg.feature_weight * self.pairing(losses.feature_distance, seen.maps, found.maps)
        backward(loss * weight)
        return loss.detach(), seen.detached(), found if found is guide else found.detached(), top
