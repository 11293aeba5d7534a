"""Scenes of digits: the same by seed, from the right scans, and the same boxes and masks in every layout."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pretrain.data import load
from rundir.errors import UserError
from transfer.finetuning.scenes import SceneConfig, compose, read_config, run_lengths, write_scenes
from transfer.run import main

coco_mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed (make setup does it)")
COCO = pytest.importorskip("pycocotools.coco").COCO
SMALL = SceneConfig(train=10, test=5, size=48, smallest=12, largest=20, fewest=1, most=4, seed=3)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "digits", SMALL)


def fingerprint(directory):
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return [(str(path.relative_to(directory)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def test_the_same_seed_gives_the_same_files_and_another_one_others(scenes, tmp_path):
    assert fingerprint(write_scenes(tmp_path / "again", SMALL)) == fingerprint(scenes)
    first, other = (next(compose(SceneConfig(seed=seed), "train"))[0] for seed in (0, 1))
    assert not np.array_equal(first, other)


def test_a_scene_does_not_depend_on_how_many_there_are():
    few, many = (list(compose(SceneConfig(train=count, seed=5), "train")) for count in (2, 4))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(few, many, strict=False))


@pytest.mark.parametrize(("split", "name"), [("train", "train"), ("test", "val")])
def test_scans_are_those_of_the_split(split, name, monkeypatch):
    """With every scan of the other split blank, the scenes stay as they are."""
    import transfer.finetuning.scenes as module

    expected = [image for image, _ in compose(SMALL, split)]
    asked = []
    monkeypatch.setattr(module, "load", lambda data, part, *rest: asked.append(part) or load(data, part, *rest))
    assert all(np.array_equal(a, b) for a, (b, _) in zip(expected, compose(SMALL, split), strict=True))
    assert asked == [name]


def test_digits_do_not_overlap_and_stand_in_the_image():
    for image, digits in compose(SMALL, "train"):
        assert image.shape == (48, 48, 3) and image.dtype == np.uint8 and digits
        assert sum(digit.mask.astype(int) for digit in digits).max() == 1
        for digit in digits:
            left, top, right, bottom = digit.box
            assert 0 <= left < right <= 48 and 0 <= top < bottom <= 48
            inside = np.zeros_like(digit.mask)
            inside[top:bottom, left:right] = True
            assert not (digit.mask & ~inside).any() and digit.mask[top:bottom, left:right].any(0).all()


@pytest.mark.parametrize(("folder", "first", "split"), [("train2017", 1, "train"), ("val2017", 11, "test")])
def test_all_layouts_say_the_same(scenes, folder, first, split):
    coco = COCO(str(scenes / "annotations" / f"instances_{folder}.json"))
    for number, (_, digits) in enumerate(compose(SMALL, split), start=first):
        found = coco.loadAnns(coco.getAnnIds(imgIds=number))
        assert [a["category_id"] - 1 for a in found] == [digit.label for digit in digits]
        for annotation, digit in zip(found, digits, strict=True):
            assert np.array_equal(coco.annToMask(annotation).astype(bool), digit.mask)
            assert annotation["area"] == digit.mask.sum()
            left, top, width, height = annotation["bbox"]
            assert (left, top, left + width, top + height) == digit.box
        boxes = ET.parse(scenes / "Annotations" / f"{number:06d}.xml").findall("object/bndbox")
        corners = [tuple(int(box.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax")) for box in boxes]
        assert corners == [(digit.box[0] + 1, digit.box[1] + 1, *digit.box[2:]) for digit in digits]
        classes = np.array(Image.open(scenes / "SegmentationClass" / f"{number:06d}.png"))
        assert np.array_equal(classes, sum((digit.label + 1) * digit.mask.astype(int) for digit in digits))
        copies = [(scenes / place / f"{number:06d}.jpg").read_bytes() for place in ("JPEGImages", folder)]
        assert copies[0] == copies[1]


def test_lists_of_images(scenes):
    lists = {
        path.relative_to(scenes / "ImageSets").as_posix(): path.read_text().split()
        for path in (scenes / "ImageSets").rglob("*.txt")
    }
    names = [f"{number:06d}" for number in range(1, 16)]
    assert lists == {
        "Main/train.txt": names[:8],
        "Main/val.txt": names[8:10],
        "Main/trainval.txt": names[:10],
        "Main/test.txt": names[10:],
        "Segmentation/train.txt": names[:10],
        "Segmentation/val.txt": names[10:],
    }


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_run_lengths_are_those_of_coco(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": run_lengths(mask)}, height, width)
    assert np.array_equal(coco_mask.decode(rle).astype(bool), mask)
    assert rle["counts"] == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


def test_what_is_there_is_kept_and_nothing_else_is_overwritten(scenes, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in scenes.rglob("*")}
    assert write_scenes(scenes, SMALL) == scenes and read_config(scenes) == SMALL
    assert {path: path.stat().st_mtime_ns for path in scenes.rglob("*")} == before
    with pytest.raises(UserError, match="made with other settings"):
        write_scenes(scenes, SceneConfig())
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match="holds something else"):
        write_scenes(tmp_path, SMALL)
    assert read_config(tmp_path) is None


def test_half_written_scenes_are_never_seen(tmp_path, monkeypatch):
    import transfer.finetuning.scenes as module

    monkeypatch.setattr(module, "_voc", lambda *arguments: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        write_scenes(tmp_path / "scenes", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [".scenes.lock"]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--train", "1"], "too few"), (["--largest", "96"], "sizes from 8 up"), (["--fewest", "7"], "the fewest first")],
)
def test_impossible_scenes(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        main(["scenes", "--out", str(tmp_path / "scenes"), *words])
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, capsys):
    assert main(["scenes", "--out", str(tmp_path / "scenes"), "--train", "3", "--test", "2", "--size", "40"]) == 0
    assert "3 training and 2 test scenes of 40 pixels" in capsys.readouterr().out
    assert json.loads((tmp_path / "scenes" / "scenes.json").read_text())["train"] == 3
