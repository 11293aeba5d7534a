"""Real trainings as jobs, for the tests on a real Slurm: in a module that a job's process can import."""

from __future__ import annotations

import time
from pathlib import Path

from ablations import transfers
from pretrain.training import loop as training
from rundir import stopping
from rundir.stopping import Interrupted, request_stop
from slurm.calls import from_ledger
from slurm.jobs import Unfinished
from tests.pretrain import tiny
from tests.pretrain.test_distributed import run as train_in_float64
from tests.slurm.callables import wait_for

MEETING = 3  # iterations after which a fine-tuning meets
__all__ = ["request_stop", "train", "train_in_float64"]


def train(directory: Path, meetings: tuple[int, ...] = ()) -> None:
    """The tiny training; before each of these steps it leaves a file and waits for another one, so that a signal can be sent."""
    step = training.Trainer.train_step

    def meeting(trainer, x1, x2):
        if trainer.step_count in meetings:
            here = directory.with_name(f"{directory.name}-at-{trainer.step_count}")
            if not here.exists():
                here.touch()
                wait_for(directory.with_name(f"{directory.name}-from-{trainer.step_count}"))
        step(trainer, x1, x2)

    training.Trainer.train_step = meeting
    training.training_flops = lambda *args: 1.0
    try:
        training.pretrain(tiny.tiny(), directory)
    except Interrupted as stopped:
        raise Unfinished(str(stopped)) from None


def place(work: dict) -> Path:
    """Where the fine-tuning of ``work`` meets: a file of this name with ``-wait`` behind it asks for that."""
    checkpoint = Path(work["checkpoint"])
    return checkpoint.parent.with_name("meetings") / f"{checkpoint.name}.{work['task']}.w{work['width']:g}"


@from_ledger
def finetune(work: dict, wait: float = 0.0) -> None:
    """The job of a fine-tuning. Where a meeting is asked for, the first attempt says with a file that it has come to its third
    iteration, and waits there until it is to stop or a file lets it go on.
    """
    from transfer.finetuning.runs import Journal

    here, iteration = place(work), Journal.iteration

    def meet(journal: Journal, done: int, values: dict) -> None:
        iteration(journal, done, values)
        if done == MEETING and not here.exists():
            here.touch()
            while not stopping.stop_requested() and not here.with_name(f"{here.name}-go").exists():
                time.sleep(0.1)

    if here.with_name(f"{here.name}-wait").exists():
        Journal.iteration = meet
    transfers.finetune_job(work, wait)
