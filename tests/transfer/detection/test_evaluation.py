"""Scores against independent computations: pycocotools asked directly, and VOC's average precision in plain loops."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from tests.transfer.detection.slow_voc_ap import average_precision
from transfer.detection import data
from transfer.detection.evaluation import VOC_THRESHOLDS, coco_result, evaluate


class Guess(nn.Module):
    """Stands in for a detector: moved, mislabelled and doubled true boxes with random scores, the same for the same image."""

    def __init__(self, found: data.DetectionData, classes=None, masks=False):
        super().__init__()
        self.records = {record["image_id"]: record for record in found.test.records}
        self.number, self.classes, self.masks = len(found.classes), classes, masks
        self.coco = COCO(str(found.test.json_file)) if masks else None

    def forward(self, inputs):
        return [{"instances": self.instances(self.records[entry["image_id"]])} for entry in inputs]

    def instances(self, record):
        random = np.random.default_rng(int(record["image_id"]))
        boxes, labels, masks = [], [], []
        annotations = self.coco.loadAnns(self.coco.getAnnIds(imgIds=record["image_id"])) if self.masks else [None] * 99
        for box, annotation in zip(record["annotations"], annotations, strict=False):
            for _ in range(2):
                corners = np.array(BoxMode.convert(box["bbox"], box["bbox_mode"], BoxMode.XYXY_ABS), dtype=float)
                boxes.append((corners + random.integers(-2, 3, 4)).round(1))
                labels.append(box["category_id"] if random.random() < 0.7 else random.integers(self.number))
                if self.masks:
                    masks.append(np.roll(self.coco.annToMask(annotation), random.integers(-1, 2), 1).astype(bool))
        kept = [i for i, label in enumerate(labels) if self.classes is None or label in self.classes]
        made = Instances((record["height"], record["width"]))
        made.pred_boxes = Boxes(torch.tensor(np.array(boxes)[kept].reshape(-1, 4), dtype=torch.float32))
        made.scores = torch.tensor(random.permutation(len(labels))[kept] / 100 + 0.005 * random.random())
        made.pred_classes = torch.tensor(np.array(labels)[kept], dtype=torch.int64)
        if self.masks:
            made.pred_masks = torch.tensor(np.array(masks)[kept])
        return made


def cfg():
    made = get_cfg()
    made.INPUT.MIN_SIZE_TEST, made.DATALOADER.NUM_WORKERS = 48, 0
    return made


def by_pycocotools(json_file, predictions, kind):
    """AP, AP50, AP75 and by size, and AP by category, from the precisions that pycocotools leaves."""
    truth = COCO(str(json_file))
    judge = COCOeval(truth, truth.loadRes(predictions), kind)
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"][..., -1]  # (thresholds, recalls, categories, areas)

    def mean(values):
        return values[values > -1].mean() if (values > -1).any() else None

    whole = [
        mean(precision[:, :, :, 0]),
        mean(precision[0, :, :, 0]),
        mean(precision[5, :, :, 0]),
        *(mean(precision[:, :, :, area]) for area in (1, 2, 3)),
    ]
    return whole, [mean(precision[:, :, category, 0]) for category in range(precision.shape[2])]


def test_coco_scores_are_those_of_pycocotools(scenes, tmp_path):
    found = data.load("digits", scenes)
    result = evaluate(cfg(), Guess(found, masks=True), found, True, tmp_path)
    predictions = json.loads((tmp_path / "coco_instances_results.json").read_text())
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        whole, classes = by_pycocotools(found.test.json_file, predictions, kind)
        ours = [result.values[f"{name}_{metric}"] for metric in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
        assert ours == [None if value is None else pytest.approx(value) for value in whole]
        assert 0 < ours[0] < 1 and ours[-1] is None  # there is nothing large
        assert [result.classes[c][f"{name}_AP"] for c in found.classes] == [
            None if value is None else pytest.approx(value) for value in classes
        ]


def changed(scenes, place, change):
    root = Path(shutil.copytree(scenes, place / "scenes"))
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return data.load("coco", root)


def test_ids_from_0_and_boxes_of_no_area_change_no_score(scenes, tmp_path):
    """Ids of annotations, images and categories; pycocotools takes a match with annotation 0 for no match."""

    def change(content):
        for entry in (*content["annotations"], *content["images"], *content["categories"]):
            entry["id"] -= 1 if "file_name" not in entry else 9
        for annotation in content["annotations"]:
            annotation["image_id"] -= 9
            annotation["category_id"] -= 1
        first = content["annotations"][0]
        content["annotations"].append({**first, "id": 99, "bbox": [*first["bbox"][:3], 0], "area": 1, "segmentation": None})

    def categories(content):
        for entry in content["categories"]:
            entry["id"] -= 1
        for annotation in content["annotations"]:
            annotation["category_id"] -= 1

    for place in ("usual", "other"):
        (tmp_path / place).mkdir()
    usual = data.load("coco", scenes)
    path = Path(shutil.copytree(scenes, tmp_path / "train")) / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    categories(content)
    path.write_text(json.dumps(content))
    other = changed(tmp_path / "train", tmp_path / "other", change)
    guess = Guess(usual)
    expected = evaluate(cfg(), guess, usual, False, tmp_path / "usual")
    guess.records = {record["image_id"] - 9: record for record in usual.test.records}
    found = evaluate(cfg(), guess, other, False, tmp_path / "other")
    assert found == expected and expected.values["box_AP"] > 0


def test_evaluation_leaves_the_data_as_it_is(scenes, tmp_path):
    """Names of any kind: with spaces, quotes and folders; nothing but the run's own directory is written to."""
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    names = {"000009": "a b", "000010": "x/y", "000011": 'it\'s "one"', "000012": "ü;$(id)"}
    for old, new in names.items():
        for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
            (root / folder / new).parent.mkdir(exist_ok=True)
            (root / folder / f"{old}.{suffix}").rename(root / folder / f"{new}.{suffix}")
    (root / "ImageSets/Main/test.txt").write_text("".join(f"{new}\n" for new in names.values()))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    usual, found = data.load("voc", scenes), data.load("voc", root)
    out = tmp_path / "run"
    out.mkdir()
    guess, expected = Guess(found), evaluate(cfg(), Guess(usual), usual, False, out)
    assert evaluate(cfg(), guess, found, False, out) == expected and expected.values["box_AP"] > 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("metric", ["voc2007", "voc2012"])
