"""Descriptions of fine-tunings: checked and costed before there is a checkpoint, pickled, and run."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from pretrain import config
from pretrain.checkpoints import open_checkpoint, untrained
from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.transfer.conftest import TINY
from transfer.finetuning import Finetuning, check, run
from transfer.finetuning.running import run_widths
from transfer.finetuning.scenes import SceneConfig, write_scenes
from transfer.finetuning.trunk import check_norm
from transfer.latency import device_name

SCENES = SceneConfig(train=8, test=4, size=48, smallest=14, largest=20, fewest=1, most=3)
FAST = {"iterations": 2, "batch_size": 2, "pictures": 0, "device": "cpu"}
TASKS = [
    Finetuning("detection", "", 0.5, overrides=("MODEL.FPN.OUT_CHANNELS", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"), **FAST),
    Finetuning("segmentation", "", 0.5, **FAST),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> str:
    return str(write_scenes(tmp_path_factory.mktemp("scenes") / "digits", SCENES))


@pytest.mark.parametrize("finetuning", TASKS, ids=lambda each: each.task)
def test_one_description_is_checked_pickled_run_once_and_of_the_cost_that_was_said(finetuning, run_directory, scenes):
    asked = replace(finetuning, checkpoint=str(run_directory), data_dir=scenes)
    (workload,) = check([asked])
    assert (workload.iterations, workload.batch_size, workload.train_images, workload.test_images) == (2, 2, 8, 4)
    assert workload.encoder_flops == workload.flops * (3 * 2 * 2 + 4)
    assert not (run_directory / "transfer").exists() and not RunDirectory(run_directory).records()
    records = run(pickle.loads(pickle.dumps(asked)))
    assert {(r["width"], r["count"], r["flops"], r["parameters"]) for r in records} == {
        (0.5, 4, workload.flops, workload.parameters)
    }
    assert all(r["latency_ms"] > 0 and r["latency_on"] == device_name(torch.device("cpu")) for r in records)
    before = (run_directory / "transfer" / asked.task).stat().st_mtime_ns
    assert run(asked) == records == RunDirectory(run_directory).records()
    assert (run_directory / "transfer" / asked.task).stat().st_mtime_ns == before


@pytest.mark.parametrize("finetuning", TASKS, ids=lambda each: each.task)
def test_a_checkpoint_that_is_planned_costs_what_it_will(finetuning, trained, scenes, tmp_path):
    cfg, place = config.load("digits", TINY), str(tmp_path / "planned")
    asked = replace(finetuning, checkpoint=place, data_dir=scenes)
    planned, there = check([asked], {place: cfg}), check([replace(asked, checkpoint=str(trained), out=str(tmp_path / "out"))])
    assert planned == there and not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="outside the trained range"):
        check([replace(asked, width=0.1)], {place: cfg})
    with pytest.raises(UserError, match="there is no checkpoint"):
        check([asked])
    without = replace(asked, data_dir=None)
    assert check([without], {place: cfg})[0].train_images == SceneConfig().train and not list(tmp_path.iterdir())


def test_each_network_and_data_set_is_made_once(scenes, tmp_path, monkeypatch):
    from transfer.finetuning import running

    plans = {f"{tmp_path}/run{seed}": config.load("digits", [*TINY, f"seed={seed}"]) for seed in range(20)}
    made = []
    monkeypatch.setattr(running, "untrained", lambda *given: made.append(given) or untrained(*given))
    every = [
        replace(asked, checkpoint=place, data_dir=scenes, width=width) for place in plans for asked in TASKS for width in (1.0, 0.5)
    ]
    found = check(every, plans)
    assert len(made) == 1 and len(found) == len(every) and len(set(found)) == 4
    assert found[:4] == found[-4:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "detecton"}, "did you mean --task detection"),
        ({"crop": (64, 64)}, "--crop is not an option of detection"),
        ({"model": "fcn"}, "unknown value of --model: 'fcn'"),
        ({"dataset": "voc", "data_dir": None}, "set --data-dir DIR"),
        ({"dataset": "coco"}, "annotations"),
        ({"overrides": ("X", "1")}, "Non-existent"),
        ({"schedule": "voc_24"}, "did you mean --schedule voc_24k"),
        ({"exif": "turned"}, "unknown value of --exif"),
        ({"norm": "gn"}, "auto, bn, syncbn, frozen"),
        ({"size": 0}, "--size 0 must be at least 1"),
        ({"batch_size": 0}, "--batch-size 0 must be at least 1"),
    ],
)
def test_what_is_wrong_is_found_before_there_is_a_checkpoint(change, message, scenes, tmp_path):
    cfg, place = config.load("digits", TINY), str(tmp_path / "planned")
    folder = {"data_dir": str(tmp_path)} if "dataset" in change else {"data_dir": scenes}
    with pytest.raises(UserError, match=message) as caught:
        check([replace(TASKS[0], checkpoint=place, **{**folder, **change})], {place: cfg})
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_an_untrained_checkpoint_is_the_trained_one_but_for_its_weights(trained):
    cfg = config.load("digits", TINY)
    state = torch.get_rng_state()
    made, found = untrained(cfg, trained), open_checkpoint(trained)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.finished and made.arch == found.arch and made.cost(0.5) == found.cost(0.5)
    assert {name: x.shape for name, x in made.encoder.state_dict().items()} == {
        name: x.shape for name, x in found.encoder.state_dict().items()
    }


def test_synchronised_batchnorm_needs_gpus_where_it_is_trained_only(trained, scenes):
    asked = replace(TASKS[0], checkpoint=str(trained), data_dir=scenes, norm="syncbn")
    assert check([asked])  # on a login node, say
    with pytest.raises(UserError, match="needs GPUs"):
        run(asked)
    check_norm("syncbn", torch.device("cuda"))
    with pytest.raises(UserError, match="unknown value of --norm"):
        check_norm("batch", torch.device("cpu"))


def test_widths_share_what_is_read(run_directory, scenes, monkeypatch):
    from pretrain.distributed import Processes
    from transfer.finetuning import running

    opened = []
    monkeypatch.setattr(running, "open_checkpoint", lambda *given, **more: opened.append(given) or open_checkpoint(*given, **more))
    asked = replace(TASKS[0], checkpoint=str(run_directory), data_dir=scenes)
    done = run_widths(asked, [1.0, 0.25], Processes(0, 1, torch.device("cpu")))
    assert len(opened) == 1 and [each.width for each in done.every] == [1.0, 0.25]
    assert done.home == run_directory and all(each.directory(done.home).is_dir() for each in done.every)
