"""The arguments that say which network of which file is meant, for every command that reads one."""

from __future__ import annotations

import argparse

from rundir.arguments import place, word


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint``, ``--branch`` and ``--arch``."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=place,
        metavar="C",
        help="a run directory, or a file: of this project, of the authors of US3L, of torchvision or timm",
    )
    parser.add_argument(
        "--branch",
        default="student",
        type=word,
        metavar="B",
        help="student, teacher (the momentum encoder), or the name in front of one of several networks in a file; default student",
    )
    parser.add_argument(
        "--arch",
        type=word,
        metavar="A",
        help="what a file from elsewhere does not say: its architecture (us_cifar_mobilenetv2), or settings of a "
        "dense network (resnet,padding=2)",
    )
