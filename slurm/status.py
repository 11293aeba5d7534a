"""The state of a grid's jobs: a table, live in a terminal; try again, cancel, read logs.

python slurm/status.py --runs runs/guidelines
python slurm/status.py --runs runs/guidelines retry
python slurm/status.py --runs runs/guidelines logs mse-mse-online-s100
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run as a script: make the other rooms importable
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from rundir.arguments import Parser, place, real, whole
from rundir.cli import cli
from rundir.clock import duration
from rundir.errors import UserError
from rundir.schema import File
from rundir.wording import counted
from slurm import squeue
from slurm.jobs import Job, JobState
from slurm.ledger import Ledger
from slurm.overview import NEED_RETRY, STATES, JobRow, matching, overview
from slurm.settings import from_dict
from slurm.submit import in_queue, submit

LONGEST = 86400.0  # seconds between two looks
SHOWN = 40  # rows without --all
TAIL = 40  # lines of a log
GONE_SECONDS = 120  # for a cancelled job to leave the queue


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    own = Parser(prog="slurm/status.py", description="Where the jobs of a grid stand, on Slurm or anywhere else.")
    own.add_argument("--runs", type=place, required=True, metavar="DIR", help="directory of a grid, or of several")
    own.add_argument("--all", action="store_true", help="show every job, also what is done")
    own.add_argument(
        "--every",
        type=real(above=True, high=LONGEST),
        default=10.0,
        metavar="S",
        help="seconds between two looks in a terminal; default 10",
    )
    own.add_argument("--once", action="store_true", help="show the table once and end (as always where the output is no terminal)")
    own.add_argument("--stalled-minutes", type=real(), metavar="M", help="after how long a silent job counts as stalled")
    actions = own.add_subparsers(dest="action", metavar="ACTION")
    for name, text in (
        ("retry", "submit again what failed, died, was cancelled or has stalled, and what waited for it"),
        ("cancel", "cancel jobs that wait or run"),
        ("logs", "what jobs printed"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        many = "+" if name == "logs" else "*"
        action.add_argument("cells", nargs=many, metavar="CELL", help="a part of their names" + "; default all" * (many == "*"))
        if name == "logs":
            action.add_argument("--lines", type=whole(1), default=TAIL, metavar="N", help=f"the last N of each; default {TAIL}")
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Show or do what is asked for. Raises :class:`UserError`."""
    arguments = parser().parse_args(argv)
    _check_numbers(arguments)
    grids = grid_folders(arguments.runs)
    if arguments.action:
        act = {"retry": retry, "cancel": cancel, "logs": logs}[arguments.action]
        for folder in grids:
            act(folder, arguments)
    else:
        watch(grids, arguments)
    return 0


def _check_numbers(arguments: argparse.Namespace) -> None:
    """Raises :class:`UserError` for a number that makes no sense."""
    if not 0 < arguments.every < math.inf:
        raise UserError(f"--every {arguments.every:g} must be more than 0 seconds")
    if arguments.stalled_minutes is not None and not 0 <= arguments.stalled_minutes < math.inf:
        raise UserError(f"--stalled-minutes {arguments.stalled_minutes:g} must be at least 0")
    if arguments.action == "logs" and arguments.lines < 1:
        raise UserError(f"--lines {arguments.lines} must be at least 1")


def grid_folders(runs: Path) -> list[Path]:
    """The grids that ``runs`` is or holds. Raises :class:`UserError`."""
    if not runs.is_dir():
        raise UserError(f"there is no directory {runs}; give the directory of a grid, as in --runs runs/guidelines")
    found = [
        path
        for path in (runs, *sorted(path for path in runs.iterdir() if path.is_dir()))
        if Ledger(path / "slurm").path.exists() or next(path.glob(f"*/{File.STATUS}"), None)
    ]
    if not found and (runs / File.STATUS).exists():
        raise UserError(f"{runs} is one run; give the directory of its grid, as in --runs runs/guidelines")
    if not found:
        raise UserError(f"{runs} holds no runs and no jobs yet; give the directory of a grid, as in --runs runs/guidelines")
    return found


