"""Detection on the command line."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from pretrain.distributed import processes
from rundir.arguments import MOST_PIXELS, whole
from rundir.errors import UserError
from transfer import width_table
from transfer.dense.job import run_jobs
from transfer.dense.options import add_arguments as add_shared_arguments
from transfer.dense.options import digits_scenes, prepare
from transfer.dense.schedules import DETECTION as SCHEDULES
from transfer.dense.trunk import check_norm
from transfer.detection import DATASETS, MODELS

HELP = "fine-tune and score a detector (detectron2) on a checkpoint at every width: boxes, and masks with Mask R-CNN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the task's arguments to its parser."""
    add_shared_arguments(parser, MODELS, DATASETS, SCHEDULES)
    parser.add_argument("--size", type=whole(1, MOST_PIXELS), metavar="N",
                        help="shorter side of images in pixels; default: the schedule's")
    parser.add_argument("--clip-boxes", action="store_true", help="cut boxes at their image's edge instead of refusing them")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", dest="overrides",
                        help="change detectron2's config, for example MODEL.FPN.OUT_CHANNELS 128 SOLVER.AMP.ENABLED True")


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune what is not finished, print a table of the scores and say where they are."""
    if importlib.util.find_spec("detectron2") is None:
        raise UserError("detectron2 is not installed; run make detectron2, or conda install -c conda-forge detectron2")
    if arguments.size is not None and arguments.size < 1:
        raise UserError(f"--size {arguments.size} must be at least 1")
    from transfer.detection import data  # slow, and of no use to other tasks
    from transfer.detection.faults import some
    from transfer.detection.models import Model
    from transfer.detection.task import Task

    with processes(arguments.device) as group:
        check_norm(arguments.norm, group.device)
        setup = prepare(arguments, MODELS, DATASETS, SCHEDULES, group.device)
        model = Model.named(arguments.model).on(setup.backbone)
        where = digits_scenes(arguments.data_dir, setup.home)[0] if arguments.dataset == "digits" else arguments.data_dir
        found = data.load(arguments.dataset, where, arguments.clip_boxes, arguments.exif, group.first)
        if model.masks and found.mask_format is None:
            which = f" of {len(found.unmasked)} objects ({some(found.unmasked)})" if found.unmasked else ""
            raise UserError(f"{found.name} has no masks{which}, which --model {model} is trained on; write --model "
                            f"{arguments.model.replace('mask_rcnn', 'faster_rcnn')}")
        for note in found.notes if group.first else ():
            print(f"{found.name}: {note}", flush=True)
        task = Task(setup, found, model, arguments.schedule, arguments.initial, arguments.norm, arguments.size, arguments.lr,
                    arguments.overrides, arguments.workers, arguments.pictures, found.contents(Path(where).expanduser()))
        task.config(group.device)
        records = run_jobs(task.jobs(), setup.home, group, task.run, arguments.force)
        if group.first:
            show(records)
            print(f"scores: {Path(setup.home) / 'result.json'}; runs and pictures: {Path(setup.home) / 'transfer' / 'detection'}")
    return 0


def show(records: Sequence[dict]) -> None:
    """Print ``records`` as tables, of boxes and of masks: a row a width, a column a metric, in per cent."""
    first = records[0]
    print(f"{first['model']} on {first['dataset']}, {first['schedule']}, {first['initial']}: AP in % of {first['count']} images")
    for kind in ("box", "mask"):
        own = [record for record in records if record["metric"].startswith(kind)]
        if own:
            width_table.show(own, lambda record, kind=kind: record["metric"].removeprefix(f"{kind}_"), f"{kind}, width")
    if any(record["value"] is None for record in records):
        print(f"{width_table.MISSING}: the images hold no object of that size (COCO's small, medium and large)")
