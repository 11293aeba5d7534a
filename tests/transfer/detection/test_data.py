"""Data in VOC's and COCO's layout, and what is said about it where it is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from pretrain.errors import UserError
from transfer.detection import data

SPLITS = ("train", "test")


def corners(record):
    return [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]


def test_both_layouts_of_the_scenes_have_the_same_boxes(scenes):
    voc, coco, digits = data.load("voc", scenes), data.load("coco", scenes), data.load("digits", scenes)
    assert voc.classes == coco.classes == [str(digit) for digit in range(10)]
    for split in SPLITS:
        ours, theirs = getattr(voc, split).records, getattr(coco, split).records
        assert len(ours) == len(theirs) == (8 if split == "train" else 4)
        for a, b in zip(ours, theirs, strict=True):
            assert (a["width"], a["height"], Path(a["file_name"]).name) == (b["width"], b["height"], Path(b["file_name"]).name)
            assert corners(a) == corners(b)
            assert [x["category_id"] for x in a["annotations"]] == [x["category_id"] for x in b["annotations"]]
    assert (voc.metric, voc.mask_format, coco.metric, coco.mask_format) == ("voc2012", None, "coco", "bitmask")
    assert (digits.name, coco.name, digits.flip) == ("digits", scenes.name, False)


def test_catalogs_and_fingerprints(scenes, tmp_path):
    moved = Path(shutil.copytree(scenes, tmp_path / scenes.name))
    first, second, voc = data.load("digits", scenes), data.load("digits", moved), data.load("voc", scenes)
    assert first.fingerprint == second.fingerprint != voc.fingerprint
    name = first.registered("test")
    assert name == first.registered("test") and DatasetCatalog.get(name) == first.test.records
    assert MetadataCatalog.get(name).thing_classes == first.classes


@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_contents_are_all_that_is_read_and_not_where_it_lies(scenes, tmp_path, layout):
    def contents(root):
        return data.load(layout, root).contents(root)

    before = contents(scenes)
    moved = Path(shutil.copytree(scenes, tmp_path / scenes.name))
    assert contents(moved) == before
    found = [before]
    if layout == "coco":
        path = moved / "annotations" / "instances_val2017.json"
        content = json.loads(path.read_text())
        content["annotations"][0]["area"] += 1  # of what scoring reads, no box
        path.write_text(json.dumps(content))
    else:
        path = next((moved / "Annotations").iterdir())
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1))
    found.append(contents(moved))
    image = next((moved / ("val2017" if layout == "coco" else "JPEGImages")).iterdir())
    with Image.open(image) as picture:
        picture.rotate(180).save(image)
    found.append(contents(moved))
    assert len(set(found)) == 3


def devkit(root: Path, scenes: Path, years=(2007, 2012)) -> Path:
    """Scenes as a VOCdevkit; digits are called by names of VOC's classes."""
    for year in years:
        home = root / f"VOC{year}"
        shutil.copytree(scenes, home)
        (home / "scenes.json").unlink()
        if year == 2012:
            (home / "ImageSets" / "Main" / "test.txt").unlink()
        for path in (home / "Annotations").iterdir():
            text = path.read_text()
            for number, name in enumerate(data.VOC_CLASSES[:10]):
                text = text.replace(f"<name>{number}</name>", f"<name>{name}</name>")
            path.write_text(text)
    return root


def test_a_voc_devkit_trains_on_both_years_and_is_scored_as_2007(scenes, tmp_path):
    found = data.load("voc", devkit(tmp_path / "VOCdevkit", scenes))
    assert (found.name, found.metric, found.classes) == ("voc", "voc2007", list(data.VOC_CLASSES))
    assert (len(found.train.records), len(found.test.records), found.flip) == (16, 4, True)
    assert any("10 more" in note or "of 20 classes" in note for note in found.notes)
    alone = data.load("voc", devkit(tmp_path / "other" / "VOCdevkit", scenes, years=(2012,)))
    assert (alone.metric, len(alone.train.records), len(alone.test.records)) == ("voc2012", 6, 2)


def test_any_classes_of_voc(scenes, tmp_path):
    root = edited(scenes, tmp_path, "Annotations/000009.xml", lambda text: text.replace("<object><name>", "<object><name>x"))
    (root / "scenes.json").unlink()
    found = data.load("voc", root)
    new = [name for name in found.classes if name.startswith("x")]
    assert new and found.classes == sorted(found.classes) and found.flip
    assert any("no box to be trained on" in note and new[0] in note for note in found.notes)


