"""Command line of evaluation: a checkpoint, a task and widths to scores.

    python transfer/run.py classification --checkpoint runs/mine --widths 1.0 0.75 0.5 0.25
    python transfer/run.py classification --checkpoint runs/mine --dataset folder --data-dir ~/birds --protocol linear
    python transfer/run.py classification --checkpoint runs/mine --dataset flowers102 --data-dir ~/data --protocol linear
    python transfer/run.py label-lists --dataset cifar10 --data-dir ~/data --fraction 0.01 0.1 --out lists
    python transfer/run.py detection --checkpoint runs/mine --dataset digits --widths 1.0 0.75 0.5 0.25
    python transfer/run.py segmentation --checkpoint runs/mine --dataset camvid --data-dir ~/camvid --model fcn --widths 1.0 0.5
    python transfer/run.py analysis --checkpoint runs/mine --widths 1.0 0.75 0.5 0.25
    python transfer/run.py search --checkpoint runs/mine --budget flops=0.3 latency_ms=2
    python transfer/run.py scenes --out scenes
    python transfer/run.py detection --checkpoint A B C --executor slurm --dataset voc --data-dir VOCdevkit --out runs/others
    python transfer/run.py all --checkpoint A B C --transfer mine.yaml --out runs/others

The last two evaluate any number of checkpoints as jobs (docs/transfer.md): they hand over to ``ablations/checkpoints.py``, which is
the one place where this room reaches up.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: make the other rooms importable
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pretrain.checkpoints import add_checkpoint_arguments
from rundir.arguments import Parser, width_or_spread, word
from rundir.cli import cli
from rundir.errors import settings_are_options
from rundir.overrides import is_setting
from transfer import ALL
from transfer.analysis import command as analysis
from transfer.classification import command as classification
from transfer.classification import label_lists
from transfer.detection import command as detection
from transfer.finetuning import scenes_command as scenes
from transfer.search import command as search
from transfer.segmentation import command as segmentation

# A task adds its arguments and runs them.
TASKS = {
    "classification": classification,
    "detection": detection,
    "segmentation": segmentation,
    "analysis": analysis,
    "search": search,
    "label-lists": label_lists,
    "scenes": scenes,
}
EVALUATED = ("classification", "detection", "segmentation", "analysis", "search")
EPILOG = "Several checkpoints, or --executor auto|slurm|local|inline: each is evaluated as jobs of its own, see docs/transfer.md."
OPTIONS = {
    "data.root": "--data-dir",
    "data.name": "--dataset",
    "data.limit": "--limit",
    "data.size": "--size",
    "train.device": "--device",
    "vary": "--vary",
    "strategies": "--strategies",
}


JOBS = ("--executor", "--transfer", "--name")  # options of evaluation as jobs


def parser(more: Callable[[argparse.ArgumentParser], object] | None = None) -> argparse.ArgumentParser:
    """The arguments of all tasks; with those that ``more`` adds of evaluation as jobs."""
    own = Parser(
        prog="transfer/run.py",
        description=f"Score a checkpoint at several widths; {ALL}: on all that --transfer says (docs/transfer.md).",
    )
    tasks = own.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, task in TASKS.items():
        task.add_arguments(made := tasks.add_parser(name, help=task.HELP, description=task.HELP, epilog=EPILOG))
        if more is not None and name in EVALUATED:
            more(made)
    if more is not None:
        made = tasks.add_parser(ALL, help="whatever --transfer says", description="Evaluate checkpoints on what --transfer says.")
        add_checkpoint_arguments(made)
        made.add_argument(
            "--widths",
            type=width_or_spread,
            nargs="+",
            metavar="W",
            help="widths and sub-networks; default: those a checkpoint is calibrated for",
        )
        made.add_argument("--out", type=word, metavar="DIR", help="where scores and runs go; default runs/checkpoints")
        more(made)
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Parse ``argv``, evaluate, and show the scores."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if as_jobs(argv):
        from ablations.checkpoints import main as launch

        return launch(argv, parser, OPTIONS)
    arguments = parser().parse_args(argv)
    with settings_are_options(OPTIONS):
        return TASKS[arguments.task].run(arguments)


def as_jobs(argv: Sequence[str]) -> bool:
    """Whether a command line asks for evaluation as jobs: by one of its options, by several checkpoints, or as ``all``."""
    if argv[:1] == [ALL]:
        return True
    behind = list(argv[argv.index("--checkpoint") + 1 :]) if "--checkpoint" in argv else []
    several = sum(1 for _ in itertools.takewhile(lambda text: not text.startswith("--") and not is_setting(text), behind)) > 1
    return several or any(text.partition("=")[0] in JOBS for text in argv)


def program() -> None:
    """The installed command."""
    cli(main)


if __name__ == "__main__":
    program()
