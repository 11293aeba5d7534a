"""The analysis task on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pretrain.checkpoints import add_checkpoint_arguments
from rundir.arguments import MOST_BATCH, whole, width_or_spread, word
from rundir.records import width_of
from transfer import width_table
from transfer.analysis.evaluation import MEASURES, analyse
from transfer.analysis.options import MOST_PAIRS, Options
from transfer.image_arguments import add_image_arguments

HELP = "what the features of a checkpoint are like at every width, without labels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the task's arguments to its parser."""
    plain = Options()
    add_checkpoint_arguments(parser)
    add_image_arguments(parser, plain.neighbours)
    parser.add_argument(
        "--widths",
        type=width_or_spread,
        nargs="+",
        metavar="W",
        help="widths, LOW:HIGH:COUNT for evenly spread ones, or sub-networks such as 'w[1,.75,.5,.5]'; default: "
        "those the checkpoint is calibrated for",
    )
    parser.add_argument(
        "--against",
        type=word,
        nargs="+",
        default=[],
        metavar="RUN",
        help="networks trained for one width each, to compare those of the same widths with",
    )
    parser.add_argument(
        "--images",
        type=whole(4),
        default=plain.images,
        metavar="N",
        help=f"training images, the same for every checkpoint; default {plain.images}",
    )
    parser.add_argument(
        "--pairs",
        type=whole(1, MOST_PAIRS),
        default=plain.pairs,
        metavar="N",
        help=f"pairs of augmented views of each image; default {plain.pairs}",
    )
    parser.add_argument(
        "--batch-size",
        type=whole(2, MOST_BATCH),
        default=plain.batch_size,
        metavar="N",
        help=f"images per forward pass; default {plain.batch_size}",
    )
    parser.add_argument(
        "--out", type=word, metavar="DIR", help="where result.json goes; default: the run directory of the checkpoint"
    )
    parser.add_argument("--force", action="store_true", help="measure again what has been measured already")


def run(arguments: argparse.Namespace) -> int:
    """Analyse, print a table of the values and say where they are."""
    names = ("images", "pairs", "neighbours", "size", "batch_size", "workers")
    options = Options(**{name: getattr(arguments, name) for name in names})
    records = analyse(
        arguments.checkpoint,
        arguments.dataset,
        arguments.data_dir,
        arguments.widths,
        against=arguments.against,
        device=arguments.device,
        options=options,
        out=arguments.out,
        force=arguments.force,
        branch=arguments.branch,
        arch=arguments.arch,
    )
    show(records)
    width_table.show_place(arguments.checkpoint, arguments.out)
    return 0


def show(records: Sequence[dict]) -> None:
    """Print ``records`` of one data set as a table: one row per measure, one column per width, and what each measure says."""
    first = records[0]
    print(f"{first['dataset']}: features of {first['count']} training images, no labels")
    found = {(record["metric"], width_of(record)): record["value"] for record in records}
    widths = list(dict.fromkeys(width for _, width in found))
    table = Table()
    table.add_column("measure")
    for width in widths:
        table.add_column(f"{width:g}", justify="right", no_wrap=True)
    table.add_column("what it says")
    for name, meaning in MEASURES.items():
        if any(metric == name for metric, _ in found):
            table.add_row(name, *(number(found.get((name, width))) for width in widths), meaning)
    Console().print(table)


def number(value: float | None) -> str:
    """A value with as many digits as it has room for; a dash where it is undefined."""
    if value is None:
        return width_table.MISSING
    if value.is_integer():
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"
