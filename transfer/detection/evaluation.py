"""Scores of a detector: COCO's by pycocotools and Pascal VOC's, both through detectron2's evaluators."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator, inference_on_dataset
from detectron2.evaluation.pascal_voc_evaluation import voc_eval
from detectron2.utils import comm
from torch import nn

from transfer.detection.data import DetectionData
from transfer.detection.data.mapper import Mapper
from transfer.detection.data.voc import CORNERS
from transfer.finetuning.runs import finite

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
VOC_METRICS = ("AP", "AP50", "AP75")
KINDS = {"bbox": "box", "segm": "mask"}  # detectron2's name, ours
VOC_THRESHOLDS = range(50, 100, 5)


@dataclass(frozen=True)
class Result:
    """``values``: fractions by metric (``box_AP50``), None where undefined; ``classes``: the same by class, of COCO the AP only."""

    values: dict[str, float | None]
    classes: dict[str, dict[str, float | None]]


def evaluate(cfg: CfgNode, model: nn.Module, data: DetectionData, masks: bool, directory: Path) -> Result | None:
    """Score ``model`` on the test split; None in all processes but the first. COCO's predictions go to ``directory``."""
    name = data.registered("test")
    loader = build_detection_test_loader(
        data.test.records, mapper=Mapper(cfg, False, data.exif), num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    if data.metric == "coco":
        tasks = ("bbox", "segm") if masks else ("bbox",)
        with redirect_stdout(StringIO()), _truth(data) as truth:  # pycocotools prints its tables
            evaluator = COCOEvaluator(truth, tasks=tasks, output_dir=str(directory), use_fast_impl=False)
            found = inference_on_dataset(model, loader, evaluator)
        (directory / "instances_predictions.pth").unlink(missing_ok=True)  # the same is next to it in COCO's own format
        return coco_result(found, masks, data.classes) if comm.is_main_process() else None
    with TemporaryDirectory(prefix="annotations-") as folder:
        evaluator = VOCEvaluator(name, data, Path(folder))
        found = inference_on_dataset(model, loader, evaluator)
    return voc_result(found, data.classes) if comm.is_main_process() else None


@contextmanager
def _truth(data: DetectionData) -> Iterator[str]:
    """The name, in detectron2's catalogs, of the test split with the boxes that were checked as a file of COCO's format."""
    name = f"{data.registered('test')}/truth"
    with TemporaryDirectory(prefix="annotations-") as folder:
        path = Path(folder) / "instances.json"
        path.write_text(json.dumps(data.test.truth), encoding="utf-8")
        numbers = sorted(category["id"] for category in data.test.truth["categories"])
        MetadataCatalog.get(name).set(
            json_file=str(path), thing_classes=data.classes, thing_dataset_id_to_contiguous_id={n: i for i, n in enumerate(numbers)}
        )
        try:
            yield name
        finally:
            MetadataCatalog.remove(name)


def coco_result(found: Mapping[str, Mapping[str, float]], masks: bool, classes: list[str]) -> Result:
    """What detectron2's COCO evaluator returned, in per cent and nan where undefined, as fractions and None."""
    kinds = ("bbox", "segm") if masks else ("bbox",)
    values = {f"{KINDS[kind]}_{metric}": _fraction(found.get(kind, {}).get(metric)) for kind in kinds for metric in COCO_METRICS}
    by_class: dict[str, dict[str, float | None]] = {name: {} for name in classes}
    for kind in kinds:
        scores = found.get(kind, {})
        for name in classes:  # of a single class detectron2 gives the mean alone
            score = scores.get("AP") if len(classes) == 1 else scores.get(f"AP-{name}")
            by_class[name][f"{KINDS[kind]}_AP"] = _fraction(score)
    return Result(values, by_class)


def voc_result(found: Mapping[str, Mapping[int, float]], classes: list[str]) -> Result:
    """AP by class and threshold in [0, 1], nan without an object, as means over the classes that have objects."""
    by_class, every = {}, np.array([[found[name][threshold] for threshold in VOC_THRESHOLDS] for name in classes])
    for name, scores in zip(classes, every, strict=True):
        by_class[name] = {"box_AP": finite(scores.mean()), "box_AP50": finite(scores[0]), "box_AP75": finite(scores[5])}
    there = every[np.isfinite(every).all(1)]
    means = there.mean(0) if len(there) else np.full(len(VOC_THRESHOLDS), np.nan)
    values = (means.mean(), means[0], means[5])
    return Result({f"box_{metric}": finite(value) for metric, value in zip(VOC_METRICS, values, strict=True)}, by_class)


def _fraction(value: float | None) -> float | None:
    value = finite(value)
    return None if value is None else value / 100


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """detectron2's VOC evaluation, class by class: ``{class: {threshold in per cent: AP in [0, 1]}}``, nan without an object.

    The true boxes are those that were checked, in annotations written for it to ``folder``: it wants integers and tags that not
    every data set has.
    """

    def __init__(self, name: str, data: DetectionData, folder: Path):
        (folder / "Annotations").mkdir()
        for record in data.test.records:
            _write_annotation(folder / "Annotations" / f"{record['image_id']}.xml", record, data.classes)
        (folder / "images.txt").write_text("".join(f"{record['image_id']}\n" for record in data.test.records), encoding="utf-8")
        super().__init__(name)
        self.folder = folder
        # Difficult ones do not count.
        self.objects = Counter(a["category_id"] for r in data.test.records for a in r["annotations"] if not a["difficult"])

    def evaluate(self) -> dict[str, dict[int, float]]:
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return {}
        lines = {number: [line for part in gathered for line in part.get(number, [])] for number in range(len(self._class_names))}
        return {name: self._class_scores(number, name, lines[number]) for number, name in enumerate(self._class_names)}

    def _class_scores(self, number: int, name: str, lines: list[str]) -> dict[int, float]:
        (self.folder / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8")
        annotations, images = str(self.folder / "Annotations" / "{}.xml"), str(self.folder / "images.txt")
        if not self.objects[number]:
            return dict.fromkeys(VOC_THRESHOLDS, float("nan"))
        found = str(self.folder / f"{number}.txt")
        return {
            threshold: voc_eval(found, annotations, images, name, threshold / 100, self._is_2007)[2] for threshold in VOC_THRESHOLDS
        }


def _write_annotation(path: Path, record: dict, classes: list[str]) -> None:
    root = ET.Element("annotation")
    for box in record["annotations"]:
        left, top, right, bottom = box["bbox"]
        entry = ET.SubElement(root, "object")
        texts = {"name": classes[box["category_id"]], "pose": "Unspecified", "truncated": "0", "difficult": str(box["difficult"])}
        for tag, text in texts.items():
            ET.SubElement(entry, tag).text = text
        corners = ET.SubElement(entry, "bndbox")
        for tag, value in zip(CORNERS, (left + 1, top + 1, right, bottom), strict=True):
            ET.SubElement(corners, tag).text = str(round(value))
    ET.ElementTree(root).write(path)
