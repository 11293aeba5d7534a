"""Where the jobs of a grid run: choosing that, running them on this machine, and submitting them to Slurm."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ablations.cell import finished
from ablations.entries import evaluations
from ablations.jobs import KINDS, graph, here, missing_lines
from ablations.plan import Work, show_graph
from ablations.sharing import check_memory
from rundir.arguments import place, whole
from rundir.clock import duration
from rundir.errors import UserError
from rundir.wording import counted
from slurm import settings
from slurm.executors import EXECUTORS, run_all
from slurm.jobs import JobState, Outcome
from slurm.settings import Cluster
from slurm.submit import environment_lines

AUTO = "auto"
CLUSTER_FILE = Path("cluster.yaml")  # of the working directory
MOST_PARALLEL = 1000
PARALLEL = 2
LIBRARIES = ("torchvision",)  # slow to import, and imported by jobs where they use it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where jobs run."""
    parser.add_argument(
        "--executor",
        choices=(AUTO, *EXECUTORS),
        default=AUTO,
        help="slurm: jobs in Slurm's queue, see docs/slurm.md; local: --parallel processes of this machine; "
        "inline: one job after another in this process; auto (default): slurm where sbatch is found and this "
        "is no Slurm job, local where there are several GPUs, else inline",
    )
    parser.add_argument(
        "--parallel",
        type=whole(1, MOST_PARALLEL),
        metavar="N",
        help=f"processes of --executor local; default: one per GPU, at least {PARALLEL}",
    )
    parser.add_argument(
        "--per-gpu",
        type=whole(1, MOST_PARALLEL),
        metavar="N",
        help="of --executor local: N processes share each GPU, for small networks; its memory is checked first",
    )
    parser.add_argument(
        "--slurm-config",
        type=place,
        metavar="FILE",
        help=f"settings of the cluster: a filled in copy of slurm/example.yaml; default: {CLUSTER_FILE} of the "
        "working directory, if it is there",
    )
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the cluster, for example partition=gpu or pretrain.gpus=4; may be given several times",
    )
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="of --executor slurm: stay until all jobs have ended, then show the table; default: submit and leave",
    )
    parser.add_argument(
        "--transfer",
        action="append",
        default=[],
        metavar="FILE|NAME=DIR",
        help="also evaluate every checkpoint on what these entries files say (docs/transfer.md), or on data by "
        "name, as in --transfer voc=VOCdevkit coco=coco; files that come with the project: "
        f"{', '.join(evaluations())}",
    )
    parser.add_argument("--yes", action="store_true", help="submit the first jobs of a folder without asking")
    parser.add_argument("--dry-run", action="store_true", help="show what is missing, the jobs and what they cost; run nothing")


def joined(argv: Sequence[str]) -> list[str]:
    """``--slurm key=value``, and each word behind ``--transfer``, as one word: a ``key=value`` that stands alone is a setting of
    the cells. Those have a dot, or are ``seed``, and so end the words of ``--transfer``.
    """
    words: list[str] = []
    option = ""
    for word in argv:
        if word.startswith("--"):
            option = word if word in ("--slurm", "--transfer") else ""
            words.append(word)
        elif option and not (option == "--transfer" and re.match(r"(\w+\.[\w.]+|seed)=", word)):
            if words[-1] == option:
                words.pop()
            words.append(f"{option}={word}")
            option = option if option == "--transfer" else ""
        else:
            option = ""
            words.append(word)
    return words


