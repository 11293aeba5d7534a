"""Data sets in their own layouts are found, and what is wrong with them is named before anything is trained."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pretrain.errors import UserError
from tests.transfer.segmentation import files
from transfer.segmentation.checks import check
from transfer.segmentation.layouts import LAYOUTS, layout_of


def checked(name, root):
    return check(layout_of(name, root), show=False)


def test_camvid_ignores_void(tmp_path):
    train, val = checked("camvid", files.camvid(tmp_path))
    assert (len(train.images), len(val.images), len(train.classes)) == (4, 2, 11)
    assert train.label_map[11] == 255 and train.classes[8] == "Car" and len(train.palette) == 11


@pytest.mark.parametrize(("aug", "expected"), [(None, "ab"), ("aug", "abde"), ("trainaug", "abde")])
def test_voc_takes_the_list_of_sbd_where_it_is(tmp_path, aug, expected):
    train, val = checked("voc", files.voc(tmp_path, aug))
    assert "".join(path.stem for path in train.images) == expected
    assert [path.stem for path in val.images] == ["c"] and len(val.classes) == 21
    assert val.labels[0].parent.name == "SegmentationClass"  # scores are on VOC's own labels


def test_ade20k_counts_from_one(tmp_path):
    train, _ = checked("ade20k", files.ade20k(tmp_path))
    assert len(train.classes) == 150
    files.write_pair(tmp_path / "images/training/ADE_2.jpg", tmp_path / "annotations/training/ADE_2.png", (151,))
    with pytest.raises(UserError, match=r"ADE_2\.png holds label 151, which is none of the 150 classes \(0 to 150, 255 = no"):
        checked("ade20k", tmp_path)


def test_cityscapes_finds_towns_and_says_how_labels_are_made(tmp_path):
    train, _ = checked("cityscapes", files.cityscapes(tmp_path / "a"))
    assert len(train.images) == 2 and len(train.classes) == 19
    with pytest.raises(UserError, match=r"labelTrainIds\.png is missing: 2 of 2 label images .* csCreateTrainIdLabelImgs"):
        checked("cityscapes", files.cityscapes(tmp_path / "b", "gtFine_labelIds"))


def remove_label(root):
    (root / "trainannot/1.png").unlink()


def remove_image(root):
    (root / "val/1.png").unlink()


def other_size(root):
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(root / "trainannot/0.png")


def colours(root):
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(root / "trainannot/2.png")


def labels_outside(root):
    for name in ("2", "3"):
        files.write_pair(root / f"train/{name}.png", root / f"trainannot/{name}.png", (0, 12, 200))


def torn(root):
    path = root / "trainannot/0.png"
    path.write_bytes(path.read_bytes()[:40])


def no_images(root):
    for path in (root / "val").iterdir():
        path.unlink()


def no_folder(root):
    (root / "valannot").rename(root / "annotations")


@pytest.mark.parametrize(("damage", "message"), [
    (remove_label, r"trainannot/1\.png is missing: 1 of 4 label images of camvid have no file; add them"),
    (remove_image, r"valannot/1\.png has no image: 1 label images of camvid stand alone; remove them"),
    (other_size, r"trainannot/0\.png is 9 x 8 pixels and its image 48 x 40; mend or remove it"),
    (colours, r"trainannot/2\.png is a colour image \(RGB\); labels are class indices"),
    (labels_outside, r"2\.png holds labels 12, 200, which are none of the 11 classes \(0 to 11, .*\) \(and 1 more files\)"),
    (torn, r"trainannot/0\.png or its image 0\.png cannot be read"),
    (no_images, r"camvid has no val images in .*val; write the --data-dir"),
    (no_folder, r"camvid in .* has no valannot; write the --data-dir"),
])
def test_what_is_wrong_is_named_in_one_line(tmp_path, damage, message):
    damage(files.camvid(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        checked("camvid", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_empty_or_missing_folder(tmp_path, name):
    with pytest.raises(UserError, match="data-dir"):
        checked(name, tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        layout_of(name, tmp_path / "nowhere")
