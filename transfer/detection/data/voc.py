"""Detection data in Pascal VOC's layout."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from xml.parsers import expat

from detectron2.structures import BoxMode

from pretrain.data.files import read_bytes
from rundir.errors import UserError
from transfer.detection.data.faults import Faults
from transfer.finetuning.lists import Images, read_names

CORNERS = ("xmin", "ymin", "xmax", "ymax")
MOST_BYTES = 16 * 2**20  # of one annotation
LARGEST = 1e9  # pixels: a number that is no coordinate
FLAGS = {"": 0, "0": 0, "1": 1, "false": 0, "true": 1}  # of <difficult>; empty as where it is not there


def list_of(home: Path, split: str) -> Path:
    """The list of the images of ``split``."""
    return home / "ImageSets" / "Main" / f"{split}.txt"


def read_split(home: Path, split: str, faults: Faults, files: list[Path]) -> list[dict]:
    """The records of one split in detectron2's format, with a class's ``name`` instead of its number in each annotation.

    ``image_id`` is the place in the list: names may hold anything, and no file is called by them. The annotations are added to
    ``files``.

    Raises:
        UserError: there is no list, or a name in it leads out of the folder.
    """
    path = list_of(home, split)
    if not path.exists():
        raise UserError(
            f"there is no {path}; set --data-dir to a directory in Pascal VOC's layout (JPEGImages, Annotations, ImageSets/Main)"
        )
    images, records = Images(home / "JPEGImages"), []
    names, notes = read_names(path, images)
    faults.notes += notes
    for number, name in enumerate(names):
        image = images.find(name)
        annotation = home / "Annotations" / f"{name if image is None else _stem(name, image)}.xml"
        if image is None or not annotation.is_file():
            faults.missing.append(str(home / "JPEGImages" / f"{name}.jpg" if image is None else annotation))
            continue
        record = _record(annotation, faults)
        if record is not None:
            faults.sizes.append((str(image), (record["width"], record["height"])))
            files.append(annotation)
            records.append({"file_name": str(image), "image_id": f"{number:06d}", **record})
    return records


def _stem(name: str, image: Path) -> str:
    """``name`` without the suffix of its ``image``, if it has it."""
    return name.removesuffix(image.suffix) if Path(name).name == image.name else name


def parsed(path: Path) -> ET.Element:
    """The root of an XML file of bounded size without a document type, so without entities that grow when they are read.

    Raises:
        UserError: it is no such file.
    """

    def refuse(*_) -> None:
        raise UserError(f"{path} has a document type (<!DOCTYPE ...>), which annotations of Pascal VOC do not have; remove it")

    content, builder, parser = read_bytes(path, MOST_BYTES), ET.TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = builder.start, builder.end, builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError, AssertionError) as error:  # the latter: encodings, no element
        raise UserError(f"{path} is not an annotation of Pascal VOC ({error}); fix or remove it") from None


class _Wrong(Exception):
    """A tag of an annotation is missing or cannot be right."""


def _record(path: Path, faults: Faults) -> dict | None:
    """Size and boxes of an annotation; None, and noted in ``faults``, where something in it is wrong."""
    try:
        root = parsed(path)
        size = tuple(_side(root, side) for side in ("width", "height"))
        objects = [_object(element, f"object {i}") for i, element in enumerate(root.findall("object"), start=1)]
    except _Wrong as error:
        faults.wrong.append(f"{path}: {error}")
        return None
    corners = [box for _, box, _ in objects if box[2] > box[0] and box[3] > box[1]]
    if corners and all(0 <= value <= 1 for box in corners for value in box):
        faults.shares.append(path.name)
    boxes = []
    for number, (name, (left, top, right, bottom), difficult) in enumerate(objects, start=1):
        # Pixels are counted from 1, and both ends belong to the box.
        box = faults.checked([left - 1, top - 1, right, bottom], size, f"{path.stem}, object {number}")  # type: ignore[arg-type]
        if box is not None:
            boxes.append({"name": name, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "difficult": difficult})
    return {"width": size[0], "height": size[1], "annotations": boxes}


def _side(root: ET.Element, side: str) -> int:
    value = _number(root, f"size/{side}", "")
    if value < 1 or value != int(value):
        raise _Wrong(f"<size><{side}> is {value:g}; set it to the picture's {side} in pixels")
    return int(value)


def _object(element: ET.Element, where: str) -> tuple[str, list[float], int]:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise _Wrong(f"<name> of {where} is {'empty' if element.find('name') is not None else 'missing'}; set it to the class")
    box = [_number(element, f"bndbox/{corner}", f" of {where} ({name})") for corner in CORNERS]
    # A box of no area is xmax = xmin - 1: both ends belong to it.
    for first, last in ((0, 2), (1, 3)):
        if box[last] < box[first] - 1:
            raise _Wrong(
                f"<{CORNERS[last]}> of {where} ({name}) is {box[last]:g}, less than <{CORNERS[first]}> {box[first]:g}; swap them"
            )
    text = (element.findtext("difficult") or "").strip().lower()
    if text not in FLAGS:
        raise _Wrong(f"<difficult> of {where} ({name}) is {text!r}; set it to 0 or 1")
    return name, box, FLAGS[text]


def _number(element: ET.Element, place: str, where: str) -> float:
    tags = "".join(f"<{tag}>" for tag in place.split("/"))
    text = element.findtext(place)
    if text is None:
        raise _Wrong(f"{tags}{where} is missing; add it")
    try:
        value = float(text)
    except ValueError:
        raise _Wrong(f"{tags}{where} is {text[:40]!r}; set it to a number") from None
    if not abs(value) < LARGEST:  # nan too
        raise _Wrong(f"{tags}{where} is {value}; set it to a number of pixels")
    return value


def number_classes(records: Sequence[dict], classes: Sequence[str], faults: Faults) -> None:
    """Put each box's ``category_id`` in the place of its class's ``name``; unknown ones are noted in ``faults``."""
    numbers = {name: number for number, name in enumerate(classes)}
    for record in records:
        for box in record["annotations"]:
            name = box.pop("name")
            if name not in numbers:
                faults.unknown.append(f"{name} in {Path(record['file_name']).name}")
            box["category_id"] = numbers.get(name, -1)