def choose(arguments: argparse.Namespace) -> Cluster | None:
    """Settle ``arguments.executor`` and ``arguments.parallel``, and say on stdout which, why, and how to choose.

    ``arguments.automatic`` is then whether nobody asked for that executor.

    Returns:
        The settings of the cluster where jobs go to Slurm, else None.

    Raises:
        UserError: options of an executor that is not taken, or wrong settings of the cluster.
    """
    arguments.automatic = arguments.executor == AUTO
    arguments.executor, why = _executor(arguments)
    if arguments.executor != "slurm":
        _refuse_slurm_options(arguments, why)
    if arguments.parallel is not None and arguments.executor != "local":
        raise UserError("--parallel is for --executor local; set that, or leave it out")
    gpus = torch.cuda.device_count()
    _check_per_gpu(arguments, gpus, why)
    arguments.parallel = arguments.parallel or (arguments.per_gpu * gpus if arguments.per_gpu else max(PARALLEL, gpus))
    what = f"local ({arguments.parallel} processes)" if arguments.executor == "local" else arguments.executor
    others = " or ".join(name for name in EXECUTORS if name != arguments.executor)
    print(
        f"executor {what}, {why}; choose another with --executor {others}"
        if arguments.automatic
        else f"executor {what} (from --executor)",
        flush=True,
    )
    if arguments.executor != "slurm":
        return None
    if arguments.slurm_config is None and CLUSTER_FILE.exists():
        arguments.slurm_config = CLUSTER_FILE
        print(f"cluster {CLUSTER_FILE} of this folder; choose another file with --slurm-config", flush=True)
    elif arguments.slurm_config is None:
        print(
            f"cluster: the settings of slurm/example.yaml, because there is no {CLUSTER_FILE} here; copy that file to "
            f"{CLUSTER_FILE} and fill it in, or name one with --slurm-config",
            flush=True,
        )
    else:
        print(f"cluster {arguments.slurm_config} (from --slurm-config)", flush=True)
    return settings.load(arguments.slurm_config, arguments.slurm, KINDS)


def _executor(arguments: argparse.Namespace) -> tuple[str, str]:
    """The executor, and why where it was not asked for."""
    if arguments.executor != AUTO:
        return arguments.executor, ""
    gpus = torch.cuda.device_count()
    inside = os.environ.get("SLURM_JOB_ID")
    sbatch = shutil.which("sbatch") is not None
    absent = f"this is Slurm job {inside}, from which nothing is submitted" if inside else "there is no sbatch here"
    given = next((option for option in ("parallel", "per_gpu") if getattr(arguments, option) is not None), None)
    asked = f"--{given.replace('_', '-')} is given" if given else ""
    if sbatch and not inside:
        if asked:
            return "local", f"because {asked}"
        return "slurm", "because sbatch is found and this is no Slurm job"
    if gpus > 1:
        return "local", f"because {absent} and there are {gpus} GPUs"
    if asked:
        return "local", f"because {asked} and {absent}"
    return "inline", f"because {absent} and there {'is 1 GPU' if gpus else 'are no GPUs'}"


def _check_per_gpu(arguments: argparse.Namespace, gpus: int, why: str) -> None:
    if arguments.per_gpu is None:
        return
    if arguments.executor != "local":
        raise UserError(
            "--per-gpu is for --executor local; set that, or leave it out"
            + (f" (auto took {arguments.executor}, {why})" if why else "")
        )
    if not gpus:
        raise UserError(f"--per-gpu {arguments.per_gpu}: there is no GPU here; set --parallel N for processes that share the cores")
    if arguments.parallel is not None:
        raise UserError(
            f"--per-gpu {arguments.per_gpu} and --parallel {arguments.parallel} both say how many processes there are; "
            "leave one of them out"
        )


def _refuse_slurm_options(arguments: argparse.Namespace, why: str) -> None:
    if arguments.slurm or arguments.slurm_config or arguments.wait:
        raise UserError(
            "--slurm, --slurm-config and --wait are for --executor slurm; set that, or leave them out"
            + (f" (auto took {arguments.executor}, {why})" if why else "")
        )