def watch(grids: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Show the table, and in a terminal keep it up to date until Ctrl-C."""
    console = Console(width=None if sys.stdout.isatty() else 160)

    def look() -> Table:
        rows = [row for folder in grids for row in overview(folder, arguments.stalled_minutes)]
        return table(rows, arguments.all)

    if arguments.once or not console.is_terminal:
        console.print(look())
        return
    with Live(look(), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(arguments.every)
                live.update(look(), refresh=True)
        except KeyboardInterrupt:
            pass  # the way to end a live table


def table(rows: Sequence[JobRow], everything: bool) -> Table:
    """Jobs by state, what needs attention first; what is done is only counted unless ``everything`` is asked for."""
    counts = Counter(row.state for row in rows)
    shown = Table(
        Column("job", overflow="fold", min_width=40),
        "state",
        "epoch",
        "images/s",
        JobState.LEFT,
        "where",
        "why",
        title=", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no jobs",
    )
    chosen = sorted(
        (row for row in rows if everything or row.state != JobState.DONE), key=lambda row: (STATES.index(row.state), row.name)
    )
    limit = len(chosen) if everything else SHOWN
    for row in chosen[:limit]:
        epoch = f"{row.epoch}/{row.epochs}" if row.epochs else f"step {row.step}/{row.steps}" if row.steps else ""
        rate = f"{row.rate:.0f}" if row.rate else ""
        again = f"start {row.restarts + 1}. " if row.restarts and row.state in (JobState.RUNNING, JobState.STALLED) else ""
        where = f"{row.where} {row.task}".strip() if row.state not in (JobState.DONE, JobState.NOT_STARTED) else row.where
        left = "" if row.seconds_left is None else duration(row.seconds_left)
        shown.add_row(row.name, row.state, epoch, rate, left, where, again + row.why)
    if len(chosen) > limit:
        shown.caption = f"and {len(chosen) - limit} more; --all shows them"
    elif rows and not chosen:
        shown.caption = "all done; --all shows them"
    return shown


def retry(folder: Path, arguments: argparse.Namespace) -> None:
    """Submit again what will not end well by itself, with what waits for it, as it was submitted the first time."""
    rows = overview(folder, arguments.stalled_minutes)
    chosen = {row.name for row in matching(rows, arguments.cells) if row.state in NEED_RETRY}
    ledger = Ledger(folder / "slurm")
    chosen &= ledger.entries().keys()
    if not chosen:
        print(f"{folder}: nothing to retry")
        return
    entries, settings = ledger.to_retry()
    states = {row.name: row.state for row in rows}
    while more := {
        name
        for name, entry in entries.items()
        if name not in chosen
        and states[name] in NEED_RETRY
        and (set(entry.after) & chosen or any(name in entries[other].after for other in chosen))
    }:
        chosen |= more  # followers, and what a follower cannot do without
    again = chosen | {name for name, entry in entries.items() if entry.last}
    done = {name for name, state in states.items() if state == JobState.DONE}
    jobs = [_without(entries[name].job(), done) for name in entries if name in again]
    cluster = from_dict(settings)
    if not squeue.available():
        raise UserError("there is no Slurm here; retry where the jobs were submitted")
    squeue.cancel([entries[name].task for name in chosen if states[name] == JobState.STALLED])
    _wait_until_gone(ledger, chosen)
    log_dir = Path(next(iter(entries.values())).log).parent
    made = submit(jobs, cluster, ledger.folder, log_dir, folder.name)
    print(
        f"{folder}: submitted {counted(len(made.tasks), 'job')} again: {', '.join(sorted(made.tasks)[:10])}"
        f"{', ...' if len(made.tasks) > 10 else ''}"
    )


def _wait_until_gone(ledger: Ledger, names: set[str]) -> None:
    """Wait for jobs to leave the queue: what is in there is not submitted again. Raises :class:`UserError`."""
    end = time.monotonic() + GONE_SECONDS
    while True:
        with ledger.lock():
            left = names & in_queue(ledger).keys()
        if not left:
            return
        if time.monotonic() > end:
            raise UserError(f"{sorted(left)[0]} does not leave the queue; look at it with squeue, and try again when it has ended")
        time.sleep(1)


def _without(job: Job, done: set[str]) -> Job:
    """``job`` that no longer waits for what is done."""
    return replace(job, after=tuple(name for name in job.after if name not in done))


def cancel(folder: Path, arguments: argparse.Namespace) -> None:
    """Cancel the chosen jobs that wait or run; what they did stays, and a new launch goes on from there."""
    ledger = Ledger(folder / "slurm")
    if not squeue.available():
        raise UserError("there is no Slurm here; cancel where the jobs were submitted")
    with ledger.lock():
        alive = in_queue(ledger)
    chosen = [row.name for row in matching(overview(folder, arguments.stalled_minutes), arguments.cells) if row.name in alive]
    squeue.cancel([alive[name] for name in chosen])
    print(f"{folder}: cancelled {counted(len(chosen), 'job')}" if chosen else f"{folder}: nothing to cancel")


def logs(folder: Path, arguments: argparse.Namespace) -> None:
    """The end of what the chosen jobs printed; of one that never came to print, what Slurm kept."""
    entries = Ledger(folder / "slurm").entries()
    for row in matching(overview(folder, arguments.stalled_minutes), arguments.cells):
        files = log_files(folder, row, entries)
        for path in files:
            print(f"==> {row.name} ({row.state}): {path}")
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            print("\n".join(lines[-arguments.lines :]))
        if not files:
            print(f"==> {row.name} ({row.state}): nothing printed yet")


def log_files(folder: Path, row: JobRow, entries: dict) -> list[Path]:
    """Logs of a job: its own, those of its other processes, else Slurm's."""
    own = Path(row.log) if row.log else folder / "logs" / f"{row.name}.log"
    found = [path for path in (own, *sorted(own.parent.glob(f"{own.stem}.rank*.log"))) if path.is_file()]
    if not found and row.name in entries:
        found = sorted(Path(entries[row.name].pickled).parent.glob(f"{entries[row.name].task}_*_log.out"))
    return found


if __name__ == "__main__":
    cli(main, interrupted="interrupted")
