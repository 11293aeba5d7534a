"""A trained network as the teacher of SEED distillation (arXiv 2101.04731): its weights never change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pretrain.checkpoints import Checkpoint, open_pretrained
from pretrain.checkpoints.weights import load_weights
from pretrain.config import Config, validate
from pretrain.objective.networks import Student, in_chunks
from pretrain.objective.teaching import Guide, Pass, Seen
from pretrain.slimmable import at_width
from rundir.errors import UserError

SETTING = "objective.seed_teacher"


class FrozenTeacher(Guide):
    """Encoder and projector of ``source``, a checkpoint of this project, in evaluation mode at its widest width.

    Its BatchNorms need statistics first: :func:`pretrain.slimmable.calibrate` it at ``width``. With ``batch_statistics`` they use
    those of each of ``chunks`` parts of the batch instead.

    Raises:
        UserError: the checkpoint holds no projector, or one that does not fit its config.
    """

    has_network = True

    def __init__(self, source: Checkpoint, batch_statistics: bool = False, chunks: int = 1):
        super().__init__()
        student = Student(source.config)
        self.encoder, self.projector, self.width, self.dim = source.encoder, student.projector, source.high, student.dim
        load_weights(self.projector, source.behind, f"{SETTING}={source.path}", "the projector of its config")
        self.batch_statistics, self.chunks = batch_statistics, chunks if batch_statistics else 1
        self.requires_grad_(False).train(batch_statistics)

    def update(self, student: Student, momentum: float) -> None:
        """Do nothing: this teacher never changes."""

    def targets(self, now: Pass) -> Seen:
        return self.guide(now.views) if now.fresh else now.guide

    @torch.no_grad()
    def guide(self, views: Sequence[Tensor]) -> Seen:
        """Targets of ``views`` (B, 3, H, W), without gradient."""
        return in_chunks(self._view, views, self.chunks)

    def _view(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        z = self(x)
        return z, z, []

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to targets (B, dim) at the teacher's own width, whatever the student's."""
        with at_width(self, self.width):
            return self.projector(self.encoder(x))


def teacher_of(cfg: Config) -> Checkpoint:
    """The trained network that is the teacher of ``cfg``.

    Raises:
        UserError: it cannot be read, its outputs are of another size than the student's, or it cannot take the images.
    """
    path = cfg.objective.seed_teacher
    source = open_pretrained(SETTING, path)
    own = source.config
    for key in ("prototypes", "projector_out"):
        theirs, ours = vars(own.model)[key], vars(cfg.model)[key]
        if theirs != ours:
            raise UserError(f"model.{key}={ours} must be that of {SETTING}={path}; set model.{key}={theirs}")
    validate(replace(own, data=replace(own.data, size=cfg.data.size)))  # a ViT needs whole patches
    return source


def load_teacher(cfg: Config, chunks: int = 1) -> FrozenTeacher:
    """The teacher of ``cfg``, still to be calibrated. Raises as :func:`teacher_of` does."""
    return FrozenTeacher(teacher_of(cfg), cfg.objective.seed_teacher_bn == "batch", chunks)
