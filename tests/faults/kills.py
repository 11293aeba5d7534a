"""SIGKILL at random moments of the whole life of a command, started again until it ends: as if it had never been killed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import transfer.run as transfer_run
from ablations import run as ablations_run
from pretrain import run as pretrain_run
from results import report as results_report
from tests.faults import ground
from tests.faults.cases import Case, Verdict
from tests.faults.fork import program
from tests.faults.ground import Ground, asked

KILLS = 4  # of one case


@dataclass(frozen=True)
class Work:
    """A command that is killed.

    Attributes:
        begin: what it starts from, copied; "" for an empty folder. equal: what must be equal at its end.
        share: of all kills. spared: leave out kills at any function's call, for a command of tens of millions of them.
    """

    name: str
    main: Callable
    argv: list[str]
    begin: str
    equal: Callable[[Path], object]
    share: int
    spared: bool = False


WORKS = (
    Work("pretraining", pretrain_run.main, ground.TRAIN, "", ground.of_training, 92),
    Work("evaluation", transfer_run.main, ground.EVALUATE, "trained", ground.of_evaluation, 60),
    Work("detection", transfer_run.main, ground.DETECT, "detected", ground.of_evaluation, 16),
    Work("report", results_report.main, ground.REPORT, "grid", ground.of_report, 16, spared=True),
    Work("whole grid", ablations_run.main, ground.GRID, "", ground.of_grid, 16),
)


@dataclass(frozen=True)
class Whole:
    """An unfaulted run of a work: its events, of both kinds, and its result."""

    calls: int
    files: int
    result: str


def whole(work: Work, base: Ground, folder: Path) -> Whole:
    """Run ``work`` without a fault, counting."""
    _begin(work, base, folder)
    ended = program(work.main, work.argv, folder, count=True)
    if ended.code != 0:
        raise ground.Failed(f"{work.name} without a fault ended with {ended.code}: {ended.last()}")
    return Whole(ended.events, ended.file_events, asked(work.equal, folder))


def cases(count: int, base: Ground, wholes: dict[str, Whole]) -> list[Case]:
    """Cases with ``count`` kills together, of the works in ``wholes``."""
    works = [work for work in WORKS if work.name in wholes]
    total = sum(work.share for work in works)
    made = []
    for work in works:
        kills = round(count * work.share / total)
        for start in range(0, kills, KILLS):
            number = min(KILLS, kills - start)
            made.append(Case(f"kill {work.name}", f"{start // KILLS}", _killed(work, wholes[work.name], base, number), number))
    return made


def _killed(work: Work, unfaulted: Whole, base: Ground, kills: int) -> Callable[[Path, random.Random], Verdict]:
    def run(folder: Path, rng: random.Random) -> Verdict:
        done, where = 0, []
        _begin(work, base, folder)
        while True:
            files = work.spared or rng.random() < 0.5
            at = rng.randint(1, unfaulted.files if files else unfaulted.calls) if done < kills else 0
            ended = program(work.main, work.argv, folder, kill_at=at, files=files)
            where.append(f"{'file ' if files else ''}event {at}" if at else "to the end")
            if ended.killed:
                done += 1
                continue
            if ended.code != 0:
                return Verdict.wrong(f"{', '.join(where)}: exit code {ended.code}: {ended.last()}")
            found = asked(work.equal, folder)
            if found != unfaulted.result:
                return Verdict.wrong(f"{', '.join(where)}: not equal: {difference(unfaulted.result, found)}")
            if done == kills:
                return Verdict("equal")
            where.clear()
            _begin(work, base, folder)

    return run


def _begin(work: Work, base: Ground, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if work.begin:
        shutil.copytree(base.folder / work.begin, folder)
    else:
        folder.mkdir(parents=True)


def difference(wanted: str, found: str) -> str:
    """Where two texts begin to differ."""
    place = next((i for i, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), min(len(wanted), len(found)))
    start = max(0, place - 60)
    return f"...{wanted[start : place + 60]}... is now ...{found[start : place + 60]}..."
