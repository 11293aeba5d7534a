"""Is the data what its layout says? Found before anything is trained: pairs that do not match, labels outside the classes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmseg.registry import DATASETS
from PIL import Image

from pretrain.errors import UserError
from pretrain.progress import reporting
from transfer.segmentation.layouts import IGNORED, Layout

HINTS = {"cityscapes": " (made from *_labelIds.png by the cityscapesscripts command csCreateTrainIdLabelImgs)"}


@dataclass(frozen=True)
class Split:
    """The pairs of one split: image and label files, and its classes with a colour (R, G, B) each."""

    images: list[Path]
    labels: list[Path]
    classes: tuple[str, ...]
    palette: list[list[int]]
    label_map: dict[int, int] | None


def split_of(layout: Layout, name: str) -> Split:
    """The pairs that mmsegmentation will read of split ``name``, ``train`` or ``val``.

    Raises:
        UserError: a folder or list is missing, or there are no images.
    """
    images, labels, made = [], [], None
    for config in getattr(layout, name):
        _check_places(layout, config)
        made = DATASETS.build({**config, "pipeline": [], "lazy_init": True})
        for info in made.load_data_list():
            images.append(Path(info["img_path"]))
            labels.append(Path(info["seg_map_path"]))
    if not images:
        prefix = getattr(layout, name)[0]["data_prefix"]["img_path"]
        raise UserError(f"{layout.name} has no {name} images in {Path(getattr(layout, name)[0]['data_root']) / prefix}; "
                        "write the --data-dir DIR that holds them")
    return Split(images, labels, tuple(made.metainfo["classes"]), made.metainfo["palette"], made.label_map)


def _check_places(layout: Layout, config: dict) -> None:
    root = Path(config["data_root"])
    places = [*config["data_prefix"].values(), *([config["ann_file"]] if "ann_file" in config else [])]
    for place in places:
        if not (root / place).exists():
            raise UserError(f"{layout.name} in {root} has no {place}; write the --data-dir DIR that holds it")


def check(layout: Layout, show: bool = True) -> tuple[Split, Split]:
    """The training and the validation split, after every pair of both was looked at.

    Raises:
        UserError: naming the first file that is missing, alone, unreadable, of another size than its image, or that holds a
            label that is no class, and how many more there are.
    """
    splits = split_of(layout, "train"), split_of(layout, "val")
    for split, configs in zip(splits, (layout.train, layout.val), strict=True):
        _check_partners(layout, split, configs)
    for name, split in zip(("train", "val"), splits, strict=True):
        _check_pixels(layout, split, f"checking {layout.name}, {name}", show)
    return splits


def _check_partners(layout: Layout, split: Split, configs: Sequence[dict]) -> None:
    for kind, files in (("image", split.images), ("label image", split.labels)):
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise UserError(f"{missing[0]} is missing: {len(missing)} of {len(files)} {kind}s of {layout.name} have no file"
                            f"{HINTS.get(layout.name, '') if kind == 'label image' else ''}; add them, or mend the list")
    known = set(split.labels)
    for config in configs:
        if "ann_file" in config:
            continue  # what is not in its list is left out on purpose
        folder = Path(config["data_root"]) / config["data_prefix"]["seg_map_path"]
        suffix = _common_suffix(split)
        alone = sorted(path for path in folder.rglob(f"*{suffix}") if path not in known)
        if alone:
            raise UserError(f"{alone[0]} has no image: {len(alone)} label images of {layout.name} stand alone; "
                            "remove them, or add their images")


def _common_suffix(split: Split) -> str:
    image, label = split.images[0], split.labels[0].name
    stem = image.name.removesuffix("_leftImg8bit.png") if image.name.endswith("_leftImg8bit.png") else image.stem
    return label.removeprefix(stem)


def _check_pixels(layout: Layout, split: Split, title: str, show: bool) -> None:
    allowed = _allowed(layout, split)
    faults: list[tuple[int, str]] = []

    def look(index: int) -> tuple[int, str] | None:
        fault = _fault(split.images[index], split.labels[index], allowed, len(split.classes))
        return None if fault is None else (index, fault)

    with reporting(title, len(split.images), show) as reporter, ThreadPoolExecutor() as pool:
        for done, fault in enumerate(pool.map(look, range(len(split.images))), start=1):
            if fault:
                faults.append(fault)
            if done % 500 == 0 or done == len(split.images):
                reporter.update(done)
    if faults:
        more = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0][1]}{more}; mend or remove {'them' if more else 'it'}")


def _allowed(layout: Layout, split: Split) -> np.ndarray:
    """Which of the labels 0..255 may be in a file, (256,) bool."""
    count = len(split.classes)
    allowed = np.zeros(256, bool)
    allowed[IGNORED] = True
    allowed[list(split.label_map) if split.label_map else np.arange(count) + layout.reduce_zero_label] = True
    allowed[0] |= layout.reduce_zero_label
    return allowed


def _fault(image: Path, label: Path, allowed: np.ndarray, classes: int) -> str | None:
    try:
        with Image.open(image) as picture, Image.open(label) as labels:
            if picture.size != labels.size:
                return (f"{label} is {labels.size[0]} x {labels.size[1]} pixels and its image {picture.size[0]} x "
                        f"{picture.size[1]}")
            if labels.mode not in ("L", "P", "I", "I;16"):
                return f"{label} is a colour image ({labels.mode}); labels are class indices in a greyscale or palette PNG"
            values = np.unique(np.asarray(labels))
    except (OSError, SyntaxError) as error:
        return f"{label} or its image {image.name} cannot be read ({error})"
    wrong = [int(value) for value in values if not 0 <= value < 256 or not allowed[value]]
    if not wrong:
        return None
    right = np.flatnonzero(allowed[:IGNORED])
    return (f"{label} holds label{'s' if len(wrong) > 1 else ''} {', '.join(map(str, wrong[:5]))}, which "
            f"{'are' if len(wrong) > 1 else 'is'} none of the {classes} classes ({right[0]} to {right[-1]}, 255 = no class)")
