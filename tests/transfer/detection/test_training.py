"""Training: what a batch is, and that an interrupted one ends with the numbers of an uninterrupted one."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.solver import build_lr_scheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.distributed import Processes
from rundir import stopping
from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.pretrain.tiny import distributed
from tests.transfer.detection import ranked
from transfer.detection import data
from transfer.detection.plan import Plan
from transfer.detection.training import FINAL, Batches, epoch_order, finished_iterations, set_schedule
from transfer.finetuning import Finetuning
from transfer.finetuning.runs import Journal
from transfer.finetuning.schedules import DETECTION

CPU = Processes(0, 1, torch.device("cpu"))
SMALL = (
    "MODEL.FPN.OUT_CHANNELS",
    "8",
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    "16",
    "MODEL.ROI_MASK_HEAD.CONV_DIM",
    "8",
    "MODEL.ROI_MASK_HEAD.NUM_CONV",
    "1",
    "SOLVER.CHECKPOINT_PERIOD",
    "2",
)


def planned(backbone, scenes, name="faster_rcnn_fpn", iterations=5, norm="auto", lr=None, processes=1):
    finetuning = Finetuning(
        "detection",
        str(backbone.path),
        model=name,
        iterations=iterations,
        batch_size=2,
        lr=lr,
        norm=norm,
        seed=100,
        overrides=SMALL,
        pictures=1,
    )
    return Plan(finetuning, backbone, data.load("digits", scenes), processes)


def test_settings_are_pairs_or_words_with_an_equals_sign(small, scenes):
    def settled(*words):
        return Plan(replace(planned(small, scenes).finetuning, overrides=words), small, data.load("digits", scenes), 1)

    pairs, words = settled("SOLVER.BASE_LR", "0.5", "OUTPUT_DIR", "a=b"), settled("SOLVER.BASE_LR=0.5", "OUTPUT_DIR", "a=b")
    assert pairs.settings == words.settings and pairs.config(CPU.device) == words.config(CPU.device)
    assert (words.config(CPU.device).SOLVER.BASE_LR, words.config(CPU.device).OUTPUT_DIR) == (0.5, "a=b")
    with pytest.raises(UserError, match=r"^--set SOLVER\.BASE=1: Non-existent key: SOLVER\.BASE; set KEY=VALUE of detectron2"):
        settled("SOLVER.BASE=1").config(CPU.device)


def trained(plan, directory, group=CPU):
    """The weights that ``plan`` ends with in ``directory``, and its scores."""
    run = RunDirectory(directory)
    scores = plan.train(plan.resolved(0.25), run, group)
    return torch.load(run.path / FINAL, weights_only=True)["model"], scores


class Killed(Exception):
    """Stands for a kill: nothing is cleaned up after it."""


def interrupted(plan, directory, monkeypatch, after):
    """Train in ``directory`` until ``after`` iterations are done."""

    def iteration(self, done, values):
        if done == after:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Journal, "iteration", iteration)
        plan.train(plan.resolved(0.25), RunDirectory(directory), CPU)


@pytest.mark.parametrize(("name", "norm"), [("mask_rcnn_fpn", "auto"), ("faster_rcnn_c4", "frozen")])
def test_an_interrupted_training_ends_with_the_same_bits(name, norm, small, scenes, tmp_path, monkeypatch):
    made = planned(small, scenes, name, norm=norm)
    expected, scores = trained(made, tmp_path / "whole")
    interrupted(made, tmp_path / "cut", monkeypatch, after=4)
    assert finished_iterations(tmp_path / "cut")[0] == 2
    found, again = trained(made, tmp_path / "cut")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert again == scores
    assert not list((tmp_path / "cut").glob("model_*")) and not (tmp_path / "cut" / "last_checkpoint").exists()


def test_a_training_that_is_asked_to_stop_saves_at_once_and_ends_with_the_same_bits(small, scenes, tmp_path, monkeypatch):
    made = planned(small, scenes)
    expected, scores = trained(made, tmp_path / "whole")
    note = Journal.iteration

    def ask(self, done, values):
        note(self, done, values)
        if done == 3:  # between two periodic checkpoints
            stopping.request_stop()

    with monkeypatch.context() as patch, pytest.raises(stopping.Interrupted, match="stopped after iteration 3 of 5"):
        patch.setattr(Journal, "iteration", ask)
        trained(made, tmp_path / "cut")
    stopping._asked = False
    assert finished_iterations(tmp_path / "cut")[0] == 3
    found, again = trained(made, tmp_path / "cut")
    assert all(torch.equal(found[name], expected[name]) for name in expected) and again == scores


def test_a_damaged_checkpoint_costs_the_time_since_the_one_before(small, scenes, tmp_path, monkeypatch, capsys):
    expected, _ = trained(planned(small, scenes, iterations=6), tmp_path / "whole")
    interrupted(planned(small, scenes, iterations=6), tmp_path / "cut", monkeypatch, after=6)
    newest = tmp_path / "cut" / "model_0000003.pth"
    os.utime(newest, (2**31, 2**31))
    newest.write_bytes(newest.read_bytes()[:1000])
    assert finished_iterations(tmp_path / "cut")[0] == 2
    assert "damaged" in capsys.readouterr().out
    found, _ = trained(planned(small, scenes, iterations=6), tmp_path / "cut")
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_what_is_trained_and_not_scored_is_only_scored(small, scenes, tmp_path):
    _, scores = trained(planned(small, scenes), tmp_path / "run")
    stamp = (tmp_path / "run" / FINAL).stat().st_mtime_ns
    assert trained(planned(small, scenes), tmp_path / "run")[1] == scores
    assert (tmp_path / "run" / FINAL).stat().st_mtime_ns == stamp


def test_training_changes_what_is_tuned_and_leaves_what_is_frozen(small, scenes, tmp_path):
    before = small.at(0.25).state_dict()
    for norm in ("auto", "frozen"):
        after, _ = trained(planned(small, scenes, norm=norm), tmp_path / norm)
        prefix = "backbone.bottom_up.body.network."
        changed = {name: not torch.equal(after[prefix + name], before[name]) for name in before if "num_batches" not in name}
        tuned = {name: norm == "auto" or ("bn" not in name and "downsample.1" not in name) for name in changed}
        assert changed == tuned


def test_a_vit_is_tuned_by_adamw(scenes, tmp_path):
    from tests.transfer.finetuning.networks import checkpoint

    made = planned(checkpoint(tmp_path, "vit_micro"), scenes, iterations=2)
    resolved = made.resolved(0.25)
    assert resolved.settings["adamw"] == pytest.approx(1e-4 * 2 / 64) and resolved.model == "faster_rcnn_vit_micro_fpn"
    trained(made, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "weights.json").read_text())["missing"] == []


def test_a_loss_that_is_not_finite_is_one_line(small, scenes, tmp_path):
    with pytest.raises(UserError, match="lower --lr"):
        trained(planned(small, scenes, lr=1e30), tmp_path / "run")


@pytest.mark.parametrize(("name", "changes"), [("coco_1x", {}), ("voc_24k", {"batch_size": 8}), ("quick", {"iterations": 50})])
def test_detectron2_makes_the_rates_of_the_schedule(name, changes):
    from detectron2.config import get_cfg

    schedule, cfg = DETECTION[name].changed(**changes), get_cfg()
    set_schedule(cfg, schedule)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for iteration in {0, 1, schedule.warmup // 2, schedule.warmup, *schedule.steps, *(step - 1 for step in schedule.steps)}:
        scheduler.last_epoch = iteration
        rate = schedule.lr * 0.1 ** sum(iteration >= step for step in schedule.steps)
        if iteration < schedule.warmup:
            rate *= schedule.warmup_start + (1 - schedule.warmup_start) * iteration / schedule.warmup
        assert scheduler.get_lr()[0] == pytest.approx(rate)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_has_every_image_and_batches_of_one_shape(wide, batch_size, epoch):
    wide = np.array(wide)
    order = epoch_order(wide, batch_size, 5, epoch)
    assert order.shape == (-(-len(wide) // batch_size), batch_size)
    assert set(order.ravel()) == set(range(len(wide)))
    mixed = sum(len(set(wide[row])) > 1 for row in order)
    # Of both shapes less than a batch is left over.
    assert mixed <= -(-2 * (batch_size - 1) // batch_size)
    assert np.array_equal(order, epoch_order(wide, batch_size, 5, epoch))


def echo(record):
    """A mapper that shows which record it got and which random numbers augmentation would."""
    return record["image_id"], np.random.random()


def test_a_batch_depends_neither_on_the_processes_nor_on_where_training_resumed():
    records = [{"image_id": i, "width": 2, "height": 1} for i in range(7)]
    whole = Batches(records, echo, 4, 6, seed=1)
    halves = [Batches(records, echo, 4, 6, 1, rank, 2) for rank in (0, 1)]
    for iteration in (5, 0, 3):
        assert whole[iteration] == halves[0][iteration] + halves[1][iteration]
    assert len(whole) == 6 and len({number for _, number in whole[0]}) == 4
    assert whole[0] != Batches(records, echo, 4, 6, seed=2)[0]


def test_two_processes_train_one_detector(small, scenes, tmp_path):
    distributed(ranked.train, str(small.path), str(scenes), str(tmp_path))
    found = torch.load(tmp_path / "run" / FINAL, weights_only=True)["model"]
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert json.loads((tmp_path / "run" / "classes.json").read_text())["classes"].keys() == {str(digit) for digit in range(10)}
