"""Submit, and if asked wait until all has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from slurm.jobs import Job, JobState, Outcome
from slurm.overview import JobRow, overview
from slurm.settings import Cluster
from slurm.submit import submit

FIRST_SECONDS, LAST_SECONDS = 1.0, 20.0  # between two looks: the controller has other users
GONE_LOOKS = 3  # a job must look dead so often in a row: files and queue need not change at the same moment
ENDED = {
    JobState.DONE: JobState.DONE,
    **dict.fromkeys((JobState.FAILED, JobState.DEAD, JobState.CANCELLED, JobState.BLOCKED), JobState.FAILED),
}


def launch(
    jobs: Sequence[Job], cluster: Cluster, log_dir: Path, on_update: Callable[[Outcome], object], wait: bool
) -> list[Outcome]:
    """What :func:`slurm.executors.run_all` does for ``slurm``."""
    folder = log_dir.parent
    made = submit(jobs, cluster, folder / "slurm", log_dir, folder.name)
    logs = {job.name: job.log(log_dir) for job in jobs}
    for name in made.tasks:
        on_update(Outcome(name, JobState.SUBMITTED, log=logs[name]))
    if not wait:
        return [Outcome(job.name, JobState.SUBMITTED, log=logs[job.name]) for job in jobs]
    outcomes = _wait(folder, logs, on_update)
    return [outcomes[job.name] for job in jobs]


def _wait(folder: Path, logs: dict[str, Path], on_update: Callable[[Outcome], object]) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    running: set[str] = set()
    gone: dict[str, int] = {}
    pause = FIRST_SECONDS
    while len(outcomes) < len(logs):
        time.sleep(pause)
        pause = min(1.5 * pause, LAST_SECONDS)
        for row in overview(folder):
            if row.name not in logs or row.name in outcomes:
                continue
            if row.state == JobState.RUNNING and row.name not in running:
                running.add(row.name)
                on_update(Outcome(row.name, JobState.RUNNING, log=logs[row.name]))
            outcome = _outcome(row, logs, gone)
            if outcome is not None:
                outcomes[row.name] = outcome
                on_update(outcome)
                pause = FIRST_SECONDS
    return outcomes


def _outcome(row: JobRow, logs: dict[str, Path], gone: dict[str, int]) -> Outcome | None:
    """How ``row``'s job ended; None while it has not."""
    state = ENDED.get(row.state)
    if state is None:
        gone.pop(row.name, None)
        return None
    if row.state not in (JobState.DONE, JobState.FAILED):
        gone[row.name] = gone.get(row.name, 0) + 1
        if gone[row.name] < GONE_LOOKS:
            return None
    error = "" if state == JobState.DONE else f"{row.state}: {row.why}" if row.state != JobState.FAILED else row.why
    return Outcome(row.name, state, error, logs[row.name])
