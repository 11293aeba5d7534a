"""Training, evaluation and resuming through the command line, on the CPU."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from PIL import Image
from sklearn.metrics import confusion_matrix

from rundir import stopping
from rundir.directory import RunDirectory
from tests.transfer.segmentation import files
from tests.transfer.segmentation.runs import FAST, only_run, read, segmentation, untrained_vit, weights
from transfer.run import main
from transfer.segmentation.data import loaders as data
from transfer.segmentation.data.layouts import layout_of
from transfer.segmentation.hooks import JournalHook
from transfer.segmentation.training import MODELS, latest_checkpoint

LENGTH = ["--iterations", "12"]


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def finished(trained, scenes, tmp_path_factory):
    """One finished training at two widths; not to be written to."""
    out = tmp_path_factory.mktemp("finished")
    assert segmentation(trained, out, scenes, "--widths", "1.0", "0.25", *LENGTH) == 0
    return out


def run_of(out, width: str):
    return next(path for path in (out / "transfer/segmentation").iterdir() if f"-w{width}-" in path.name)


def test_records_say_what_was_scored(finished, trained):
    records = RunDirectory(finished).records()
    assert [(r["metric"], r["width"]) for r in records] == [(m, w) for w in (1.0, 0.25) for m in ("mIoU", "mAcc", "aAcc")]
    for record in records:
        assert [record[key] for key in ("task", "dataset", "model", "schedule", "initial", "chance", "count")] == [
            "segmentation",
            "digits",
            "fcn",
            "quick",
            "pretrained",
            None,
            3,
        ]
        assert record["value"] is None or 0 <= record["value"] <= 1
        assert record["settings"]["crop"] == [48, 48] and record["settings"]["iterations"] == 12
    assert records[0]["parameters"] == 307_536 and records[0]["flops"] > records[3]["flops"]
    own = RunDirectory(run_of(finished, "1"))
    assert own.records() == records[:3]
    assert own.status()["state"] == "done" and own.provenance()["train_seconds"] > 0
    rows = [json.loads(line) for line in (own.path / "metrics.jsonl").read_text().splitlines() if '"step": 12' in line]
    assert {row["name"] for row in rows} >= {"loss", "loss/decode", "loss/auxiliary", "pixel_accuracy", "lr"}
    with Image.open(own.path / "predictions.png") as picture:
        assert picture.size[0] > 500
    assert read(own.path / "weights.json")["missing"] == []


def test_scores_equal_those_of_scikit_learn_on_the_saved_network(finished, scenes):
    """What mmsegmentation's own tools make of the config and checkpoint, scored without our code."""
    run = run_of(finished, "0.25")
    network = init_model(Config.fromfile(run / "mmseg/config.py"), None, device="cpu")
    network.load_state_dict(weights(run, 12))
    truths, guesses = [], []
    for name in (scenes / "ImageSets/Segmentation/val.txt").read_text().split():
        guess = inference_model(network, str(scenes / f"JPEGImages/{name}.jpg")).pred_sem_seg.data[0].numpy()
        guesses.append(guess.ravel())
        truths.append(np.asarray(Image.open(scenes / f"SegmentationClass/{name}.png")).ravel())
    matrix = confusion_matrix(np.concatenate(truths), np.concatenate(guesses), labels=range(11)).astype(float)
    right = np.diag(matrix)
    with np.errstate(invalid="ignore"):
        iou, accuracy = right / (matrix.sum(0) + matrix.sum(1) - right), right / matrix.sum(1)
    values = {r["metric"]: r["value"] for r in RunDirectory(run).records()}
    assert values == pytest.approx({"mIoU": np.nanmean(iou), "mAcc": np.nanmean(accuracy), "aAcc": right.sum() / matrix.sum()})
    by_class = read(run / "classes.json")["classes"]
    for name, expected in (("IoU", iou), ("accuracy", accuracy)):  # undefined is null, not 0
        assert [math.nan if entry[name] is None else entry[name] for entry in by_class] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(accuracy).any()


def assert_same(run, whole):
    """Weights after 12 iterations, scores and logged numbers of two run directories are equal."""
    expected, found = weights(whole, 12), weights(run, 12)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    kept, of_whole = ([record | {"latency_ms": None} for record in RunDirectory(path).records()] for path in (run, whole))
    assert kept == of_whole
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_an_interrupted_training_ends_with_the_same_weights(finished, trained, scenes, tmp_path, monkeypatch):
    iteration = JournalHook.after_train_iter

    def stop_at_seven(self, runner, *args, **kwargs):
        iteration(self, runner, *args, **kwargs)
        if runner.iter + 1 == 7:
            raise Interrupted

    ask = (trained, tmp_path, scenes, "--widths", "0.25", *LENGTH)
    monkeypatch.setattr(JournalHook, "after_train_iter", stop_at_seven)
    with pytest.raises(Interrupted):
        segmentation(*ask)
    run = only_run(tmp_path)
    assert RunDirectory(run).status()["state"] == "failed"
    torn = run / "mmseg/iter_6.pth"  # as if it had been killed while writing this one
    torn.write_bytes(torn.read_bytes()[:1000])
    assert latest_checkpoint(run / "mmseg")[1] == 5
    monkeypatch.setattr(JournalHook, "after_train_iter", iteration)
    assert segmentation(*ask) == 0
    assert_same(run, run_of(finished, "0.25"))


