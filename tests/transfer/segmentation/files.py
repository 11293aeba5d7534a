"""Small data sets in the layouts of the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (48, 40)  # width, height


def write_pair(image: Path, label: Path, values, size: tuple[int, int] = SIZE) -> None:
    """An image and a label image of ``size`` whose columns hold ``values`` in turn."""
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    labels = np.resize(np.asarray(values, np.uint8), width)[None].repeat(height, 0)
    random = np.random.default_rng(len(str(image)) + int(labels.sum()))
    Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(image)
    Image.fromarray(labels).save(label)


def camvid(root: Path, train: int = 4, val: int = 2, values=(0, 3, 8, 11)) -> Path:
    """CamVid's layout."""
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            write_pair(root / split / f"{index}.png", root / f"{split}annot" / f"{index}.png", values)
    return root


def voc(root: Path, aug: str | None = None) -> Path:
    """VOC's layout below ``root``/VOC2012: images a and b for training, c for validation, and d, e in SBD's list ``aug``."""
    base = root / "VOC2012"
    lists = {"train": "ab", "val": "c"}
    if aug:
        lists[aug] = "abde" if aug == "trainaug" else "de"
    for name in "abcde":
        for folder in ("SegmentationClass", "SegmentationClassAug") if aug else ("SegmentationClass",):
            write_pair(base / "JPEGImages" / f"{name}.jpg", base / folder / f"{name}.png", (0, 15, 255))
    (base / "ImageSets/Segmentation").mkdir(parents=True)
    for name, images in lists.items():
        (base / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(images) + "\n")
    return root


def ade20k(root: Path) -> Path:
    """ADE20K's layout: 0 is no class, 150 the last."""
    for split in ("training", "validation"):
        write_pair(root / f"images/{split}/ADE_1.jpg", root / f"annotations/{split}/ADE_1.png", (0, 1, 150))
    return root


def cityscapes(root: Path, suffix: str = "gtFine_labelTrainIds") -> Path:
    """Cityscapes' layout, a town a folder."""
    for split in ("train", "val"):
        for town in ("ulm", "bonn"):
            image, label = (f"{split}/{town}/{town}_0_{end}.png" for end in ("leftImg8bit", suffix))
            write_pair(root / "leftImg8bit" / image, root / "gtFine" / label, (0, 18, 255))
    return root
