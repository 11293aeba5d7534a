"""Data sets in their own layouts are found, and what is wrong with them is named before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from mmseg.registry import DATASETS
from PIL import Image

from rundir.errors import UserError
from tests.transfer.segmentation import files
from transfer.segmentation.data.labels import read_image, read_labels
from transfer.segmentation.data.layouts import LAYOUTS, layout_of
from transfer.segmentation.data.loaders import test_pipeline as evaluation_pipeline
from transfer.segmentation.data.sets import load


def checked(name, root):
    found = load(layout_of(name, root))
    return found.train, found.val


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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_label, r"trainannot/1\.png is missing: 1 of 4 label images of camvid have no file; add them"),
        (remove_image, r"valannot/1\.png has no image: 1 label images of camvid stand alone; remove them"),
        (other_size, r"trainannot/0\.png is 9 x 8 pixels and its image 48 x 40; fix or remove it"),
        (colours, r"trainannot/2\.png is a colour image \(RGB\); labels are class indices"),
        (labels_outside, r"2\.png holds labels 12, 200, which are none of the 11 classes \(0 to 11, .*\); .* \(and 1 more files\)"),
        (torn, r"cannot read the .*trainannot/0\.png"),
        (no_images, r"camvid has no val images in .*val; set --data-dir"),
        (no_folder, r"camvid in .* has no valannot; set --data-dir"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, damage, message):
    damage(files.camvid(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        checked("camvid", tmp_path)
    assert "\n" not in str(caught.value)


def notes(name, root, **options):
    return load(layout_of(name, root), **options).notes


def test_what_is_trained_and_scored_on_is_said(tmp_path):
    said = notes("camvid", files.camvid(tmp_path))
    assert said[0] == ("train: 4 images, 3 of 11 classes have pixels: Sky 25.0%, Road 25.0%, Car 25.0%; no class 25.0%")
    (tmp_path / "val/notes.txt").write_text("")
    (tmp_path / "val/Thumbs.db").write_text("")
    said = notes("camvid", tmp_path)
    assert said[0] == f"left out 2 of {tmp_path / 'val'} that are no images: Thumbs.db, notes.txt"


def test_masks_of_0_and_255_are_no_class_numbers(tmp_path):
    files.voc(tmp_path)
    for name in "ab":
        files.write_pair(tmp_path / f"VOC2012/JPEGImages/{name}.jpg", tmp_path / f"VOC2012/SegmentationClass/{name}.png", (0, 255))
    with pytest.raises(UserError, match=r"train label images of voc hold background 50.0% and no other class \(masks of 0 and 255"):
        checked("voc", tmp_path)


def test_labels_of_one_bit_are_0_and_1(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.eye(5, dtype=bool)).save(path)
    with Image.open(path) as image:
        assert image.mode == "1"
    assert np.array_equal(read_labels(path), np.eye(5))


def test_labels_that_cannot_be_exact_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png", format="JPEG")
    with pytest.raises(UserError, match=r"a\.png is a JPEG"):
        read_labels(tmp_path / "a.png")


def lists(root):
    return root / "VOC2012/ImageSets/Segmentation"


def test_lists_as_people_write_them(tmp_path):
    base = files.voc(tmp_path) / "VOC2012"
    for old, new in (("a.jpg", "a b.PNG"), ("b.jpg", "b.JPG")):
        (base / "JPEGImages" / old).rename(base / "JPEGImages" / new)
    (base / "SegmentationClass/a.png").rename(base / "SegmentationClass/a b.png")
    (lists(tmp_path) / "train.txt").write_bytes(b"\xef\xbb\xbfa b\r\n\r\n  b 1\n\na b\n")
    train, _ = checked("voc", tmp_path)
    assert [path.name for path in train.images] == ["a b.PNG", "b.JPG"]
    assert [path.name for path in train.labels] == ["a b.png", "b.png"]
    assert train.notes == [f"1 names stand in {lists(tmp_path) / 'train.txt'} more than once and are used once: a b"]


@pytest.mark.parametrize("name", ["/tmp/a", "../a", "x/../../a", ".."])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    files.voc(tmp_path)
    (lists(tmp_path) / "val.txt").write_text(f"c\n{name}\n")
    with pytest.raises(UserError, match=r"val\.txt, line 2: .* leads out of the data's folder"):
        checked("voc", tmp_path)


def test_images_of_two_suffixes_with_one_label_image(tmp_path):
    files.camvid(tmp_path)
    Image.open(tmp_path / "train/0.png").save(tmp_path / "train/0.bmp")
    with pytest.raises(UserError, match=r"0\.bmp and .*0\.png are images of one name"):
        checked("camvid", tmp_path)


def test_links_that_lead_round_end(tmp_path):
    files.camvid(tmp_path)
    for split in ("train", "trainannot"):
        for name in ("x", "y"):
            (tmp_path / split / name).symlink_to(tmp_path / split)
    train, _ = checked("camvid", tmp_path)
    assert len(train.images) == 4 and "2 links in" in train.notes[0]


def test_images_that_are_trained_on_and_scored_on(tmp_path):
    files.voc(tmp_path)
    (lists(tmp_path) / "val.txt").write_text("c\na\n")
    assert any(note.startswith("1 of the 2 images scored on are trained on, too") for note in notes("voc", tmp_path))


# --- EXIF orientations


def tag(path, orientation, pixels=None):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(path) if pixels is None else Image.fromarray(pixels)
    image.load()
    image.save(path, exif=exif)


def test_labels_say_by_their_size_whether_the_picture_is_turned(tmp_path):
    files.camvid(tmp_path)
    image, label = tmp_path / "train/0.png", tmp_path / "trainannot/0.png"
    upright = np.asarray(Image.open(image))
    tag(image, 6)  # labelled as stored
    found = load(layout_of("camvid", tmp_path))
    layout, said = found.layout, found.notes
    assert layout.exif == "stored" and "1 images have an EXIF orientation, 1 annotated as stored" in said[-1]
    assert np.array_equal(read_image(image, label, layout.exif).permute(1, 2, 0), upright)
    tag(image, 6, np.ascontiguousarray(np.rot90(upright)))  # stored turned, so displayed upright
    layout = load(layout_of("camvid", tmp_path)).layout
    assert layout.exif == "displayed"
    assert np.array_equal(read_image(image, label, layout.exif).permute(1, 2, 0), upright)


def test_half_turns_go_with_the_quarter_turns_or_have_to_be_said(tmp_path):
    files.camvid(tmp_path)
    tag(tmp_path / "train/1.png", 3)
    with pytest.raises(UserError, match=r"1\.png has an EXIF orientation .* set --exif displayed or --exif stored"):
        checked("camvid", tmp_path)
    for asked in ("stored", "displayed"):
        assert load(layout_of("camvid", tmp_path), exif=asked).layout.exif == asked
    tag(tmp_path / "train/0.png", 8)
    assert load(layout_of("camvid", tmp_path)).layout.exif == "stored"


def test_batches_hold_the_picture_that_the_labels_belong_to(tmp_path):
    """Labels and pixels agree in what the network is given: the image is white where the label is 1."""
    files.voc(tmp_path)
    random = np.random.default_rng(0)
    for name, orientation in (("a", 6), ("b", 3)):
        labels = random.integers(0, 2, (5, 6), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        white = np.repeat(labels[..., None] * np.uint8(255), 3, -1)
        base = tmp_path / "VOC2012"
        (base / f"JPEGImages/{name}.jpg").unlink()
        tag(base / f"JPEGImages/{name}.png", orientation, np.ascontiguousarray(np.rot90(white, {6: 1, 3: 2}[orientation])))
        Image.fromarray(labels).save(base / f"SegmentationClass/{name}.png")
    layout = load(layout_of("voc", tmp_path)).layout
    dataset = DATASETS.build({**layout.train[0], "pipeline": evaluation_pipeline(replace(layout, scale=(48, 40)))})
    for sample in dataset:
        pixels, labels = sample["inputs"], sample["data_samples"].gt_sem_seg.data
        assert pixels.shape[1:] == labels.shape[1:] and torch.equal(pixels > 127, (labels == 1).expand(3, -1, -1))


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_empty_or_missing_folder(tmp_path, name):
    with pytest.raises(UserError, match="data-dir"):
        checked(name, tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        layout_of(name, tmp_path / "nowhere")
