"""Detection data in COCO's layout, as COCO's tools and others write it.

A file is read into a checked copy, in which annotations are numbered from 1 (pycocotools takes a match with annotation 0 for no
match) and boxes without an area are gone. Training, scores and pictures use the copy.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from pycocotools import mask as coco_masks

from pretrain.data.files import read_bytes, read_text, tree
from pretrain.data.images import is_image, opened
from rundir.errors import UserError
from transfer.detection.data import masks
from transfer.detection.data.faults import Faults, some
from transfer.finetuning.lists import check_inside

LARGEST = 1e12  # a number that is neither an id nor a number of pixels
MOST_BYTES = 8 * 2**30  # of a file of annotations


@dataclass
class Content:
    """A checked file: ``images``, ``annotations`` and ``categories`` as COCO's format has them, with absolute ``file_name``.

    kinds: of the masks of single objects, polygon and rle; unmasked: objects without a mask; sizeless: annotations without area.
    """

    path: Path
    images: dict[int, dict] = field(default_factory=dict)
    annotations: list[dict] = field(default_factory=list)
    categories: dict[int, str] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    unmasked: list[str] = field(default_factory=list)
    sizeless: list[str] = field(default_factory=list)

    @property
    def truth(self) -> dict:
        """What pycocotools scores against."""
        categories = [{"id": number, "name": name} for number, name in self.categories.items()]
        return {"images": list(self.images.values()), "annotations": self.annotations, "categories": categories}

    @property
    def numbers(self) -> dict[int, int]:
        """Category number in the file to class number."""
        return {number: place for place, number in enumerate(sorted(self.categories))}

    def records(self) -> list[dict]:
        """The images in detectron2's format, in the order of their ids."""
        own, numbers = defaultdict(list), self.numbers
        for annotation in self.annotations:
            made = {
                "iscrowd": annotation["iscrowd"],
                "bbox": annotation["bbox"],
                "category_id": numbers[annotation["category_id"]],
                "bbox_mode": BoxMode.XYWH_ABS,
            }
            mask = annotation.get("segmentation")
            if isinstance(mask, dict):  # compressed: plain run lengths are long lists of numbers
                mask = coco_masks.frPyObjects(mask, *mask["size"]) if isinstance(mask["counts"], list) else mask
            own[annotation["image_id"]].append(made | ({"segmentation": mask} if mask else {}))
        return [
            {
                "file_name": image["file_name"],
                "height": image["height"],
                "width": image["width"],
                "image_id": number,
                "annotations": own[number],
            }
            for number, image in sorted(self.images.items())
        ]


def read(path: Path, folder: Path, faults: Faults) -> Content:
    """The file ``path`` of the images in ``folder``, checked; what is wrong is noted in ``faults``.

    Raises:
        UserError: it is no file of COCO's instances.
    """
    raw, content = _raw(path), Content(path)
    for place, entry in enumerate(raw["categories"]):
        _noting(faults, path, f"categories[{place}]", _category, entry, content)
    seen: dict[str, str] = {}
    repeated = 0
    for place, entry in enumerate(raw["images"]):
        repeated += bool(_noting(faults, path, f"images[{place}]", _image, entry, content, folder, seen, faults))
    if repeated:
        faults.notes.append(f"{path.name} names {repeated} images twice, with equal entries; each is used once")
    ids: dict[int, int] = {}
    for place, entry in enumerate(raw["annotations"]):
        _noting(faults, path, f"annotations[{place}]", _annotation, entry, place, content, ids, faults)
    if content.sizeless:
        faults.notes.append(
            f"{len(content.sizeless)} annotations of {path.name} have no area; that of their box is used: {some(content.sizeless)}"
        )
    _note_shares(content, faults)
    _note_unused(content, folder, faults)
    return content


def _raw(path: Path) -> dict:
    if not path.exists():
        raise UserError(f"there is no {path}; set --data-dir to a directory in COCO's layout (train2017, val2017, annotations)")
    try:
        content = json.loads(read_text(path, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error})") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list) or not content[key]:
            raise UserError(f"{path} has no {key}; it is not an instances file of COCO with annotations")
    return content


# -- values -------------------------------------------------------------------------------------------------------------


class _Wrong(Exception):
    """What is wrong with an entry, beginning with its key."""


def _noting(faults: Faults, path: Path, where: str, check, entry: Any, *more) -> Any:
    """``check(entry, *more)``; what it finds wrong is noted with file and place."""
    try:
        if not isinstance(entry, dict):
            raise _Wrong(f" is {masks.short(entry)}; it must be an object with keys")
        return check(entry, *more)
    except _Wrong as error:
        faults.wrong.append(f"{path}: {where}{error}")
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST  # nan and inf are not


def _whole(entry: dict, key: str, least: int | None = None) -> int:
    value = entry.get(key)
    if not _is_number(value) or value != int(value) or (least is not None and value < least):
        said = f"is {masks.short(value)}" if key in entry else "is missing"
        needed = "a whole number" if least is None else f"a whole number from {least}"
        raise _Wrong(f".{key} {said}; set it to {needed}")
    return int(value)


