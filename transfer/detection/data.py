"""Detection data: Pascal VOC's layout, COCO's layout, and the scenes of digits; checked, and entered in detectron2's catalogs.

What is wrong with the data is found before anything is trained. Missing files, unknown classes and boxes outside their image stop
(``--clip-boxes`` cuts such boxes instead); classes without a box and boxes without an area are only told.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from PIL import Image

from pretrain.data import fingerprint
from pretrain.errors import UserError
from transfer.dense.scenes import CLASSES as SCENE_CLASSES
from transfer.dense.scenes import RECORD as SCENES

VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
               "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
PUBLISHED = {"voc": "voc", "vocdevkit": "voc", "voc2007": "voc", "voc2012": "voc", "coco": "coco", "coco2017": "coco"}
CORNERS = ("xmin", "ymin", "xmax", "ymax")
TOLERANCE = 1.0  # pixels that a box may leave its image by: rounding, and counting from 0 or from 1
SIZES_CHECKED = 5000  # image files at most whose size is compared with what the annotations say
NAMED = 3  # faults that a message names


@dataclass(frozen=True)
class Split:
    """Images and boxes of one split, in detectron2's format; ``json_file`` is what COCO's evaluation reads, ``root`` and ``lists``
    what VOC's does."""

    records: list[dict]
    json_file: Path | None = None
    root: Path | None = None
    image_set: str = ""
    annotations: list[Path] = field(default_factory=list)  # the files that boxes and masks are read from


@dataclass(frozen=True)
class DetectionData:
    """Data of one fine-tuning.

    Attributes:
        name: as in records: ``digits``, ``voc``, ``coco``, or the folder's name.
        classes: names; a box's ``category_id`` counts in them.
        train, test: the splits.
        metric: ``coco``, ``voc2007`` (11 points) or ``voc2012`` (area under the curve).
        mask_format: detectron2's ``polygon`` or ``bitmask``; None where there are no masks.
        flip: whether a mirrored image is another example (digits are no longer digits).
        fingerprint: eight hex digits of images' names, boxes and classes.
        notes: what is odd but not wrong, a line each.
    """

    name: str
    classes: list[str]
    train: Split
    test: Split
    metric: str
    mask_format: str | None
    flip: bool
    notes: list[str] = field(default_factory=list)

    def contents(self, root: Path) -> str:
        """The fingerprint of all that is read below ``root``: annotation files whole, images as of any data set."""
        splits = {}
        for name, split in (("train", self.train), ("test", self.test)):
            images = [record["file_name"] for record in split.records]
            names = fingerprint.names_below(root, images)
            files = zip(fingerprint.names_below(root, split.annotations), split.annotations, strict=True)
            splits[name] = [names, fingerprint.of_files(dict(zip(names, images, strict=True))),
                            fingerprint.of_files(dict(files), whole=math.inf)]
        return fingerprint.combined(classes=self.classes, metric=self.metric, **splits)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal data, wherever it lies."""
        digest = hashlib.sha256(json.dumps([self.classes, self.metric]).encode())
        for record in (*self.train.records, None, *self.test.records):
            boxes = [[a["category_id"], *a["bbox"]] for a in record["annotations"]] if record else []
            digest.update(json.dumps([record and os.path.basename(record["file_name"]), boxes]).encode())
        return digest.hexdigest()[:8]

    def registered(self, split: str) -> str:
        """The name of ``train`` or ``test`` in detectron2's catalogs, entered there if it is not yet."""
        chosen, name = getattr(self, split), f"us3l/{self.name}/{split}/{self.fingerprint}"
        if name not in DatasetCatalog.list():
            DatasetCatalog.register(name, lambda: chosen.records)
            metadata = MetadataCatalog.get(name)
            metadata.set(thing_classes=self.classes)
            if chosen.json_file is not None:
                metadata.set(json_file=str(chosen.json_file), image_root="", evaluator_type="coco",
                             thing_dataset_id_to_contiguous_id=_category_ids(chosen.json_file))
            else:
                metadata.set(dirname=str(chosen.root), split=chosen.image_set, year=int(self.metric[3:]))
        return name


