"""Losses of a pass: which function compares outputs with targets, over which pairs of views, with which weight.

Every loss takes outputs of the student and targets of equal shape (B, D), any float type. It is computed in float32 whatever the
autocast type (float64 stays float64), and is a scalar of that type. Targets carry no gradient unless a loss says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pretrain.config import ObjectiveConfig
from pretrain.objective.losses.absolute import feature_distance, negative_cosine
from pretrain.objective.losses.relative import cosines_to_keys, cosines_to_queue, infonce, infonce_keys, infonce_queue
from pretrain.objective.losses.similarity import kl, seed
from pretrain.objective.queue import Queue

__all__ = ["Pairing", "base_loss", "distill_loss", "feature_distance", "in_chunks", "infonce", "infonce_keys", "infonce_queue",
           "kl", "loss_function", "loss_weights", "negative_cosine", "seed"]

Loss = Callable[..., Tensor]


def base_loss(cfg: ObjectiveConfig, queue: Queue | None) -> Loss:
    """The loss of the widest network as a function of (student, target)."""
    if cfg.base_loss == "seed" and cfg.seed_loss == "similarities":
        return lambda s, t: seed(s, t, queue.rows, cfg.seed_student_temperature, cfg.seed_teacher_temperature)
    if cfg.base_loss == "infonce" and cfg.two_sided:
        return partial(infonce, temperature=cfg.temperature, gather=cfg.gather_negatives, two_sided=True)
    return _named("mse" if cfg.base_loss == "seed" else cfg.base_loss, cfg, queue)


def distill_loss(cfg: ObjectiveConfig, queue: Queue | None) -> Loss | None:
    """The loss of narrower widths as a function of (student, target, the widest network's output); None where there is none.

    A share ``sub_base_weight`` of it is the base loss on the same targets (SlimCLR, arXiv 2209.15525, section 3.3). With
    ``same_view_weight`` it learns from the widest network's output of the same view too (same-view distillation of POA, arXiv
    2408.01031).
    """
    if cfg.distill_loss == "none":
        return None
    if cfg.distill_loss == "kl":
        def distil(s: Tensor, t: Tensor, widest: Tensor) -> Tensor:
            return kl(_logits(s, t, cfg, queue), _logits(widest, t, cfg, queue), cfg.kl_temperature)
    else:
        named = _named(cfg.distill_loss, cfg, queue)

        def distil(s: Tensor, t: Tensor, widest: Tensor) -> Tensor:
            return named(s, t) + cfg.same_view_weight * named(s, widest) if cfg.same_view_weight else named(s, t)
    if not cfg.sub_base_weight:
        return distil
    own_loss, share = _named(cfg.base_loss, cfg, queue), cfg.sub_base_weight
    return lambda s, t, widest: share * own_loss(s, t) + (1 - share) * distil(s, t, widest)


def _named(name: str, cfg: ObjectiveConfig, queue: Queue | None) -> Loss:
    """``mse`` or ``infonce`` of (student, target), with the temperature and the negatives of ``cfg``."""
    if name == "infonce" and queue is not None:
        return lambda s, t: infonce_queue(s, t, queue.rows, cfg.temperature)
    if name == "infonce" and cfg.negatives == "keys":
        return partial(infonce_keys, temperature=cfg.temperature, gather=cfg.gather_negatives)
    return loss_function(name, cfg.temperature, cfg.gather_negatives)


def _logits(output: Tensor, target: Tensor, cfg: ObjectiveConfig, queue: Queue | None) -> Tensor:
    """What the contrastive base loss compares, without its temperature: cosines with the own target and the queue, or with all
    targets of the batch.
    """
    if queue is not None:
        return cosines_to_queue(output, target, queue.rows)
    return cosines_to_keys(output, target, cfg.gather_negatives)


def loss_function(name: str, temperature: float, gather: bool = False) -> Loss:
    """``mse`` or ``infonce`` as a function of (student, target)."""
    return negative_cosine if name == "mse" else partial(infonce, temperature=temperature, gather=gather)


def in_chunks(loss: Loss, count: int) -> Loss:
    """``loss`` of ``count`` equal parts of the batch each on its own, averaged, as that many processes would compute it."""
    if count == 1:
        return loss

    def chunked(*rows: Tensor) -> Tensor:
        return torch.stack([loss(*parts) for parts in zip(*(x.tensor_split(count) for x in rows), strict=True)]).mean()

    return chunked


class Pairing:
    """Which views are seen, and which output learns from which target.

    ``crossed``: outputs learn from the other view's targets; else (SEED) from their own view's. ``how``: the mean or the sum of
    both pairings, or one: the first view is the query and the second (SEED: the first again) the key, as in MoCo
    (arXiv 1911.05722).
    """

    def __init__(self, how: str, crossed: bool):
        self.one, self.crossed = how == "one", crossed
        self.scale = 0.5 if how == "mean" else 1.0

    def queries(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, ...]:
        """The views that the student sees."""
        return (x1,) if self.one else (x1, x2)

    def keys(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, ...]:
        """The views that a teacher sees."""
        return ((x2,) if self.crossed else (x1,)) if self.one else (x1, x2)

    def __call__(self, loss: Loss, outputs: Sequence, targets: Sequence, *more: Sequence) -> Tensor:
        """The loss of (output, target, ...) over the pairings; ``more`` is taken by the output's view."""
        facing = targets[::-1] if self.crossed else targets
        return self.scale * sum(loss(*each) for each in zip(outputs, facing, *more, strict=True))


def loss_weights(cfg: ObjectiveConfig, widths: Sequence[float]) -> list[float]:
    """The factor of the loss at each of ``widths``, of which the first is the widest.

    Narrower widths have ``distill_weight``, unless they are trained by their own base losses (the naive baseline). ``slimclr``
    multiplies the widest's by 1 plus the sum of the other widths (loss re-weighting of SlimCLR, arXiv 2209.15525).
    """
    narrower = 1.0 if cfg.distill_loss == "none" else cfg.distill_weight
    widest = 1.0 + (sum(w for w in widths if w < widths[0]) if cfg.width_weights == "slimclr" else 0.0)
    return [widest if w == widths[0] else narrower for w in widths]
