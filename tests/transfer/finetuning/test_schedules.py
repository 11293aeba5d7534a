"""Schedules: published numbers, other lengths and batches, and rates."""

from __future__ import annotations

import pytest

from rundir.errors import UserError
from transfer.finetuning.schedules import DETECTION, SEGMENTATION, named


def test_published_schedules():
    voc, coco1, coco2 = (DETECTION[name] for name in ("voc_24k", "coco_1x", "coco_2x"))
    assert (voc.iterations, voc.steps, voc.warmup) == (24_000, (18_000, 22_000), 100)
    assert (coco1.iterations, coco1.steps, coco2.iterations, coco2.steps) == (90_000, (60_000, 80_000), 180_000, (120_000, 160_000))
    assert {schedule.lr for schedule in (voc, coco1, coco2)} == {0.02} and voc.batch_size == 16


def test_the_rate_follows_the_batch_and_the_steps_the_length():
    short = DETECTION["coco_1x"].changed(iterations=900, batch_size=8)
    assert (short.iterations, short.batch_size, short.lr, short.steps, short.warmup) == (900, 8, 0.01, (600, 800), 90)
    assert DETECTION["coco_1x"].changed(batch_size=8, lr=0.3).lr == 0.3
    assert DETECTION["voc_24k"].changed() == DETECTION["voc_24k"]
    assert SEGMENTATION["ade20k_80k"].changed(batch_size=32).lr_min == pytest.approx(2e-4)
    assert DETECTION["quick"].changed(iterations=2).steps == (1,)  # no step at the end or before the beginning


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "--iterations 0"),
        ({"batch_size": -1}, "--batch-size -1"),
        ({"lr": 0.0}, "--lr 0"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"lr": float("inf")}, "--lr inf"),
    ],
)
def test_unusable_numbers(change, message):
    with pytest.raises(UserError, match=message):
        DETECTION["quick"].changed(**change)


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean --schedule coco_1x"):
        named("coco1x", DETECTION)
    with pytest.raises(UserError, match="one of voc_20k"):
        named("zzz", SEGMENTATION)
