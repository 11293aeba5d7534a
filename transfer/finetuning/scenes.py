"""Scenes of digits: the embedded data of detection and segmentation.

Real scans (scikit-learn's digits) stand on textured ground. Scans of the training split are in training scenes, scans of the
validation split in the others. The same seed gives the same files. They are written in three layouts at once:

    JPEGImages/ Annotations/ SegmentationClass/ ImageSets/{Main,Segmentation}/    Pascal VOC
    train2017/ val2017/ annotations/instances_{train,val}2017.json                COCO, with boxes and masks
    scenes.json                                                                   what they were made with; written last

``Main`` has train and val (four fifths and one fifth of the training scenes), trainval (all of them) and test; ``Segmentation``
and COCO have train (all training scenes) and val (the test scenes). In ``SegmentationClass`` 0 is background and 1 to 10 the digits
0 to 9; the masks of COCO are run lengths, and its categories 1 to 10.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import torch
from PIL import Image

from pretrain.data import load
from pretrain.data.files import read_text
from rundir.atomic import write_atomically
from rundir.errors import UserError
from rundir.schema import SCENES_FORMAT

CLASSES = tuple(str(digit) for digit in range(10))
RECORD = "scenes.json"
SCAN_SIZE = 8  # as the scans are
INK = 0.5  # a pixel belongs to a digit from this share of ink
TRIES = 40  # for a free place


@dataclass(frozen=True)
class SceneConfig:
    """How scenes are made.

    ``train``, ``test``: number of scenes; ``size``: pixels of a square image; ``smallest``, ``largest``: pixels of a scan in it;
    ``fewest``, ``most``: digits in a scene (fewer where there is no room).
    """

    train: int = 240
    test: int = 80
    size: int = 96
    smallest: int = 14
    largest: int = 30
    fewest: int = 2
    most: int = 6
    seed: int = 0

    def check(self) -> None:
        """Raise :class:`UserError` for numbers that no scene can be made of."""
        if min(self.train, self.test) < 2:
            raise UserError(f"{self.train} training and {self.test} test scenes are too few; set at least 2 of each")
        if not SCAN_SIZE <= self.smallest <= self.largest < self.size:
            raise UserError(
                f"digits of {self.smallest} to {self.largest} pixels in scenes of {self.size}: set sizes from "
                f"{SCAN_SIZE} up, the smallest first and the scene larger than all"
            )
        if not 1 <= self.fewest <= self.most:
            raise UserError(f"{self.fewest} to {self.most} digits a scene: set at least 1, the fewest first")


@dataclass(frozen=True)
class Digit:
    """One digit of a scene: its number, its box (left, top, right, bottom) in pixels, right and bottom outside, and its mask
    (H, W) bool in the whole image."""

    label: int
    box: tuple[int, int, int, int]
    mask: np.ndarray


def write_scenes(directory: str | Path, config: SceneConfig = SceneConfig()) -> Path:
    """The directory with the scenes of ``config``, written if they are not there yet.

    Two processes may ask at once: one writes, the other waits. What is half written is never seen.

    Raises:
        UserError: the directory holds something else, or scenes made otherwise.
    """
    config.check()
    directory = Path(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write scenes to {directory} ({error.strerror}); choose another directory") from None
    with open(directory.parent / f".{directory.name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _are_there(directory, config):
            return directory
        part = directory.with_name(f".{directory.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            _write(part, config)
            if directory.is_dir():
                directory.rmdir()  # empty, as _are_there has seen
            os.replace(part, directory)
            print(f"wrote {config.train} + {config.test} scenes of {config.size} pixels to {directory}", flush=True)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return directory


def _are_there(directory: Path, config: SceneConfig) -> bool:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    try:
        found = json.loads(read_text(directory / RECORD))
    except (UserError, ValueError):
        raise UserError(f"{directory} holds something else than scenes of digits; choose another directory") from None
    if found != _description(config):
        raise UserError(f"{directory} holds scenes made with other settings ({directory / RECORD}); choose another directory")
    return True


def read_config(directory: str | Path) -> SceneConfig | None:
    """What the scenes in ``directory`` were made with; None where there are none of this format."""
    try:
        found = json.loads(read_text(Path(directory) / RECORD))
        config = SceneConfig(**{key: int(value) for key, value in found.items() if key not in ("format", "classes")})
    except (UserError, ValueError, TypeError, AttributeError):
        return None
    return config if found == _description(config) else None


def _description(config: SceneConfig) -> dict:
    return {"format": SCENES_FORMAT, "classes": list(CLASSES), **dataclasses.asdict(config)}


def compose(config: SceneConfig, split: str) -> Iterator[tuple[np.ndarray, list[Digit]]]:
    """The scenes of ``split``, train or test: image (size, size, 3) uint8 RGB and its digits, painted in this order.

    Every scene has random numbers of its own, so it does not depend on how many there are.
    """
    source = load("digits", "train" if split == "train" else "val", None, SCAN_SIZE)
    scans, labels = source.images[:, 0].numpy(), source.labels.numpy()  # type: ignore[attr-defined]
    for index in range(config.train if split == "train" else config.test):
        yield _scene(config, scans, labels, np.random.default_rng([config.seed, split == "train", index]))


def _scene(
    config: SceneConfig, scans: np.ndarray, labels: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, list[Digit]]:
    image = _ground(config.size, random)
    digits: list[Digit] = []
    taken = np.zeros((config.size, config.size), dtype=bool)
    for _ in range(random.integers(config.fewest, config.most + 1)):
        chosen, side = random.integers(len(scans)), int(random.integers(config.smallest, config.largest + 1))
        ink = _enlarged(scans[chosen], side)
        place = _free_place(taken, side, random)
        if place is None:
            continue
        top, left = place
        window = np.s_[top : top + side, left : left + side]
        colour = random.uniform(0.75, 1.0, 3)
        image[window] = image[window] * (1 - ink[..., None]) + colour * ink[..., None]
        taken[window] = True
        mask = np.zeros_like(taken)
        mask[window] = ink >= INK
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        digits.append(Digit(int(labels[chosen]), box, mask))
    return (image * 255).round().astype(np.uint8), digits


def _free_place(taken: np.ndarray, side: int, random: np.random.Generator) -> tuple[int, int] | None:
    """Top and left of a square of ``side`` pixels where nothing stands yet; None if none was found."""
    for _ in range(TRIES):
        top, left = (int(x) for x in random.integers(0, len(taken) - side + 1, 2))
        if not taken[top : top + side, left : left + side].any():
            return top, left
    return None


def _enlarged(scan: np.ndarray, side: int) -> np.ndarray:
    """A scan (8, 8) uint8 as shares of ink (side, side), float64, at least one of them :data:`INK`."""
    ink = (
        torch.nn.functional.interpolate(
            torch.from_numpy(scan / 255.0)[None, None], size=(side, side), mode="bicubic", align_corners=False
        )[0, 0]
        .clamp(0, 1)
        .numpy()
    )
    return ink / ink.max()


def _ground(size: int, random: np.random.Generator) -> np.ndarray:
    """A texture (size, size, 3) in [0, 0.55]: waves of random direction, length and colour, and noise."""
    y, x = np.mgrid[:size, :size]
    ground = np.full((size, size, 3), random.uniform(0.1, 0.35, 3))
    for _ in range(4):
        angle, length, phase = random.uniform(0, 2 * np.pi), random.uniform(6, size), random.uniform(0, 2 * np.pi)
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length + phase)
        ground += wave[..., None] * random.uniform(0.0, 0.08, 3)
    return (ground + random.normal(0, 0.03, (size, size, 1))).clip(0, 0.55)


# -- files ----------------------------------------------------------------------------------------------------------------


def _write(root: Path, config: SceneConfig) -> None:
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation", "annotations"):
        (root / name).mkdir(parents=True)
    names = {split: _write_split(root, config, split) for split in ("train", "test")}
    cut = len(names["train"]) * 4 // 5
    lists = {
        "Main/train": names["train"][:cut],
        "Main/val": names["train"][cut:],
        "Main/trainval": names["train"],
        "Main/test": names["test"],
        "Segmentation/train": names["train"],
        "Segmentation/val": names["test"],
    }
    for name, content in lists.items():
        (root / "ImageSets" / f"{name}.txt").write_text("".join(f"{line}\n" for line in content), encoding="utf-8")
    write_atomically(root / RECORD, json.dumps(_description(config), indent=1))


def _write_split(root: Path, config: SceneConfig, split: str) -> list[str]:
    """Write one split in all layouts; the names of its scenes."""
    coco_split, first = ("train2017", 1) if split == "train" else ("val2017", config.train + 1)
    (root / coco_split).mkdir()
    images, annotations, names = [], [], []
    for number, (image, digits) in enumerate(compose(config, split), start=first):
        name = f"{number:06d}"
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        shutil.copyfile(root / "JPEGImages" / f"{name}.jpg", root / coco_split / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(_voc(name, image.shape, digits), encoding="utf-8")
        Image.fromarray(index_mask(image.shape[:2], digits)).save(root / "SegmentationClass" / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.jpg", "height": image.shape[0], "width": image.shape[1]})
        annotations += [_coco(digit, number, len(annotations) + index) for index, digit in enumerate(digits, start=1)]
        names.append(name)
    categories = [{"id": index, "name": name, "supercategory": "digit"} for index, name in enumerate(CLASSES, start=1)]
    content = {
        "info": {"description": "scenes of scikit-learn's digits"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (root / "annotations" / f"instances_{coco_split}.json").write_text(json.dumps(content), encoding="utf-8")
    return names


def index_mask(shape: tuple[int, int], digits: list[Digit]) -> np.ndarray:
    """Class of every pixel (H, W) uint8: 0 background, 1 to 10 the digits 0 to 9."""
    mask = np.zeros(shape, dtype=np.uint8)
    for digit in digits:
        mask[digit.mask] = digit.label + 1
    return mask


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a mask (H, W) bool: column by column, zeros and ones in turn, zeros first."""
    pixels = mask.ravel(order="F").astype(np.int8)
    changes = (np.diff(pixels) != 0).nonzero()[0] + 1
    edges = [0, *changes.tolist(), len(pixels)]
    runs = [after - before for before, after in pairwise(edges)]
    return [0, *runs] if pixels[0] else runs


def _coco(digit: Digit, image: int, number: int) -> dict:
    left, top, right, bottom = digit.box
    return {
        "id": number,
        "image_id": image,
        "category_id": digit.label + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": int(digit.mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(digit.mask.shape), "counts": run_lengths(digit.mask)},
    }


def _voc(name: str, shape: tuple[int, ...], digits: list[Digit]) -> str:
    objects = "".join(
        f"  <object><name>{escape(CLASSES[digit.label])}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>0</difficult><bndbox><xmin>{digit.box[0] + 1}</xmin><ymin>{digit.box[1] + 1}</ymin>"
        f"<xmax>{digit.box[2]}</xmax><ymax>{digit.box[3]}</ymax></bndbox></object>\n"  # VOC counts pixels from 1, both ends inside
        for digit in digits
    )
    return (
        f"<annotation>\n  <folder>digits</folder><filename>{name}.jpg</filename>\n  <size><width>{shape[1]}</width>"
        f"<height>{shape[0]}</height><depth>3</depth></size>\n  <segmented>1</segmented>\n{objects}</annotation>\n"
    )
