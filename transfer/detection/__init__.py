"""Detection and instance segmentation with detectron2, at every width of a checkpoint."""

from __future__ import annotations

import importlib.util

from rundir.errors import UserError
from transfer.finetuning.description import Finetuning
from transfer.finetuning.schedules import DETECTION as SCHEDULES

__all__ = ["DATASETS", "MODELS", "OPTIONS", "SCHEDULES", "check", "prepare"]

DATASETS = ("digits", "voc", "coco")
# DETECTOR_NECK is for any network, DETECTOR_NETWORK_NECK for that one only.
MODELS = (
    "faster_rcnn_fpn",
    "mask_rcnn_fpn",
    "faster_rcnn_c4",
    "mask_rcnn_c4",
    "faster_rcnn_r18_fpn",
    "faster_rcnn_r50_fpn",
    "faster_rcnn_r50_c4",
    "mask_rcnn_r18_fpn",
    "mask_rcnn_r50_fpn",
    "mask_rcnn_r50_c4",
    "faster_rcnn_mbv2_fpn",
    "mask_rcnn_mbv2_fpn",
    "faster_rcnn_vit_fpn",
    "mask_rcnn_vit_fpn",
)
OPTIONS = ("size", "clip_boxes", "overrides")


def check(finetuning: Finetuning) -> None:
    """Raise :class:`UserError` for an option of detection's own that is wrong whatever the checkpoint and the data are."""
    if finetuning.size is not None and finetuning.size < 1:
        raise UserError(f"--size {finetuning.size} must be at least 1")


def prepare() -> None:
    """Make detectron2 ready to be imported.

    Raises:
        UserError: it is not installed.
    """
    from transfer.detection import adapter

    if importlib.util.find_spec("detectron2") is None:
        raise UserError("detectron2 is not installed; run make detectron2, or conda install -c conda-forge detectron2")
    adapter.apply()
