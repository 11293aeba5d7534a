"""A trained network as the teacher of SEED distillation (arXiv 2101.04731): nothing in it changes any more."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain import checkpoint
from pretrain.config import Config, from_dict, validate
from pretrain.errors import UserError
from pretrain.objective.networks import Seen, Student, in_chunks
from pretrain.slimmable import at_width


class FrozenTeacher(nn.Module):
    """Encoder and projector of ``payload``, a checkpoint read from ``path``, in evaluation mode at its widest width.

    Its BatchNorms need statistics first: :func:`pretrain.slimmable.calibrate` it at ``width``. With ``batch_statistics`` they use
    those of each of ``chunks`` parts of the batch instead.

    Raises:
        UserError: the checkpoint holds no projector or weights that do not fit its config.
    """

    def __init__(self, payload: dict, path: str | Path, batch_statistics: bool = False, chunks: int = 1):
        super().__init__()
        cfg = teacher_config(payload, path)
        student = Student(cfg)
        self.encoder, self.projector, self.width = student.encoder, student.projector, cfg.widths.max
        self.dim = cfg.model.projector_out
        try:
            self.encoder.load_state_dict(payload["encoder"])
            self.projector.load_state_dict(payload["projector"])
        except (KeyError, RuntimeError, AttributeError, TypeError) as error:
            raise UserError(f"objective.seed_teacher={path} holds no encoder and projector of its config "
                            f"({str(error).splitlines()[0][:120]}); give the run directory of a finished pretraining") from None
        self.batch_statistics, self.chunks = batch_statistics, chunks if batch_statistics else 1
        self.requires_grad_(False).train(batch_statistics)

    def update(self, student: Student, momentum: float) -> None:
        """Nothing: this teacher stays as it is."""

    def fingerprint(self) -> str:
        """Eight hex digits of the weights: equal for equal weights."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.state_dict().items()):
            digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:8]

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


def read_teacher(path: str | Path) -> dict:
    """The checkpoint of a run directory (the newest readable) or file.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = Path(path)
    payload = checkpoint.load_latest(path) if path.is_dir() else checkpoint.load(path) if path.exists() else None
    if payload is None:
        raise UserError(f"objective.seed_teacher={path}: there is no checkpoint; pretrain the teacher first")
    return payload


def teacher_config(payload: dict, path: str | Path) -> Config:
    """The config that the teacher in ``payload`` was trained with; :class:`UserError` where there is none."""
    if not isinstance(payload.get("config"), dict):
        raise UserError(f"objective.seed_teacher={path} holds no config; it is not a checkpoint that pretraining wrote")
    return from_dict(payload["config"])


def load_teacher(cfg: Config, chunks: int = 1) -> FrozenTeacher:
    """The teacher of ``cfg``, still to be calibrated.

    Raises:
        UserError: it cannot be read, its outputs are of another size than the student's, or it cannot take the images.
    """
    path = cfg.objective.seed_teacher
    payload = read_teacher(path)
    own = teacher_config(payload, path)
    if own.model.projector_out != cfg.model.projector_out:
        raise UserError(f"model.projector_out={cfg.model.projector_out} must be that of objective.seed_teacher={path}; write "
                        f"model.projector_out={own.model.projector_out}")
    validate(replace(own, data=replace(own.data, size=cfg.data.size)))  # a ViT needs whole patches
    return FrozenTeacher(payload, path, cfg.objective.seed_teacher_bn == "batch", chunks)
