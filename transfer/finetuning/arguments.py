"""Options that detection and segmentation share, and what a command line makes of them."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from pretrain.checkpoints import add_checkpoint_arguments
from rundir.arguments import LARGEST_SEED, MOST_WORKERS, a_width, real, whole, word
from transfer.finetuning.description import Finetuning, room
from transfer.finetuning.looking import EXIF


def add_arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Add the arguments that both tasks have, with what may be chosen of ``task``."""
    own = room(task)
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--dataset", choices=own.DATASETS, default="digits", metavar="D", help=f"{', '.join(own.DATASETS)}; default digits"
    )
    parser.add_argument(
        "--data-dir",
        type=word,
        metavar="DIR",
        help="where the data are stored; of digits: scenes, or where to write them; default next to the scores",
    )
    parser.add_argument(
        "--exif",
        choices=EXIF,
        help="pixels that annotations belong to where a picture's EXIF orientation leaves "
        "that open: displayed or stored; default: found from sizes",
    )
    parser.add_argument(
        "--model",
        choices=own.MODELS,
        default=own.MODELS[0],
        metavar="M",
        help=f"{', '.join(own.MODELS)}; default {own.MODELS[0]}",
    )
    parser.add_argument(
        "--widths",
        type=a_width,
        nargs="+",
        metavar="W",
        help="widths, or sub-networks such as 'w[1,.75,.5,.5]d[2,1,2,2]'; default: those the checkpoint is calibrated for",
    )
    parser.add_argument("--schedule", default="quick", metavar="S", help=f"{', '.join(own.SCHEDULES)}; default quick")
    parser.add_argument("--iterations", type=whole(1), metavar="N", help="another length of the schedule")
    parser.add_argument(
        "--batch-size", type=whole(1), metavar="N", help="images per step over all processes; the learning rate follows it"
    )
    parser.add_argument("--lr", type=real(above=True), metavar="X", help="instead of the schedule's")
    parser.add_argument("--initial", default="pretrained", metavar="I", help="pretrained, or random for the reference")
    parser.add_argument(
        "--norm",
        default="auto",
        metavar="N",
        help="BatchNorm: frozen, or tuned: bn, syncbn, auto (syncbn on several GPUs, else bn); default auto",
    )
    parser.add_argument("--seed", type=whole(0, LARGEST_SEED), metavar="N", help="of fine-tuning; default: that of pretraining")
    parser.add_argument(
        "--out", type=word, metavar="DIR", help="where scores and runs go; default: the run directory of the checkpoint"
    )
    parser.add_argument("--force", action="store_true", help="train again what is finished")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; default auto")
    parser.add_argument(
        "--workers",
        type=whole(0, MOST_WORKERS),
        default=0,
        metavar="N",
        help="processes that read images; default 0: none besides the training",
    )
    parser.add_argument("--pictures", type=whole(), default=4, metavar="N", help="images shown with their predictions; default 4")


def described(task: str, arguments: argparse.Namespace) -> Finetuning:
    """What ``arguments`` of ``task`` describe, whatever the width."""
    given = {field.name: getattr(arguments, field.name) for field in fields(Finetuning) if hasattr(arguments, field.name)}
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return Finetuning(**plain | {"task": task, "checkpoint": str(arguments.checkpoint)})