def _text(entry: dict, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(f".{key} {f'is {masks.short(value)}' if key in entry else 'is missing'}; set it to a text")
    return value


# -- one entry ----------------------------------------------------------------------------------------------------------


def _category(entry: dict, content: Content) -> None:
    number, name = _whole(entry, "id"), _text(entry, "name").strip()
    if number in content.categories:
        raise _Wrong(f".id is {number}, which another category has; give each its own")
    if name in content.categories.values():
        raise _Wrong(f".name is {name!r}, which another category has; give each its own")
    content.categories[number] = name


def _image(entry: dict, content: Content, folder: Path, seen: dict[str, str], faults: Faults) -> bool:
    """Enter an image; whether an equal one is there already."""
    number, name = _whole(entry, "id"), _text(entry, "file_name")
    path = _located(name, folder, content.path)
    if path is None:
        faults.missing.append(str(folder / name))
    try:
        size = [_whole(entry, key, 1) for key in ("width", "height")]
    except _Wrong as error:
        raise _Wrong(f"{error}: {_size_of(path)}") from None
    made = {"id": number, "file_name": str(path or folder / name), "width": size[0], "height": size[1]}
    if number in content.images:
        if content.images[number] == made:
            return True
        raise _Wrong(f".id is {number}, which another image has; give each its own")
    real = os.path.realpath(made["file_name"])  # type: ignore[call-overload]
    if real in seen:
        raise _Wrong(f".file_name is {name!r}, the file of {seen[real]}; keep one entry for each image")
    seen[real] = f"the image with id {number}"
    content.images[number] = made
    if path is not None:
        faults.sizes.append((str(path), (size[0], size[1])))
    return False


def _located(name: str, folder: Path, path: Path) -> Path | None:
    """The file called ``name`` from ``folder`` on, or from the data's root; None where there is none."""
    name = name.replace("\\", "/")
    check_inside(name, str(path))
    for place in (folder / name, folder.parent / name):
        place = Path(os.path.normpath(place))
        if place.exists():
            return place
    return None


def _size_of(path: Path | None) -> str:
    if path is None:
        return "the picture's"
    try:
        width, height = opened(path, read_bytes(path))[1].displayed
    except UserError:
        return "the picture's"
    return f"{path.name} has {width} x {height}"


def _annotation(entry: dict, place: int, content: Content, ids: dict[int, int], faults: Faults) -> None:
    number = _whole(entry, "id")
    if number in ids:
        raise _Wrong(f".id is {number}, as of annotations[{ids[number]}]; give each its own")
    ids[number] = place
    image_id, category_id = _whole(entry, "image_id"), _whole(entry, "category_id")
    if image_id not in content.images or category_id not in content.categories:
        faults.unknown.append(f"annotation {number} of {content.path.name} (image {image_id}, category {category_id})")
        return
    image, crowd = content.images[image_id], entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise _Wrong(f".iscrowd is {masks.short(crowd)}; set it to 0 or 1")
    size, box = (image["width"], image["height"]), _box(entry)
    name = f"annotation {number} of {os.path.basename(image['file_name'])}"
    cut = faults.checked([box[0], box[1], box[0] + box[2], box[1] + box[3]], size, name)
    mask = entry.get("segmentation") or None
    if mask is not None:
        fault = masks.fault(mask, size[::-1])
        if fault:
            raise _Wrong(f".segmentation{'' if fault[0] in '.[' else ' '}{fault}; fix or remove it")
    if cut is None:
        return
    if faults.clip:
        box = [cut[0], cut[1], cut[2] - cut[0], cut[3] - cut[1]]
    made = {
        "id": len(content.annotations) + 1,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": _area(entry, box),
        "iscrowd": int(crowd),
    }
    if not entry.get("area"):
        content.sizeless.append(name)
    if mask is not None:
        made["segmentation"] = mask
    elif crowd:  # where masks are scored a crowd needs one
        left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
        made["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
    content.annotations.append(made)
    if not crowd and mask is None:
        content.unmasked.append(name)
    elif not crowd:
        content.kinds.add("rle" if isinstance(mask, dict) else "polygon")


def _box(entry: dict) -> list[float]:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        said = f"is {masks.short(box)}" if "bbox" in entry else "is missing"
        raise _Wrong(f".bbox {said}; set it to four numbers: left, top, width, height")
    if min(box[2:]) < 0:
        raise _Wrong(f".bbox is {masks.short(box)}, of negative width or height; set it to left, top, width, height")
    return box


def _area(entry: dict, box: list[float]) -> float:
    """COCO's ``area``, which sorts objects into small, medium and large; the box's where it is missing or 0."""
    area = entry.get("area")
    if area is None or area == 0:
        return box[2] * box[3]
    if not _is_number(area) or area < 0:
        raise _Wrong(f".area is {masks.short(area)}; set it to the object's area in pixels, or leave it out")
    return area


# -- the whole file -----------------------------------------------------------------------------------------------------


def _note_shares(content: Content, faults: Faults) -> None:
    """Note images all of whose boxes lie within one pixel at their corner: shares of the image's size, not pixels."""
    largest: dict[int, float] = defaultdict(float)
    for annotation in content.annotations:
        left, top, width, height = annotation["bbox"]
        reach = max(left + width, top + height) if min(left, top) >= 0 else float("inf")
        largest[annotation["image_id"]] = max(largest[annotation["image_id"]], reach)
    faults.shares += [
        f"{os.path.basename(content.images[image]['file_name'])} in {content.path.name}"
        for image, reach in largest.items()
        if reach <= 1
    ]


def _note_unused(content: Content, folder: Path, faults: Faults) -> None:
    """Note image files in ``folder`` that the file does not name."""
    if not folder.is_dir():
        return
    used = {image["file_name"] for image in content.images.values()}
    found = tree(folder)
    unused = [name for name in found.files if is_image(name) and os.path.normpath(folder / name) not in used]
    if unused:
        faults.notes.append(f"{len(unused)} images in {folder} are not in {content.path.name} and are not used: {some(unused)}")
