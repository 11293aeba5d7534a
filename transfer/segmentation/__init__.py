"""Semantic segmentation with mmsegmentation, at every width of a checkpoint."""

from __future__ import annotations

from rundir.errors import UserError, check_choice
from transfer.finetuning.description import Finetuning
from transfer.finetuning.schedules import SEGMENTATION as SCHEDULES

__all__ = ["DATASETS", "MODELS", "OPTIONS", "SCHEDULES", "check", "prepare"]

DATASETS = ("digits", "voc", "ade20k", "cityscapes", "camvid")
MODELS = ("fcn", "upernet", "deeplabv3", "segmenter")
OPTIONS = ("inference", "scale", "crop", "output_stride")
INFERENCES = ("whole", "slide")
STRIDES = (1, 2, 4, 8, 16, 32)
SMALLEST_CROP = 32  # pixels: less leaves nothing of the last feature map


def check(finetuning: Finetuning) -> None:
    """Raise :class:`UserError` for an option of segmentation's own that is wrong whatever the checkpoint and the data are."""
    if finetuning.inference is not None:
        check_choice("--inference", finetuning.inference, INFERENCES)
    for option in ("scale", "crop"):
        if min(getattr(finetuning, option) or [SMALLEST_CROP]) < SMALLEST_CROP:
            raise UserError(f"--{option} must be at least {SMALLEST_CROP} pixels each way")
    if finetuning.output_stride is not None and finetuning.output_stride not in STRIDES:
        raise UserError(f"--output-stride {finetuning.output_stride} must be one of {', '.join(map(str, STRIDES))}")


def prepare() -> None:
    """Import mmsegmentation and register what the project adds to it.

    Raises:
        UserError: it cannot be imported.
    """
    from transfer.segmentation import adapter

    adapter.apply()