def load(dataset: str, directory: str | Path | None, clip: bool = False) -> DetectionData:
    """Data set ``dataset``, one of ``transfer.detection.DATASETS``, in ``directory``; ``clip`` cuts boxes at their image's edge.

    voc: ``VOC2007`` and/or ``VOC2012`` in ``directory`` (train on both trainval, score on test of 2007; of 2012 alone train and
    val), or JPEGImages, Annotations and ImageSets/Main themselves (trainval and test, else train and val), with any classes.
    coco: ``train2017``, ``val2017`` and ``annotations/instances_{train,val}2017.json``, with any categories. digits: scenes as
    :mod:`transfer.dense.scenes` writes them, scored as COCO.

    Raises:
        UserError: what is missing or wrong, by name.
    """
    if directory is None:
        raise UserError(f"data set {dataset} needs to know where it lies; write --data-dir DIR")
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise UserError(f"there is no directory {root}; write --data-dir with the directory of the data")
    made = _voc(root, clip) if dataset == "voc" else _coco(root, clip, digits=dataset == "digits")
    for split in ("train", "test"):
        if not any(record["annotations"] for record in getattr(made, split).records):
            raise UserError(f"{root}: the images to {'train' if split == 'train' else 'score'} on have no box at all")
    return made


def published_name(root: Path) -> str:
    """What the data in ``root`` is called in records."""
    name = root.resolve().name
    return PUBLISHED.get(name.lower(), name)


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more


# -- Pascal VOC ---------------------------------------------------------------------------------------------------------


def _voc(root: Path, clip: bool) -> DetectionData:
    years = [year for year in (2007, 2012) if (root / f"VOC{year}").is_dir()]
    homes = [root / f"VOC{year}" for year in years] or [root]
    single = homes[0] if len(homes) == 1 else None
    if single is None or _voc_list(homes[0], "test").is_file():
        train_sets, test_set = [(home, "trainval") for home in homes], (homes[0], "test")
    else:
        train_sets, test_set = [(single, "train")], (single, "val")
    faults = _Faults(root, clip)
    train = [record for home, split in train_sets for record in _voc_records(home, split, faults)]
    test = _voc_records(*test_set, faults)
    classes = _voc_classes(root, {a["name"] for record in (*train, *test) for a in record["annotations"]})
    numbers = {name: number for number, name in enumerate(classes)}
    for record in (*train, *test):
        for box in record["annotations"]:
            name = box.pop("name")
            if name not in numbers:
                faults.unknown.append(f"{name} in {os.path.basename(record['file_name'])}")
            box["category_id"] = numbers.get(name, -1)
    notes = faults.finish(classes, train, test)
    metric = "voc2007" if 2007 in years or (published_name(root) == "voc" and "2007" in root.name) else "voc2012"
    return DetectionData(published_name(root), classes, *_voc_splits(train, test, test_set), metric, None,
                         flip=not (root / SCENES).is_file(), notes=notes)


def _voc_splits(train: list[dict], test: list[dict], test_set: tuple[Path, str]) -> tuple[Split, Split]:
    files = [[Path(record["file_name"].rpartition("JPEGImages")[0]) / "Annotations" / f"{record['image_id']}.xml"
              for record in records] for records in (train, test)]
    return Split(train, annotations=files[0]), Split(test, root=test_set[0], image_set=test_set[1], annotations=files[1])


def _voc_classes(root: Path, found: set[str]) -> list[str]:
    """Names in order: the published ones, those of scenes, else all that occur."""
    if published_name(root) == "voc":
        return list(VOC_CLASSES)
    return list(SCENE_CLASSES if (root / SCENES).is_file() else sorted(found))


def _voc_list(home: Path, split: str) -> Path:
    return home / "ImageSets" / "Main" / f"{split}.txt"


