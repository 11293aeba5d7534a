"""Options that detection and segmentation share, and what they become before a job can be made."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pretrain.checkpoints import Checkpoint, add_checkpoint_arguments, open_checkpoint
from rundir.arguments import LARGEST_SEED, MOST_WORKERS, real, whole, word
from rundir.errors import UserError, check_choice
from transfer.dense.looking import EXIF
from transfer.dense.scenes import SceneConfig, read_config, write_scenes
from transfer.dense.schedules import Schedule, named
from transfer.dense.trunk import INITIALS


def add_arguments(parser: argparse.ArgumentParser, models: Sequence[str], datasets: Sequence[str],
                  schedules: dict[str, Schedule]) -> None:
    """Add the arguments that both tasks have; the sequences are what may be chosen, the default first."""
    add_checkpoint_arguments(parser)
    parser.add_argument("--dataset", default="digits", metavar="D", help=f"{', '.join(datasets)}; default digits")
    parser.add_argument("--data-dir", type=word, metavar="DIR",
                        help="where the data lies; of digits: scenes, or where to write them; default beside the scores")
    parser.add_argument("--exif", choices=EXIF, help="pixels that annotations belong to where a picture's EXIF orientation leaves "
                        "that open: displayed or stored; default: found from sizes")
    parser.add_argument("--model", default=models[0], metavar="M", help=f"{', '.join(models)}; default {models[0]}")
    parser.add_argument("--widths", type=real(), nargs="+", metavar="W", help="default: those the checkpoint is calibrated for")
    parser.add_argument("--schedule", default="quick", metavar="S", help=f"{', '.join(schedules)}; default quick")
    parser.add_argument("--iterations", type=whole(1), metavar="N", help="another length of the schedule")
    parser.add_argument("--batch-size", type=whole(1), metavar="N",
                        help="images a step over all processes; the learning rate follows it")
    parser.add_argument("--lr", type=real(above=True), metavar="X", help="instead of the schedule's")
    parser.add_argument("--initial", default="pretrained", metavar="I", help="pretrained, or random for the reference")
    parser.add_argument("--norm", default="auto", metavar="N",
                        help="BatchNorm: frozen, or tuned: bn, syncbn, auto (syncbn on several GPUs, else bn); default auto")
    parser.add_argument("--seed", type=whole(0, LARGEST_SEED), metavar="N", help="of fine-tuning; default: that of pretraining")
    parser.add_argument("--out", type=word, metavar="DIR",
                        help="where scores and runs go; default: the run directory of the checkpoint")
    parser.add_argument("--force", action="store_true", help="train anew what is finished")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; default auto")
    parser.add_argument("--workers", type=whole(0, MOST_WORKERS), default=0, metavar="N",
                        help="processes that read images; default 0: none beside")
    parser.add_argument("--pictures", type=whole(), default=4, metavar="N", help="images shown with their predictions; default 4")


@dataclass(frozen=True)
class Setup:
    """What the shared options say, checked: the checkpoint, its widths, the schedule, and where results go."""

    backbone: Checkpoint
    widths: list[float]
    schedule: Schedule
    seed: int
    home: Path


def prepare(arguments: argparse.Namespace, models: Sequence[str], datasets: Sequence[str], schedules: dict[str, Schedule],
            device: torch.device | str = "cpu") -> Setup:
    """Check the shared options and load the checkpoint to ``device``; nothing is written.

    Raises:
        UserError: anything about them that makes fine-tuning impossible.
    """
    check_choice("--model", arguments.model, models)
    check_choice("--dataset", arguments.dataset, datasets)
    check_choice("--initial", arguments.initial, INITIALS)
    schedule = named(arguments.schedule, schedules).changed(arguments.iterations, arguments.batch_size, arguments.lr)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if schedule.batch_size % processes:
        raise UserError(f"--batch-size {schedule.batch_size} cannot be shared by {processes} processes; write "
                        f"--batch-size {math.ceil(schedule.batch_size / processes) * processes}")
    backbone = open_checkpoint(arguments.checkpoint, device, branch=arguments.branch, arch=arguments.arch)
    widths = [float(w) for w in (backbone.default_widths() if arguments.widths is None else arguments.widths)]
    backbone.check_widths(widths)
    seed = backbone.seed if arguments.seed is None else arguments.seed
    return Setup(backbone, widths, schedule, seed, backbone.home(arguments.out))


def branch_setting(backbone: Checkpoint) -> dict[str, str]:
    """Of a job's settings, which network was fine-tuned where that is not the student; jobs of the student keep their names."""
    return {} if backbone.branch == "student" else {"branch": backbone.branch}


def digits_scenes(data_dir: str | None, home: Path) -> tuple[Path, SceneConfig]:
    """The directory of the digits scenes and what they were made with: those in ``data_dir`` whatever their settings, or else
    those of the default settings, written to ``data_dir`` or beside the scores if they are not there yet.
    """
    where = Path(data_dir) if data_dir else home / "transfer" / "scenes"
    config = read_config(where) or SceneConfig()
    return write_scenes(where, config), config
