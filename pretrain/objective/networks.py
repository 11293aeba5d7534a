"""Student and momentum teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from pretrain.config import Config, has_predictor, switchable_widths
from pretrain.models import build
from pretrain.objective.features import feature_adapters, with_stage_norms
from pretrain.objective.heads import predictor, projector
from pretrain.objective.initialisation import initialise
from pretrain.objective.masked import decoder_of
from pretrain.objective.prototypes import Prototypes
from pretrain.objective.teaching import Guide, Pass, Seen
from pretrain.slimmable import at_width, make_switchable, sliced_once


class Student(nn.Module):
    """Encoder, projector and the heads that the objective asks for.

    ``predictor`` exists for the MSE base loss or as asked, ``distill_head`` where sub-networks have a head of their own,
    ``adapters`` (one 1x1 convolution per stage) for feature distillation, ``decoder`` for masked autoencoding; else None. The
    batch is cut in ``chunks`` parts that do not see each other in BatchNorm: virtual processes.
    """

    chunks = 1

    def __init__(self, cfg: Config):
        super().__init__()
        model, objective = cfg.model, cfg.objective
        last_norm = model.heads == "mocov3"
        self.encoder = build(model.arch)
        self.encoder.recompute = cfg.train.recompute
        if model.freeze_patch_projection:
            self.encoder.freeze_patch_projection()
        self.projector = projector(
            self.encoder.feature_rule,
            model.projector_hidden,
            model.projector_out,
            model.projector_layers,
            last_norm or model.projector_last_norm,
            model.projector_norm,
        )
        self.dim = model.prototypes or model.projector_out
        if model.prototypes:
            self.projector.append(Prototypes(model.projector_out, model.prototypes))
        head = partial(predictor, self.dim, model.predictor_hidden, last_norm)
        self.predictor = head() if has_predictor(objective) else None
        distills = objective.distill_loss != "none" and cfg.widths.min < cfg.widths.max
        self.distill_head = head() if distills and objective.head == "own" else None
        self.shared_head = objective.head == "shared"
        self.adapters = feature_adapters(self.encoder) if distills and objective.feature_weight else None
        self.decoder = decoder_of(cfg, self.encoder)
        initialise(self, model)
        if model.switchable_bn:
            make_switchable(self, switchable_widths(cfg))

    @property
    def sub_head(self) -> nn.Module | None:
        """The head applied after the projector at narrower widths: their own, the predictor, or none."""
        return self.predictor if self.shared_head else self.distill_head

    def project(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to projections z (B, D)."""
        return self.projector(self.encoder(x))

    def forward(self, views: Sequence[Tensor], distill: bool) -> Seen:
        """What the network makes of ``views`` (B, 3, H, W); outputs pass the distillation head if ``distill``, else the predictor,
        and feature maps their adapters if ``distill``.
        """
        # The compiler finds by itself that all views use the same slices.
        with nullcontext() if torch.compiler.is_compiling() else sliced_once(self):
            return in_chunks(partial(self._view, distill=distill), views, self.chunks)

    def _view(self, x: Tensor, distill: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        if self.decoder is not None:
            predicted, pixels = self.decoder(self.encoder, x)
            return pixels, predicted, []
        features, maps = with_stage_norms(self.encoder, x) if self.adapters is not None else (self.encoder(x), [])
        z, head = self.projector(features), self.sub_head if distill else self.predictor
        if distill and self.adapters is not None:
            maps = [adapter(m) for adapter, m in zip(self.adapters, maps, strict=True)]
        return z, z if head is None else head(z), maps


class Teacher(Guide):
    """Exponential moving average of the student's encoder and projector (METHOD section 2.1; MoCo, BYOL).

    With ``shuffled`` the images of a part that is normalised together come from all parts of the batch (MoCo, arXiv 1911.05722,
    section 3.3: shuffling BN).
    """

    has_network = True

    def __init__(self, student: Student, shuffled: bool = False):
        super().__init__()
        self.encoder = copy.deepcopy(student.encoder)
        self.projector = copy.deepcopy(student.projector)
        self.chunks, self.wants_maps, self.shuffled = student.chunks, student.adapters is not None, shuffled
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, student: Student, momentum: float) -> None:
        """theta_k <- m * theta_k + (1 - m) * theta_q for every parameter."""
        sources = [*student.encoder.parameters(), *student.projector.parameters()]
        torch._foreach_lerp_([*self.encoder.parameters(), *self.projector.parameters()], sources, 1.0 - momentum)

    def targets(self, now: Pass) -> Seen:
        if not now.fresh:
            return now.guide
        with at_width(self, now.at):
            return self.guide(now.views)

    @classmethod
    def passes(cls, cfg: Config, widths: Sequence[float]) -> list[float]:
        if cfg.objective.distill_loss == "none":
            return list(widths)
        return [cfg.widths.max] * (len(widths) if cfg.objective.ema_update == "pass" else widths.count(widths[0]))

    @torch.no_grad()
    def guide(self, views: Sequence[Tensor]) -> Seen:
        """Targets and feature maps of ``views`` (B, 3, H, W), without gradient."""
        return in_chunks(self._view, views, self.chunks, self.shuffled)

    def _view(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        if not self.wants_maps:
            z, maps = self(x), []
        else:
            features, maps = with_stage_norms(self.encoder, x)
            z = self.projector(features)
        return z, z, maps

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to targets (B, D) without gradient."""
        return self.projector(self.encoder(x))


def in_chunks(view: Callable, views: Sequence[Tensor], chunks: int, shuffled: bool = False) -> Seen:
    """``view(x)`` of each of ``views``, computed on ``chunks`` parts of the batch one after the other and put together again."""
    if chunks == 1:
        return Seen(*map(tuple, zip(*map(view, views), strict=True)))
    found = []
    for x in views:
        parts = [x[i::chunks] for i in range(chunks)] if shuffled else x.tensor_split(chunks)
        z, outputs, maps = zip(*map(view, parts), strict=True)
        back: Tensor | slice = slice(None)
        if shuffled:
            back = torch.cat([torch.arange(i, len(x), chunks, device=x.device) for i in range(chunks)]).argsort()
        found.append((torch.cat(z)[back], torch.cat(outputs)[back], [torch.cat(m)[back] for m in zip(*maps, strict=True)]))
    return Seen(*map(tuple, zip(*found, strict=True)))