def _voc_records(home: Path, split: str, faults: _Faults) -> list[dict]:
    path = _voc_list(home, split)
    if not path.is_file():
        raise UserError(f"there is no {path}; write --data-dir with a directory in Pascal VOC's layout (JPEGImages, Annotations, "
                        "ImageSets/Main)")
    names = [line.split()[0] for line in path.read_text().splitlines() if line.split()]
    if not names:
        raise UserError(f"{path} names no image")
    records = []
    for name in names:
        image, annotation = home / "JPEGImages" / f"{name}.jpg", home / "Annotations" / f"{name}.xml"
        if not image.is_file() or not annotation.is_file():
            faults.missing.append(str(annotation if image.is_file() else image))
            continue
        records.append(_voc_record(name, image, annotation, faults))
    return records


def _voc_record(name: str, image: Path, annotation: Path, faults: _Faults) -> dict:
    try:
        tree = ET.parse(annotation).getroot()
        width, height = (int(tree.find(f"size/{side}").text) for side in ("width", "height"))
        objects = [(o.find("name").text.strip(), [float(o.find(f"bndbox/{side}").text) for side in CORNERS],
                    int(o.findtext("difficult") or 0)) for o in tree.findall("object")]
    except (ET.ParseError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{annotation} is not an annotation of Pascal VOC ({error})") from None
    boxes = []
    for label, (left, top, right, bottom), difficult in objects:
        # Pixels are counted from 1, and both ends belong to the box.
        box = faults.checked([left - 1, top - 1, right, bottom], width, height, name)
        boxes.append({"name": label, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "difficult": difficult})
    faults.sizes.append((str(image), width, height))
    return {"file_name": str(image), "image_id": name, "width": width, "height": height, "annotations": boxes}


# -- COCO ---------------------------------------------------------------------------------------------------------------


def _coco(root: Path, clip: bool, digits: bool) -> DetectionData:
    faults, splits, formats, categories = _Faults(root, clip), {}, set(), []
    for split, folder in (("train", "train2017"), ("test", "val2017")):
        path = root / "annotations" / f"instances_{folder}.json"
        content = _coco_content(path)
        categories.append({c["id"]: c["name"] for c in content["categories"]})
        formats |= _check_coco(content, path, root / folder, faults)
        splits[split] = path
    if categories[0] != categories[1]:
        different = {name for _, name in set(categories[0].items()) ^ set(categories[1].items())}
        raise UserError(f"{root}: train2017 and val2017 do not have the same categories ({_some(sorted(different))})")
    faults.stop()
    records = {split: _coco_records(path, root / path.stem.removeprefix("instances_"), faults) for split, path in splits.items()}
    classes = [categories[0][number] for number in sorted(categories[0])]
    notes = faults.finish(classes, records["train"], records["test"])
    mask_format = None if None in formats else "bitmask" if "rle" in formats else "polygon"
    return DetectionData("digits" if digits else published_name(root), classes,
                         Split(records["train"], annotations=[splits["train"]]),
                         Split(records["test"], json_file=splits["test"], annotations=[splits["test"]]), "coco", mask_format,
                         flip=not (root / SCENES).is_file(), notes=notes)


def _coco_content(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no {path}; write --data-dir with a directory in COCO's layout (train2017, val2017, annotations)"
                        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list) or not content[key]:
            raise UserError(f"{path} has no {key}; it is not an instances file of COCO with annotations")
    return content


def _check_coco(content: dict, path: Path, folder: Path, faults: _Faults) -> set[str | None]:
    """Enter what is wrong in ``faults``; the kinds of masks of single objects: polygon, rle, None where one has none."""
    images = {image["id"]: image for image in content["images"]}
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    faults.missing += [str(folder / image["file_name"]) for image in content["images"] if image["file_name"] not in there]
    faults.sizes += [(str(folder / i["file_name"]), i["width"], i["height"]) for i in content["images"] if i["file_name"] in there]
    categories, kinds = {c["id"] for c in content["categories"]}, set()
    for box in content["annotations"]:
        if box["image_id"] not in images or box["category_id"] not in categories:
            faults.unknown.append(f"annotation {box['id']} of {path.name} (image {box['image_id']}, category {box['category_id']})")
            continue
        image, (left, top, width, height) = images[box["image_id"]], box["bbox"]
        faults.checked([left, top, left + width, top + height], image["width"], image["height"], image["file_name"])
        if not box.get("iscrowd"):
            mask = box.get("segmentation")
            kinds.add("rle" if isinstance(mask, dict) else "polygon" if mask else None)
    return kinds


def _coco_records(path: Path, folder: Path, faults: _Faults) -> list[dict]:
    """detectron2's own reading of the file, boxes cut at the edge if that is asked for."""
    name = f"us3l/reading/{path}"
    records = load_coco_json(str(path), str(folder), dataset_name=name)
    MetadataCatalog.pop(name)
    for record in records if faults.clip else ():
        for annotation in record["annotations"]:
            left, top, width, height = annotation["bbox"]
            box = faults.checked([left, top, left + width, top + height], record["width"], record["height"], "")
            annotation["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    return records


def _category_ids(path: Path) -> dict[int, int]:
    """Category number in the file to class number, in the order of :func:`load_coco_json`."""
    numbers = sorted(c["id"] for c in json.loads(path.read_text())["categories"])
    return {number: place for place, number in enumerate(numbers)}


# -- faults -------------------------------------------------------------------------------------------------------------


class _Faults:
    """What is wrong with the data in ``root``, collected so that one message can name it."""

    def __init__(self, root: Path, clip: bool):
        self.root, self.clip = root, clip
        self.missing: list[str] = []
        self.unknown: list[str] = []
        self.outside: list[str] = []
        self.flat = 0
        self.sizes: list[tuple[str, int, int]] = []  # file, width and height that the annotations say

    def checked(self, box: list[float], width: int, height: int, name: str) -> list[float]:
        """The box (left, top, right, bottom), cut at the edge if that is asked for; noted if it is outside."""
        left, top, right, bottom = box
        cut = [min(max(left, 0), width), min(max(top, 0), height), min(max(right, 0), width), min(max(bottom, 0), height)]
        if max(abs(a - b) for a, b in zip(box, cut, strict=True)) > TOLERANCE and not self.clip:
            self.outside.append(f"{name} ({width} x {height}): left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g}")
        self.flat += name != "" and (cut[2] <= cut[0] or cut[3] <= cut[1])
        return cut if self.clip else box

    def stop(self) -> None:
        """:class:`UserError` if training is impossible."""
        if self.missing:
            raise UserError(f"{self.root}: {len(self.missing)} files are missing: {_some(self.missing)}")
        if self.unknown:
            raise UserError(f"{self.root}: {len(self.unknown)} boxes of no known image or class: {_some(self.unknown)}")
        if self.outside:
            raise UserError(f"{self.root}: {len(self.outside)} boxes are outside their image; correct them, or write --clip-boxes "
                            f"to cut them: {_some(self.outside)}")
        self._check_sizes()

    def _check_sizes(self) -> None:
        step = max(1, len(self.sizes) // SIZES_CHECKED)
        for path, width, height in self.sizes[::step]:
            try:
                with Image.open(path) as image:
                    found = image.size
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error})") from None
            if found != (width, height):
                raise UserError(f"{path} has {found[0]} x {found[1]} pixels, its annotation says {width} x {height}")

    def finish(self, classes: Sequence[str], train: Iterable[dict], test: Iterable[dict]) -> list[str]:
        """Stop if something is wrong; else what is odd, a line each."""
        self.stop()
        notes = [f"{self.flat} boxes have no area and are not used"] if self.flat else []
        for records, what in ((train, "trained on"), (test, "scored on")):
            counts = Counter(a["category_id"] for record in records for a in record["annotations"])
            empty = [name for number, name in enumerate(classes) if not counts[number]]
            if empty:
                notes.append(f"{len(empty)} of {len(classes)} classes have no box to be {what}: {_some(empty)}")
        return notes
