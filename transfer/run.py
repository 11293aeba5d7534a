"""Command line of evaluation: a checkpoint, a task and widths to scores.

    python transfer/run.py classification --checkpoint runs/mine --widths 1.0 0.75 0.5 0.25
    python transfer/run.py classification --checkpoint runs/mine --dataset folder --data-dir ~/birds --protocol linear
    python transfer/run.py classification --checkpoint runs/mine --dataset flowers102 --data-dir ~/data --protocol linear
    python transfer/run.py label-lists --dataset cifar10 --data-dir ~/data --fraction 0.01 0.1 --out lists
    python transfer/run.py detection --checkpoint runs/mine --dataset digits --widths 1.0 0.75 0.5 0.25
    python transfer/run.py segmentation --checkpoint runs/mine --dataset camvid --data-dir ~/camvid --model fcn --widths 1.0 0.5
    python transfer/run.py scenes --out scenes
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: the rooms lie beside this one
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rundir.arguments import Parser
from rundir.cli import cli
from rundir.errors import settings_are_options
from transfer.classification import command as classification
from transfer.classification import label_lists
from transfer.detection import command as detection
from transfer.finetuning import scenes_command as scenes
from transfer.segmentation import command as segmentation

# A task adds its arguments and runs them.
TASKS = {"classification": classification, "detection": detection, "segmentation": segmentation, "label-lists": label_lists,
         "scenes": scenes}
OPTIONS = {"data.root": "--data-dir", "data.name": "--dataset", "data.limit": "--limit", "data.size": "--size",
           "train.device": "--device"}


def parser() -> argparse.ArgumentParser:
    """The arguments of all tasks."""
    own = Parser(prog="transfer/run.py", description="Score a checkpoint at several widths.")
    tasks = own.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, task in TASKS.items():
        task.add_arguments(tasks.add_parser(name, help=task.HELP, description=task.HELP))
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Parse ``argv``, evaluate, and show the scores."""
    arguments = parser().parse_args(argv)
    with settings_are_options(OPTIONS):
        return TASKS[arguments.task].run(arguments)


if __name__ == "__main__":
    cli(main)
