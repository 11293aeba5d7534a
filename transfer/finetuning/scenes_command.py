"""Scenes of digits on the command line."""

from __future__ import annotations

import argparse

from rundir.arguments import LARGEST_SEED, whole, word
from transfer.finetuning.scenes import SceneConfig, write_scenes

HELP = "write the scenes of digits that detection and segmentation use without other data"
DEFAULT = SceneConfig()
MOST = 10**6  # scenes, pixels or digits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument(
        "--out", required=True, type=word, metavar="DIR", help="where they go; a directory that does not exist or is empty"
    )
    for name in ("train", "test", "size", "smallest", "largest", "fewest", "most", "seed"):
        default = getattr(DEFAULT, name)
        parser.add_argument(
            f"--{name}",
            type=whole(high=LARGEST_SEED if name == "seed" else MOST),
            default=default,
            metavar="N",
            help=f"default {default}",
        )


def run(arguments: argparse.Namespace) -> int:
    """Write them and say what is there."""
    config = SceneConfig(**{name: getattr(arguments, name) for name in vars(DEFAULT)})
    where = write_scenes(arguments.out, config)
    print(f"{config.train} training and {config.test} test scenes of {config.size} pixels, as Pascal VOC and as COCO: {where}")
    return 0
