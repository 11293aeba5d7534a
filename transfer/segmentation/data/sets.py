"""Checks of the data against their layout, before anything is trained: pairs that do not match, labels outside the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from mmseg.registry import DATASETS

from pretrain.data import fingerprint, images
from pretrain.data.files import some, tree
from rundir.errors import UserError
from transfer.finetuning.looking import look_at_all, settle_exif, trained_on_too
from transfer.segmentation.data.labels import class_table, read_labels
from transfer.segmentation.data.layouts import IGNORED, Layout

MASKS_READ = 4096  # for the fingerprint, where all together are too large to be read
HINTS = {"cityscapes": " (made from *_labelIds.png by the cityscapesscripts command csCreateTrainIdLabelImgs)"}


@dataclass(frozen=True)
class Split:
    """The pairs of one split: image and label files, and its classes with a colour (R, G, B) each."""

    images: list[Path]
    labels: list[Path]
    classes: tuple[str, ...]
    palette: list[list[int]]
    label_map: dict[int, int] | None
    label_suffix: str
    notes: list[str] = field(default_factory=list)


def split_of(layout: Layout, name: str) -> Split:
    """The pairs that mmsegmentation will read of split ``name``, ``train`` or ``val``.

    Raises:
        UserError: a folder or list is missing, or there are no images.
    """
    photographs, labels, notes, made = [], [], [], None
    for config in getattr(layout, name):
        _check_places(layout, config)
        made = DATASETS.build({**config, "pipeline": [], "lazy_init": True})
        for info in made.load_data_list():
            photographs.append(Path(info["img_path"]))
            labels.append(Path(info["seg_map_path"]))
        notes += made.notes
    if not photographs:
        prefix = getattr(layout, name)[0]["data_prefix"]["img_path"]
        raise UserError(
            f"{layout.name} has no {name} images in {Path(getattr(layout, name)[0]['data_root']) / prefix}; "
            "set --data-dir to the folder that holds them"
        )
    return Split(
        photographs, labels, tuple(made.metainfo["classes"]), made.metainfo["palette"], made.label_map, made.seg_map_suffix, notes
    )


def _check_places(layout: Layout, config: dict) -> None:
    root = Path(config["data_root"])
    places = [*config["data_prefix"].values(), *([config["ann_file"]] if "ann_file" in config else [])]
    for place in places:
        if not (root / place).exists():
            raise UserError(f"{layout.name} in {root} has no {place}; set --data-dir to the folder that holds it")


@dataclass(frozen=True)
class SegmentationData:
    """Data of one fine-tuning: the ``layout`` with what was found of ``exif``, both splits, and ``notes``, a line each."""

    layout: Layout
    train: Split
    val: Split
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The data set's name in records."""
        return self.layout.name

    @cached_property
    def contents(self) -> str:
        """The fingerprint of images and masks of both splits."""
        splits = {}
        for name, split in (("train", self.train), ("val", self.val)):
            root = self.layout.train[0]["data_root"]
            names = [fingerprint.names_below(root, files) for files in (split.images, split.labels)]
            splits[name] = [
                names,
                fingerprint.of_files(dict(zip(names[0], split.images, strict=True))),
                fingerprint.of_files(dict(zip(names[1], split.labels, strict=True)), sampled=MASKS_READ),
            ]
        return fingerprint.combined(classes=list(self.train.classes), **splits)


def load(layout: Layout, exif: str | None = None, show: bool = False) -> SegmentationData:
    """The data of ``layout``, every file read whole; ``show``: progress.

    ``exif``: which pixels labels belong to where sizes leave it open; None: as other images show.

    Raises:
        UserError: naming the first file that is missing, alone, unreadable, of another size than its image, or that holds a
            label that is no class, and how many more there are; or all pixels of a split are of one class.
    """
    splits = {name: split_of(layout, name) for name in ("train", "val")}
    for name, split in splits.items():
        _check_partners(layout, split, getattr(layout, name))
    notes, stated = [note for split in splits.values() for note in split.notes], []
    for name, split in splits.items():
        look = partial(_look, split, _allowed(layout, split))
        looks = look_at_all(look, len(split.images), f"checking {layout.name}, {name}", show)
        stated += [(path, header, size) for path, (header, size, _) in zip(split.images, looks, strict=True)]
        notes.append(_classes_note(layout, name, split, [counts for _, _, counts in looks]))
    notes += trained_on_too(splits["train"].images, splits["val"].images)
    found, turned = settle_exif(stated, exif)
    return SegmentationData(replace(layout, exif=found), splits["train"], splits["val"], notes + turned)


