"""The segmentation task on the command line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pretrain.distributed import Processes, processes
from rundir.arguments import MOST_PIXELS, whole
from rundir.errors import UserError
from transfer import width_table
from transfer.dense import options
from transfer.dense.job import run_jobs
from transfer.dense.schedules import SEGMENTATION, named
from transfer.dense.trunk import check_norm

if TYPE_CHECKING:
    from transfer.segmentation.layouts import Layout
    from transfer.segmentation.plan import Plan

HELP = "semantic segmentation (mmsegmentation) fine-tuned and scored at every width"
# Named here too because mmsegmentation, which the rest imports, takes seconds to import and is not needed to show the help.
MODELS = ("fcn", "upernet", "deeplabv3", "segmenter")
DATASETS = ("digits", "voc", "ade20k", "cityscapes", "camvid")
CLASSES = "classes.json"
METRICS = ("mIoU", "mAcc", "aAcc")
STRIDES = (1, 2, 4, 8, 16, 32)
MOST_CLASSES_SHOWN = 30
SMALLEST_CROP = 32  # pixels: less leaves nothing of the last feature map


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the task's arguments to its parser."""
    options.add_arguments(parser, MODELS, DATASETS, SEGMENTATION)
    parser.add_argument("--inference", metavar="I", help="whole image, or windows that slide; default whole, slide for segmenter")
    parser.add_argument("--scale", type=whole(1, MOST_PIXELS), nargs=2, metavar=("W", "H"),
                        help="images are resized to fit in it, keeping their ratio; default: the data set's")
    parser.add_argument("--crop", type=whole(1, MOST_PIXELS), nargs=2, metavar=("H", "W"),
                        help="of training, and window; default: the data set's")
    parser.add_argument("--output-stride", type=whole(), metavar="N", choices=STRIDES,
                        help=f"of fcn's and deeplabv3's dilated backbones: {', '.join(map(str, STRIDES))}; default: the data set's")


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune and score each width, print a table and say where the scores are."""
    with processes(arguments.device) as group:
        check_norm(arguments.norm, group.device)
        setup = options.prepare(arguments, MODELS, DATASETS, SEGMENTATION)
        plan = _plan(arguments, setup, group)
        from transfer.segmentation.training import train  # slow, see above

        jobs = plan.jobs(setup.widths)
        records = run_jobs(jobs, setup.home, group, partial(train, plan), arguments.force)
        if group.first:
            show(records)
            show_classes({job.width: job.directory(setup.home) / CLASSES for job in jobs})
            print(f"scores: {setup.home / 'result.json'}; by class, with pictures: {setup.home / 'transfer' / 'segmentation'}")
    return 0


def _plan(arguments: argparse.Namespace, setup: options.Setup, group: Processes) -> Plan:
    _import_mmseg()
    from transfer.segmentation.checks import check
    from transfer.segmentation.models import check_model
    from transfer.segmentation.plan import Plan
    from transfer.segmentation.recipes import for_vit

    is_vit = setup.backbone.encoder.is_vit
    check_model(arguments.model, is_vit)
    schedule = setup.schedule
    if is_vit:
        own = for_vit(arguments.schedule, named(arguments.schedule, SEGMENTATION), arguments.model)
        schedule = own.changed(arguments.iterations, arguments.batch_size, arguments.lr)
    layout = _layout(arguments, setup.home)
    inference = arguments.inference or ("slide" if arguments.model == "segmenter" else "whole")
    plan = partial(Plan, backbone=setup.backbone, checkpoint=str(arguments.checkpoint), model=arguments.model,
                   schedule_name=arguments.schedule, schedule=schedule, seed=setup.seed, initial=arguments.initial,
                   batch_size=schedule.batch_size // group.world_size, norm=arguments.norm, inference=inference,
                   workers=arguments.workers, pictures=arguments.pictures, branch=arguments.branch, arch=arguments.arch)
    layout, train, val, notes = check(layout, group.first, arguments.exif)
    for note in notes if group.first else ():
        print(f"{layout.name}: {note}", flush=True)
    made = plan(layout=layout, train=train, val=val)
    made.check()
    return made


def _import_mmseg() -> None:
    warnings.filterwarnings("ignore", module=r"mm(seg|cv|engine)\.")  # of optional parts, and of its own settings
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # likewise
            import mmseg  # noqa: F401

            from transfer.segmentation import registered  # noqa: F401
    except ImportError as error:
        raise UserError(f"segmentation needs mmsegmentation, which cannot be imported ({error}); install it with make setup, "
                        "or pip install -e '.[segmentation]'") from None


def _layout(arguments: argparse.Namespace, home: Path) -> Layout:
    from transfer.segmentation.layouts import layout_of

    for option in ("scale", "crop"):
        if min(getattr(arguments, option) or [SMALLEST_CROP]) < SMALLEST_CROP:
            raise UserError(f"--{option} must be at least {SMALLEST_CROP} pixels each way")
    where = arguments.data_dir
    if arguments.dataset == "digits":
        where = options.digits_scenes(where, home)[0]
    elif where is None:
        raise UserError(f"{arguments.dataset} is not part of this project; write --data-dir DIR with the folder that holds it")
    layout = layout_of(arguments.dataset, where)
    changed = {name: tuple(getattr(arguments, name)) for name in ("scale", "crop") if getattr(arguments, name)}
    if arguments.output_stride:
        changed["output_stride"] = arguments.output_stride
    return dataclasses.replace(layout, **changed)


def show(records: Sequence[dict]) -> None:
    """Print records of one data set and model: a row a width, in per cent; what is undefined as a dash."""
    first = records[0]
    print(f"{first['dataset']}: {first['model']}, {first['schedule']}, {first['initial']} backbone; "
          f"scores in % over {first['count']} images")
    width_table.show([record for record in records if record["metric"] in METRICS], lambda record: record["metric"])


def show_classes(files: Mapping[float, Path]) -> None:
    """Print IoU by class, a row a class and a column a width, from the ``files`` of scores by class; not of very many classes."""
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
