"""Tiny copies of published data sets, in the layout that torchvision reads. Pixels are noise; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from torchvision import datasets


def photograph(path: Path, seed: int, suffix: str = "JPEG") -> None:
    """A file of noise whose size depends on ``seed``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (9 + seed % 4, 10 + seed % 3, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, suffix)


def flowers102(root: Path, monkeypatch) -> dict:
    """Nine images of three flowers, split 3 / 3 / 3; torchvision's checksums are switched off."""
    base = root / "flowers-102"
    for i in range(1, 10):
        photograph(base / "jpg" / f"image_{i:05d}.jpg", i)
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.array([[1, 2, 3, 1, 2, 3, 1, 1, 3]])})
    scipy.io.savemat(
        base / "setid.mat", {"trnid": np.array([[1, 2, 3]]), "valid": np.array([[6, 4, 5]]), "tstid": np.array([[7, 8, 9]])}
    )
    monkeypatch.setattr(
        datasets.Flowers102,
        "_file_dict",
        {"image": ("102flowers.tgz", None), "setid": ("setid.mat", None), "label": ("imagelabels.mat", None)},
    )
    path = "jpg/image_{:05d}.jpg".format
    return {
        "classes": 102,
        "train": [(path(1), 0), (path(2), 1), (path(3), 2), (path(6), 2), (path(4), 0), (path(5), 1)],
        "val": [(path(7), 0), (path(8), 0), (path(9), 2)],
    }


def pets(root: Path, monkeypatch) -> dict:
    """Two breeds: three training and three test images."""
    base = root / "oxford-iiit-pet"
    lists = {
        "trainval": [("Bengal_1", 1, 1), ("great_pyrenees_10", 2, 2), ("great_pyrenees_2", 2, 2)],
        "test": [("Bengal_3", 1, 1), ("Bengal_4", 1, 1), ("great_pyrenees_5", 2, 2)],
    }
    (base / "annotations").mkdir(parents=True)
    for split, images in lists.items():
        lines = [f"{name} {label} {kind} 1\n" for name, label, kind in images]
        (base / "annotations" / f"{split}.txt").write_text("".join(lines))
        for i, (name, *_) in enumerate(images):
            photograph(base / "images" / f"{name}.jpg", i)
    entries = {split: [(f"images/{name}.jpg", label - 1) for name, label, _ in images] for split, images in lists.items()}
    return {"classes": 2, "names": ["Bengal", "Great Pyrenees"], "train": entries["trainval"], "val": entries["test"]}


def dtd(root: Path, monkeypatch) -> dict:
    """Two textures in ten partitions, of which the first counts."""
    base = root / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    parts = {"train": (0, 1), "val": (2,), "test": (3, 4)}
    entries: dict[str, list] = {"train": [], "val": []}
    for split, numbers in parts.items():
        chosen = [(f"{name}/{name}_{i:04d}.jpg", label) for label, name in enumerate(("dotted", "woven")) for i in numbers]
        (base / "labels" / f"{split}1.txt").write_text("".join(f"{path}\n" for path, _ in chosen))
        (base / "labels" / f"{split}2.txt").write_text("dotted/dotted_0000.jpg\n")
        for i, (path, _) in enumerate(chosen):
            photograph(base / "images" / path, i)
        entries["val" if split == "test" else "train"] += [(f"dtd/images/{path}", label) for path, label in chosen]
    return {"classes": 2, "names": ["dotted", "woven"], **entries}


def aircraft(root: Path, monkeypatch) -> dict:
    """Three variants, one with a space in its name."""
    base = root / "fgvc-aircraft-2013b" / "data"
    base.mkdir(parents=True)
    (base / "variants.txt").write_text("707-320\nAn-12\nDC-9-30 Super\n")
    lists = {
        "trainval": [("0034309", "An-12"), ("1025794", "707-320"), ("1340192", "DC-9-30 Super"), ("0056978", "An-12")],
        "test": [("1514522", "707-320"), ("0747566", "DC-9-30 Super")],
    }
    order = ["707-320", "An-12", "DC-9-30 Super"]
    for split, images in lists.items():
        (base / f"images_variant_{split}.txt").write_text("".join(f"{name} {kind}\n" for name, kind in images))
        for i, (name, _) in enumerate(images):
            photograph(base / "images" / f"{name}.jpg", i)
    entries = {split: [(f"data/images/{name}.jpg", order.index(kind)) for name, kind in images] for split, images in lists.items()}
    return {"classes": 3, "names": order, "train": entries["trainval"], "val": entries["test"]}


def food101(root: Path, monkeypatch) -> dict:
    """Two dishes."""
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    meta = {"train": {"tacos": ["tacos/11", "tacos/7"], "ramen": ["ramen/5"]}, "test": {"tacos": ["tacos/9"], "ramen": ["ramen/8"]}}
    entries = {}
    for split, dishes in meta.items():
        (base / "meta" / f"{split}.json").write_text(json.dumps(dishes))
        paths = [path for images in dishes.values() for path in images]
        for i, path in enumerate(paths):
            photograph(base / "images" / f"{path}.jpg", i)
        entries[split] = [(f"images/{path}.jpg", 1 if path.startswith("tacos") else 0) for path in paths]
    return {"classes": 2, "names": ["ramen", "tacos"], "train": entries["train"], "val": entries["test"]}


CALTECH = {"ant": 31, "Faces": 34, "wrench": 36}


def caltech101(root: Path, monkeypatch) -> dict:
    """Three objects of 31, 34 and 36 images, and the background class."""
    base = root / "caltech101" / "101_ObjectCategories"
    for name, count in {**CALTECH, "BACKGROUND_Google": 2}.items():
        for i in range(1, count + 1):
            photograph(base / name / f"image_{i:04d}.jpg", i)
    return {"classes": 3, "names": ["Faces", "ant", "wrench"]}


COPIES = {"flowers102": flowers102, "pets": pets, "dtd": dtd, "aircraft": aircraft, "food101": food101}
