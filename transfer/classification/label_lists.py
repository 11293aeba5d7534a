"""Label lists on the command line: which images keep their label when only a share of the labels is used."""

from __future__ import annotations

import argparse

from pretrain.data import load
from pretrain.data.sources import NAMES
from pretrain.data.subsets import write_label_lists
from rundir.arguments import LARGEST_SEED, real, whole, word
from transfer.classification.task import dataset_name

HELP = "write the lists of images that --label-fraction uses"
SIZE = 8  # of digits, whose pixels do not matter here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the task's arguments to its parser."""
    parser.add_argument("--dataset", required=True, metavar="D", help=", ".join(NAMES))
    parser.add_argument("--data-dir", type=word, metavar="DIR", help="where the data are stored")
    parser.add_argument(
        "--fraction",
        type=real(),
        nargs="+",
        default=[0.01, 0.1],
        metavar="F",
        help="shares of the training labels; default 0.01 0.1",
    )
    parser.add_argument(
        "--seeds", type=whole(0, LARGEST_SEED), nargs="+", default=[0], metavar="N", help="one list each; default 0"
    )
    parser.add_argument("--out", required=True, type=word, metavar="DIR", help="where the lists go")


def run(arguments: argparse.Namespace) -> int:
    """Write the lists and say where they are."""
    source = load(arguments.dataset, "train", arguments.data_dir, SIZE)
    name = dataset_name(arguments.dataset, arguments.data_dir)
    for path in write_label_lists(source, name, arguments.fraction, arguments.seeds, arguments.out):
        print(path)
    return 0
