"""A record of detection data to what detectron2's networks are given, its image read by the project's reader."""

from __future__ import annotations

import copy

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.transforms import AugInput

from pretrain.data.images import read


def read_record(record: dict, exif: str) -> np.ndarray:
    """The image of ``record`` (H, W, 3) uint8 RGB, turned so that its boxes belong to its pixels; ``exif`` where that is open."""
    pixels = read(record["file_name"], (record["width"], record["height"]), exif)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


class Mapper(DatasetMapper):
    """detectron2's mapper with another reader of images; ``exif`` as :func:`read_record` takes it."""

    def __init__(self, cfg: CfgNode, is_train: bool, exif: str):
        super().__init__(cfg, is_train)
        if self.image_format not in ("RGB", "BGR"):
            raise ValueError(f"images are read as RGB or BGR, not {self.image_format}")
        self.exif = exif

    def __call__(self, record: dict) -> dict:
        """``record`` with ``image`` (3, H, W) uint8 and, in training, ``instances``, both augmented."""
        record = copy.deepcopy(record)
        image = read_record(record, self.exif)
        augmented = AugInput(image if self.image_format == "RGB" else np.ascontiguousarray(image[:, :, ::-1]))
        transforms = self.augmentations(augmented)
        record["image"] = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if self.is_train:
            self._transform_annotations(record, transforms, augmented.image.shape[:2])
        else:
            record.pop("annotations", None)
        return record
