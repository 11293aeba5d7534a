"""The command: scores, files and pictures of every width, done once; bad input in one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.distributed import Processes
from rundir.directory import RunDirectory
from rundir.errors import UserError
from transfer.detection import MODELS
from transfer.finetuning import Finetuning, check
from transfer.finetuning.running import run_widths
from transfer.run import main

SMALL = [
    "--iterations",
    "3",
    "--batch-size",
    "2",
    "--pictures",
    "2",
    "--set",
    "MODEL.FPN.OUT_CHANNELS",
    "8",
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    "16",
]


def detection(checkpoint, *words):
    return main(["detection", "--checkpoint", str(checkpoint), *words, *SMALL])


def test_boxes_of_digits_at_two_widths(run_directory, scenes, tmp_path, capsys):
    words = ["--data-dir", str(scenes), "--widths", "1.0", "0.25"]
    assert detection(run_directory, *words) == 0
    printed = capsys.readouterr().out
    assert "faster_rcnn_small_fpn on digits, quick, pretrained: AP in % of 4 images" in printed
    assert "0 missing, 0 unexpected" in printed and str(run_directory / "result.json") in printed
    records = RunDirectory(run_directory).records()
    assert [(r["width"], r["metric"]) for r in records] == [
        (w, f"box_{m}") for w in (1.0, 0.25) for m in ("AP", "AP50", "AP75", "APs", "APm", "APl")
    ]
    first = records[0]
    assert {first[k] for k in ("task", "dataset", "model", "schedule", "initial")} == {
        "detection",
        "digits",
        "faster_rcnn_small_fpn",
        "quick",
        "pretrained",
    }
    assert first["seed"] == 100 and first["count"] == 4 and first["parameters"] > records[-1]["parameters"]
    assert records[-1]["value"] is None  # nothing is large
    runs = sorted((run_directory / "transfer" / "detection").iterdir())
    assert len(runs) == 2
    for run in runs:
        assert {path.name for path in run.iterdir()} >= {
            "config.yaml",
            "status.json",
            "metrics.jsonl",
            "provenance.json",
            "result.json",
            "weights.json",
            "classes.json",
            "detector.pth",
            "detectron2.yaml",
            "predictions.png",
        }
        assert RunDirectory(run).status()["state"] == "done" and np.array(Image.open(run / "predictions.png")).std() > 10
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert {row["name"] for row in rows} >= {"loss", "loss_cls", "lr"} and {row["step"] for row in rows} == {3}
    detection(run_directory, *words)
    assert capsys.readouterr().out.count("finished before") == 2
    detection(run_directory, *words[:2], "--widths", "0.25", "--initial", "random")
    assert {r["initial"] for r in RunDirectory(run_directory).records()} == {"pretrained", "random"}


def test_masks_and_voc(run_directory, scenes, tmp_path, capsys):
    out = ["--out", str(tmp_path / "scores"), "--widths", "0.5"]
    assert detection(run_directory, "--data-dir", str(scenes), "--model", "mask_rcnn_fpn", *out) == 0
    assert "mask, width" in capsys.readouterr().out
    assert detection(run_directory, "--dataset", "voc", "--data-dir", str(scenes), *out) == 0
    records = RunDirectory(tmp_path / "scores").records()
    assert {(r["dataset"], r["model"]) for r in records} == {
        ("digits", "mask_rcnn_small_fpn"),
        (scenes.name, "faster_rcnn_small_fpn"),
    }
    voc = [r["metric"] for r in records if r["settings"]["metric"] == "voc2012"]
    assert len(records) - len(voc) == 12 and voc == ["box_AP", "box_AP50", "box_AP75"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "faster_rcnn_r50_fpn"], "is for another network than resnet_small; set --model faster_rcnn_fpn"),
        (["--model", "fastrcnn_fpn"], "did you mean --model faster_rcnn_fpn"),
        (["--dataset", "pascal"], "unknown value of --dataset: 'pascal'"),
        (["--dataset", "voc"], "--data-dir"),
        (["--schedule", "coco1x"], "did you mean --schedule coco_1x"),
        (["--initial", "imagenet"], "pretrained, random"),
        (["--norm", "gn"], "auto, bn, syncbn, frozen"),
        (["--norm", "syncbn"], "needs GPUs"),
        (["--widths", "0.1"], "outside the trained range"),
        (["--size", "0"], "argument --size: '0'"),
        (["--workers", "-1"], "argument --workers: '-1'"),
        (["--device", "tpu"], "is not a device"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, message, trained, scenes, tmp_path):
    data = [] if "voc" in words else ["--data-dir", str(scenes)]
    with pytest.raises(UserError, match=message):
        detection(trained, *data, "--out", str(tmp_path / "scores"), *words)
    assert list(tmp_path.iterdir()) == []


def test_unknown_keys_of_detectron2s_config(trained, scenes, tmp_path):
    with pytest.raises(UserError, match="Non-existent"):
        main(["detection", "--checkpoint", str(trained), "--data-dir", str(scenes), "--out", str(tmp_path), "--set", "X", "1"])
    assert list(tmp_path.iterdir()) == []


def test_masks_need_masks(trained, scenes, tmp_path):
    with pytest.raises(UserError, match=r"has no masks.*set --model (\w+)") as error:
        detection(trained, "--dataset", "voc", "--data-dir", str(scenes), "--model", "mask_rcnn_fpn", "--out", str(tmp_path))
    assert str(error.value).endswith("set --model faster_rcnn_fpn")
    assert all(name.replace("mask_rcnn", "faster_rcnn") in MODELS for name in MODELS)  # so the advice can be followed


def test_a_file_elsewhere_needs_a_place_for_its_scores(trained, scenes, tmp_path):
    shutil.copy(trained / "checkpoint.pt", tmp_path / "copy.pt")
    with pytest.raises(UserError, match="set --out DIR"):
        detection(tmp_path / "copy.pt", "--data-dir", str(scenes))


def test_batches_are_shared_by_processes(trained, scenes):
    finetuning = Finetuning("detection", str(trained), data_dir=str(scenes), batch_size=4)
    with pytest.raises(UserError, match="set --batch-size 6"):
        check([finetuning], processes=3)
    with pytest.raises(UserError, match="set --batch-size 6"):
        run_widths(finetuning, None, Processes(0, 3, torch.device("cpu")))


def test_a_detector_on_a_sub_network(run_directory, scenes, capsys):
    text = "w[1,.5,.75,.5]"
    words = ["--data-dir", str(scenes), "--widths", text, "0.5"]
    assert detection(run_directory, *words) == 0
    assert text in capsys.readouterr().out
    records = RunDirectory(run_directory).records()
    assert {(r["width"], r.get("subnet")) for r in records} == {(None, text), (0.5, None)}
    runs = sorted(path.name for path in (run_directory / "transfer" / "detection").iterdir())
    assert "-w0.5-" in runs[0] and "-w1-.5-.75-.5-" in runs[1]
    detection(run_directory, *words)
    assert capsys.readouterr().out.count("finished before") == 2
    with pytest.raises(UserError, match="names a resolution, and images here have sizes of their own; leave out r8"):
        detection(run_directory, "--data-dir", str(scenes), "--widths", "w0.5r8")
