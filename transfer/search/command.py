"""The search task on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from pretrain.checkpoints import add_checkpoint_arguments
from pretrain.export import DEFAULT_FORMATS, NEEDS
from rundir.arguments import LARGEST, LARGEST_SEED, whole, word
from transfer import width_table
from transfer.image_arguments import add_image_arguments
from transfer.search.budget import Budget
from transfer.search.evaluation import DEFAULT_BUDGETS, Found, search, warning
from transfer.search.options import STRATEGIES, VARIED, Options
from transfer.search.scores import MEANINGS

HELP = "the best sub-networks of a checkpoint for a budget, found without labels"
NO_FILES = "none"
USUAL, MOST_LETTERS = 80, 14  # columns of a terminal; of a table's column, so that all of them have place there


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the task's arguments to its parser."""
    plain = Options()
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--budget",
        nargs="+",
        action="append",
        default=[],
        metavar="KIND=LIMIT",
        help=(
            "what a sub-network may cost. A number up to 1 is a share of the full network: flops=0.3, parameters=0.25, memory=0.5, "
            "latency=0.5. Others have units: flops=20M, parameters=300k (k, M, G, T), memory_mb=8, latency_ms=2 (one image on this "
            "device). Several in one --budget are kept all; --budget can be given several times, and each gets a network. Default: "
            f"{', '.join(DEFAULT_BUDGETS)}"
        ),
    )
    parser.add_argument(
        "--score",
        choices=list(MEANINGS),
        default=plain.score,
        help="label-free score that is maximised: "
        + "; ".join(f"{name} ({text})" for name, text in MEANINGS.items())
        + f"; default {plain.score}",
    )
    parser.add_argument(
        "--vary",
        nargs="+",
        choices=VARIED,
        default=list(plain.vary),
        metavar="D",
        help=f"what may differ from the full network, some of {', '.join(VARIED)}; default width, by stage",
    )
    parser.add_argument(
        "--strategies",
        nargs="+",
        choices=STRATEGIES,
        default=list(STRATEGIES),
        metavar="S",
        help=f"some of {', '.join(STRATEGIES)}; default all",
    )
    parser.add_argument(
        "--evaluations",
        type=whole(4),
        default=plain.evaluations,
        metavar="N",
        help=f"sub-networks that each strategy scores; default {plain.evaluations}",
    )
    parser.add_argument(
        "--images",
        type=whole(4),
        default=plain.images,
        metavar="N",
        help=f"training images that scores are of, the same for every checkpoint; default {plain.images}",
    )
    parser.add_argument(
        "--calibration",
        type=whole(2),
        default=plain.calibration,
        metavar="N",
        help=f"of these, images that calibrate BatchNorms, and images per pass; default {plain.calibration}",
    )
    parser.add_argument(
        "--pool",
        type=whole(10),
        default=plain.pool,
        metavar="N",
        help=f"sub-networks that the predictor screens; default {plain.pool}",
    )
    parser.add_argument(
        "--check",
        dest="checked",
        type=whole(0, LARGEST),
        default=plain.checked,
        metavar="N",
        help="random sub-networks whose k-NN accuracy tells whether the score ranks as labels do; 0: labels are "
        f"not looked at; default {plain.checked}",
    )
    parser.add_argument("--seed", type=whole(0, LARGEST_SEED), default=plain.seed, metavar="N", help="of what is drawn; default 0")
    parser.add_argument(
        "--format",
        nargs="+",
        choices=[*NEEDS, NO_FILES],
        default=list(DEFAULT_FORMATS),
        metavar="F",
        help=f"files of the chosen networks: some of {', '.join(NEEDS)}, or {NO_FILES}; default {' '.join(DEFAULT_FORMATS)}",
    )
    add_image_arguments(parser, plain.neighbours)
    parser.add_argument(
        "--out",
        type=word,
        metavar="DIR",
        help="where result.json and the folder search go; default: the run directory of the checkpoint",
    )
    parser.add_argument("--force", action="store_true", help="search again what has been searched already")


