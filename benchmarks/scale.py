"""What a grid's launch, its table of jobs and its report cost by the number of its cells: do they grow faster than the grid?

    python benchmarks/scale.py [--sizes 100 1000 10000] [--out DIR] [--quick]

The guidelines grid on digits with as many seeds as it takes. All is done by the project's own code in this process, and run
directories are written by its own writers; only training and evaluation are left out (scores are made up), and Slurm's commands
are stand-ins that answer at once, so that the time is the project's. Writes scale.md, scale.csv and scale.png.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

if __name__ == "__main__":  # as a script, benchmarks/ is on the path, not the directory above it
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from matplotlib.figure import Figure

from ablations import run as front
from ablations.grid import Run
from benchmarks.measure import Row, figure, markdown, table_csv
from pretrain.checkpoints import Checkpoint
from pretrain.config import to_yaml
from results import report
from results.plots.drawing import style
from rundir import provenance
from rundir.arguments import Parser, place, whole
from rundir.atomic import make_folder
from rundir.cli import cli
from rundir.directory import RunDirectory
from rundir.schema import State
from slurm import status
from transfer.classification.evaluation import own_record

CELLS = 21  # of the guidelines grid at its four widths
KINDS = ("pretrain", "transfer")
LIMIT = 1.2  # times linear
PART = "Cost by the number of cells, guidelines on digits"
# sbatch notes the tasks that it is given, squeue says that these wait until the queue is emptied.
STAND_IN = """#!{python} -SE
import os, re, sys
place, name, words = {place!r}, os.path.basename(sys.argv[0]), sys.argv[1:]
if name == "scontrol":
    print("MaxArraySize = 1001")
elif name == "sbatch" and "--test-only" not in words:
    spec = next(re.sub("%.*", "", word.partition("=")[2]) for word in words if word.startswith("--array"))
    with open(place, "a+") as queue:
        queue.seek(0)
        number = 1 + sum(1 for line in queue)
        print(number, spec, file=queue)
    print(number)
elif name == "squeue" and os.path.exists(place):
    for line in open(place):
        number, spec = line.split()
        for part in spec.split(",") if spec != "ended" else ():
            first, _, last = part.partition("-")
            for index in range(int(first), int(last or first) + 1):
                print(f"{{number}}_{{index}}|PENDING|Priority|")
