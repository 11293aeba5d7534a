"""Detection data: Pascal VOC's layout, COCO's layout, and the scenes of digits; checked, and entered in detectron2's catalogs.

What is wrong with the data is found before anything is trained. Missing and damaged files, values that cannot be right, unknown
classes and boxes outside their image stop (``--clip-boxes`` cuts such boxes instead); classes without a box and what is left out
are only told.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.data import fingerprint
from pretrain.data.images import DISPLAYED
from rundir.errors import UserError
from transfer.detection.data import coco, voc
from transfer.detection.data.faults import Faults, has_box, some
from transfer.finetuning.scenes import CLASSES as SCENE_CLASSES
from transfer.finetuning.scenes import RECORD as SCENES

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
PUBLISHED = {"voc": "voc", "vocdevkit": "voc", "voc2007": "voc", "voc2012": "voc", "coco": "coco", "coco2017": "coco"}


@dataclass(frozen=True)
class Split:
    """Images and boxes of one split, in detectron2's format; of COCO's layout the user's file, and ``truth``, the same boxes in
    COCO's format, which is scored against."""

    records: list[dict]
    json_file: Path | None = None
    truth: Mapping[str, Any] | None = None
    annotations: list[Path] = field(default_factory=list)  # the files that boxes and masks are read from


@dataclass(frozen=True)
class DetectionData:
    """Data of one fine-tuning.

    Attributes:
        name: as in records: ``digits``, ``voc``, ``coco``, or the folder's name.
        root: the directory that holds the files.
        classes: names; a box's ``category_id`` counts in them.
        train, test: the splits.
        metric: ``coco``, ``voc2007`` (11 points) or ``voc2012`` (area under the curve).
        mask_format: detectron2's ``polygon`` or ``bitmask``; None where there are no masks.
        flip: whether images may be flipped (flipping a digit changes its label).
        fingerprint: eight hex digits of images' names, boxes and classes.
        notes: what is trained and scored on, what is left out, and what is odd but not wrong, a line each.
        exif: which pixels boxes belong to, ``displayed`` or ``stored``, where the sizes leave it open.
        unmasked: objects without a mask, of COCO's layout.
    """

    name: str
    root: Path
    classes: list[str]
    train: Split
    test: Split
    metric: str
    mask_format: str | None
    flip: bool
    notes: list[str] = field(default_factory=list)
    exif: str = DISPLAYED
    unmasked: list[str] = field(default_factory=list)

    @cached_property
    def contents(self) -> str:
        """The fingerprint of all that is read below ``root``: annotation files whole, images as of any data set."""
        splits = {}
        for name, split in (("train", self.train), ("test", self.test)):
            images = [record["file_name"] for record in split.records]
            names = fingerprint.names_below(self.root, images)
            files = zip(fingerprint.names_below(self.root, split.annotations), split.annotations, strict=True)
            splits[name] = [
                names,
                fingerprint.of_files(dict(zip(names, images, strict=True))),
                fingerprint.of_files(dict(files), whole=math.inf),
            ]
        return fingerprint.combined(classes=self.classes, metric=self.metric, **splits)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal data, wherever they are stored."""
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
            if self.metric != "coco":
                metadata.set(dirname="", split=split, year=int(self.metric[3:]))
        return name


def load(dataset: str, directory: str | Path, clip: bool = False, exif: str | None = None, show: bool = False) -> DetectionData:
    """Data set ``dataset``, one of ``transfer.detection.DATASETS``, in ``directory``; ``clip`` cuts boxes at their image's edge.

    ``exif``: which pixels boxes belong to where sizes leave it open, None: as other images show; ``show``: progress.

    voc: ``VOC2007`` and/or ``VOC2012`` in ``directory`` (train on both trainval, score on test of 2007; of 2012 alone train and
    val), or JPEGImages, Annotations and ImageSets/Main themselves (trainval and test, else train and val), with any classes.
    coco: ``train2017``, ``val2017`` and ``annotations/instances_{train,val}2017.json``, with any categories. digits: scenes as
    :mod:`transfer.finetuning.scenes` writes them, scored as COCO.

    Raises:
        UserError: what is missing or wrong, by name.
    """
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise UserError(f"there is no directory {root}; set --data-dir to the directory of the data")
    faults = Faults(root, clip)
    made = _voc(root, faults) if dataset == "voc" else _coco(root, faults, digits=dataset == "digits")
    for split in ("train", "test"):
        if not any(map(has_box, getattr(made, split).records)):
            raise UserError(f"{root}: the images to {'train' if split == 'train' else 'score'} on have no box of an object at all")
    found = faults.look(exif, show)
    return replace(made, exif=found, notes=faults.finish(made.classes, made.train.records, made.test.records))


def published_name(root: Path) -> str:
    """What the data in ``root`` is called in records."""
    name = root.resolve().name
    return PUBLISHED.get(name.lower(), name)


def _voc(root: Path, faults: Faults) -> DetectionData:
    years = [year for year in (2007, 2012) if (root / f"VOC{year}").is_dir()]
    homes = [root / f"VOC{year}" for year in years] or [root]
    single = homes[0] if len(homes) == 1 else None
    if single is None or voc.list_of(homes[0], "test").exists():
        train_sets, test_set = [(home, "trainval") for home in homes], (homes[0], "test")
    else:
        train_sets, test_set = [(single, "train")], (single, "val")
    train_files, test_files = [], []
    train = [record for home, split in train_sets for record in voc.read_split(home, split, faults, train_files)]
    test = voc.read_split(*test_set, faults, test_files)
    classes = _voc_classes(root, {a["name"] for record in (*train, *test) for a in record["annotations"]})
    voc.number_classes([*train, *test], classes, faults)
    faults.stop()
    metric = "voc2007" if 2007 in years or (published_name(root) == "voc" and "2007" in root.name) else "voc2012"
    return DetectionData(
        published_name(root),
        root,
        classes,
        Split(train, annotations=train_files),
        Split(test, annotations=test_files),
        metric,
        None,
        flip=not (root / SCENES).is_file(),
    )


def _voc_classes(root: Path, found: set[str]) -> list[str]:
    """Names in order: the published ones, those of scenes, else all that occur."""
    if published_name(root) == "voc":
        return list(VOC_CLASSES)
    return list(SCENE_CLASSES if (root / SCENES).is_file() else sorted(found))


def _coco(root: Path, faults: Faults, digits: bool) -> DetectionData:
    train, test = (
        coco.read(root / "annotations" / f"instances_{name}.json", root / name, faults) for name in ("train2017", "val2017")
    )
    if train.categories != test.categories and not faults.wrong:
        different = {name for _, name in set(train.categories.items()) ^ set(test.categories.items())}
        raise UserError(f"{root}: train2017 and val2017 do not have the same categories ({some(sorted(different))})")
    faults.stop()
    classes, kinds = [train.categories[number] for number in sorted(train.categories)], train.kinds | test.kinds
    unmasked = [*train.unmasked, *test.unmasked]
    mask_format = None if unmasked else "bitmask" if "rle" in kinds else "polygon"
    return DetectionData(
        "digits" if digits else published_name(root),
        root,
        classes,
        Split(train.records(), annotations=[train.path]),
        Split(test.records(), test.path, test.truth, [test.path]),
        "coco",
        mask_format,
        flip=not (root / SCENES).is_file(),
        unmasked=unmasked,
    )