def test_a_training_that_is_asked_to_stop_saves_at_once_and_ends_the_same(finished, trained, scenes, tmp_path, monkeypatch):
    iteration = JournalHook.after_train_iter

    def ask_at_seven(self, runner, *args, **kwargs):
        iteration(self, runner, *args, **kwargs)
        if runner.iter + 1 == 7:
            stopping.request_stop()

    ask = (trained, tmp_path, scenes, "--widths", "0.25", *LENGTH)
    with monkeypatch.context() as patch, pytest.raises(stopping.Interrupted, match="stopped after iteration 7 of 12"):
        patch.setattr(JournalHook, "after_train_iter", ask_at_seven)
        segmentation(*ask)
    stopping._asked = False
    run = only_run(tmp_path)
    assert RunDirectory(run).status()["state"] == "pending" and latest_checkpoint(run / "mmseg")[1] == 7
    assert segmentation(*ask) == 0
    assert_same(run, run_of(finished, "0.25"))


def test_what_is_finished_is_not_trained_again(finished, trained, scenes, tmp_path, monkeypatch, capsys):
    out = shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.setattr("transfer.segmentation.training.Runner", None)
    assert segmentation(trained, out, scenes, "--widths", "0.25", *LENGTH) == 0
    assert "finished before" in capsys.readouterr().out
    with pytest.raises(TypeError):  # another length is another training
        segmentation(trained, out, scenes, "--widths", "0.25", "--iterations", "11")


def test_a_sample_depends_on_its_place_only(scenes):
    layout = layout_of("digits", scenes)
    loader = data.train_loader(layout, batch_size=2, workers=0, seed=3)
    from mmengine.runner import Runner

    plain = [batch["inputs"] for batch, _ in zip(Runner.build_dataloader(loader, seed=3), range(5), strict=False)]
    beside = [b["inputs"] for b, _ in zip(Runner.build_dataloader({**loader, "num_workers": 2}, seed=3), range(5), strict=False)]
    late = Runner.build_dataloader(loader, seed=3)
    late.sampler.skip(6)
    later = next(iter(late))["inputs"]
    for one, other in zip([*plain, plain[3]], [*beside, later], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(plain[0][0], plain[3][0])


@pytest.mark.parametrize("model", ["segmenter", "upernet"])
def test_a_vit_trains_and_slides(scenes, tmp_path, model):
    checkpoint = untrained_vit(tmp_path / "vit.pt")
    crop = ["--crop", "32", "32", "--inference", "slide"]
    assert segmentation(checkpoint, tmp_path / "out", scenes, "--widths", "0.5", "--iterations", "2", "--model", model, *crop) == 0
    records = RunDirectory(tmp_path / "out").records()
    assert {r["settings"]["inference"] for r in records} == {"slide"} and records[0]["settings"]["optimizer"] == "adamw"
    model_config = Config.fromfile(only_run(tmp_path / "out") / "mmseg/config.py").model
    assert tuple(model_config.test_cfg.crop_size) == (32, 32) and tuple(model_config.test_cfg.stride) == (21, 21)


@torch.no_grad()
def test_sliding_over_one_window_equals_the_whole_image(finished):
    config = Config.fromfile(run_of(finished, "0.25") / "mmseg/config.py").model
    network = MODELS.build(config).eval()
    image, meta = torch.randn(1, 3, 48, 48), [{"ori_shape": (48, 48), "img_shape": (48, 48), "pad_shape": (48, 48)}]
    whole = network.inference(image, meta)
    network.test_cfg = Config({"mode": "slide", "crop_size": (48, 48), "stride": (32, 32)})
    torch.testing.assert_close(network.inference(image, meta), whole)


def test_camvid_with_deeplab_and_void(trained, tmp_path):
    """Void pixels are neither trained on nor scored; a class without a pixel is undefined."""
    files.camvid(tmp_path / "data", values=(0, 3, 11))
    command = [
        "segmentation",
        "--checkpoint",
        str(trained),
        "--out",
        str(tmp_path / "out"),
        "--dataset",
        "camvid",
        "--data-dir",
        str(tmp_path / "data"),
        "--scale",
        "48",
        "40",
        "--crop",
        "32",
        "32",
        "--model",
        "deeplabv3",
        "--widths",
        "0.25",
        "--iterations",
        "2",
        "--norm",
        "frozen",
        *FAST,
    ]
    assert main(command) == 0
    by_class = read(only_run(tmp_path / "out") / "classes.json")["classes"]
    assert len(by_class) == 11 and by_class[7] == {"class": "Fence", "IoU": by_class[7]["IoU"], "accuracy": None}
    assert by_class[0]["accuracy"] is not None
