"""The classification task on the command line."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from pretrain.checkpoints import add_checkpoint_arguments
from pretrain.data.sources import NAMES
from rundir.arguments import LARGEST_SEED, MOST_PIXELS, MOST_WORKERS, Parser, real, whole, width_or_spread, word
from rundir.records import entry
from transfer import width_table
from transfer.classification.evaluation import DEFAULT_PROTOCOLS, PROTOCOLS, TRAINING_PROTOCOLS, evaluate
from transfer.classification.options import LINEAR_RECIPES, Recipe, parse_overrides
from transfer.classification.scores import NAMES as SCORE_NAMES

HELP = "k-NN, linear probes and fine-tuning of a checkpoint at every width"


def add_arguments(parser: Parser) -> None:
    """Add the task's arguments to its parser."""
    parser.settings = [f"--set {name}.{field.name}" for name in TRAINING_PROTOCOLS for field in dataclasses.fields(Recipe)]
    add_checkpoint_arguments(parser)
    parser.add_argument("--dataset", choices=NAMES, metavar="D", help=f"{', '.join(NAMES)}; default: the one of pretraining")
    parser.add_argument(
        "--data-dir", type=word, metavar="DIR", help="where the data are stored; default: where pretraining found them"
    )
    parser.add_argument(
        "--widths",
        type=width_or_spread,
        nargs="+",
        metavar="W",
        help="widths, LOW:HIGH:COUNT for evenly spread ones, such as 0.25:1.0:16, or sub-networks such as "
        "'w[1,.75,.5,.5]d[2,1,2,2]'; default: those the checkpoint is calibrated for",
    )
    parser.add_argument(
        "--extrapolate", action="store_true", help="allow widths narrower than those of pretraining; tables mark them with *"
    )
    parser.add_argument(
        "--protocol",
        nargs="+",
        choices=PROTOCOLS,
        metavar="P",
        help=f"some of {', '.join(PROTOCOLS)}; default {' '.join(DEFAULT_PROTOCOLS)}, "
        f"or {TRAINING_PROTOCOLS[-1]} with --label-fraction",
    )
    parser.add_argument(
        "--label-fraction",
        type=real(),
        nargs="+",
        default=[1.0],
        metavar="F",
        help="shares of the training labels to train on, for example 0.01 0.1; default 1",
    )
    parser.add_argument(
        "--label-seed",
        type=whole(0, LARGEST_SEED),
        nargs="+",
        default=[0],
        metavar="N",
        help="which labels these are: one choice for each seed, over which tables average; default 0",
    )
    parser.add_argument(
        "--recipe",
        choices=list(LINEAR_RECIPES),
        metavar="R",
        help=f"of linear: {', '.join(LINEAR_RECIPES)}; default: the data set's",
    )
    parser.add_argument(
        "--score", choices=list(SCORE_NAMES), metavar="S", help=f"{', '.join(SCORE_NAMES)}; default: the data set's convention"
    )
    parser.add_argument(
        "--out", type=word, metavar="DIR", help="where result.json goes; default: the run directory of the checkpoint"
    )
    parser.add_argument("--force", action="store_true", help="score again what has been scored already")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; default auto")
    parser.add_argument(
        "--size", type=whole(1, MOST_PIXELS), metavar="N", help="pixels of an image; default: the size of pretraining"
    )
    parser.add_argument("--batch-size", type=whole(1), default=256, metavar="N", help="of feature extraction; default 256")
    parser.add_argument(
        "--seed", type=whole(0, LARGEST_SEED), metavar="N", help="of linear and finetune; default: that of pretraining"
    )
    parser.add_argument(
        "--limit",
        type=whole(),
        metavar="N",
        help="training images used, balanced; 0: all; default: as pretraining, of other data all",
    )
    parser.add_argument("--k", type=whole(1), metavar="N", help="neighbours of knn; default 20")
    parser.add_argument(
        "--workers", type=whole(0, MOST_WORKERS), metavar="N", help="processes that decode files; default: as pretraining"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a protocol, for example linear.epochs=20 finetune.lr=0.001 C=0.1",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print a table of the scores and say where they are."""
    names = ("size", "batch_size", "seed", "limit", "k", "workers", "recipe", "score")
    options = parse_overrides(
        arguments.overrides,
        label_fractions=arguments.label_fraction,
        label_seeds=arguments.label_seed,
        **{name: getattr(arguments, name) for name in names},
    )
    few = options.label_fractions != [1.0]  # by fine-tuning, as in semi-supervised learning
    protocols = arguments.protocol or (TRAINING_PROTOCOLS[-1:] if few else DEFAULT_PROTOCOLS)
    records = evaluate(
        arguments.checkpoint,
        arguments.dataset,
        arguments.data_dir,
        arguments.widths,
        protocols,
        device=arguments.device,
        options=options,
        out=arguments.out,
        force=arguments.force,
        branch=arguments.branch,
        arch=arguments.arch,
        extrapolate=arguments.extrapolate,
    )
    show(records)
    width_table.show_place(arguments.checkpoint, arguments.out)
    return 0


def show(records: Sequence[dict]) -> None:
    """Print ``records`` of one data set as a table: one row per width, one column per protocol and share of labels, in per cent."""
    first = records[0]
    print(
        f"{first['dataset']}: {SCORE_NAMES[entry(first, 'score')]} in % of {first['count']} images "
        f"(chance {100 * first['chance']:.1f})"
    )
    width_table.show(records, column)


def column(record: dict) -> str:
    """The heading of a score: its protocol and, where not all were used, the share of the labels."""
    fraction = entry(record, "label_fraction")
    return record["metric"] if fraction == 1 else f"{record['metric']} {100 * fraction:g} %"
