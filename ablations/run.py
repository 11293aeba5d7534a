"""Command line of the suite: expand a grid, run what is missing of it, report.

python ablations/run.py --grid guidelines
python ablations/run.py --grid guidelines --profile cifar100 --data-dir DATA --seeds 3 --dry-run
python ablations/run.py --grid guidelines --seeds 3 --slurm-config cluster.yaml
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run as a script: make the other rooms importable
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from ablations import grid as grids
from ablations import gridfile, launching, until
from ablations.cell import finished
from ablations.describe import manifest, merge_into, write_into
from ablations.entries import entries as transfer_entries
from ablations.grid import Run
from ablations.plan import Work, show_graph, show_plan
from ablations.transfers import Launch, reference_runs, transfers
from pretrain import config, data
from pretrain.data import fingerprint
from results import report
from rundir.arguments import LARGEST_SEED, Parser, a_width, place, word
from rundir.cli import cli
from rundir.errors import UserError
from rundir.manifest import GridManifest
from rundir.schema import File
from slurm.settings import Cluster

BASE_SEED = 100  # METHOD section 6
MOST_SEEDS = 1000


def parser() -> Parser:
    """The arguments."""
    own = Parser(
        "ablations/run.py",
        config.KEYS,
        description="Run a grid of experiments and write its tables and plots. What is finished is not "
        "run again; what was interrupted resumes.",
    )
    own.add_argument(
        "--grid",
        required=True,
        metavar="GRID",
        help=f"one of: {', '.join(gridfile.grids())}; or a YAML file of your own, such as mine.yaml",
    )
    own.add_argument(
        "--profile",
        default="auto",
        help=f"settings of every cell: {', '.join(config.presets())}, a YAML file, or auto (default): cifar100 where "
        "CUDA is found or jobs go to Slurm, else digits",
    )
    own.add_argument("--data-dir", type=word, help="folder of the data set (shorthand for data.root=DIR)")
    own.add_argument(
        "--seeds",
        default="1",
        metavar="N|LIST",
        help="how many seeds, from 100 on, or a list such as 100,107 (one seed: 107,); default 1",
    )
    own.add_argument("--seed", type=_one_seed, help=argparse.SUPPRESS)  # else short for --seeds, with another meaning
    own.add_argument(
        "--widths",
        type=a_width,
        nargs="+",
        metavar="W",
        help="evaluation widths, and sub-networks such as 'w[1,.75,.5,.5]'; default the profile's",
    )
    own.add_argument("--only", nargs="+", default=[], metavar="CELL", help="only these cells; wildcards as in 'naive-*'")
    own.add_argument("--runs", type=place, default=Path("runs"), metavar="DIR", help="where run directories go; default runs")
    until.add_arguments(own)
    launching.add_arguments(own)
    own.usage = "%(prog)s --grid GRID [options] [key=value ...]   key=value: settings of every cell, for example optimizer.epochs=5"
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Expand, run what is missing, report. Returns 1 if a run failed, or was left to another launcher that is not done with it."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments, overrides = parser().parse_with_settings(launching.joined(argv))
    limit = until.limits(arguments)
    cluster = launching.choose(arguments)
    if arguments.executor == "slurm":
        arguments.runs = arguments.runs.absolute()  # jobs need not run where they were submitted
    arguments.folder = arguments.runs / gridfile.load(arguments.grid).name
    if limit is not None:
        arguments.wait, arguments.seeds = True, str(limit.first)
    command = ("ablations/run.py", *argv)
    arguments.profile = choose_profile(arguments.profile, arguments.executor)
    work, described = prepared(arguments, overrides, command, cluster)
    if arguments.dry_run:
        if cluster:
            show_graph(work, cluster, arguments.folder)
        else:
            show_plan(work)
        if limit is not None:
            print(limit)
        return 0
    if limit is None:
        return run_missing(work, described, cluster, arguments)

    def plan(count: int) -> tuple[Sequence[Run], Sequence[Run]]:
        nonlocal work
        if arguments.seeds != str(count):  # the first round's are prepared already
            arguments.seeds = str(count)
            work, _ = prepared(arguments, overrides, command, cluster)
        return work.runs, work.unfinished

    def launch(every: Sequence[Run], left: Sequence[Run]) -> int:
        return run_missing(work if left else replace(work, missing=[], transfers=[]), described, cluster, arguments)

    return until.rounds(arguments.folder, limit, plan, launch)


def prepared(
    arguments: argparse.Namespace, overrides: Sequence[str], command: tuple[str, ...], cluster: Cluster | None = None
) -> tuple[Work, GridManifest]:
    """All that ``arguments`` ask for, checked, to be launched by ``command``; and the grid.json of its folder. Writes nothing.

    Raises:
        UserError: anything about the grid, its configs, its data or what it is evaluated on that is wrong.
    """
    profile = arguments.profile
    overrides = [*overrides, *([f"data.root={arguments.data_dir}"] if arguments.data_dir is not None else [])]
    entries, without = transfer_entries(arguments.transfer, profile)
    runs = grids.expand(
        arguments.grid,
        profile,
        arguments.only,
        seeds(arguments.seeds),
        arguments.widths,
        overrides,
        arguments.runs,
        elsewhere=cluster is not None,
    )
    described, note = merge_into(
        arguments.folder, manifest(arguments.grid, profile, arguments.widths, overrides, shlex.join(["python", *command]))
    )
    if note:
        print(note, flush=True)
    if without:
        print(
            f"not evaluated on {', '.join(without)}, which the profile {profile} is for; set --transfer "
            f"{' '.join(f'{name}=DIR' for name in without)}, or some of them, to say where they are",
            flush=True,
        )
    runs = [replace(run, command=command) for run in runs]
    processes = cluster.processes if cluster else {}
    images = check_data(runs[0], processes.get("pretrain", 1))
    scored_on = fingerprint.of_splits(runs[0].cfg.data.name, runs[0].cfg.data.root)
    runs = [replace(run, data=scored_on) for run in runs]
    references = []
    if any(placed.entry.reference for placed in entries):
        references = reference_runs(profile, overrides, arguments.widths, runs)
    jobs = transfers(entries, runs, references, described, Launch(arguments.folder, processes))
    own = {run.directory for run in runs}
    runs += [run for run in references if run.directory not in own]
    work = Work(runs, [run for run in runs if not finished(run)], jobs, images)
    print(work.counted(), flush=True)
    return work, described


def run_missing(work: Work, described: GridManifest, cluster: Cluster | None, arguments: argparse.Namespace) -> int:
    """Launch what is missing of ``work``, write its grid.json, and report on what has ended here; the exit code."""
    if cluster:
        failed = launching.submit(work, cluster, arguments, lambda: write_into(arguments.folder, described))
        if failed is None:
            return 0
    else:
        write_into(arguments.folder, described)
        failed = len(launching.launch(work, arguments))
    if failed and not any((run.directory / File.CONFIG).exists() for run in work.runs):
        return 1  # nothing has come so far that a report could have it
    return 1 if reported(arguments.folder, work.runs) or failed else 0


def reported(folder: Path, runs: Sequence[Run]) -> list[str]:
    """Write and show the report of ``folder``; returns the lines, also printed, that say which of ``runs`` are not in it."""
    made = report.build(folder)
    report.show(made, asked={run.cell for run in runs})
    said: dict[str, list[str]] = {}  # by the folders that a line names
    for line in made.left_out:
        for part in dict.fromkeys(line.split(os.sep)[1:-1] if File.METRICS not in line else ()):  # a log need not be whole
            said.setdefault(part, []).append(line)
    lost = [f"failed: {run.directory.name}: not in the report: {line}" for run in runs for line in said.get(run.directory.name, ())]
    for line in lost:
        print(line, file=sys.stderr)
    return lost


def choose_profile(name: str, executor: str) -> str:
    """``name``, or for ``auto`` what the machines of ``executor`` are fit for; says on stdout which, why, and how to choose."""
    if name != "auto":
        print(f"profile {name} (from --profile)", flush=True)
        return name
    if executor == "slurm" or torch.cuda.is_available():
        found = "jobs go to Slurm" if executor == "slurm" else "CUDA is here"
        print(f"profile cifar100, the paper's setting, because {found}; choose another with --profile", flush=True)
        return "cifar100"
    print(
        "profile digits, the embedded data, because jobs run here and CUDA is not; choose another with --profile "
        f"({', '.join(config.presets())})",
        flush=True,
    )
    return "digits"


def _one_seed(text: str) -> None:
    raise UserError(f"--seed {text} may mean two things: set --seeds {text} for that many seeds, --seeds {text}, for that one")


def seeds(text: str) -> list[int]:
    """``3`` -> 100, 101, 102; ``100,107`` -> these; ``107,`` -> this one.

    Raises:
        UserError: neither.
    """
    listed, parts = "," in text, text.removesuffix(",").split(",")
    if not all(part.strip().isdecimal() for part in parts) or (not listed and int(text) < 1):
        raise UserError(f"--seeds {text} is neither a count such as 3 nor a list such as 100,107 or 107,")
    numbers = [int(part) for part in parts if len(part) < 20]
    count = numbers[0] if numbers and not listed else len(parts)
    if len(numbers) < len(parts) or max(numbers) > LARGEST_SEED or count > MOST_SEEDS:
        raise UserError(f"--seeds {text[:50]} is too much; at most {MOST_SEEDS} seeds, each below 2^63")
    return list(dict.fromkeys(numbers)) if listed else [BASE_SEED + i for i in range(count)]


def check_data(run: Run, processes: int = 1) -> int:
    """The number of training images; :class:`UserError` where data are missing or too few, before anything is launched.

    processes: that train one network together.
    """
    cfg = run.cfg
    sources = [data.load_for(cfg.data, split) for split in ("train", "val")]
    data.TwoViewBatches(sources[0], cfg.augment, cfg.data.size, cfg.optimizer.batch_size, cfg.seed, "cpu", world_size=processes)
    return len(sources[0])


def program() -> None:
    """The installed command."""
    cli(main)


if __name__ == "__main__":
    program()
