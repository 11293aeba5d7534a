"""A grid as a graph of jobs: pretraining, then its evaluations and fine-tunings in parallel, then the report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ablations.cell import LOCK_SECONDS, execute, finished, missing_scores, score, train, trained
from ablations.grid import Run, from_plain, to_plain
from ablations.transfers import JOBS, Transfer, finetune_job
from ablations.transfers import to_plain as plain_work
from results import report
from rundir.stopping import request_stop
from slurm.calls import from_ledger
from slurm.jobs import Job, JobState
from slurm.overview import overview
from transfer.classification.evaluation import TRAINING_PROTOCOLS
from transfer.finetuning import Finetuning

# Kinds of jobs and their sizes, where the settings of the cluster say nothing.
KINDS: dict[str, dict[str, Any]] = {
    "pretrain": {"gpus": 1, "cpus": 8, "time": "24:00:00"},
    "transfer": {"gpus": 1, "cpus": 8, "time": "4:00:00"},
    "detection": {"gpus": 1, "cpus": 8, "time": "24:00:00"},
    "segmentation": {"gpus": 1, "cpus": 8, "time": "24:00:00"},
    "finetune": {"gpus": 1, "cpus": 8, "time": "12:00:00"},
    "classification": {"gpus": 1, "cpus": 8, "time": "12:00:00"},
    "analysis": {"gpus": 1, "cpus": 8, "time": "4:00:00"},
    "search": {"gpus": 1, "cpus": 8, "time": "8:00:00"},
    "report": {"cpus": 2, "time": "0:30:00"},
}
TRANSFER_KINDS = ("detection", "segmentation", "finetune", "classification", "analysis", "search")  # of --transfer


def graph(missing: Sequence[Run], every: Sequence[Run], folder: Path, transfers: Sequence[Transfer] = ()) -> list[Job]:
    """Jobs for what is ``missing`` of ``every`` run of the grid in ``folder``, and for what is not finished of ``transfers``, each
    behind those it needs; the report last.
    """
    made = [job for run in missing for job in stages(run)]
    made += [_transfer(one, training, LOCK_SECONDS) for one in transfers if not one.finished]
    return [*made, Job("report", report_job, (str(folder), [to_plain(run) for run in every]), "report", last=True)]


def here(missing: Sequence[Run], transfers: Sequence[Transfer] = ()) -> list[Job]:
    """The same jobs for this machine, without the report. A run's training and its evaluation on its own data are one job here,
    because each process has to start first, and the run directory stays locked throughout.
    """
    names = {run.directory: run.directory.name for run in missing}
    made = [
        Job(
            names[run.directory],
            execute,
            (run,),
            "pretrain",
            (names[run.needs],) if run.needs in names else (),
            directory=run.directory,
        )
        for run in missing
    ]
    return made + [_transfer(one, lambda directory: directory.name, 0.0) for one in transfers if not one.finished]


def _transfer(one: Transfer, training_of: Callable[[Path], str], wait: float) -> Job:
    """The job of ``one``, behind the trainings it needs that are not done, by name; ``wait``: for a directory that a lost node
    still holds.
    """
    after = tuple(training_of(directory) for directory in (one.run.directory, *one.needs) if not trained(directory))
    make = functools.partial(Job, one.name, kind=one.kind, after=after, directory=one.run.directory)
    if isinstance(one.work, Finetuning):
        return make(finetune_job, (plain_work(one.work), wait), stop=stop_job)
    return make(JOBS[type(one.work)], (plain_work(one.work),))


def stages(run: Run) -> list[Job]:
    """Jobs for what ``run`` still lacks: its training, and the evaluations, protocols that share features in one job."""
    made, after = [], tuple[str, ...]()
    if not trained(run.directory):
        needs = () if run.needs is None or trained(run.needs) else (training(run.needs),)
        made.append(
            Job(training(run.directory), train_job, (to_plain(run),), "pretrain", needs, directory=run.directory, stop=stop_job)
        )
        after = (training(run.directory),)
    asked = {protocol for protocol, *_ in missing_scores(run)}
    protocols = [name for name in run.cfg.evaluation.protocols if name in asked]
    together = [name for name in protocols if name not in TRAINING_PROTOCOLS]
    for group in [together, *([name] for name in protocols if name in TRAINING_PROTOCOLS)]:
        if group:
            name = f"{run.directory.name}.{'+'.join(group)}"
            made.append(Job(name, score_job, (to_plain(run), group), "transfer", after, directory=run.directory))
    return made


@from_ledger
def train_job(run: dict) -> None:
    """The job that trains this run (:func:`ablations.grid.to_plain`)."""
    train(from_plain(run))


@from_ledger
def score_job(run: dict, protocols: list[str]) -> None:
    """The job that evaluates this trained run by these protocols."""
    score(from_plain(run), protocols)


@from_ledger
def report_job(folder: str, runs: list[dict]) -> None:
    """The job that writes the report of the grid in ``folder``."""
    write_report(Path(folder), [from_plain(run) for run in runs])


@from_ledger
def stop_job() -> None:
    """Tell the training in this process to save and stop."""
    request_stop()


def training(directory: Path) -> str:
    """The name of the job that trains this run directory."""
    return f"{directory.name}.pretrain"


def write_report(folder: Path, runs: Sequence[Run]) -> None:
    """Tables and pictures of what there is, and on stdout and in ``report/missing.txt`` what there is not, and why."""
    lines = missing_lines(folder, runs)
    for line in lines:
        print(line)
    made = report.build(folder)
    target = made.out / "missing.txt"
    if lines:
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        target.unlink(missing_ok=True)
    report.show(made, asked={run.cell for run in runs})


def missing_lines(folder: Path, runs: Sequence[Run]) -> list[str]:
    """One line for each run that is not finished, and each job of ``--transfer`` that was submitted and did not succeed: its name
    and why.
    """
    left = [run for run in runs if not finished(run)]
    jobs: dict[str, list] = {}
    others = []
    for row in overview(folder):
        if row.state != JobState.DONE:
            jobs.setdefault(Path(row.directory).name, []).append(row)
            others += [row] if row.kind in TRANSFER_KINDS else []
    lines = []
    for run in left:
        # The first in the order of the stages is the reason for the others.
        rows = sorted(jobs.get(run.directory.name, []), key=lambda row: (row.kind != "pretrain", row.state == JobState.BLOCKED))
        why = f"{rows[0].state}: {rows[0].why}".rstrip(": ") if rows else JobState.NOT_STARTED
        lines.append(f"missing: {run.name}: {why}")
    return lines + [f"missing: {row.name}: {f'{row.state}: {row.why}'.rstrip(': ')}" for row in others]
