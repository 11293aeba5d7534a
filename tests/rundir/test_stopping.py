"""A training that is asked to stop saves after its step and ends, when called again, with the numbers of one that was not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from pretrain.checkpoints import files as checkpoint
from pretrain.training import loop as training
from rundir import stopping
from rundir.directory import Busy, RunDirectory
from tests.pretrain import tiny


def train_and_stop(directory: str, steps: tuple[int, ...], asked_rank: int = 0, *more: str) -> None:
    """Train; before each of these steps (from 0) the process of ``asked_rank`` is asked to stop. Leaves where each call stopped."""
    step = training.Trainer.train_step

    def asking(trainer, x1, x2):
        if trainer.step_count in steps and trainer.group.rank == asked_rank:
            stopping.request_stop()
        step(trainer, x1, x2)

    training.Trainer.train_step = asking
    training.training_flops = lambda *args: 1.0
    try:
        training.pretrain(tiny.tiny(*more), directory)
    except stopping.Interrupted as stopped:
        rank = 0 if not dist.is_initialized() else dist.get_rank()
        Path(f"{directory}-stopped{rank}").write_text(str(stopped))


@pytest.mark.parametrize(("step", "stops_at"), [(5, 6), (11, 12)])  # 4 steps an epoch: within one, and at the end of one
def test_it_goes_on_from_the_step_it_stopped_at(step, stops_at, tmp_path):
    directory = tmp_path / "run"
    for asked in ((step,), ()):
        process = tiny.CONTEXT.Process(target=train_and_stop, args=(str(directory), asked))
        process.start()
        assert tiny.finished(process) == 0
        if asked:
            status = RunDirectory(directory).status()
            assert (status["state"], status["step"], status["steps"]) == ("pending", stops_at, 16)
            assert checkpoint.load_latest(directory)["step"] == stops_at
            assert (tmp_path / "run-stopped0").read_text() == f"stopped at step {stops_at} of 16"
            spent = RunDirectory(directory).provenance()["train_seconds"]
            assert spent > 0
    assert RunDirectory(directory).provenance()["train_seconds"] > spent
    assert tiny.train(tmp_path / "whole") == 0
    tiny.assert_same_run(directory, tmp_path / "whole")


def test_processes_stop_together_though_only_one_was_asked(tmp_path):
    tiny.distributed(train_and_stop, str(tmp_path / "run"), (5,), 1)
    payload = checkpoint.load_latest(tmp_path / "run")
    assert payload["step"] == 8  # the end of the epoch, where they ask each other
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "pending"


def test_a_stop_in_the_last_epoch_s_last_step_is_no_stop(tmp_path):
    process = tiny.CONTEXT.Process(target=train_and_stop, args=(str(tmp_path / "run"), (15,)))
    process.start()
    assert tiny.finished(process) == 0
    assert RunDirectory(tmp_path / "run").status()["state"] == "done"


def test_a_lock_can_be_waited_for(tmp_path):
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    with first.lock():
        start = time.monotonic()
        with pytest.raises(Busy), second.lock(wait=1.2):
            pass
        assert 1.2 <= time.monotonic() - start < 50
    with second.lock(wait=1.2):
        pass
