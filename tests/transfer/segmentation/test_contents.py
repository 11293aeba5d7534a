"""Masks that were cleaned are other data; where they lie makes no difference."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.transfer.segmentation import files
from transfer.segmentation.data.layouts import layout_of
from transfer.segmentation.data.sets import load


def clean(mask) -> None:
    """A pixel of a mask more belongs to its first class."""
    values = np.asarray(Image.open(mask)).copy()
    values[0, 0] = 0 if values[0, 0] else 3
    Image.fromarray(values).save(mask)


@pytest.mark.parametrize(
    ("make", "name", "mask", "image"),
    [
        (files.camvid, "camvid", "valannot/0.png", "train/0.png"),
        (files.voc, "voc", "VOC2012/SegmentationClass/a.png", "VOC2012/JPEGImages/c.jpg"),
    ],
)
def test_any_mask_and_image_counts_and_the_place_does_not(tmp_path, make, name, mask, image):
    root = make(tmp_path / "here")
    before = load(layout_of(name, root)).contents
    moved = shutil.copytree(root, tmp_path / "moved")
    assert load(layout_of(name, moved)).contents == before
    clean(moved / mask)
    cleaned = load(layout_of(name, moved)).contents
    with Image.open(moved / image) as picture:
        picture.rotate(180).save(moved / image)
    assert len({before, cleaned, load(layout_of(name, moved)).contents}) == 3
