"""Masked autoencoding, for ViTs: hidden patches are reconstructed."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.config import Config, skeleton
from pretrain.objective.losses.module import LossModule, LossSetting
from pretrain.slimmable.layers import wide
from rundir.errors import UserError
from rundir.fields import Number

DISTANCE = "absolute"
OWN_VIEW = True
HEAD_DIM = 16  # of the decoder's attention


class Mae(LossModule):
    """Mean squared error of the pixels of hidden patches (MAE, arXiv 2111.06377, section 3), (B, pixels) each.

    ``pretrain/objective/masked.py`` makes outputs and targets; a target is the image itself, which does not drift.
    """

    def __init__(
        self,
        setting: LossSetting,
        *,
        mask: Annotated[float, Number(0, 1, strictly=True)] = 0.75,
        decoder_dim: Annotated[int, Number(HEAD_DIM, 2**14)] = 64,
        decoder_depth: Annotated[int, Number(1, 100)] = 1,
        normalised: bool = True,
    ):
        super().__init__()

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            return F.mse_loss(wide(student), wide(target.detach()))


def check(cfg: Config) -> None:
    """Raise :class:`UserError` for what masked autoencoding does not go with."""
    objective = cfg.objective
    if objective.base_loss != "mae":
        return
    encoder = skeleton(cfg.model.arch)
    if not encoder.is_vit:
        raise UserError(f"objective.base_loss=mae hides patches, which {cfg.model.arch} does not have; set model.arch to a ViT")
    if cfg.data.size < 2 * encoder.patch_size:
        raise UserError(
            f"objective.base_loss=mae needs several patches of {encoder.patch_size} pixels; set data.size="
            f"{2 * encoder.patch_size} or more"
        )
    if objective.distill_loss != "none" or objective.teacher != "online" or objective.predictor == "true":
        raise UserError(
            "objective.base_loss=mae has the images as targets at every width; set objective.distill_loss=none, "
            "objective.teacher=online and objective.predictor=auto"
        )
    if objective.base_options.get("decoder_dim", HEAD_DIM) % HEAD_DIM:
        raise UserError(f"objective.base_options.decoder_dim must be a multiple of {HEAD_DIM}, the channels of a head")
    for key, on in (("compile", cfg.train.compile), ("graphs", cfg.train.graphs)):  # masks are drawn in Python
        if on:
            raise UserError(f"train.{key}=true does not support objective.base_loss=mae; set train.{key}=false")
