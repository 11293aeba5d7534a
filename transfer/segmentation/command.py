"""Segmentation on the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pretrain.distributed import processes
from rundir.arguments import MOST_PIXELS, whole
from rundir.schema import FINE_TUNINGS, File
from rundir.subnet import Width
from transfer import width_table
from transfer.finetuning import arguments as shared
from transfer.finetuning.running import run_widths
from transfer.segmentation import STRIDES

TASK = "segmentation"
HELP = "semantic segmentation (mmsegmentation) fine-tuned and scored at every width"
METRICS = ("mIoU", "mAcc", "aAcc")
MOST_CLASSES_SHOWN = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the task's arguments to its parser."""
    shared.add_arguments(parser, TASK)
    parser.add_argument("--inference", metavar="I", help="whole image, or windows that slide; default whole, slide for segmenter")
    parser.add_argument(
        "--scale",
        type=whole(1, MOST_PIXELS),
        nargs=2,
        metavar=("W", "H"),
        help="images are resized to fit in it, keeping their ratio; default: the data set's",
    )
    parser.add_argument(
        "--crop", type=whole(1, MOST_PIXELS), nargs=2, metavar=("H", "W"), help="of training, and window; default: the data set's"
    )
    parser.add_argument(
        "--output-stride",
        type=whole(),
        metavar="N",
        choices=STRIDES,
        help=f"of fcn's and deeplabv3's dilated backbones: {', '.join(map(str, STRIDES))}; default: the data set's",
    )


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune what is not finished, print tables of the scores and say where they are."""
    with processes(arguments.device) as group:
        done = run_widths(shared.described(TASK, arguments), arguments.widths, group)
        if group.first:
            show(done.records)
            show_classes({each.network: each.directory(done.home) / File.CLASSES for each in done.every})
            print(f"scores: {done.home / File.RESULT}; by class, with pictures: {done.home / FINE_TUNINGS / TASK}")
    return 0


def show(records: Sequence[dict]) -> None:
    """Print records of one data set and model: one row per width, in per cent; undefined scores as a dash."""
    first = records[0]
    print(
        f"{first['dataset']}: {first['model']}, {first['schedule']}, {first['initial']} backbone; "
        f"scores in % over {first['count']} images"
    )
    width_table.show([record for record in records if record["metric"] in METRICS], lambda record: record["metric"])


def show_classes(files: Mapping[Width, Path]) -> None:
    """Print IoU by class, one row per class, one column per width, from the ``files`` of scores by class; not for many classes."""
    columns = {width: json.loads(path.read_text(encoding="utf-8"))["classes"] for width, path in files.items()}
    names = [entry["class"] for entry in next(iter(columns.values()))]
    if len(names) > MOST_CLASSES_SHOWN:
        return
    table = Table("IoU in %")
    for width in columns:
        table.add_column(f"{width:g}", justify="right")
    for index, name in enumerate(names):
        table.add_row(name, *(width_table.percent(classes[index]["IoU"]) for classes in columns.values()))
    Console().print(table)
