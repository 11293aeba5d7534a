"""Command line of the suite: expand a grid, run what is missing of it, report.

    python ablations/run.py --grid guidelines
    python ablations/run.py --grid guidelines --profile cifar100 --data-dir DATA --seeds 3 --dry-run
    python ablations/run.py --grid guidelines --seeds 3 --executor slurm --slurm-config cluster.yaml
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run as a script: the rooms lie beside this one
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from rich.console import Console
from rich.table import Table

from ablations import grid as grids
from ablations.cell import execute, finished
from ablations.estimate import estimates
from ablations.grid import Run
from ablations.jobs import KINDS, graph, missing_lines
from ablations.plan import show_graph
from pretrain import config, data
from pretrain.data import fingerprint
from results import report
from rundir.arguments import LARGEST_SEED, Parser, place, real, whole, word
from rundir.cli import cli
from rundir.clock import duration
from rundir.errors import UserError
from slurm import settings
from slurm.executors import EXECUTORS, run_all
from slurm.jobs import Job, Outcome
from slurm.settings import Cluster
from slurm.submit import environment_lines

BASE_SEED = 100  # METHOD section 6
MOST_SEEDS = 1000
MOST_PARALLEL = 1000


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    own = Parser(prog="ablations/run.py",
                 description="Run a grid of experiments and write its tables and plots. What is finished is not "
                             "run again; what was interrupted resumes.")
    own.add_argument("--grid", required=True, help=f"one of: {', '.join(grids.grids())}")
    own.add_argument("--profile", default="auto",
                     help=f"settings of every cell: {', '.join(config.presets())}, a YAML file, or auto (default): cifar100 where "
                          "CUDA or Slurm is found, else digits")
    own.add_argument("--data-dir", type=word, help="folder of the data set (shorthand for data.root=DIR)")
    own.add_argument("--seeds", default="1", metavar="N|LIST",
                     help="how many seeds, from 100 on, or a list such as 100,107; default 1")
    own.add_argument("--widths", type=real(), nargs="+", metavar="W", help="evaluation widths; default the profile's")
    own.add_argument("--only", nargs="+", default=[], metavar="CELL", help="only these cells; wildcards as in 'naive-*'")
    own.add_argument("--runs", type=place, default=Path("runs"), metavar="DIR", help="where run directories go; default runs")
    own.add_argument("--executor", choices=EXECUTORS, default="inline",
                     help="inline: one run after another in this process (default); local: --parallel processes; slurm: jobs in "
                          "Slurm's queue, see docs/slurm.md")
    own.add_argument("--parallel", type=whole(1, MOST_PARALLEL), default=2, metavar="N",
                     help="processes of --executor local; default 2")
    own.add_argument("--slurm-config", type=place, metavar="FILE",
                     help="settings of the cluster: a filled in copy of slurm/example.yaml")
    own.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE",
                     help="a setting of the cluster, for example partition=gpu or pretrain.gpus=4; may be given several times")
    own.add_argument("--wait", action=argparse.BooleanOptionalAction, default=False,
                     help="of --executor slurm: stay until all jobs have ended, then show the table; default: submit and leave")
    own.add_argument("--dry-run", action="store_true", help="show cells, what is missing and what it costs; run nothing")
    own.usage = "%(prog)s --grid GRID [options] [key=value ...]   key=value: settings of every cell, for example optimizer.epochs=5"
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Expand, run what is missing, report. Returns 1 if a run failed, or was left to another launcher that is not done with it."""
    words, overrides = config.split_overrides(_joined(sys.argv[1:] if argv is None else argv))
    arguments = parser().parse_args(words)
    cluster = cluster_settings(arguments)
    profile = choose_profile(arguments.profile)
    overrides += [f"data.root={arguments.data_dir}"] if arguments.data_dir is not None else []
    if arguments.executor == "slurm":
        arguments.runs = arguments.runs.absolute()  # jobs need not run where they were submitted
    runs = grids.expand(arguments.grid, profile, arguments.only, seeds(arguments.seeds), arguments.widths, overrides,
                        arguments.runs)
    launched = ("ablations/run.py", *(sys.argv[1:] if argv is None else argv))
    runs = [replace(run, command=launched) for run in runs]
    images = check_data(runs[0], cluster.kinds["pretrain"].processes if cluster else 1)
    scored_on = fingerprint.of_splits(runs[0].cfg.data.name, runs[0].cfg.data.root)
    runs = [replace(run, data=scored_on) for run in runs]
    missing = [run for run in runs if not finished(run)]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} finished, {len(missing)} to do", flush=True)
    if arguments.dry_run:
        if cluster:
            show_graph(missing, runs, cluster, images, arguments.runs / arguments.grid)
        else:
            show_plan(runs, missing, images)
        return 0
    if cluster:
        return launch_on_slurm(missing, runs, cluster, arguments)
    unfinished = launch(missing, arguments)
    return 1 if reported(arguments.runs / arguments.grid, runs) or unfinished else 0


