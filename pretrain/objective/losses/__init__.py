"""Losses of a pass: which function compares outputs with targets, over which pairs of views, with which weight.

Every loss takes outputs of the student and targets of equal shape (B, D), any float type. It is computed in float32 whatever the
autocast type (float64 stays float64), and is a scalar of that type. Targets carry no gradient unless a loss says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pretrain.config import ObjectiveConfig
from pretrain.config.methods import BASE_LOSS, DISTILL_LOSS, Part, failure, is_own, make
from pretrain.objective.losses.absolute import feature_distance, negative_cosine
from pretrain.objective.losses.module import LossModule, LossSetting
from pretrain.objective.losses.relative import infonce, infonce_keys, infonce_queue
from pretrain.objective.losses.similarity import kl, seed
from rundir.errors import UserError
from rundir.subnet import Width, widest

__all__ = [
    "LossModule",
    "LossSetting",
    "Pairing",
    "base_loss",
    "distill_loss",
    "feature_distance",
    "in_chunks",
    "infonce",
    "infonce_keys",
    "infonce_queue",
    "kl",
    "loss_function",
    "loss_weights",
    "negative_cosine",
    "seed",
]

Loss = Callable[..., Tensor]


def base_loss(setting: LossSetting) -> Loss:
    """The loss of the widest network as a function, or a module, of (student, target)."""
    cfg = setting.objective
    return _tried(BASE_LOSS, cfg.base_loss, make(BASE_LOSS, cfg.base_loss, cfg.base_options, setting), 2, setting.dim)


def distill_loss(setting: LossSetting, own_loss: Loss) -> Loss:
    """The loss of narrower widths as a function of (student, target, the widest network's output, the next wider's projection).

    A share ``sub_base_weight`` of it is ``own_loss``, the base loss, on the same targets (SlimCLR, arXiv 2209.15525, section 3.3).
    With ``same_view_weight`` it learns from the widest network's output of the same view too (same-view distillation of POA, arXiv
    2408.01031).
    """
    cfg = setting.objective
    made = make(DISTILL_LOSS, cfg.distill_loss, cfg.distill_options, setting)
    named = _tried(DISTILL_LOSS, cfg.distill_loss, _by_name(made), 4, setting.dim)

    def distil(s: Tensor, t: Tensor, widest: Tensor, wider: Tensor) -> Tensor:
        t, wider = t.detach(), wider.detach()
        loss = named(s, t, widest, wider)
        if cfg.same_view_weight:
            loss = loss + cfg.same_view_weight * named(s, widest, widest, wider)
        share = cfg.sub_base_weight
        return share * own_loss(s, t) + (1 - share) * loss if share else loss

    return distil


def _by_name(loss: Loss) -> Loss:
    """``loss``, which takes some of (student, target, widest, wider), as a function of all of them."""
    function = loss.forward if isinstance(loss, LossModule) else loss
    names = [name for name, a in inspect.signature(function).parameters.items() if a.kind is not a.KEYWORD_ONLY]

    def named(student: Tensor, target: Tensor, widest: Tensor, wider: Tensor) -> Tensor:
        given = {"student": student, "target": target, "widest": widest, "wider": wider}
        return loss(*(given[name] for name in names))

    return named


def _tried(part: Part, value: str, loss: Loss, count: int, dim: int) -> Loss:
    """``loss`` of ``count`` tensors (B, dim); one of the user's own is tried on random ones first.

    Raises:
        UserError: the user's own fails, changes what it is given, has parameters, or gives something else than a finite scalar that
            depends on the student's outputs.
    """
    if not is_own(value):
        return loss
    if isinstance(loss, LossModule) and any(True for _ in loss.parameters()):
        raise UserError(f"{part.key}={value} has parameters, which nothing trains; keep what it remembers in buffers")
    drawn = torch.randn(count, min(2 * dim, 512), dim, generator=torch.Generator().manual_seed(0))
    student, *others = drawn.clone().unbind()
    try:
        found = loss(student.clone().requires_grad_(), *others)
    except Exception as error:
        raise failure(part, value, error, f" on outputs of shape {tuple(student.shape)}") from error
    if not torch.equal(torch.stack([student, *others]), drawn):
        raise UserError(f"{part.key}={value} changes its arguments in place, which other losses use too; let it work on copies")
    fault = _fault_of_value(found)
    if fault:
        raise UserError(f"{part.key}={value} returns {fault}")
    return loss


def _fault_of_value(found: object) -> str:
    """What keeps ``found`` from being a loss to train by, and what to return instead; "" if nothing does."""
    if not isinstance(found, Tensor) or found.ndim:
        shown = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
        return f"{shown}; let it return a scalar tensor with a gradient for the student's outputs, such as a mean over the rows"
    if not found.requires_grad:
        return "a scalar without a gradient for the student's outputs; detach the targets only, not what depends on student"
    finite = bool(torch.isfinite(found.detach()))
    return "" if finite else f"{float(found.detach())} for outputs that are normally distributed; let it return a finite loss"


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


def loss_weights(cfg: ObjectiveConfig, widths: Sequence[Width]) -> list[float]:
    """The factor of the loss at each of ``widths``, of which the first is the widest.

    Narrower widths have ``distill_weight``, unless they are trained by their own base losses (the naive baseline). ``slimclr``
    multiplies the widest's by 1 plus the sum of the other widths (loss re-weighting of SlimCLR, arXiv 2209.15525).
    """
    narrower = 1.0 if cfg.distill_loss == "none" else cfg.distill_weight
    first = 1.0 + (sum(widest(w) for w in widths if w < widths[0]) if cfg.width_weights == "slimclr" else 0.0)
    return [first if w == widths[0] else narrower for w in widths]