def run(arguments: argparse.Namespace) -> int:
    """Search, print what was found for each budget, and say where it is."""
    names = (
        "score",
        "vary",
        "strategies",
        "evaluations",
        "images",
        "calibration",
        "neighbours",
        "pool",
        "checked",
        "seed",
        "size",
        "workers",
    )
    options = Options(**{name: getattr(arguments, name) for name in names})
    formats = [name for name in arguments.format if name != NO_FILES]
    found = search(
        arguments.checkpoint,
        [Budget.parse(words) for words in arguments.budget],
        arguments.dataset,
        arguments.data_dir,
        options=options,
        formats=formats,
        device=arguments.device,
        out=arguments.out,
        force=arguments.force,
        branch=arguments.branch,
        arch=arguments.arch,
    )
    show(found)
    width_table.show_place(arguments.checkpoint, arguments.out)
    return 0


def show(found: Found) -> None:
    """Print the choice of every budget, how the strategies compare, and how well scores rank."""
    report = found.report
    print(
        f"{report['dataset']}: {report['scored']} sub-networks scored by {report['score']} ({MEANINGS[report['score']]})"
        + ("" if found.fresh else ", as searched before")
    )
    chosen = Table(
        _whole("budget", *report["budgets"]),
        report["score"],
        "k-NN",
        "FLOPs",
        "weights",
        "MB",
        "ms",
        title="Best of all",
        box=SIMPLE,
    )
    compared = Table(
        _whole("budget", *report["budgets"]),
        *map(_whole, report["strategies"]),
        title=f"Best {report['score']} of each strategy" + " / its k-NN accuracy in %" * bool(report["checked"]),
        pad_edge=False,
        collapse_padding=True,
        box=SIMPLE,
    )
    named = []  # on lines of their own: to be copied, so never broken
    for budget in report["budgets"]:
        picks = {pick["strategy"]: pick for pick in report["picks"] if pick["budget"] == budget}
        if "all" in picks:
            chosen.add_row(budget, *_columns(picks["all"]))
            named.append(f"{budget}: {picks['all']['subnet']}")
        compared.add_row(budget, *(_cell(picks.get(name)) for name in report["strategies"]))
    Console().print(chosen)
    for line in named:
        print(line)
    Console().print(compared)
    for line in _about(report):
        print(line)
    print(f"front, picture and networks: {found.folder}")


def _whole(heading: str, *texts: str) -> Column:
    """A column whose texts are never cut, but broken where a terminal is narrow: of a usual one between words."""
    longest = max(len(word) for text in (heading, *texts) for word in text.split())
    return Column(heading, overflow="fold", min_width=min(longest, MOST_LETTERS) if Console().width >= USUAL else None)


def _columns(pick: Mapping[str, Any]) -> list[str]:
    return [
        _number(pick["score"]),
        width_table.percent(pick["knn"]),
        f"{pick['flops_share']:.3f}",
        _count(pick["parameters"]),
        f"{pick['memory_mb']:.2f}",
        width_table.milliseconds(pick["latency_ms"]),
    ]


def _cell(pick: Mapping[str, Any] | None) -> str:
    if pick is None:
        return width_table.MISSING
    return _number(pick["score"]) + ("" if pick["knn"] is None else f"/{100 * pick['knn']:.1f}")


def _count(value: float) -> str:
    """``35.1k``, ``11.2M``."""
    return f"{value / 1e6:.1f}M" if value >= 1e6 else f"{value / 1e3:.1f}k"


def _number(value: float | None) -> str:
    return width_table.MISSING if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _about(report: Mapping[str, Any]) -> list[str]:
    lines = [warning(report["untrained"])] if report["untrained"] else []
    lines += [
        f"--budget {budget}: no sub-network that was scored keeps it; set larger --evaluations, or more of --strategies"
        for budget in report["budgets"]
        if not any(pick["budget"] == budget for pick in report["picks"])
    ]
    lines += ["scored: " + ", ".join(f"{name} {count}" for name, count in report["evaluated"].items())]
    if report["ranked"]:
        ranks = ", ".join(f"{name} {_number(rho)}" for name, rho in report["ranks"].items())
        lines.append(f"Spearman's rho with k-NN accuracy, {report['ranked']} random sub-networks: {ranks}")
    if report["predictor"]:
        lines.append(
            f"predictor: rho {_number(report['predictor']['rho'])} on sub-networks it has not seen, "
            f"{report['predictor']['screened']} screened"
        )
    return lines
