"""Label images, and the images that belong to them: read here for training, scores, pictures and checks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from torch import Tensor

from pretrain.data import images
from pretrain.data.files import read_bytes
from rundir.errors import UserError

MODES = ("1", "L", "P", "I", "I;16", "I;16B")  # one number per pixel


def read_labels(path: str | Path) -> np.ndarray:
    """The numbers in a label image as they are stored, (H, W), of an unsigned or signed integer type; of 1 bit 0 and 1.

    Raises:
        UserError: the file cannot be read, has colours, is compressed with loss or has an EXIF orientation.
    """
    image, header = images.opened(path, read_bytes(path))
    if image.mode not in MODES:
        raise UserError(
            f"{path} is a colour image ({image.mode}); labels are class indices in a greyscale or palette PNG; fix or remove it"
        )
    if image.format == "JPEG":
        raise UserError(f"{path} is a JPEG, which does not keep the labels exactly; save the labels as PNG")
    if header.orientation != 1:
        raise UserError(f"{path} is a label image with an EXIF orientation; remove the tag and turn the labels themselves")
    try:
        values = np.asarray(image)
    except Exception as error:  # decoders stumble over damaged files in many ways
        raise UserError(f"cannot read the label image {path} ({error}); replace or remove it") from error
    return values.astype(np.uint8) if values.dtype == bool else values


def read_image(image: str | Path, label: str | Path | None, exif: str) -> Tensor:
    """The image (3, H, W) uint8 RGB, turned so that its ``label`` belongs to its pixels; ``exif`` where the sizes leave it open."""
    header, pixels = images.load(image)
    size = None
    if header.orientation != 1 and label is not None:
        size = images.opened(label, read_bytes(label))[0].size
    return images.fitted(image, header, pixels, size, exif)


def class_table(reduce_zero_label: bool, label_map: Mapping[int, int] | None, ignored: int = 255) -> np.ndarray:
    """Stored label to class number, (256,) uint8, as mmsegmentation changes them; ``ignored`` is no class."""
    table = np.arange(256)
    if reduce_zero_label:
        table = np.where((table == 0) | (table == ignored), ignored, table - 1)
    for old, new in (label_map or {}).items():
        table[old] = new
    return table.astype(np.uint8)


@TRANSFORMS.register_module()
class ReadImage(BaseTransform):
    """The image at ``img_path`` by the project's reader: ``img`` (H, W, 3) uint8, BGR as mmcv's transforms expect it.

    ``exif``: ``displayed`` or ``stored``, where image and label leave it open which pixels the labels belong to.
    """

    def __init__(self, exif: str = images.DISPLAYED):
        self.exif = exif

    def transform(self, results: dict) -> dict:
        """Add ``img``, ``img_shape`` and ``ori_shape``."""
        pixels = read_image(results["img_path"], results.get("seg_map_path"), self.exif)
        results["img"] = np.ascontiguousarray(pixels.flip(0).permute(1, 2, 0).numpy())
        results["img_shape"] = results["ori_shape"] = tuple(pixels.shape[1:])
        return results


@TRANSFORMS.register_module()
class ReadLabels(BaseTransform):
    """The label image at ``seg_map_path`` by the project's reader: ``gt_seg_map`` (H, W) uint8; nothing without that key."""

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``."""
        if "seg_map_path" in results:
            table = class_table(results["reduce_zero_label"], results["label_map"])
            results["gt_seg_map"] = table[read_labels(results["seg_map_path"])]
            results["seg_fields"].append("gt_seg_map")
        return results
