"""Masks that were cleaned are other data; where they lie makes no difference."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from tests.transfer.segmentation import files
from transfer.segmentation.checks import check
from transfer.segmentation.layouts import Layout, layout_of
from transfer.segmentation.plan import Plan


@dataclass(frozen=True)
class Data:
    """What of a plan its contents are of."""

    layout: Layout

    def contents(self) -> str:
        _, self.__dict__["train"], self.__dict__["val"], _ = check(self.layout, show=False)
        return Plan.contents(self)


def clean(mask) -> None:
    """A pixel of a mask more belongs to its first class."""
    values = np.asarray(Image.open(mask)).copy()
    values[0, 0] = 0 if values[0, 0] else 3
    Image.fromarray(values).save(mask)


@pytest.mark.parametrize(("make", "name", "mask", "image"), [
    (files.camvid, "camvid", "valannot/0.png", "train/0.png"),
    (files.voc, "voc", "VOC2012/SegmentationClass/a.png", "VOC2012/JPEGImages/c.jpg"),
])
def test_any_mask_and_image_counts_and_the_place_does_not(tmp_path, make, name, mask, image):
    root = make(tmp_path / "here")
    before = Data(layout_of(name, root)).contents()
    moved = shutil.copytree(root, tmp_path / "moved")
    assert Data(layout_of(name, moved)).contents() == before
    clean(moved / mask)
    cleaned = Data(layout_of(name, moved)).contents()
    with Image.open(moved / image) as picture:
        picture.rotate(180).save(moved / image)
    assert len({before, cleaned, Data(layout_of(name, moved)).contents()}) == 3
