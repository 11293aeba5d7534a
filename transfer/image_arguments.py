"""Arguments of the tasks that look at images of the pretraining data without labels: which images, how large, computed where."""

from __future__ import annotations

import argparse

from pretrain.data.sources import NAMES
from rundir.arguments import MOST_PIXELS, MOST_WORKERS, whole, word
from rundir.errors import UserError
from transfer.classification.task import Task


def add_image_arguments(parser: argparse.ArgumentParser, neighbours: int) -> None:
    """Add ``--dataset``, ``--data-dir``, ``--size``, ``--workers``, ``--device`` and ``--neighbours``, whose default is given."""
    parser.add_argument("--dataset", metavar="D", help=f"{', '.join(NAMES)}; default: the one of pretraining")
    parser.add_argument(
        "--data-dir", type=word, metavar="DIR", help="where the data are stored; default: where pretraining found them"
    )
    parser.add_argument(
        "--size", type=whole(1, MOST_PIXELS), metavar="N", help="pixels of an image; default: the size of pretraining"
    )
    parser.add_argument(
        "--workers", type=whole(0, MOST_WORKERS), metavar="N", help="processes that decode files; default: as pretraining"
    )
    parser.add_argument(
        "--neighbours",
        type=whole(1),
        default=neighbours,
        metavar="N",
        help=f"nearest images whose overlap is measured; default {neighbours}",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; default auto")


def check_neighbours(task: Task, count: int, neighbours: int) -> None:
    """Raise :class:`UserError` where ``count`` images of the task are too few for the overlap of nearest ones."""
    if count <= max(3, neighbours):
        raise UserError(
            f"{task.dataset} has {len(task.train)} training images, too few for --neighbours {neighbours}; set --neighbours "
            f"{max(1, count - 1)}, or use more images"
        )
