"""Data in VOC's and COCO's layout, and what is said about it where it is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as coco_masks

from rundir.errors import UserError
from transfer.detection import data
from transfer.detection.data import masks
from transfer.detection.data.faults import has_box
from transfer.detection.data.mapper import Mapper, read_record

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
        return data.load(layout, root).contents

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].update(file_name="gone.jpg"), r"1 files are missing: .*gone\.jpg"),
        (lambda c: c["annotations"][0].update(bbox=[40, 2, 30, 10]), "1 boxes are outside their image; .*--clip-boxes.*right 70"),
        (lambda c: c["annotations"][0].update(category_id=99), "1 boxes of no known image or class: .*category 99"),
        (lambda c: c["annotations"][0].update(image_id=99), "no known image or class: .*image 99"),
        (lambda c: c.pop("annotations"), "has no annotations"),
        (lambda c: c["categories"].append({"id": 11, "name": "ten"}), r"do not have the same categories \(ten\)"),
        (lambda c: c["images"][0].update(width=47), r"annotations\[0\]\.segmentation\.size is \[48, 48\]"),
        (
            lambda c: [c["images"][0].update(width=47), *(a.pop("segmentation") for a in c["annotations"])],
            "48 x 48 pixels, its annotation says 47 x 48",
        ),
        (lambda c: c["annotations"][0].pop("bbox"), r"train2017\.json: annotations\[0\]\.bbox is missing; set it to four numbers"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"annotations\[0\]\.bbox is \[1, 2, 3\]"),
        (lambda c: c["annotations"][1].update(bbox=["1", 2, 3, 4]), r"annotations\[1\]\.bbox is \['1', 2, 3, 4\]"),
        (lambda c: c["annotations"][1].update(bbox=[float("nan")] * 4), r"annotations\[1\]\.bbox is \[nan, nan"),
        (lambda c: c["annotations"][1].update(bbox=[0, 0, float("inf"), 1]), r"annotations\[1\]\.bbox is \[0, 0, inf"),
        (lambda c: c["annotations"][1].update(bbox=[None, 0, 1, 1]), r"annotations\[1\]\.bbox is \[None"),
        (lambda c: c["annotations"][1].update(bbox=[True, 0, 9, 9]), r"annotations\[1\]\.bbox is \[True"),
        (lambda c: c["annotations"][1].update(bbox={"x": 1}), r"annotations\[1\]\.bbox is \{'x': 1\}"),
        (lambda c: c["annotations"][1].update(bbox=[9, 9, -4, 5]), r"annotations\[1\]\.bbox .* of negative width or height"),
        (lambda c: c["annotations"][0].pop("id"), r"annotations\[0\]\.id is missing"),
        (lambda c: c["annotations"][1].update(id=c["annotations"][0]["id"]), r"annotations\[1\]\.id is 1, as of annotations\[0\]"),
        (lambda c: c["annotations"][0].update(id="a"), r"annotations\[0\]\.id is 'a'; set it to a whole number"),
        (lambda c: c["annotations"][0].pop("image_id"), r"annotations\[0\]\.image_id is missing"),
        (lambda c: c["annotations"][0].update(iscrowd="no"), r"annotations\[0\]\.iscrowd is 'no'; set it to 0 or 1"),
        (lambda c: c["annotations"][0].update(area=-1), r"annotations\[0\]\.area is -1"),
        (lambda c: c["annotations"][0].update(area=float("nan")), r"annotations\[0\]\.area is nan"),
        (lambda c: c["annotations"].__setitem__(0, None), r"annotations\[0\] is None; it must be an object"),
        (
            lambda c: c["images"][0].pop("width"),
            r"images\[0\]\.width is missing; set it to a whole number from 1: 000001\.jpg has 48 x 48",
        ),
        (lambda c: c["images"][0].update(width=-1, height=-1), r"images\[0\]\.width is -1; .* 000001\.jpg has 48 x 48"),
        (lambda c: c["images"][0].update(height="48"), r"images\[0\]\.height is '48'"),
        (lambda c: c["images"][0].pop("file_name"), r"images\[0\]\.file_name is missing; set it to a text"),
        (lambda c: c["images"][0].pop("id"), r"images\[0\]\.id is missing"),
        (lambda c: c["images"][1].update(id=c["images"][0]["id"]), r"images\[1\]\.id is 1, which another image has"),
        (
            lambda c: c["images"][1].update(file_name="000001.jpg"),
            r"images\[1\]\.file_name is '000001\.jpg', the file of the image with id 1",
        ),
        (lambda c: c["images"][0].update(file_name="../train2017/000001.jpg"), "leads out of the data's folder"),
        (lambda c: c["images"][0].update(file_name="/etc/000001.jpg"), "leads out of the data's folder"),
        (lambda c: c["categories"][0].pop("name"), r"categories\[0\]\.name is missing"),
        (lambda c: c["categories"][1].update(id=1), r"categories\[1\]\.id is 1, which another category has"),
        (lambda c: c["categories"][1].update(name="0"), r"categories\[1\]\.name is '0', which another category has"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "train on have no box of an object at all"),
        (
            lambda c: [a.update(bbox=[x / 48 for x in a["bbox"]]) for a in c["annotations"]],
            "8 images have boxes within one pixel at their corner, as if they were shares .* multiply them",
        ),
    ],
)
def test_what_is_wrong_with_coco_is_named(change, message, scenes, tmp_path):
    with pytest.raises(UserError, match=message):
        data.load("coco", coco_changed(scenes, tmp_path, change))


HUGE = {"size": [46341, 46341], "counts": [46341 * 46341]}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (HUGE, r"\.size is \[46341, 46341\], and height and width of its image are \[48, 48\]"),
        (HUGE | {"size": [48, 48]}, r"\.counts make up 2,147,488,281 pixels, and its image has 2,304"),
        ({"size": [48, 48], "counts": "!!!!"}, r"\.counts is not a string of compressed run lengths"),
        ({"size": [48, 48], "counts": "o"}, r"\.counts is not a string of"),
        ({"size": [48, 48], "counts": "\ud800"}, r"\.counts is not a string of"),
        ({"size": [48, 48], "counts": [2310, -6]}, r"\.counts has run lengths that are not whole numbers"),
        ({"size": [48, 48], "counts": 7}, r"\.counts has run lengths that are no"),
        ({"size": [48, 48]}, " is neither a list of polygons nor run lengths"),
        ([1, 2, 3, 4, 5, 6], r"\[0\] is not a list"),
        ([[1, 2, 3, 4]], r"\[0\] has 4 numbers"),
        ([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]], r"\[1\] has 7 numbers"),
        ([[1, 2, 3, 4, 5, "6"]], r"\[0\] has values that are not numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], r"\[0\] has values that are not numbers"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], r"\[0\] is far outside its image of 48 x 48"),
        ("a mask", " is neither"),
    ],
)
def test_masks_that_cannot_be_right_are_named_and_never_unfolded(mask, message, scenes, tmp_path):
    with pytest.raises(UserError, match=r"annotations\[2\]\.segmentation" + message):
        data.load("coco", coco_changed(scenes, tmp_path, lambda c: c["annotations"][2].update(segmentation=mask)))


@settings(max_examples=100, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1)))
def test_compressed_run_lengths_are_read_as_pycocotools_reads_them(mask):
    packed = coco_masks.encode(np.asfortranarray(mask))
    text, shape = packed["counts"].decode(), list(mask.shape)
    found = masks.run_lengths(text)
    assert coco_masks.frPyObjects({"size": shape, "counts": found}, *shape) == packed
    assert [masks.fault({"size": shape, "counts": counts}, mask.shape) for counts in (text, found)] == [None, None]


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text("0123456789:;<=>?@ABCPQRSo"))
def test_any_text_of_run_lengths_is_right_or_named(text):
    fault = masks.fault({"size": [3, 4], "counts": text}, (3, 4))
    assert fault or coco_masks.decode({"size": [3, 4], "counts": text}).shape == (3, 4)


def plain(record):
    return {**record, "annotations": [{**a, "segmentation": None} for a in record["annotations"]]}


def test_what_other_tools_leave_out_or_number_from_0_changes_nothing(scenes, tmp_path):
    def change(content):
        for number, annotation in enumerate(content["annotations"]):
            annotation.update(id=number)
            del annotation["iscrowd"], annotation["area"]
        for image in content["images"]:
            image.update(width=float(image["width"]), file_name=f"./{image['file_name']}")

    usual = data.load("coco", scenes)
    other = data.load("coco", coco_changed(scenes, tmp_path, change, "val"))
    assert [plain(r) | {"file_name": ""} for r in other.test.records] == [plain(r) | {"file_name": ""} for r in usual.test.records]
    assert [a["id"] for a in other.test.truth["annotations"]] == list(range(1, len(other.test.truth["annotations"]) + 1))
    assert all(a["area"] == a["bbox"][2] * a["bbox"][3] for a in other.test.truth["annotations"])


def test_file_names_with_folders(scenes, tmp_path):
    def change(content):
        for image, place in zip(content["images"], ("day1/", "./day1/", "day1\\", "train2017/day1/") * 2, strict=True):
            image["file_name"] = place + image["file_name"]

    root = coco_changed(scenes, tmp_path, change)
    (root / "train2017").rename(root / "day1")
    (root / "train2017").mkdir()
    (root / "day1").rename(root / "train2017/day1")
    found = data.load("coco", root)
    assert [Path(r["file_name"]) for r in found.train.records] == sorted((root / "train2017/day1").iterdir())


def test_what_is_trained_and_scored_on_is_said(scenes, tmp_path):
    def change(content):
        content["annotations"][0].update(bbox=[4, 4, 0, 5])
        content["annotations"][-1].update(iscrowd=1)
        content["images"] += [content["images"][0], {"id": 99, "file_name": "x.PNG", "width": 48, "height": 48}]

    root = coco_changed(scenes, tmp_path, change)
    Image.new("L", (48, 48)).save(root / "train2017/x.PNG")
    Image.new("L", (48, 48)).save(root / "train2017/y.tif")
    found = data.load("coco", root)
    boxes = [a for r in found.train.records for a in r["annotations"]]
    total = sum(len(r["annotations"]) for r in data.load("coco", scenes).train.records)
    assert len(found.train.records) == 9 and len(boxes) == total - 1
    said = "\n".join(found.notes)
    with_objects = sum(map(has_box, found.train.records))
    assert f"trained on: 9 images, {with_objects} of them with objects; {total - 1} boxes, 1 of them crowds" in said
    assert "1 boxes have no area and are not used, neither to train on nor to score on: annotation 1 of 000001.jpg" in said
    assert "names 1 images twice, with equal entries; each is used once" in said
    assert f"1 images in {root / 'train2017'} are not in instances_train2017.json and are not used: y.tif" in said


def test_images_that_are_trained_on_and_scored_on(scenes, tmp_path):
    root = edited(scenes, tmp_path, "ImageSets/Main/test.txt", lambda text: text + "000001\n000001\n")
    notes = data.load("voc", root).notes
    assert "1 of the 5 images scored on are trained on, too" in "\n".join(notes) and "1 names stand in" in "\n".join(notes)


def test_the_orientation_of_a_picture_follows_the_annotation(scenes, tmp_path):
    """A picture of 48 x 40 whose file holds it turned: the annotation belongs to what is displayed, or to what is stored."""
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    upright = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)

    def stored(pixels, orientation, name):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(pixels)).save(root / "JPEGImages" / f"{name}.png", exif=exif)
        (root / "JPEGImages" / f"{name}.jpg").unlink(missing_ok=True)
        path = root / "Annotations" / f"{name}.xml"
        path.write_text(path.read_text().replace("<height>48", "<height>40").replace("<ymax>4", "<ymax>3"))

    def seen(name):
        found = data.load("voc", root)
        record = next(r for r in found.train.records if Path(r["file_name"]).stem == name)
        mapped = Mapper(get_cfg(), True, found.exif)(record)
        assert mapped["image"].shape[1] < mapped["image"].shape[2]
        return found, read_record(record, found.exif)

    stored(upright, 6, "000001")
    found, pixels = seen("000001")
    assert found.exif == "stored" and np.array_equal(pixels, upright)
    stored(np.rot90(upright), 6, "000001")
    found, pixels = seen("000001")
    assert found.exif == "displayed" and np.array_equal(pixels, upright)
    stored(np.rot90(upright, 2), 3, "000002")
    assert np.array_equal(seen("000002")[1], upright)  # as the other one
    stored(upright, 1, "000001")
    with pytest.raises(UserError, match=r"000002\.png has an EXIF orientation .* set --exif"):
        data.load("voc", root)
    assert data.load("voc", root, exif="stored").exif == "stored"


def test_deep_pictures_are_not_white(scenes, tmp_path):
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    grey = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    (root / "JPEGImages/000001.jpg").unlink()
    Image.fromarray(grey.astype(np.uint16) * 257).save(root / "JPEGImages/000001.png")
    found = data.load("voc", root)
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST = 48
    assert np.array_equal(Mapper(cfg, False, found.exif)(found.train.records[0])["image"], np.stack([grey] * 3))


def test_boxes_are_cut_where_that_is_asked_for(scenes, tmp_path):
    def change(content):
        content["annotations"][0].update(bbox=[40, 2, 30, 10])
        content["annotations"][1].update(bbox=[4, 4, 0, 5])

    found = data.load("coco", coco_changed(scenes, tmp_path, change), clip=True)
    assert corners(found.train.records[0])[0] == [40, 2, 48, 12]
    assert any(note.startswith("1 boxes have no area and are not used") for note in found.notes)


def test_classes_without_a_box_are_named(scenes, tmp_path):
    def change(content):
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] > 2]

    found = data.load("coco", coco_changed(scenes, tmp_path, change))
    assert any("no box to be trained on: 0; 1" in note for note in found.notes)


def test_data_without_masks(scenes, tmp_path):
    found = data.load("coco", coco_changed(scenes, tmp_path, lambda c: [a.pop("segmentation") for a in c["annotations"]]))
    assert found.mask_format is None and len(found.unmasked) == sum(len(r["annotations"]) for r in found.train.records)


def test_an_object_without_a_mask_and_one_without_an_area_are_named(scenes, tmp_path):
    def change(content):
        content["annotations"][1].update(segmentation=[], area=0)
        content["annotations"][-1].update(segmentation=[], iscrowd=1)  # of a crowd its box is the mask

    found = data.load("coco", coco_changed(scenes, tmp_path, change))
    assert found.mask_format is None and len(found.unmasked) == 1 and found.unmasked[0].startswith("annotation 2 of 0000")
    note = f"1 annotations of instances_train2017.json have no area; that of their box is used: {found.unmasked[0]}"
    assert note in found.notes


@pytest.mark.parametrize(
    ("relative", "change", "message"),
    [
        ("ImageSets/Main/trainval.txt", lambda text: "nothing\n" + text, r"1 files are missing: .*nothing\.jpg"),
        ("ImageSets/Main/trainval.txt", lambda text: "\n", "names no image"),
        (
            "ImageSets/Main/trainval.txt",
            lambda text: text + "/etc/x\n",
            r"trainval\.txt, line 9: '/etc/x' leads out of the data's folder",
        ),
        ("ImageSets/Main/test.txt", lambda text: "../x\n" + text, r"test\.txt, line 1: '../x' leads out of the data's folder"),
        (
            "Annotations/000001.xml",
            lambda text: text.replace("<height>", "<hoehe>").replace("</height>", "</hoehe>"),
            r"000001\.xml: <size><height> is missing; add it",
        ),
        (
            "Annotations/000001.xml",
            lambda text: text.replace("<width>48", "<width>0"),
            r"<size><width> is 0; set it to the picture's",
        ),
        (
            "Annotations/000001.xml",
            lambda text: text.replace("<width>48", "<width>many"),
            r"<size><width> is 'many'; set it to a number",
        ),
        (
            "Annotations/000001.xml",
            lambda text: re.sub("<name>.</name>", "<name> </name>", text, count=1),
            "<name> of object 1 is empty",
        ),
        ("Annotations/000001.xml", lambda text: re.sub("<name>.</name>", "", text, count=1), "<name> of object 1 is missing"),
        (
            "Annotations/000001.xml",
            lambda text: re.sub("<bndbox>.*?</bndbox>", "", text, count=1),
            r"<bndbox><xmin> of object 1 .* is missing",
        ),
        ("Annotations/000001.xml", lambda text: text.replace("<xmin>", "<xmin>nan<x/>"), r"<bndbox><xmin> of object 1 .* is nan"),
        ("Annotations/000001.xml", lambda text: text.replace("<xmax>", "<xmax>-"), r"<xmax> of object 1 .* less than <xmin>"),
        (
            "Annotations/000001.xml",
            lambda text: text.replace("<difficult>0", "<difficult>perhaps"),
            "<difficult> of object 1 .* set it to 0 or 1",
        ),
        ("Annotations/000001.xml", lambda text: "<!DOCTYPE a [<!ENTITY b 'b'>]>" + text, "has a document type"),
        ("Annotations/000001.xml", lambda text: "", "is not an annotation of Pascal VOC"),
        (
            "Annotations/000001.xml",
            lambda text: re.sub(r"(<.m..>)(\d+)", lambda m: f"{m[1]}{int(m[2]) / 48:.3f}", text),
            "1 images have boxes within one pixel at their corner, .*multiply",
        ),
        ("Annotations/000001.xml", lambda text: text[:60], "is not an annotation of Pascal VOC"),
        ("Annotations/000001.xml", lambda text: text.replace("<xmax>", "<xmax>9"), "are outside their image"),
        ("Annotations/000001.xml", lambda text: text.replace("<width>48", "<width>50"), "48 x 48 pixels"),
        ("Annotations/000009.xml", lambda text: text.replace("<object><name>", "<object><name>x"), "of no known image or class: x"),
    ],
)
def test_what_is_wrong_with_voc_is_named(relative, change, message, scenes, tmp_path):
    with pytest.raises(UserError, match=message):
        data.load("voc", edited(scenes, tmp_path, relative, change))


def test_voc_as_people_write_it(scenes, tmp_path):
    def change(text):
        return text.replace("<difficult>0", "<difficult>True").replace("<object>", "\n<object>\n")

    root = edited(scenes, tmp_path, "Annotations/000001.xml", change)
    for number, suffix in ((1, ".PNG"), (2, ".JPG"), (3, ".webp"), (4, ".jpeg")):
        old = root / "JPEGImages" / f"{number:06d}.jpg"
        Image.open(old).save(old.with_suffix(suffix))
        old.unlink()
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        (root / folder / f"000005{suffix}").rename(root / folder / f"5 five{suffix}")
        (root / folder / "2008").mkdir()
        (root / folder / f"000006{suffix}").rename(root / folder / "2008" / f"6{suffix}")
    path = root / "ImageSets/Main/trainval.txt"
    path.write_bytes(b"\xef\xbb\xbf000001.PNG\r\n\r\n000002  1\n 000003\n000004\n5 five\n2008/6\n000007\n000008\n000008\n")
    (root / "Annotations/000007.xml").write_bytes(b"\xef\xbb\xbf" + (root / "Annotations/000007.xml").read_bytes())
    usual, found = data.load("voc", scenes), data.load("voc", root)
    assert [r["annotations"] for r in found.train.records[1:]] == [r["annotations"] for r in usual.train.records[1:]]
    assert {a["difficult"] for a in found.train.records[0]["annotations"]} == {1}
    assert Path(found.train.records[5]["file_name"]) == root / "JPEGImages/2008/6.jpg"


def test_two_images_of_one_name(scenes, tmp_path):
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    picture = Image.open(root / "JPEGImages/000001.jpg")
    picture.save(root / "JPEGImages/000001.png")
    assert Path(data.load("voc", root).train.records[0]["file_name"]).suffix == ".jpg"
    picture.save(root / "JPEGImages/000001.bmp")
    (root / "JPEGImages/000001.jpg").unlink()
    with pytest.raises(UserError, match=r"has 000001\.bmp, 000001\.png: which of them is '000001' is open"):
        data.load("voc", root)


def test_pipes_for_annotations_end_at_once(scenes, tmp_path):
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    for relative, dataset in (
        ("annotations/instances_train2017.json", "coco"),
        ("ImageSets/Main/test.txt", "voc"),
        ("Annotations/000001.xml", "voc"),
    ):
        kept = (root / relative).read_bytes()
        (root / relative).unlink()
        os.mkfifo(root / relative)
        with pytest.raises(UserError, match=r"is a named pipe|there is no|are missing"):
            data.load(dataset, root)
        (root / relative).unlink()
        (root / relative).write_bytes(kept)


def test_deep_json_is_one_line(scenes, tmp_path):
    with pytest.raises(UserError, match="is not JSON"):
        data.load("coco", edited(scenes, tmp_path, "annotations/instances_val2017.json", lambda text: "[" * 10**6))


def test_places_where_no_data_is(scenes, tmp_path):
    for dataset, where, message in (
        ("voc", tmp_path / "x", "there is no directory"),
        ("voc", tmp_path, "Pascal VOC's layout"),
        ("coco", tmp_path, "COCO's layout"),
    ):
        with pytest.raises(UserError, match=message):
            data.load(dataset, where)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        data.load("coco", tmp_path)


def test_a_damaged_picture_is_found_before_training(scenes, tmp_path):
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    (root / "train2017" / "000001.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read the image .*000001\.jpg"):
        data.load("coco", root)
    Image.new("RGB", (48, 48)).save(root / "train2017" / "000001.jpg")
    data.load("coco", root)
