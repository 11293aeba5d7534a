"""Student and momentum teacher."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from pretrain.config import Config, has_predictor, switchable_widths
from pretrain.models import build
from pretrain.objective.heads import predictor, projector
from pretrain.slimmable import make_switchable, sliced_once


class Student(nn.Module):
    """Encoder, projector and the heads that the objective asks for.

    ``predictor`` exists for the MSE base loss or as asked, ``distill_head`` where sub-networks have a head of their own; else None.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        model, objective = cfg.model, cfg.objective
        last_norm = model.heads == "mocov3"
        self.encoder = build(model.arch)
        if cfg.train.recompute:
            self.encoder.recompute = True
        if model.freeze_patch_projection:
            self.encoder.freeze_patch_projection()
        self.projector = projector(self.encoder.feature_rule, model.projector_hidden, model.projector_out, model.projector_layers,
                                   last_norm)
        head = partial(predictor, model.projector_out, model.predictor_hidden, last_norm)
        self.predictor = head() if has_predictor(objective) else None
        own_head = objective.distill_loss != "none" and objective.head == "own" and cfg.widths.min < cfg.widths.max
        self.distill_head = head() if own_head else None
        self.shared_head = objective.head == "shared"
        if model.switchable_bn:
            make_switchable(self, switchable_widths(cfg))

    @property
    def sub_head(self) -> nn.Module | None:
        """What narrower widths put behind their projection: a head of their own, the predictor, or nothing."""
        return self.predictor if self.shared_head else self.distill_head

    def project(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to projections z (B, D)."""
        return self.projector(self.encoder(x))

    def forward(self, x1: Tensor, x2: Tensor, distill: bool) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Projections and outputs of both views; outputs pass the distillation head if ``distill``, else the predictor."""
        head = self.sub_head if distill else self.predictor
        # The compiler finds by itself that both views use the same slices.
        with nullcontext() if torch.compiler.is_compiling() else sliced_once(self):
            z = self.project(x1), self.project(x2)
            return z, (z if head is None else (head(z[0]), head(z[1])))


class Teacher(nn.Module):
    """Exponential moving average of the student's encoder and projector (METHOD section 2.1; MoCo, BYOL)."""

    def __init__(self, student: Student):
        super().__init__()
        self.encoder = copy.deepcopy(student.encoder)
        self.projector = copy.deepcopy(student.projector)
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, student: Student, momentum: float) -> None:
        """theta_k <- m * theta_k + (1 - m) * theta_q for every parameter."""
        sources = [*student.encoder.parameters(), *student.projector.parameters()]
        torch._foreach_lerp_([*self.encoder.parameters(), *self.projector.parameters()], sources, 1.0 - momentum)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to targets (B, D) without gradient."""
        return self.projector(self.encoder(x))
