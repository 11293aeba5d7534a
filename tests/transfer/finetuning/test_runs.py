"""Fine-tunings as run directories: done once, taken up again, and their scores next to the checkpoint's others."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
import torch

from pretrain.distributed import Processes
from rundir.directory import Busy, RunDirectory
from rundir.errors import UserError
from tests.pretrain.tiny import distributed
from transfer.finetuning.runs import Resolved, Scores, finite, journal, run_all

GROUP = Processes(0, 1, torch.device("cpu"))
RESOLVED = Resolved("detection", "digits", "faster_rcnn_small_fpn", "quick", "pretrained", 0.5, 100, 12, 34, {"norm": "auto"})


class Train:
    """Stands in for a task: counts its calls and returns what it is told."""

    def __init__(self, values=None, error=None):
        self.values, self.error, self.calls = values or {"box_AP": 0.5}, error, []

    def __call__(self, resolved, run, group):
        self.calls.append(resolved.width)
        assert run.status()["state"] == "running" and run.read_config()["width"] == resolved.width
        if self.error:
            raise self.error
        return Scores(self.values, 8)


def test_a_fine_tuning_leaves_a_run_directory_and_its_scores(tmp_path):
    records = run_all([RESOLVED], tmp_path, GROUP, Train({"box_AP": 0.5, "box_APl": float("nan"), "mask_AP": None}))
    run = RunDirectory(RESOLVED.directory(tmp_path))
    assert run.path.parent == tmp_path / "transfer" / "detection"
    assert {path.name for path in run.path.iterdir()} >= {"config.yaml", "status.json", "provenance.json", "result.json"}
    assert run.status()["state"] == "done" and run.provenance()["train_seconds"] >= 0
    assert run.records() == RunDirectory(tmp_path).records() == records
    assert [(r["metric"], r["value"]) for r in records] == [("box_AP", 0.5), ("box_APl", None), ("mask_AP", None)]
    assert records[0].pop("computed_on") == run.provenance()["kinds"]["fine-tuning"][0]
    assert records[0] == {
        "task": "detection",
        "dataset": "digits",
        "metric": "box_AP",
        "model": "faster_rcnn_small_fpn",
        "schedule": "quick",
        "initial": "pretrained",
        "width": 0.5,
        "seed": 100,
        "value": 0.5,
        "chance": None,
        "count": 8,
        "flops": 12,
        "parameters": 34,
        "settings": {"norm": "auto"},
    }


def test_what_is_finished_is_skipped_unless_forced(tmp_path, capsys):
    train = Train()
    first = run_all([RESOLVED], tmp_path, GROUP, train)
    (RESOLVED.directory(tmp_path) / "old").mkdir()
    assert run_all([RESOLVED], tmp_path, GROUP, train) == first and train.calls == [0.5]
    assert "finished before" in capsys.readouterr().out
    run_all([RESOLVED], tmp_path, GROUP, train, force=True)
    assert train.calls == [0.5, 0.5] and not (RESOLVED.directory(tmp_path) / "old").exists()


def test_scores_come_back_where_only_the_run_has_them(tmp_path):
    run_all([RESOLVED], tmp_path, GROUP, Train())
    (tmp_path / "result.json").unlink()
    run_all([RESOLVED], tmp_path, GROUP, Train())
    assert RunDirectory(tmp_path).records() == RunDirectory(RESOLVED.directory(tmp_path)).records()


def test_random_and_pretrained_models_and_schedules_stand_side_by_side(tmp_path):
    changes = ({"initial": "random"}, {"model": "mask_rcnn_small_fpn"}, {"schedule": "coco_1x"}, {"width": 0.25}, {"seed": 1})
    every = [RESOLVED, *(dataclasses.replace(RESOLVED, **change) for change in changes)]
    run_all(every, tmp_path, GROUP, Train())
    assert len({each.name for each in every}) == len(RunDirectory(tmp_path).records()) == 6
    other = dataclasses.replace(RESOLVED, settings={"norm": "frozen"})
    assert other.name != RESOLVED.name  # another run, whose score replaces the one of the same name
    run_all([other], tmp_path, GROUP, Train({"box_AP": 0.1}))
    assert [r["value"] for r in RunDirectory(tmp_path).records()].count(0.1) == 1


def test_data_that_changed_are_trained_on_again_and_the_old_run_stays(tmp_path, capsys):
    every = [dataclasses.replace(RESOLVED, data=data) for data in ("f1", "f2")]
    train = Train()
    before = run_all(every[:1], tmp_path, GROUP, train)
    assert "changed" not in capsys.readouterr().out
    after = run_all(every[1:], tmp_path, GROUP, Train({"box_AP": 0.25}))
    said = [line for line in capsys.readouterr().out.splitlines() if "changed" in line]
    assert said == [f"{RESOLVED.title}: the images or annotations have changed since it was trained; training it again"]
    assert [r["data"] for r in (*before, *after)] == ["f1", "f2"]
    assert RunDirectory(tmp_path).records() == after  # the score of what is there
    assert run_all(every[:1], tmp_path, GROUP, train) == before == RunDirectory(tmp_path).records()  # put back
    assert train.calls == [0.5]


def test_a_run_of_an_earlier_version_is_taken_and_that_is_said(tmp_path, capsys):
    run_all([RESOLVED], tmp_path, GROUP, Train())
    now = dataclasses.replace(RESOLVED, data="f1")
    again = Train({"box_AP": 0.25})
    assert run_all([now], tmp_path, GROUP, again)[0]["value"] == 0.5 and not again.calls
    assert "without noting what the data were; --force trains it again" in capsys.readouterr().out
    assert run_all([now], tmp_path, GROUP, again, force=True)[0]["value"] == 0.25
    assert run_all([now], tmp_path, GROUP, again)[0]["value"] == 0.25 and again.calls == [0.5]
    run_all([dataclasses.replace(RESOLVED, data="f2")], tmp_path, GROUP, again)  # the data have changed since, that is known
    assert again.calls == [0.5, 0.5]


def test_a_classification_score_and_a_detection_score_do_not_meet(tmp_path):
    own = {"task": "classification", "dataset": "digits", "metric": "knn", "width": 0.5, "seed": 100, "value": 0.9}
    RunDirectory(tmp_path).add_records([own])
    run_all([RESOLVED], tmp_path, GROUP, Train())
    assert own in RunDirectory(tmp_path).records() and len(RunDirectory(tmp_path).records()) == 2


def test_a_failure_says_why_and_is_taken_up_again(tmp_path):
    with pytest.raises(ValueError, match="broken"):
        run_all([RESOLVED], tmp_path, GROUP, Train(error=ValueError("broken\nthing")))
    run = RunDirectory(RESOLVED.directory(tmp_path))
    assert (run.status()["state"], run.status()["why"]) == ("failed", "ValueError: broken")
    assert RunDirectory(tmp_path).records() == []
    run_all([RESOLVED], tmp_path, GROUP, Train())
    assert run.status()["state"] == "done" and run.status()["why"] == ""


def test_two_do_not_work_at_one_fine_tuning(tmp_path):
    run = RunDirectory(RESOLVED.directory(tmp_path))
    with run.lock(), pytest.raises(Busy, match="in use"):
        run_all([RESOLVED], tmp_path, GROUP, Train())


def test_the_journal_of_a_resumed_training_logs_nothing_twice(tmp_path):
    run = RunDirectory(tmp_path)
    for start in (0, 20):
        with journal(RESOLVED, run, GROUP, 60, start) as log:
            for done in range(start + 1, 61 if start else 41):
                log.iteration(done, {"loss": 1.0 / done, "lr": 0.1})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["name"], row["width"]) for row in rows] == [
        (step, name, 0.5) for step in (20, 40, 60) for name in ("loss", "lr")
    ]
    assert run.status()["step"] and run.status()["steps"] == 60


def test_a_loss_that_is_not_finite_stops(tmp_path):
    with journal(RESOLVED, RunDirectory(tmp_path), GROUP, 10, 0) as log, pytest.raises(UserError, match="lower --lr"):
        log.iteration(3, {"loss": float("nan")})


@pytest.mark.parametrize(("value", "expected"), [(0.25, 0.25), (0, 0.0), (None, None), (float("nan"), None), (float("inf"), None)])
def test_undefined_is_not_zero(value, expected):
    assert finite(value) == expected


def _ranked_run(home: str) -> None:
    from pretrain.distributed import processes

    def train(resolved, run, group):
        with open(f"{home}/called-{group.rank}-{os.getpid()}", "w"):
            return Scores({"box_AP": 0.5} if group.first else {}, 8)

    with processes("cpu") as group:
        run_all([RESOLVED], home, group, train)
        run_all([RESOLVED], home, group, train)


def test_several_processes_train_together_and_the_first_writes(tmp_path):
    distributed(_ranked_run, str(tmp_path))
    assert sorted(path.name.split("-")[1] for path in tmp_path.glob("called-*")) == ["0", "1"]  # once each
    assert [r["value"] for r in RunDirectory(tmp_path).records()] == [0.5]
