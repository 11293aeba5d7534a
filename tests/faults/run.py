"""The campaign of faults: kills, damaged run directories, wrong command lines, odd data sets, checkpoints from anywhere.

    make test-faults                       FAULTS_ARGS="--seed 7"
    python tests/faults/run.py --only kill --seed 7 --case 'kill pretraining: 3'

Every fault must end equal to an unfaulted run (weights, metrics, scores, tables, to the bit) or in one line and exit code 2. The
seed chooses what is damaged, and where: the same seed tries the same. Command lines run in forked children of a process that has
imported everything, so a kill costs no import. Ends with a table, and with exit code 1 if anything was WRONG: its folder stays.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # threads do not survive a fork
    os.environ.setdefault("MPLBACKEND", "agg")
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of what a seed chooses
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])

import torch

from tests.faults import checkpoints, commands, datasets, directories, ground, kills
from tests.faults.cases import Case, Verdict
from tests.faults.fork import elapsed

COUNTS = {"kill": 200, "directory": 60, "command": 100, "data": 40, "checkpoint": 30}
KINDS = ("equal", "refused", "WRONG")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    own = argparse.ArgumentParser(prog="tests/faults/run.py", description=__doc__.splitlines()[0])
    own.add_argument("--seed", type=int, default=0, help="chooses what is damaged, and where; default 0")
    own.add_argument(
        "--only", nargs="+", choices=list(COUNTS), default=list(COUNTS), metavar="KIND", help=f"of {', '.join(COUNTS)}; default all"
    )
    own.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="of each kind; default " + ", ".join(f"{number} {kind}" for kind, number in COUNTS.items()),
    )
    own.add_argument("--case", metavar="TEXT", help="only cases whose name holds this text")
    own.add_argument("--processes", type=int, default=2, metavar="N", help="default 2")
    own.add_argument("--keep", action="store_true", help="keep the folders of all cases, not only of what went WRONG")
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Try everything, print the table."""
    arguments = parser().parse_args(argv)
    begun = time.monotonic()
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="us3l-faults-"))
    print(f"seed {arguments.seed}, in {work}", flush=True)
    cases = collected(arguments, work / "ground")
    print(f"{len(cases)} cases after {elapsed(begun)}", flush=True)
    ends = tried(cases, arguments.seed, work, arguments.processes, arguments.keep)
    show(cases, ends)
    used = os.times()
    print(f"{elapsed(begun)}, {sum(used[:4]):.0f} s of processor time, with seed {arguments.seed}")
    failed = any(verdict.kind == "WRONG" for verdict in ends.values()) or len(ends) < len(cases)
    if not failed and not arguments.keep:
        shutil.rmtree(work)
    return int(failed)


def collected(arguments: argparse.Namespace, folder: Path) -> list[Case]:
    """The cases that are asked for, and what they start from."""
    counts = {kind: arguments.count or COUNTS[kind] for kind in arguments.only}
    base = ground.make(folder, detection={"kill", "command", "data"} & set(counts) != set())
    chooser = {kind: random.Random(f"{arguments.seed} {kind}") for kind in counts}
    found: list[Case] = []
    if "kill" in counts:
        wholes = {
            one.name: kills.whole(one, base, folder / "whole" / one.name.replace(" ", "-"))
            for one in kills.WORKS
            if not arguments.case or f"kill {one.name}" in arguments.case or arguments.case in f"kill {one.name}: "
        }
        found += kills.cases(counts["kill"], base, wholes)
    for kind, module in (("directory", directories), ("command", commands), ("data", datasets), ("checkpoint", checkpoints)):
        if kind in counts:
            found += module.cases(counts[kind], base, chooser[kind])
    return [case for case in found if not arguments.case or arguments.case in case.key()]


def tried(cases: Sequence[Case], seed: int, work: Path, processes: int, keep: bool) -> dict[int, Verdict]:
    """How each case ended, by its number, from so many processes."""
    reader, writer = os.pipe()
    for number in range(len(cases)):
        os.write(writer, number.to_bytes(4, "little"))
    os.close(writer)
    ends, news = os.pipe()
    sys.stdout.flush()
    children = []
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            os.close(ends)
            try:
                _worker(cases, seed, work, reader, news, keep)
            finally:
                os._exit(0)
        children.append(pid)
    os.close(reader)
    os.close(news)
    found = {}
    with open(ends, encoding="utf-8") as lines:
        for line in lines:
            number, kind, why = json.loads(line)
            found[number] = Verdict(kind, why)
            if kind == "WRONG":
                print(f"WRONG {cases[number].key()}: {why}", flush=True)
    for pid in children:
        os.waitpid(pid, 0)
    return found


def _worker(cases: Sequence[Case], seed: int, work: Path, reader: int, news: int, keep: bool) -> None:
    while number := os.read(reader, 4):
        case = cases[int.from_bytes(number, "little")]
        folder = work / f"{int.from_bytes(number, 'little'):03d}" / "here"
        folder.mkdir(parents=True)
        try:
            verdict = case.run(folder, random.Random(f"{seed} {case.key()}"))
        except Exception as error:
            verdict = Verdict.wrong(f"the campaign itself: {type(error).__name__}: {error}")
        if verdict.kind != "WRONG" and not keep:
            shutil.rmtree(folder.parent, ignore_errors=True)
        line = json.dumps([int.from_bytes(number, "little"), verdict.kind, verdict.why[:1500]]) + "\n"
        os.write(news, line.encode())


def show(cases: Sequence[Case], ends: dict[int, Verdict]) -> None:
    """The table: kind, tried, equal, refused, WRONG."""
    counts: dict[str, Counter] = {}
    for number, verdict in sorted(ends.items()):
        counts.setdefault(cases[number].kind, Counter())[verdict.kind] += cases[number].weight
    total = sum(counts.values(), Counter())
    print(f"\n{'kind':<24}{'tried':>7}" + "".join(f"{kind:>9}" for kind in KINDS))
    for kind, count in [*counts.items(), ("together", total)]:
        print(f"{kind:<24}{sum(count.values()):>7}" + "".join(f"{count[end]:>9}" for end in KINDS))
    if len(ends) < len(cases):
        print(f"{len(cases) - len(ends)} cases were not tried: a process of the campaign died")


if __name__ == "__main__":
    sys.exit(main())
