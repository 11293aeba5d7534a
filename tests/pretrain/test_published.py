"""Published data sets: which images are trained on and which tested, as their conventions say, and damaged copies."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from pretrain.data import crop_batches, evaluation_batches, load, published
from pretrain.data.sources import NAMES, FolderSource, TensorSource
from rundir.errors import UserError
from tests.pretrain.published_copies import CALTECH, COPIES, caltech101

FOLDERS = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "flowers102": "flowers-102",
    "pets": "oxford-iiit-pet",
    "dtd": "dtd",
    "aircraft": "fgvc-aircraft-2013b",
    "caltech101": "caltech101",
    "food101": "food-101",
}


def test_all_asked_data_sets_have_a_name():
    assert set(NAMES) == {"digits", "folder", "webdataset", *FOLDERS}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_images_and_labels_of_the_convention(name, split, tmp_path, monkeypatch):
    expected = COPIES[name](tmp_path, monkeypatch)
    source = load(name, split, str(tmp_path), 8)
    assert isinstance(source, FolderSource) and source.name == name
    assert len(source.classes) == expected["classes"] and source.classes == expected.get("names", source.classes)
    assert list(zip(source.names, source.labels.tolist(), strict=True)) == expected[split]
    home = tmp_path / FOLDERS[name]
    assert source.paths == [str(home / file) for file, _ in expected[split]]
    assert source.labels.dtype == torch.int64 and source.mean == (0.485, 0.456, 0.406)
    with Image.open(source.paths[0]) as image:
        assert np.abs(source.decode(0).permute(1, 2, 0).numpy().astype(int) - np.asarray(image.convert("RGB"))).max() <= 2


def test_caltech_trains_on_thirty_images_a_class_and_tests_on_the_others(tmp_path, monkeypatch):
    caltech101(tmp_path, monkeypatch)
    train, val = (load("caltech101", split, str(tmp_path), 8) for split in ("train", "val"))
    assert train.classes == val.classes == ["Faces", "ant", "wrench"]  # neither the background
    assert torch.bincount(train.labels).tolist() == [30] * 3 and torch.bincount(val.labels).tolist() == [4, 1, 6]
    together = [f"101_ObjectCategories/{name}/image_{i:04d}.jpg" for name, count in CALTECH.items() for i in range(1, count + 1)]
    assert sorted(train.names + val.names) == sorted(together)
    for source in (train, val):
        assert [source.classes[label] for label in source.labels] == [name.split("/")[1] for name in source.names]
    # The rule, written out: of each class the 30 images whose SHA-256 of "0/<class>/<file>" is smallest.
    for name in CALTECH:
        files = [f"{name}/image_{i:04d}.jpg" for i in range(1, CALTECH[name] + 1)]
        first = sorted(files, key=lambda file: hashlib.sha256(f"0/{file}".encode()).hexdigest())[:30]
        assert {f"101_ObjectCategories/{file}" for file in first} == {n for n in train.names if f"/{name}/" in n}


def test_caltech_with_too_few_images_of_a_class(tmp_path, monkeypatch):
    caltech101(tmp_path, monkeypatch)
    (tmp_path / "caltech101" / "101_ObjectCategories" / "ant" / "image_0031.jpg").unlink()
    with pytest.raises(UserError, match="ant has 30 images, and 30 a class are to train on"):
        load("caltech101", "train", str(tmp_path), 8)


def test_images_of_all_sizes_stream(tmp_path, monkeypatch):
    COPIES["pets"](tmp_path, monkeypatch)
    source = load("pets", "train", str(tmp_path), 8)
    assert len({tuple(source.decode(i).shape) for i in range(3)}) > 1
    ((x, y),) = evaluation_batches(source, 8, 16, "cpu")
    assert x.shape == (3, 3, 8, 8) and y.tolist() == [0, 1, 1]
    ((x, y),) = crop_batches(source, 8, 16, 0, 1, "cpu")
    assert x.shape == (3, 3, 8, 8) and sorted(y.tolist()) == [0, 1, 1]


def test_store_size_and_limit(tmp_path, monkeypatch):
    COPIES["flowers102"](tmp_path, monkeypatch)
    source = load("flowers102", "train", str(tmp_path), 8, limit=3, store_size=6)
    assert isinstance(source, TensorSource) and source.images.shape == (3, 3, 6, 6)
    assert sorted(source.labels.tolist()) == [0, 1, 2] and len(source.names) == 3


def test_a_file_in_another_format_is_read_as_torchvision_reads_it(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", "BMP")  # what torchvision's decoder does not know, Pillow does
    source = FolderSource("x", ["a"], torch.zeros(1, dtype=torch.int64), (0, 0, 0), (1, 1, 1), [str(tmp_path / "a.jpg")])
    assert np.array_equal(source.decode(0).permute(1, 2, 0).numpy(), pixels)


# --- downloads and damage


@pytest.mark.parametrize("name", FOLDERS)
def test_a_failing_download_names_the_folder_and_the_projects_page(name, tmp_path, monkeypatch):
    def no_network(self, *args, **kwargs):
        raise URLError("no route to host")

    for method in ("download", "_download"):
        if hasattr(published.SETS[name].make, method):
            monkeypatch.setattr(published.SETS[name].make, method, no_network)
    with pytest.raises(UserError) as error:
        load(name, "train", str(tmp_path / "data"), 8)
    message = str(error.value)
    assert "\n" not in message and "no route to host" in message and "set data.root=DIR" in message
    assert f"no folder {tmp_path / 'data' / FOLDERS[name]}" in message and published.SETS[name].page in message
    assert not (tmp_path / "data").exists()


def test_every_page_is_the_one_that_torchvision_names():
    # Caltech's record has moved; its own download address names the new one.
    for name, source in published.SETS.items():
        text = datasets.CIFAR10.__doc__ if name == "cifar100" else source.make.__doc__
        page = source.page if name != "caltech101" else "https://data.caltech.edu/records/"
        assert page in text, name


@pytest.mark.parametrize("name", [*COPIES, "caltech101"])
def test_a_download_arrives_whole(name, tmp_path, monkeypatch):
    make = {**COPIES, "caltech101": caltech101}[name]
    method = "_download" if hasattr(published.SETS[name].make, "_download") else "download"
    here = {"caltech101": lambda self: Path(self.root).parent}.get(name, lambda self: Path(self.root))
    if name == "flowers102":  # its checksums are switched off before torchvision looks at them
        make(tmp_path / "elsewhere", monkeypatch)
    monkeypatch.setattr(published.SETS[name].make, method, lambda self: make(here(self), monkeypatch))
    assert len(load(name, "train", str(tmp_path / "data"), 8))
    assert os.listdir(tmp_path / "data") == [FOLDERS[name]]
    monkeypatch.delattr(published.SETS[name].make, method)  # the second time there is nothing to download
    assert len(load(name, "val", str(tmp_path / "data"), 8))


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("flowers102", lambda base: (base / "setid.mat").unlink(), "not found or corrupted"),
        ("flowers102", lambda base: (base / "setid.mat").write_bytes(b"cut"), "incomplete or damaged"),
        ("flowers102", lambda base: (base / "jpg" / "image_00004.jpg").unlink(), "1 of 6 images are missing.*image_00004.jpg"),
        ("pets", lambda base: (base / "annotations" / "trainval.txt").write_text("Bengal_1 one 1 1\n"), "incomplete or damaged"),
        ("pets", lambda base: (base / "annotations" / "trainval.txt").write_text(""), "list of images is empty"),
        ("dtd", lambda base: shutil.rmtree(base / "dtd" / "labels"), "incomplete or damaged"),
        ("dtd", lambda base: (base / "dtd/labels/val1.txt").write_text("dotted/dotted_0002.jpg\n"), "not have the same classes"),
        ("aircraft", lambda base: (base / "data/variants.txt").write_text("707-320\n"), "KeyError: 'An-12'"),
        ("aircraft", lambda base: shutil.rmtree(base / "data/images"), "4 of 4 images are missing"),
        ("food101", lambda base: (base / "meta/train.json").write_text("{"), "incomplete or damaged"),
        ("food101", lambda base: shutil.rmtree(base / "meta"), "Dataset not found"),
    ],
)
def test_a_damaged_copy_is_explained(name, damage, said, tmp_path, monkeypatch):
    COPIES[name](tmp_path, monkeypatch)
    damage(tmp_path / FOLDERS[name])
    with pytest.raises(UserError, match=said) as error:
        load(name, "train", str(tmp_path), 8)
    message = str(error.value)
    assert "\n" not in message and str(tmp_path / FOLDERS[name]) in message and published.SETS[name].page in message


def test_an_unreadable_image_is_named(tmp_path, monkeypatch):
    COPIES["dtd"](tmp_path, monkeypatch)
    (tmp_path / "dtd/dtd/images/woven/woven_0001.jpg").write_bytes(b"no image")
    source = load("dtd", "train", str(tmp_path), 8)
    with pytest.raises(UserError, match=r"cannot read the image .*woven_0001\.jpg"):
        list(evaluation_batches(source, 8, 16, "cpu"))