"""


@contextlib.contextmanager
def stand_in_for_slurm(folder: Path) -> Iterator[Path]:
    """Slurm's commands at the front of PATH; the file that is their queue."""
    queue, commands = folder / "queue", folder / "commands"
    commands.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel", "srun"):
        path = commands / name
        path.write_text(STAND_IN.format(python=sys.executable, place=str(queue)), encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (commands / "sacct").write_text("#!/bin/sh\necho accounting is disabled >&2\nexit 1\n", encoding="utf-8")
    (commands / "sacct").chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{commands}{os.pathsep}{before}"
    try:
        yield queue
    finally:
        os.environ["PATH"] = before


def empty(queue: Path) -> None:
    """Let all that is in the queue have ended."""
    numbers = [line.split()[0] for line in queue.read_text(encoding="utf-8").splitlines()]
    queue.write_text("".join(f"{number} ended\n" for number in numbers), encoding="utf-8")


@mock.patch.object(provenance, "git_commit", functools.cache(provenance.git_commit))  # asked once, not by 10,000 runs
def write_results(runs: Sequence[Run], epochs: int = 2) -> None:
    """Leave each of ``runs`` finished: what training and evaluation would write, with made-up numbers."""
    for place_, run in enumerate(runs):
        directory = RunDirectory(run.directory)
        directory.path.mkdir(parents=True, exist_ok=True)
        directory.write_config(to_yaml(run.cfg))
        directory.add_provenance(
            method_version=1, train_seconds=60.0, train_flops=1e12, command=["ablations/run.py"], data=run.data
        )
        directory.append_metrics(
            {"step": epoch, "epoch": epoch, "name": name, "width": width, "value": 0.5 + 0.01 * (place_ % 7)}
            for epoch in range(1, epochs + 1)
            for name in ("loss/base", "feature_std", "effective_rank")
            for width in ((None,) if name == "loss/base" else (1.0, 0.25))
        )
        directory.add_records(scores(run, 0.5 + 0.001 * (place_ % 97)))
        directory.set_status(State.DONE, trained=True)


def scores(run: Run, value: float) -> list[dict]:
    """A record of each protocol and width, as the run's own evaluation would have it."""
    checkpoint = Checkpoint.unloaded(run.cfg)
    return [
        {
            **own_record(checkpoint, protocol, 1.0, None),
            "width": width,
            "value": value,
            "chance": 0.1,
            "count": 500,
            "flops": 5e6 * width**2,
            "parameters": 3e5 * width**2,
            "data": run.data,
        }
        for protocol in run.cfg.evaluation.protocols
        for width in run.widths
    ]


def processor_seconds() -> float:
    """Time that this process and those it has waited for have had of processors."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


CLOCKS = {"wall": time.perf_counter, "cpu": processor_seconds}


def costs(cells: int, clock: str = "wall") -> dict[str, float]:
    """Seconds of each thing one does with a grid of at least so many cells; ``cells`` says how many it has."""
    seeds = math.ceil(cells / CELLS)

    def seconds(work: Callable[[], object]) -> float:
        start = CLOCKS[clock]()
        with contextlib.redirect_stdout(io.StringIO()):
            work()
        return CLOCKS[clock]() - start

    with tempfile.TemporaryDirectory(prefix="scale-") as folder, stand_in_for_slurm(Path(folder)) as queue:
        runs = Path(folder) / "runs"
        words = ["--grid", "guidelines", "--profile", "digits", "--seeds", str(seeds), "--runs", str(runs)]
        slurm = ["--executor", "slurm", "--yes", *(f"--slurm={kind}.gpus=0" for kind in KINDS)]
        shown = ["--runs", str(runs / "guidelines"), "--once"]
        found = {
            "cells": float(CELLS * seeds),
            "plan": seconds(lambda: front.main([*words, "--executor", "inline", "--dry-run"])),
            "submit": seconds(lambda: front.main([*words, *slurm])),
            "status, all waiting": seconds(lambda: status.main(shown)),
        }
        arguments = front.parser().parse_args([*words, "--executor", "inline"])
        arguments.folder = runs / "guidelines"
        with contextlib.redirect_stdout(io.StringIO()):
            work, _ = front.prepared(arguments, [], ("scale.py",))
        left = max(1, len(work.runs) // 100)
        write_results(work.runs[:-left])
        empty(queue)
        found["status, all but 1 % done"] = seconds(lambda: status.main(shown))
        found["resume, all but 1 % done"] = seconds(lambda: front.main([*words, *slurm]))
        found["report"] = seconds(lambda: report.build(runs / "guidelines", small=True))
        found["report again"] = seconds(lambda: report.build(runs / "guidelines", small=True))
    return found


def rows(measured: Sequence[dict[str, float]]) -> list[Row]:
    """Seconds of each thing at each size; the ratio is what a further cell costs against what it cost in the size before."""
    found = []
    for name in measured[0]:
        if name == "cells":
            continue
        before = None
        for small, large in zip([None, *measured], measured, strict=False):
            cells, spent = large["cells"], large[name]
            if small is None:
                found.append(Row(PART, f"{name}: {cells:,.0f} cells", "s", spent))
                continue
            each = (spent - small[name]) / (cells - small["cells"])
            ratio = None if before is None else each / max(before, 1e-6)
            linear = spent / small[name] / (cells / small["cells"])
            found.append(
                Row(
                    PART,
                    f"{name}: {cells:,.0f} cells",
                    "s",
                    spent,
                    small[name],
                    linear,
                    f"≤ {LIMIT:g}× linear",
                    linear <= LIMIT,
                    f"{figure(1e3 * each)} ms for each further cell" + ("" if ratio is None else f", {ratio:.2f}× of before"),
                )
            )
            before = each
    return found


def picture(measured: Sequence[dict[str, float]]) -> Figure:
    """Seconds against cells, both logarithmic, with lines that grow as the grid does."""
    with style():
        drawn = Figure(figsize=(6.2, 4.4))
        axis = drawn.subplots()
        cells = [one["cells"] for one in measured]
        for name in measured[0]:
            if name != "cells":
                axis.plot(cells, [one[name] for one in measured], marker="o", label=name)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylim(*axis.get_ylim())
        for level in (0.001, 0.01, 0.1, 1.0, 10.0):
            axis.plot(cells, [level * count / cells[0] for count in cells], color="0.8", linewidth=0.8, zorder=0)
        axis.set_xlabel("Cells of the grid, each seed counted")
        axis.set_ylabel("Seconds (grey: linear growth)")
        drawn.legend(loc="outside lower center", ncols=2, fontsize="small")
    return drawn


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=whole(CELLS), nargs="+", default=[100, 1000, 10_000], metavar="N", help="cells")
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu: processors' time, for a machine that does other things too"
    )
    parser.add_argument("--quick", action="store_true", help="two small sizes: does it run, not how it grows")
    parser.add_argument("--out", type=place, default=Path("benchmarks/results/scale"), metavar="DIR")
    arguments = parser.parse_args(argv)
    make_folder(arguments.out, "the table")
    measured = []
    for cells in [CELLS, 2 * CELLS] if arguments.quick else sorted(arguments.sizes):
        measured.append(costs(cells, arguments.clock))
        print(json.dumps({name: round(value, 2) for name, value in measured[-1].items()}), flush=True)
        (arguments.out / "scale.md").write_text(markdown(rows(measured)), encoding="utf-8")
        (arguments.out / "scale.csv").write_text(table_csv(rows(measured)), encoding="utf-8")
    picture(measured).savefig(arguments.out / "scale.png", metadata={"Software": None})
    print(markdown(rows(measured)))
    return 0


if __name__ == "__main__":
    cli(main)