def test_voc_scores_are_those_of_plain_loops(metric, scenes, tmp_path):
    found = dataclasses.replace(data.load("voc", scenes), metric=metric)
    result = evaluate(cfg(), Guess(found), found, False, tmp_path)
    guesses = {record["image_id"]: Guess(found).instances(record) for record in found.test.records}
    by_class = {}
    for number, name in enumerate(found.classes):
        truth = {
            record["image_id"]: [
                (box["bbox"][0] + 1, box["bbox"][1] + 1, *box["bbox"][2:])
                for box in record["annotations"]
                if box["category_id"] == number
            ]
            for record in found.test.records
        }
        guessed = [
            (image, round(float(score), 3), (box[0] + 1, box[1] + 1, box[2], box[3]))
            for image, made in guesses.items()
            for box, score, label in zip(made.pred_boxes.tensor.tolist(), made.scores, made.pred_classes, strict=True)
            if label == number
        ]
        if any(truth.values()):
            by_class[name] = [average_precision(truth, guessed, t / 100, metric == "voc2007") for t in VOC_THRESHOLDS]
    expected = np.array(list(by_class.values()))
    assert [result.values[f"box_{m}"] for m in ("AP", "AP50", "AP75")] == pytest.approx(
        [expected.mean(), expected[:, 0].mean(), expected[:, 5].mean()]
    )
    assert 0 < result.values["box_AP"] < result.values["box_AP50"] < 1
    for name in found.classes:
        scores = by_class.get(name)
        assert result.classes[name]["box_AP"] == (None if scores is None else pytest.approx(np.mean(scores)))
        assert result.classes[name]["box_AP50"] == (None if scores is None else pytest.approx(scores[0]))


def test_a_class_with_objects_and_no_prediction_counts_as_zero_in_voc(scenes, tmp_path):
    found = data.load("voc", scenes)
    there = {box["category_id"] for record in found.test.records for box in record["annotations"]}
    one = min(there)
    result = evaluate(cfg(), Guess(found, classes={one}), found, False, tmp_path)
    assert {result.classes[found.classes[number]]["box_AP"] for number in there - {one}} == {0.0}
    assert result.values["box_AP"] == pytest.approx(result.classes[found.classes[one]]["box_AP"] / len(there))
    absent = [name for number, name in enumerate(found.classes) if number not in there]
    assert absent and {result.classes[name]["box_AP"] for name in absent} == {None}


def test_difficult_objects_of_voc_neither_count_nor_harm(scenes, tmp_path):
    found = data.load("voc", scenes)
    for record in found.test.records:
        for box in record["annotations"]:
            box["difficult"] = 1
    result = evaluate(cfg(), Guess(found), found, False, tmp_path)
    assert set(result.values.values()) == {None}


def test_a_detector_that_finds_nothing_has_no_score(scenes, tmp_path):
    found = data.load("digits", scenes)
    result = evaluate(cfg(), Guess(found, classes=set()), found, True, tmp_path)
    assert len(result.values) == 12 and set(result.values.values()) == {None}
    assert {value for scores in result.classes.values() for value in scores.values()} == {None}


def test_a_single_class_has_the_mean_as_its_own():
    found = {"bbox": {"AP": 25.0, "AP50": 50.0, "AP75": float("nan"), "APs": -0.0, "APm": float("nan"), "APl": float("nan")}}
    result = coco_result(found, False, ["cell"])
    assert result.classes == {"cell": {"box_AP": 0.25}}
    assert result.values == {"box_AP": 0.25, "box_AP50": 0.5, "box_AP75": None, "box_APs": 0, "box_APm": None, "box_APl": None}
