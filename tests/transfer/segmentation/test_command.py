"""Bad input ends with one line, before anything is written."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS

from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.transfer.segmentation.runs import segmentation, untrained_vit
from transfer.finetuning.schedules import SEGMENTATION, Schedule
from transfer.segmentation import MODELS
from transfer.segmentation.model import MODELS as MADE
from transfer.segmentation.training import for_vit, optimizer_config, scheduler_config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "fcm"], "did you mean --model fcn"),
        (["--dataset", "camvit"], "did you mean --dataset camvid"),
        (["--schedule", "voc20k"], "did you mean --schedule voc_20k"),
        (["--model", "segmenter"], "segmenter reads a ViT's patches, and this is a convolutional network; set --model fcn"),
        (["--model", "upernet", "--batch-size", "1"], "set a larger --batch-size"),
        (["--widths", "1.5"], "outside the trained range"),
        (["--iterations", "0"], "argument --iterations: '0' is not a whole number from 1 on"),
        (["--inference", "slides"], "set --inference to one of whole, slide|did you mean --inference slide"),
        (["--crop", "8", "64"], "--crop must be at least 32 pixels"),
        (["--norm", "syncbn"], "--norm syncbn needs GPUs"),
        (["--initial", "imagenet"], "set --initial to one of pretrained, random"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(trained, scenes, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        segmentation(trained, tmp_path / "out", scenes, *arguments)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "fcn"], "this is a ViT; set --model segmenter or upernet"),
        (["--model", "upernet", "--crop", "34", "40"], "not a whole number of patches of 4 pixels; set --crop 32 40"),
    ],
)
def test_what_a_vit_cannot(scenes, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        segmentation(untrained_vit(tmp_path / "vit.pt"), tmp_path / "out", scenes, *arguments)


def test_other_data_must_be_named(trained, tmp_path):
    from transfer.run import main

    with pytest.raises(UserError, match="voc is not part of this project; set --data-dir DIR"):
        main(["segmentation", "--checkpoint", str(trained), "--out", str(tmp_path), "--dataset", "voc"])


def test_the_command_line_knows_every_model():
    assert set(MODELS) == set(MADE)


def test_schedules_are_mmsegmentations():
    """mmsegmentation 1.x: schedule_20k and its VOC config's 4 GPUs of 4 images."""
    schedule = SEGMENTATION["voc_20k"]
    assert optimizer_config(schedule) == {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
    assert scheduler_config(schedule) == [
        {"type": "PolyLR", "power": 0.9, "eta_min": 1e-4, "begin": 0, "end": 20_000, "by_epoch": False}
    ]
    assert schedule.batch_size == SEGMENTATION["ade20k_80k"].batch_size == 16 == 2 * SEGMENTATION["cityscapes_40k"].batch_size
    half = schedule.changed(batch_size=8)
    assert (half.lr, half.lr_min) == pytest.approx((0.005, 5e-5))
    vit = for_vit("ade20k_80k", SEGMENTATION["ade20k_80k"], "upernet")
    assert optimizer_config(vit)["type"] == "AdamW" and vit.lr == pytest.approx(6e-5)
    assert [part["type"] for part in scheduler_config(vit)] == ["LinearLR", "PolyLR"]
    assert [part["type"] for part in scheduler_config(vit.changed(iterations=1))] == ["PolyLR"]
    assert for_vit("cityscapes_40k", SEGMENTATION["cityscapes_40k"], "segmenter").lr == pytest.approx(0.001)


@pytest.mark.parametrize("warmup", [0, 4])
def test_mmengine_makes_the_rates_of_the_schedule(warmup):
    """A linear warm-up, then polynomial decay that reaches ``lr_min`` in the last iteration, against their formulas."""
    schedule = Schedule(20, 8, 0.01, "poly", lr_min=1e-4, warmup=warmup, warmup_start=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], schedule.lr)
    schedulers = [PARAM_SCHEDULERS.build({**each, "optimizer": optimizer}) for each in scheduler_config(schedule)]
    for iteration in range(schedule.iterations):
        if iteration < warmup:
            expected = 0.01 * (0.1 + 0.9 * iteration / (warmup - 1))
        else:
            expected = 1e-4 + (0.01 - 1e-4) * (1 - (iteration - warmup) / (19 - warmup)) ** 0.9
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        optimizer.step()
        for each in schedulers:
            each.step()


def test_a_segmenter_on_a_sub_network(trained, scenes, tmp_path, capsys):
    text = "w[1,.5,.75,.5]"
    assert segmentation(trained, tmp_path, scenes, "--iterations", "2", "--widths", text) == 0
    assert text in capsys.readouterr().out
    records = RunDirectory(tmp_path).records()
    assert records and {(r["width"], r["subnet"]) for r in records} == {(None, text)}
    with pytest.raises(UserError, match="leave out r16"):
        segmentation(trained, tmp_path, scenes, "--widths", "w0.5r16")
