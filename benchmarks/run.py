"""All benchmarks in one run, one table.

    python benchmarks/run.py [--quick] [--only step limits ...] [--name NAME] [--threads N] [--clock cpu] [--rounds 5]

Prints the table of each benchmark as it ends, and writes all of it as Markdown and CSV to benchmarks/results/NAME (default: today's
date).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import augment, decoding, dynamic, evaluation, launches, limits, search, seeds, step, widths
from benchmarks.measure import Row, markdown, options, table_csv
from rundir.arguments import place, word
from rundir.atomic import make_folder
from rundir.cli import cli

RESULTS = Path(__file__).parent / "results"
# Name, and its rows for (rounds, quick).
ALL: dict[str, Callable[[int, bool], list[Row]]] = {
    "limits": lambda rounds, quick: limits.rows(quick),
    "step": lambda rounds, quick: step.rows("cifar", rounds, quick),
    "step-digits": lambda rounds, quick: step.rows("digits", 4 * rounds, quick),
    "launches": lambda rounds, quick: launches.rows(quick),
    "augment": lambda rounds, quick: augment.rows(2 * rounds, quick),
    "decoding": lambda rounds, quick: decoding.rows(rounds=rounds, quick=quick),
    "evaluation": lambda rounds, quick: evaluation.rows("cifar", rounds=max(1, rounds // 2), quick=quick),
    "evaluation-digits": lambda rounds, quick: evaluation.rows("digits", rounds=rounds, quick=quick),
    "widths": lambda rounds, quick: widths.rows(rounds=rounds, quick=quick),
    "seeds": lambda rounds, quick: seeds.rows(rounds=rounds, quick=quick),
    "search": lambda rounds, quick: search.rows(rounds=rounds, quick=quick),
    "dynamic": lambda rounds, quick: dynamic.rows(quick=quick),
}


def heading(args) -> str:
    """What the numbers were measured with."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    quick = " A quick run, to see that everything works: its numbers say nothing." if args.quick else ""
    return (
        f"Measured {now}: {limits.device_name('cpu')}, torch {torch.__version__}, {args.clock} clock, the fastest of "
        f"{args.rounds} turns.{quick}\n"
    )


def write(where: Path, args, rows: Sequence[Row]) -> None:
    """The table as far as it is, so that an interrupted run leaves what it measured."""
    for name, text in (("table.md", heading(args) + "\n" + markdown(rows)), ("table.csv", table_csv(rows))):
        part = where / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(where / name)


def main(argv: Sequence[str] | None = None) -> None:
    args = options(
        __doc__,
        ("--only", {"nargs": "+", "choices": list(ALL), "default": list(ALL), "metavar": "NAME", "help": ", ".join(ALL)}),
        ("--name", {"default": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "type": word, "help": "of the results' folder"}),
        ("--out", {"type": place, "default": RESULTS, "help": "where that folder is made"}),
        argv=argv,
    )
    make_folder(args.out / args.name, "the table")
    rows: list[Row] = []
    for number, name in enumerate(args.only, start=1):
        print(f"{number}/{len(args.only)} {name}", flush=True)
        fresh = ALL[name](args.rounds, args.quick)
        if args.quick:  # tiny networks meet no target, and miss none
            fresh = [dataclasses.replace(row, met=None) for row in fresh]
        print(markdown(fresh), flush=True)
        rows += fresh
        write(args.out / args.name, args, rows)
    missed = [row.what for row in rows if row.met is False]
    print(
        f"table: {args.out / args.name}; {sum(row.met is True for row in rows)} targets met, {len(missed)} missed"
        + "".join(f"\n  missed: {what}" for what in missed)
    )


if __name__ == "__main__":
    cli(main, interrupted="interrupted; what was measured is kept")