def edited(scenes, tmp_path, relative, change) -> Path:
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    path = root / relative
    path.write_text(change(path.read_text()))
    return root


def coco_changed(scenes, tmp_path, change, split="train") -> Path:
    def edit(text):
        content = json.loads(text)
        change(content)
        return json.dumps(content)
    return edited(scenes, tmp_path, f"annotations/instances_{split}2017.json", edit)


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c["images"][0].update(file_name="gone.jpg"), r"1 files are missing: .*gone\.jpg"),
    (lambda c: c["annotations"][0].update(bbox=[40, 2, 30, 10]), "1 boxes are outside their image; .*--clip-boxes.*right 70"),
    (lambda c: c["annotations"][0].update(category_id=99), "1 boxes of no known image or class: .*category 99"),
    (lambda c: c["annotations"][0].update(image_id=99), "no known image or class: .*image 99"),
    (lambda c: c.pop("annotations"), "has no annotations"),
    (lambda c: c["categories"].append({"id": 11, "name": "ten"}), r"do not have the same categories \(ten\)"),
    (lambda c: c["images"][0].update(width=47), "48 x 48 pixels, its annotation says 47 x 48"),
])
def test_what_is_wrong_with_coco_is_named(change, message, scenes, tmp_path):
    with pytest.raises(UserError, match=message):
        data.load("coco", coco_changed(scenes, tmp_path, change))


def test_boxes_are_cut_where_that_is_asked_for(scenes, tmp_path):
    def change(content):
        content["annotations"][0].update(bbox=[40, 2, 30, 10])
        content["annotations"][1].update(bbox=[4, 4, 0, 5])
    found = data.load("coco", coco_changed(scenes, tmp_path, change), clip=True)
    assert corners(found.train.records[0])[0] == [40, 2, 48, 12]
    assert found.notes[0] == "1 boxes have no area and are not used"


def test_classes_without_a_box_are_named(scenes, tmp_path):
    def change(content):
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] > 2]
    found = data.load("coco", coco_changed(scenes, tmp_path, change))
    assert any("no box to be trained on: 0; 1" in note for note in found.notes)


def test_data_without_masks(scenes, tmp_path):
    found = data.load("coco", coco_changed(scenes, tmp_path, lambda c: [a.pop("segmentation") for a in c["annotations"]]))
    assert found.mask_format is None


@pytest.mark.parametrize(("relative", "change", "message"), [
    ("ImageSets/Main/trainval.txt", lambda text: "nothing\n" + text, r"1 files are missing: .*nothing\.jpg"),
    ("ImageSets/Main/trainval.txt", lambda text: "\n", "names no image"),
    ("Annotations/000001.xml", lambda text: text[:60], "is not an annotation of Pascal VOC"),
    ("Annotations/000001.xml", lambda text: text.replace("<xmax>", "<xmax>9"), "are outside their image"),
    ("Annotations/000001.xml", lambda text: text.replace("<width>48", "<width>50"), "48 x 48 pixels"),
    ("Annotations/000009.xml", lambda text: text.replace("<object><name>", "<object><name>x"), "of no known image or class: x"),
])
def test_what_is_wrong_with_voc_is_named(relative, change, message, scenes, tmp_path):
    with pytest.raises(UserError, match=message):
        data.load("voc", edited(scenes, tmp_path, relative, change))


def test_places_where_no_data_is(scenes, tmp_path):
    for dataset, where, message in (("voc", None, "write --data-dir"), ("voc", tmp_path / "x", "there is no directory"),
                                    ("voc", tmp_path, "Pascal VOC's layout"), ("coco", tmp_path, "COCO's layout")):
        with pytest.raises(UserError, match=message):
            data.load(dataset, where)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        data.load("coco", tmp_path)


def test_a_damaged_picture_is_found_before_training(scenes, tmp_path):
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    (root / "train2017" / "000001.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"000001\.jpg cannot be read"):
        data.load("coco", root)
    Image.new("RGB", (48, 48)).save(root / "train2017" / "000001.jpg")
    data.load("coco", root)
