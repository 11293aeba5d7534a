"""Tiny training runs in processes of their own, for tests that kill them or start two at once.

Processes come from a fork server that has imported torch and computed nothing: a start costs a tenth of a second.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from pretrain import config, run
from pretrain.checkpoints import files as checkpoint
from pretrain.models import ARCHITECTURES
from pretrain.models.resnet import BasicBlock, ResNet
from pretrain.training import loop as training
from pretrain.training import pretrain
from rundir.cli import cli
from rundir.directory import RunDirectory

LIMIT = 900  # seconds, on a machine with much else to do
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.pretrain.tiny"])

ARCHITECTURES["resnet_of_the_training_tests"] = lambda: ResNet(BasicBlock, (1, 1), base_channels=16)
# Every part that has a state: momentum teacher, momentum SGD, own head, dynamic widths, group regularization, drift.
OVERRIDES = [
    "model.arch=resnet_of_the_training_tests",
    "model.projector_layers=2",
    "model.projector_hidden=32",
    "model.projector_out=16",
    "model.predictor_hidden=16",
    "objective.teacher=momentum",
    "objective.distill_loss=infonce",
    "objective.ema_schedule=cosine",
    "widths.sampling=dynamic",
    "regularizer.kind=group",
    "optimizer.lr=0.05",
    "optimizer.epochs=4",
    "optimizer.batch_size=16",
    "data.limit=64",
    "data.size=8",
    "diagnostics.images=16",
    "diagnostics.widths=[1.0,0.25]",
    "calibration.images=40",
    "calibration.widths=[1.0,0.25]",
    "train.device=cpu",
    "train.threads=1",
    "train.tensorboard=false",
]
# For runs of two devices, whose sums are rounded differently: small steps, or the difference grows to the size of the losses.
COMPARABLE = ["optimizer.lr=0.001", "train.tf32=none"]


def overrides(*more: str) -> list[str]:
    return [*OVERRIDES, *more]


def tiny(*more: str) -> config.Config:
    return config.load("digits", overrides(*more))


def finished(process) -> int:
    process.join(LIMIT)
    assert process.exitcode is not None, "a training process hangs"
    return process.exitcode


# -- one process, perhaps killed ------------------------------------------------------------------------------------------


def die(event: int | str) -> None:
    """Die of SIGKILL at the n-th event (from 1): before and after each write, move and flush of the run directory.

    ``"saved n"`` instead of a number: after the n-th checkpoint.
    """
    if isinstance(event, str):
        _kill_after_checkpoint(int(event.split()[1]))
        return
    seen = 0

    def wrapped(function):
        def call(*args, **kwargs):
            before = _event()
            result = function(*args, **kwargs) if before else None
            _event()
            return result

        return call

    def _event() -> bool:
        nonlocal seen
        seen += 1
        if seen == event:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    os.replace, os.fsync = wrapped(os.replace), wrapped(os.fsync)
    RunDirectory.append_metrics = wrapped(RunDirectory.append_metrics)
    torch.save = wrapped(torch.save)


def _kill_after_checkpoint(count: int) -> None:
    save, done = checkpoint.save, []

    def call(*args):
        save(*args)
        done.append(1)
        if len(done) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save = call


def _train(directory: str, more: tuple[str, ...], kill_at: int | str) -> None:
    training.training_flops = lambda *args: 1.0  # provenance only, and most of the time of so small a run
    if kill_at:
        die(kill_at)
    pretrain(tiny(*more), directory)


def start(directory: Path, *more: str, kill_at: int | str = 0):
    """A process that trains in ``directory``; kills itself at event ``kill_at`` if that is not 0."""
    process = CONTEXT.Process(target=_train, args=(str(directory), more, kill_at))
    process.start()
    return process


def train(directory: Path, *more: str, kill_at: int | str = 0) -> int:
    """The exit code of a process that trains in ``directory``: 0, or -9 when it was killed."""
    return finished(start(directory, *more, kill_at=kill_at))


# -- the command line -----------------------------------------------------------------------------------------------------


def _command(argv: list[str], errors: str, file_size: int) -> None:
    with open(errors, "w") as file:
        os.dup2(file.fileno(), 2)
    if file_size:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    sys.stderr = os.fdopen(2, "w")
    cli(run.main, argv)


def command(argv: list[str], errors: Path, file_size: int = 0) -> tuple[int, str]:
    """Exit code and standard error of ``pretrain/run.py argv``, in which no file may grow beyond ``file_size`` bytes."""
    process = CONTEXT.Process(target=_command, args=(argv, str(errors), file_size))
    process.start()
    return finished(process), errors.read_text()


# -- several processes ----------------------------------------------------------------------------------------------------


def _ranked(rank: int, world_size: int, port: int, function, args) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    function(*args)


def distributed(function, *args, world_size: int = 2) -> None:
    """Call ``function(*args)`` in ``world_size`` processes with the environment that torchrun gives."""
    port = random.SystemRandom().randint(20000, 60000)
    group = [CONTEXT.Process(target=_ranked, args=(rank, world_size, port, function, args)) for rank in range(world_size)]
    for process in group:
        process.start()
    end = time.monotonic() + LIMIT
    while any(process.is_alive() for process in group):
        multiprocessing.connection.wait([process.sentinel for process in group if process.is_alive()], 1)
        if time.monotonic() > end or any(process.exitcode for process in group):  # the others would wait for ever
            for process in group:
                process.kill()
    assert [finished(process) for process in group] == [0] * world_size


# -- comparing ------------------------------------------------------------------------------------------------------------


def metrics(directory: Path) -> list[dict]:
    """Rows of metrics.jsonl but those of the clock."""
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["name"] != "images_per_second"]


def flattened(value, name: str = "") -> dict:
    """Nested dicts and lists as one dict of leaves by path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if items is None:
        return {name: value}
    return {k: v for key, inner in items for k, v in flattened(inner, f"{name}/{key}").items()}


def assert_same_run(first: Path, second: Path) -> None:
    """Every number of two finished runs is the same to the bit: weights, optimizer, teacher, calibration, metrics."""
    a, b = (flattened({k: v for k, v in checkpoint.load(d / "checkpoint.pt").items() if k != "config"}) for d in (first, second))
    assert a.keys() == b.keys()
    different = [k for k in a if not (torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k])]
    assert different == []
    assert metrics(first) == metrics(second)
    assert RunDirectory(first).status()["state"] == RunDirectory(second).status()["state"] == "done"
    leftovers = [f for d in (first, second) for f in os.listdir(d) if f.endswith(".tmp")]
    assert leftovers == []
