"""Detection on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from pretrain.distributed import processes
from rundir.arguments import MOST_PIXELS, whole
from rundir.schema import FINE_TUNINGS, File
from transfer import width_table
from transfer.finetuning import arguments as shared
from transfer.finetuning.running import run_widths

TASK = "detection"
HELP = "fine-tune and score a detector (detectron2) on a checkpoint at every width: boxes, and masks with Mask R-CNN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the task's arguments to its parser."""
    shared.add_arguments(parser, TASK)
    parser.add_argument(
        "--size", type=whole(1, MOST_PIXELS), metavar="N", help="shorter side of images in pixels; default: the schedule's"
    )
    parser.add_argument("--clip-boxes", action="store_true", help="cut boxes at their image's edge instead of refusing them")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change detectron2's config, for example MODEL.FPN.OUT_CHANNELS=128 SOLVER.AMP.ENABLED=True",
    )


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune what is not finished, print a table of the scores and say where they are."""
    with processes(arguments.device) as group:
        done = run_widths(shared.described(TASK, arguments), arguments.widths, group)
        if group.first:
            show(done.records)
            print(f"scores: {done.home / File.RESULT}; runs and pictures: {done.home / FINE_TUNINGS / TASK}")
    return 0


def show(records: Sequence[dict]) -> None:
    """Print ``records`` as tables, of boxes and of masks: one row per width, one column per metric, in per cent."""
    first = records[0]
    print(f"{first['model']} on {first['dataset']}, {first['schedule']}, {first['initial']}: AP in % of {first['count']} images")
    for kind in ("box", "mask"):
        own = [record for record in records if record["metric"].startswith(kind)]
        if own:
            width_table.show(own, partial(_heading, kind), f"{kind}, width")
    if any(record["value"] is None for record in records):
        print(f"{width_table.MISSING}: the images hold no object of that size (COCO's small, medium and large)")


def _heading(kind: str, record: dict) -> str:
    return record["metric"].removeprefix(f"{kind}_")