def _check_partners(layout: Layout, split: Split, configs: Sequence[dict]) -> None:
    for kind, files in (("image", split.images), ("label image", split.labels)):
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise UserError(
                f"{missing[0]} is missing: {len(missing)} of {len(files)} {kind}s of {layout.name} have no file"
                f"{HINTS.get(layout.name, '') if kind == 'label image' else ''}; add them, or fix the list"
            )
    known = set(split.labels)
    for config in configs:
        if "ann_file" in config:
            continue  # what is not in its list is left out on purpose
        folder = Path(config["data_root"]) / config["data_prefix"]["seg_map_path"]
        alone = [folder / file for file in tree(folder).files if file.endswith(split.label_suffix) and folder / file not in known]
        if alone:
            raise UserError(
                f"{alone[0]} has no image: {len(alone)} label images of {layout.name} stand alone; remove them, or add their images"
            )


def _allowed(layout: Layout, split: Split) -> np.ndarray:
    """Which of the labels 0..255 may be in a file, (256,) bool."""
    count = len(split.classes)
    allowed = np.zeros(256, bool)
    allowed[IGNORED] = True
    allowed[list(split.label_map) if split.label_map else np.arange(count) + layout.reduce_zero_label] = True
    allowed[0] |= layout.reduce_zero_label
    return allowed


def _look(split: Split, allowed: np.ndarray, index: int) -> tuple[images.Header, tuple[int, int], np.ndarray]:
    """Read a pair whole: the image's header, the label image's (width, height), and how often each label occurs, (256,) int64."""
    image, label = split.images[index], split.labels[index]
    header, _ = images.load(image)
    labels = read_labels(label)
    size = labels.shape[::-1]
    if not header.sides(size):
        raise UserError(
            f"{label} is {size[0]} x {size[1]} pixels and its image {header.displayed[0]} x {header.displayed[1]}; fix or remove it"
        )
    values, counts = np.unique(labels, return_counts=True)
    wrong = [int(value) for value in values if not 0 <= value < 256 or not allowed[value]]
    if wrong:
        right = np.flatnonzero(allowed[:IGNORED])
        raise UserError(
            f"{label} holds label{'s' if len(wrong) > 1 else ''} {', '.join(map(str, wrong[:5]))}, which "
            f"{'are' if len(wrong) > 1 else 'is'} none of the {len(split.classes)} classes ({right[0]} to {right[-1]}, "
            "255 = no class); fix or remove it"
        )
    return header, size, np.bincount(values, counts, minlength=256).astype(np.int64)


def _classes_note(layout: Layout, name: str, split: Split, counts: Sequence[np.ndarray]) -> str:
    """How many images there are, and what their pixels are of.

    Raises:
        UserError: they are all of one class, so that whatever predicts it is right everywhere.
    """
    pixels = np.bincount(class_table(layout.reduce_zero_label, split.label_map), np.sum(counts, 0), minlength=256)
    there = sorted(np.flatnonzero(pixels[: len(split.classes)]), key=lambda number: -pixels[number])
    shares = [f"{split.classes[number]} {pixels[number] / pixels.sum():.1%}" for number in there]
    none = pixels[IGNORED] / pixels.sum()
    if len(there) < 2:
        masks = " (masks of 0 and 255? Label 255 is no class: save class numbers)" if none else ""
        raise UserError(
            f"the {name} label images of {layout.name} hold {shares[0] if there else 'no class'} and no other class"
            f"{masks}; the first is {split.labels[0]}: fix the labels"
        )
    return (
        f"{name}: {len(split.images)} images, {len(there)} of {len(split.classes)} classes have pixels: {some(shares, 5)}; "
        f"no class {none:.1%}"
    )