def reported(folder: Path, runs: Sequence[Run]) -> list[str]:
    """Write and show the report of ``folder``; returns the lines, also printed, that say which of ``runs`` are not in it."""
    made = report.build(folder)
    report.show(made)
    lost = [f"failed: {run.directory.name}: not in the report: {line}" for run in runs for line in made.left_out
            if f"{os.sep}{run.directory.name}{os.sep}" in line and "metrics.jsonl" not in line]  # of which it needs no single line
    for line in lost:
        print(line, file=sys.stderr)
    return lost


def choose_profile(name: str) -> str:
    """``name``, or for ``auto`` what this machine is fit for; says on stdout which, why, and how to choose."""
    if name != "auto":
        print(f"profile {name} (from --profile)", flush=True)
        return name
    if torch.cuda.is_available() or shutil.which("sbatch"):
        found = "CUDA" if torch.cuda.is_available() else "Slurm"
        print(f"profile cifar100, the paper's setting, because {found} is here; choose another with --profile", flush=True)
        return "cifar100"
    print("profile digits, the embedded data, because neither CUDA nor Slurm is here; choose another with --profile "
          f"({', '.join(config.presets())})", flush=True)
    return "digits"


def seeds(text: str) -> list[int]:
    """``3`` -> 100, 101, 102; ``100,107`` -> these.

    Raises:
        UserError: neither.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts) or (len(parts) == 1 and int(text) < 1):
        raise UserError(f"--seeds {text} is neither a count such as 3 nor a list such as 100,107")
    numbers = [int(part) for part in parts if len(part) < 20]
    count = numbers[0] if len(parts) == len(numbers) == 1 else len(parts)
    if len(numbers) < len(parts) or max(numbers) > LARGEST_SEED or count > MOST_SEEDS:
        raise UserError(f"--seeds {text[:50]} is too much; at most {MOST_SEEDS} seeds, each below 2^63")
    return [BASE_SEED + i for i in range(count)] if len(parts) == 1 else list(dict.fromkeys(numbers))


def _joined(argv: Sequence[str]) -> list[str]:
    """``--slurm key=value`` as one word: a ``key=value`` that stands alone is a setting of the cells."""
    words = list(argv)
    for at in range(len(words) - 1, 0, -1):
        if words[at - 1] == "--slurm":
            words[at - 1:at + 1] = [f"--slurm={words[at]}"]
    return words


def cluster_settings(arguments: argparse.Namespace) -> Cluster | None:
    """The settings of the cluster with ``--executor slurm``. Raises :class:`UserError`."""
    if arguments.executor != "slurm":
        if arguments.slurm or arguments.slurm_config or arguments.wait:
            raise UserError("--slurm, --slurm-config and --wait are for --executor slurm; write that, or leave them out")
        return None
    return settings.load(arguments.slurm_config, arguments.slurm, KINDS)


def check_data(run: Run, processes: int = 1) -> int:
    """The number of training images; :class:`UserError` where data are missing or too few, before anything is launched.

    processes: that train one network together.
    """
    cfg = run.cfg
    sources = [data.load_for(cfg.data, split) for split in ("train", "val")]
    data.TwoViewBatches(sources[0], cfg.augment, cfg.data.size, cfg.optimizer.batch_size, cfg.seed, "cpu",
                        world_size=processes)
    return len(sources[0])


def show_plan(runs: Sequence[Run], missing: Sequence[Run], images: int) -> None:
    """The dry run: every run with its state and the cost of training it."""
    costs = estimates(runs, images)
    table = Table("run", "state", "steps", "FLOPs", "time here", "directory", title=f"plan on {images} training images")
    for run in runs:
        cost = costs[run.name]
        table.add_row(run.name, "to do" if run in missing else "finished", f"{cost.steps:,}", f"{cost.flops:.2e}",
                      duration(cost.seconds), run.directory.name)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    todo = [costs[run.name] for run in missing]
    console.print(f"to do: {len(todo)} runs, {sum(c.steps for c in todo):,} steps, {sum(c.flops for c in todo):.2e} FLOPs, about "
                  f"{duration(sum(c.seconds for c in todo))} of training on this machine one after another, without evaluation")


def launch(missing: Sequence[Run], arguments: argparse.Namespace) -> list[Outcome]:
    """Run ``missing``; returns the outcomes that failed or were left to another launcher, which are also printed."""
    jobs = [Job(run.directory.name, execute, (run,)) for run in missing]
    started, ended = time.monotonic(), 0

    def tell(outcome: Outcome) -> None:
        nonlocal ended
        if outcome.state == "running":
            print(f"start {outcome.name}", flush=True)
            return
        ended += 1
        text = {"done": "done", "left": f"left to another launcher: {outcome.error}"}.get(
            outcome.state, f"FAILED: {outcome.error} (log: {outcome.log})")
        print(f"[{ended}/{len(jobs)}] {outcome.name}: {text} ({duration(time.monotonic() - started)} since the start)", flush=True)

    outcomes = []
    for wave in waves(missing):
        outcomes += run_all([job for job, run in zip(jobs, missing, strict=True) if run in wave], arguments.executor,
                            arguments.runs / arguments.grid / "logs", arguments.parallel, torch.cuda.device_count(), tell)
    ended_by_now = {run.directory.name for run in missing if finished(run)}
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    left = [outcome for outcome in outcomes if outcome.state == "left" and outcome.name not in ended_by_now]
    for outcome in [*failed, *left]:
        print(f"{outcome.state}: {outcome.name}: {outcome.error}", file=sys.stderr)
    if failed:
        print("run the same command again to retry what failed", file=sys.stderr)
    if left:
        print(f"left to another launcher: {len(left)} of {len(missing)} runs; run the same command again when it has ended",
              file=sys.stderr)
    return [*failed, *left]


def launch_on_slurm(missing: Sequence[Run], runs: Sequence[Run], cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Submit what is missing; with ``--wait`` stay until it has ended, and show the table. Returns the exit code."""
    folder = arguments.runs / arguments.grid
    jobs = graph(missing, runs, folder)
    counts: Counter[str] = Counter()

    def tell_submitted() -> None:
        there = len(jobs) - counts["submitted"]
        print(f"submitted {counts['submitted']} jobs" + (f"; {there} were in the queue already" if there else ""), flush=True)
        print(f"look:  python slurm/status.py --runs {folder}", flush=True)

    def tell(outcome: Outcome) -> None:
        if outcome.state != "submitted" and not counts.keys() - {"submitted"}:
            tell_submitted()
        counts[outcome.state] += 1
        if outcome.state == "failed":
            print(f"{outcome.name}: FAILED: {outcome.error} (log: {outcome.log})", flush=True)
        elif outcome.state == "done":
            print(f"[{counts['done'] + counts['failed']}/{len(jobs)}] {outcome.name}: done", flush=True)

    if missing:
        for line in environment_lines(cluster, sorted({job.kind for job in jobs})):
            print(line, flush=True)
        run_all(jobs, "slurm", folder / "logs", on_update=tell, cluster=cluster, wait=arguments.wait)
        if not arguments.wait:
            tell_submitted()
            return 0
    for line in missing_lines(folder, runs):
        print(line, file=sys.stderr)
    return 1 if reported(folder, runs) or counts["failed"] else 0


def waves(missing: Sequence[Run]) -> list[list[Run]]:
    """``missing`` in lists to run one after another: a run stands behind the one it needs."""
    found: list[list[Run]] = []
    left = list(missing)
    while left:
        waiting = {run.directory for run in left}
        found.append([run for run in left if run.needs not in waiting])
        left = [run for run in left if run.needs in waiting]
    return found


if __name__ == "__main__":
    cli(main)