def launch(work: Work, arguments: argparse.Namespace) -> list[Outcome]:
    """Run what is missing on this machine; returns the outcomes that failed or were left to another launcher, also printed."""
    jobs = here(work.missing, work.transfers)
    if arguments.per_gpu is not None and work.missing:
        print(check_memory(work.missing, work.images, arguments.per_gpu), flush=True)
    started, ended = time.monotonic(), 0
    begun: set[str] = set()

    def tell(outcome: Outcome) -> None:
        nonlocal ended
        if outcome.state == JobState.RUNNING:
            begun.add(outcome.name)
            print(f"start {outcome.name}", flush=True)
            return
        ended += 1
        log = f" (log: {outcome.log})" if outcome.log else ""
        text = {JobState.DONE: JobState.DONE, JobState.LEFT: f"left to another launcher: {outcome.error}"}.get(
            outcome.state, f"FAILED: {outcome.error}{log}"
        )
        print(f"[{ended}/{len(jobs)}] {outcome.name}: {text} ({duration(time.monotonic() - started)} since the start)", flush=True)

    outcomes = run_all(
        jobs,
        arguments.executor,
        arguments.folder / "logs",
        arguments.parallel,
        torch.cuda.device_count(),
        tell,
        preload=[*{job.function.__module__: None for job in jobs}, *LIBRARIES],
    )
    ended_by_now = {run.directory.name for run in work.missing if finished(run)}
    failed = [outcome for outcome in outcomes if outcome.state == JobState.FAILED]
    left = [outcome for outcome in outcomes if outcome.state == JobState.LEFT and outcome.name not in ended_by_now]
    known = [outcome for outcome in [*failed, *left] if outcome.name in begun]
    for outcome in known:
        print(f"{outcome.state}: {outcome.name}: {outcome.error}", file=sys.stderr)
    if len(known) < len(failed) + len(left):
        print(f"{counted(len(failed) + len(left) - len(known), 'job')} that need these did not start", file=sys.stderr)
    if failed:
        print("run the same command again to retry what failed", file=sys.stderr)
    if left:
        what = "jobs" if work.transfers else "runs"
        print(
            f"left to another launcher: {len(left)} of {len(jobs)} {what}; run the same command again when it has ended",
            file=sys.stderr,
        )
    return [*failed, *left]


def submit(work: Work, cluster: Cluster, arguments: argparse.Namespace, begin: Callable[[], object]) -> int | None:
    """Submit what is missing to Slurm, and call ``begin`` as soon as Slurm has taken it. Returns the number of jobs that failed, or
    None where nobody waits for them.

    Before the first submission from the folder of runs the plan is shown, and in a terminal asked about unless ``--yes``.

    Raises:
        UserError: the answer is no.
    """
    folder = arguments.folder
    jobs = graph(work.missing, work.runs, folder, work.transfers)
    counts: Counter[str] = Counter()

    def tell_submitted() -> None:
        there = len(jobs) - counts[JobState.SUBMITTED]
        already = f"; {there} were in the queue already" if there else ""
        print(f"submitted {counted(counts[JobState.SUBMITTED], 'job')}{already}", flush=True)
        print(f"look:  python slurm/status.py --runs {folder}", flush=True)

    def tell(outcome: Outcome) -> None:
        if outcome.state == JobState.SUBMITTED and not counts:
            begin()
        elif outcome.state != JobState.SUBMITTED and not counts.keys() - {JobState.SUBMITTED}:
            tell_submitted()
        counts[outcome.state] += 1
        if outcome.state == JobState.FAILED:
            print(f"{outcome.name}: FAILED: {outcome.error} (log: {outcome.log})", flush=True)
        elif outcome.state == JobState.DONE:
            print(f"[{counts[JobState.DONE] + counts[JobState.FAILED]}/{len(jobs)}] {outcome.name}: done", flush=True)

    if all(job.last for job in jobs):
        return 0
    if next(arguments.runs.glob("*/slurm/ledger.jsonl"), None) is None:
        show_graph(work, cluster, folder)
        _ask(arguments)
    else:
        for line in environment_lines(cluster, sorted({job.kind for job in jobs})):
            print(line, flush=True)
    try:
        run_all(jobs, "slurm", folder / "logs", on_update=tell, cluster=cluster, wait=arguments.wait)
    except UserError as error:
        if not arguments.automatic:
            raise
        unasked = "auto took slurm, because sbatch is found; set --executor local or inline to run here"
        raise UserError(f"{error} ({unasked})") from error
    if not arguments.wait:
        tell_submitted()
        return None
    for line in missing_lines(folder, work.runs):
        print(line, file=sys.stderr)
    return counts[JobState.FAILED]


def _ask(arguments: argparse.Namespace) -> None:
    if arguments.yes or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    try:
        answer = input("submit these jobs? They are the first from this folder of runs, and --yes does not ask. [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise UserError("nothing was submitted; answer y or set --yes to submit, --executor inline or local to run here")
