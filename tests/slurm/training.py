"""Real trainings as jobs, for the tests on a real Slurm: in a module that a job's process can import."""

from __future__ import annotations

from pathlib import Path

from pretrain import train as training
from rundir.stopping import Interrupted, request_stop
from slurm.jobs import Unfinished
from tests.pretrain import tiny
from tests.pretrain.test_distributed import run as train_in_float64
from tests.slurm.callables import wait_for

__all__ = ["request_stop", "train", "train_in_float64"]


def train(directory: Path, meetings: tuple[int, ...] = ()) -> None:
    """The tiny training; before each of these steps it leaves a file and waits for another one, so that a signal can be sent."""
    step = training.Trainer._train_step

    def meeting(trainer, x1, x2):
        if trainer.step_count in meetings:
            here = directory.with_name(f"{directory.name}-at-{trainer.step_count}")
            if not here.exists():
                here.touch()
                wait_for(directory.with_name(f"{directory.name}-from-{trainer.step_count}"))
        step(trainer, x1, x2)

    training.Trainer._train_step = meeting
    training.training_flops = lambda *args: 1.0
    try:
        training.pretrain(tiny.tiny(), directory)
    except Interrupted as stopped:
        raise Unfinished(str(stopped)) from None
