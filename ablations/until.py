"""``--until decided``: a grid in rounds of one more seed each, until its claims are decided.

The tests are valid at any number of seeds (docs/results.md), so stopping at what they say is legitimate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablations import gridfile
from ablations.grid import Run
from results.claims.__main__ import of_runs
from results.claims.judging import Verdict
from results.claims.rendering import seeds_text
from results.claims.schema import read_claims
from results.statistics.sequential import FIRST_LOOK, MOST_SEEDS
from rundir.arguments import whole
from rundir.clock import duration, seconds
from rundir.errors import UserError
from rundir.wording import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of rounds."""
    parser.add_argument(
        "--until",
        choices=["decided"],
        help="run in rounds, one more seed each, until every claim of the grid that seeds can decide is decided; "
        "--seeds says how many the first round has, at least 3; of --executor slurm with --wait",
    )
    parser.add_argument(
        "--most-seeds",
        type=whole(FIRST_LOOK, MOST_SEEDS),
        metavar="N",
        help=f"of --until: no round has more; at most and by default {MOST_SEEDS}, all that the tests look at",
    )
    parser.add_argument(
        "--budget",
        type=_time,
        metavar="TIME",
        help="of --until: begin no round that would not end in this time, for example 90min, 6h or 2d",
    )


def _time(text: str) -> float:
    try:
        return seconds(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@dataclass(frozen=True)
class Limits:
    """Of the rounds: seeds of the first and the last, seconds for all of them."""

    first: int
    most: int
    budget: float

    def __str__(self) -> str:
        later = f"each later round adds one, up to {self.most}" if self.first < self.most else "there is no later round"
        time = f", within {duration(self.budget)}" if self.budget < float("inf") else ""
        return f"--until decided: this is the first round, of {self.first} seeds; {later}{time}"


def limits(arguments: argparse.Namespace) -> Limits | None:
    """What the options ask for; None without ``--until``.

    Raises:
        UserError: they do not fit together, or the grid has no claim that seeds can decide.
    """
    if arguments.until is None:
        for option, value in (("--most-seeds", arguments.most_seeds), ("--budget", arguments.budget)):
            if value is not None:
                raise UserError(f"{option} is for --until decided; set that too, or leave it out")
        return None
    if not arguments.seeds.strip().isdecimal():
        raise UserError(f"--until decided counts seeds from the first; set --seeds to a number, not to {arguments.seeds}")
    grid = gridfile.load(arguments.grid)
    if not any(claim.by_seeds and not claim.exact for claim in read_claims(grid.content.get("claims"), grid.name, str(grid.path))):
        raise UserError(f"{grid.path} has no claims that seeds can decide; add claims to it, or set --seeds and leave out --until")
    most = arguments.most_seeds or MOST_SEEDS
    first = max(FIRST_LOOK, int(arguments.seeds))
    if first > most:
        raise UserError(f"--seeds {first} is more than the {most} of --most-seeds; set --seeds lower")
    return Limits(first, most, arguments.budget if arguments.budget is not None else float("inf"))


def rounds(
    folder: Path,
    limit: Limits,
    plan: Callable[[int], tuple[Sequence[Run], Sequence[Run]]],
    launch: Callable[[Sequence[Run], Sequence[Run]], int],
) -> int:
    """Launch rounds until one decides, fails, or is the last; the exit code. A line after each.

    plan: all runs of so many seeds, and those of them that are missing. launch: runs these, reports, and returns the exit code.
    """
    started, count, code = time.monotonic(), limit.first, None
    while True:
        runs, missing = plan(count)
        began = time.monotonic()
        if missing:
            code = launch(runs, missing)
            if code:
                print(f"round of {count} seeds: not all of its runs have ended well; the rounds stop here", flush=True)
                return code
        took = time.monotonic() - began
        verdicts = own_verdicts(folder, runs)
        spent = time.monotonic() - started
        done = stop(verdicts, count, limit, spent, took / len({run.cfg.seed for run in missing}) if missing else 0.0)
        print(f"{count} seeds: {summary(verdicts)}; {done or f'next: {count + 1} seeds'}", flush=True)
        if done:
            return launch(runs, []) if code is None else code  # a report there is, whatever was run before
        count += 1


def own_verdicts(folder: Path, runs: Sequence[Run]) -> list[Verdict]:
    """The verdicts on these runs, and on claims that have none."""
    names = {run.directory.name for run in runs}
    return [verdict for verdict in of_runs([folder])[0] if not verdict.runs or names & set(verdict.runs)]


def open_claims(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that more seeds may decide: not where other grids, cells or data are needed, or cells are the sample."""
    return [
        verdict
        for verdict in verdicts
        if verdict.runs and not verdict.decided and verdict.claim.by_seeds and not verdict.claim.exact
    ]


def stop(verdicts: Sequence[Verdict], count: int, limit: Limits, spent: float, per_seed: float) -> str:
    """Why no further round is launched; "" where one is."""
    if not open_claims(verdicts):
        return "nothing is left that seeds can decide"
    if count >= limit.most:
        return f"{limit.most} is the most seeds"
    if spent + per_seed > limit.budget:
        return f"another seed takes about {duration(per_seed)}, and {duration(spent)} of {duration(limit.budget)} are spent"
    return ""


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many claims are decided, which are not with the seeds that they may need, and which no seed decides."""
    undecided = [f"{verdict.claim.id}{f' ({text})' if (text := seeds_text(verdict)) else ''}" for verdict in open_claims(verdicts)]
    others = [verdict.claim.id for verdict in verdicts if not verdict.decided and verdict not in open_claims(verdicts)]
    parts = [f"{sum(verdict.decided for verdict in verdicts)} of {counted(len(verdicts), 'claim')} decided"]
    parts += [f"undecided: {', '.join(undecided)}"] if undecided else []
    parts += [f"not for these seeds to decide: {', '.join(others)}"] if others else []
    return "; ".join(parts)
