"""The state of every job of a grid, from four sources: the ledger (what was submitted), each job's own state file, the
``status.json`` of the directory it works in, and Slurm's squeue and sacct where this machine has them.

Without Slurm's commands (another machine that shares the disk) the files alone must do: a job that has been silent for long is
then shown as ``silent``. Without accounting, a job that left the queue without a report is shown as ``dead`` too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rundir.clock import age as _age
from rundir.errors import UserError
from rundir.schema import FINE_TUNINGS, File
from slurm import squeue
from slurm.files import read_json as _read
from slurm.jobs import JobState, file_name
from slurm.ledger import Entry, Ledger, no_collections
from slurm.squeue import Said

# In the order in which they are shown. Those of the second list will not become done by themselves.
STATES = (
    JobState.RUNNING,
    JobState.STALLED,
    JobState.SILENT,
    JobState.REQUEUED,
    JobState.PENDING,
    JobState.FAILED,
    JobState.DEAD,
    JobState.CANCELLED,
    JobState.BLOCKED,
    JobState.NOT_STARTED,
    JobState.DONE,
)
NEED_RETRY = (JobState.FAILED, JobState.DEAD, JobState.CANCELLED, JobState.BLOCKED, JobState.STALLED)
# Slurm's words for the ends that a job could not report itself.
ENDS = {
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "out of time before it had saved",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "preempted, and not queued again by Slurm",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "past its deadline",
    "FAILED": "ended without saying why",
    "COMPLETED": "ended without saying how",
}


@dataclass(frozen=True)
class JobRow:
    """One job. ``age`` and ``seconds_left`` are seconds; None where unknown or of no meaning in its state."""

    name: str
    kind: str
    state: str
    why: str = ""
    task: str = ""
    where: str = ""
    epoch: float | None = None
    epochs: float | None = None
    step: float | None = None
    steps: float | None = None
    rate: float | None = None  # images per second
    seconds_left: float | None = None
    age: float | None = None  # since it last said something
    restarts: int = 0
    directory: str = ""
    log: str = ""


@no_collections()
def overview(folder: Path, stalled_minutes: float | None = None) -> list[JobRow]:
    """Every job of the grid in ``folder`` (whose ledger is in ``slurm/``), and runs of which no ledger knows, in the order of
    their names.

    stalled_minutes: overrides that of the last launch.
    """
    folder = Path(folder)
    ledger = Ledger(folder / "slurm")
    entries = ledger.entries()
    if stalled_minutes is None:
        stalled_minutes = _stalled_minutes(ledger) if entries else 15.0
    queued, accounted = _ask(entries.values())
    patience = 60 * stalled_minutes
    rows = [_row(entry, _read(ledger.state_file(entry.name)), queued, accounted, patience) for entry in entries.values()]
    states = {row.name: row.state for row in rows}
    rows = [_blocked(row, entries[row.name], states) for row in rows]
    known = {entry.directory for entry in entries.values()}
    rows += [_of_directory(path, patience) for path in _directories(folder) if str(path.absolute()) not in known]
    submitted = {(entry.directory, entry.kind) for entry in entries.values()}
    rows += [
        _of_directory(path, patience, f"{run.name}.{kind}.{path.name}")
        for run, kind, path in _fine_tunings(folder)
        if (str(run.absolute()), kind) not in submitted
    ]
    return sorted(rows, key=lambda row: row.name)


def _stalled_minutes(ledger: Ledger) -> float:
    settings = ledger.last_intent().get("cluster")
    found = _number(settings.get("stalled_minutes")) if isinstance(settings, dict) else None
    return 15.0 if found is None else found


def _number(value: object) -> float | None:
    """A number from a file that anything may have written; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _ask(entries: Iterable[Entry]) -> tuple[dict[str, Said] | None, dict[str, Said] | None]:
    """What squeue says, None where it cannot be asked; what sacct says of the rest, None where there is no accounting."""
    arrays = {entry.array: entry for entry in entries}
    if not squeue.available():
        return None, None
    try:
        queued = squeue.queue(arrays)
    except (UserError, OSError, ValueError):  # no cluster is configured, or it does not answer: the files must do
        return None, None
    rest = {entry.array for entry in entries if entry.task not in queued or not queued[entry.task].alive}
    try:
        return queued, squeue.accounted(rest)
    except OSError:
        return queued, None


def _row(entry: Entry, said: dict, queued: dict[str, Said] | None, accounted: dict[str, Said] | None, patience: float) -> JobRow:
    own = said if said.get("job") == entry.task else {}  # not the report of an earlier launch
    row = JobRow(
        entry.name,
        entry.kind,
        "",
        task=entry.task,
        directory=entry.directory,
        log=entry.log,
        where=_text(own.get("host")),
        restarts=int(_number(own.get("restarts")) or 0),
    )
    in_queue = (queued or {}).get(entry.task)
    # Rank 0 reports the status; the job is done only when every rank is.
    again = ("PENDING", "RUNNING") if own.get("state") == JobState.DONE else ("PENDING",)
    if own.get("state") in (JobState.DONE, JobState.FAILED) and not (in_queue and in_queue.state in again):
        return replace(row, state=own["state"], why=_text(own.get("why")))
    if in_queue is not None and in_queue.alive:
        return _alive(row, entry, own, in_queue, patience)
    if queued is None:
        return _silent(row, entry, own, patience)
    ended = (accounted or {}).get(entry.task) or in_queue
    if ended is not None and ended.alive:  # accounting lags behind
        ended = None
    return _ended(row, own, ended)


def _alive(row: JobRow, entry: Entry, own: dict, slurm: Said, patience: float) -> JobRow:
    if slurm.state != "RUNNING" and slurm.state != "COMPLETING":
        again = own.get("state") in (JobState.REQUEUED, JobState.STOPPED, JobState.RUNNING)
        names = [name.removeprefix(f"{Path(entry.directory).name}.") for name in entry.after]  # mostly of the same run
        waits = f"waits for {', '.join(names)}" if slurm.reason == "Dependency" and names else slurm.reason
        return replace(row, state=JobState.REQUEUED if again else JobState.PENDING, why=waits, where="")
    if own.get("state") in (JobState.REQUEUED, JobState.STOPPED):
        return replace(row, state=JobState.REQUEUED, why=_text(own.get("why")), where="")
    row = _running(replace(row, where=slurm.node or row.where), own, patience, JobState.STALLED)
    return row if own or row.state == JobState.STALLED else replace(row, why="starting")


def _silent(row: JobRow, entry: Entry, own: dict, patience: float) -> JobRow:
    """The state from the files alone, where there is no Slurm to ask."""
    if own.get("state") in (JobState.REQUEUED, JobState.STOPPED):
        return replace(row, state=JobState.REQUEUED, why=_text(own.get("why")), where="")
    if not own:
        return replace(row, state=JobState.PENDING, why=f"submitted {entry.submitted}")
    return _running(row, own, patience, JobState.SILENT)


def _running(row: JobRow, own: dict, patience: float, quiet: str) -> JobRow:
    """A job that runs, or is ``quiet`` after more than ``patience`` seconds without a word."""
    row = _progress(replace(row, state=JobState.RUNNING), own)
    if row.age is not None and row.age > patience:
        return replace(row, state=quiet, why=f"nothing heard for {row.age / 60:.0f} min", seconds_left=None)
    return row


def _ended(row: JobRow, own: dict, slurm: Said | None) -> JobRow:
    """Left the queue without having said done or failed."""
    if slurm is not None and slurm.reason == "DependencyNeverSatisfied":
        return replace(row, state=JobState.BLOCKED)
    if slurm is not None and slurm.state == "CANCELLED":
        return replace(row, state=JobState.CANCELLED, why="cancelled" if own else "cancelled before it started")
    if slurm is not None:
        detail = f" ({slurm.reason})" if slurm.reason and slurm.reason != "NonZeroExitCode" else ""
        why = ENDS.get(slurm.state, slurm.state.lower()) + detail
        return replace(row, state=JobState.DEAD, why=why, where=slurm.node or row.where)
    if own:
        age = _age(own.get("heartbeat"))
        since = f" {age / 60:.0f} min ago" if age else ""
        return replace(row, state=JobState.DEAD, why=f"left the queue without a report{since}")
    return replace(row, state=JobState.CANCELLED, why="left the queue before it started")


def _blocked(row: JobRow, entry: Entry, states: dict[str, str]) -> JobRow:
    """Say which of the jobs before it is the reason that this one did not start."""
    broken = [name for name in entry.after if states.get(name) in NEED_RETRY]
    if row.state == JobState.BLOCKED or (row.state == JobState.CANCELLED and broken and not row.where):
        names = [name.removeprefix(f"{Path(entry.directory).name}.") for name in broken or entry.after]
        return replace(row, state=JobState.BLOCKED, why=f"needs {', '.join(names)}")
    return row


def _progress(row: JobRow, own: dict) -> JobRow:
    """With epoch or step, rate and time left from the directory's status, and how long ago the job or its training last spoke."""
    status = _status(row, own)
    ages = [age for age in (_age(own.get("started")), _age(own.get("heartbeat"))) if age is not None]
    if status.get("state") != JobState.RUNNING:
        return replace(row, age=min(ages, default=None))
    # The process may live while the training in it hangs: the training's own word counts, once it had time to speak.
    heard = _age(status.get("heartbeat"))
    since_start = _age(own.get("started"))
    spoken = [age for age in (heard, since_start) if age is not None]
    age = min(spoken) if spoken else min(ages, default=None)
    left = _number(status.get("seconds_left"))
    return replace(
        row,
        epoch=_number(status.get("epoch")),
        epochs=_number(status.get("epochs")),
        step=_number(status.get("step")),
        steps=_number(status.get("steps")),
        rate=_number(status.get("images_per_second")),
        age=age,
        seconds_left=max(0.0, left - (heard or 0)) if left is not None else None,
    )


def _status(row: JobRow, own: dict) -> dict:
    """``status.json`` of the directory that a job works in; of a fine-tuning, below the run's, the one that its process writes."""
    if not row.directory:
        return {}
    below = Path(row.directory) / FINE_TUNINGS / row.kind
    if below.is_dir():
        found = (_read(path) for path in below.glob(f"*/{File.STATUS}"))
        process = own.get("machine"), own.get("pid")
        return next((status for status in found if (status.get("host"), status.get("pid")) == process), {})
    return _read(Path(row.directory) / File.STATUS)


def _of_directory(path: Path, patience: float, name: str = "") -> JobRow:
    """A run that no launch to Slurm knows: its own status is all there is."""
    status = _read(path / File.STATUS)
    said = status.get("state")
    state = said if said in (JobState.RUNNING, JobState.DONE, JobState.FAILED) else JobState.NOT_STARTED
    row = JobRow(
        name or path.name,
        "run",
        state,
        why=_text(status.get("why")),
        where=_text(status.get("host")),
        directory=str(path.absolute()),
    )
    return _running(row, {}, patience, JobState.SILENT) if state == JobState.RUNNING else row


def _fine_tunings(folder: Path) -> list[tuple[Path, str, Path]]:
    """Run, task and directory of every fine-tuning of a grid."""
    every = sorted(folder.glob(f"*/{FINE_TUNINGS}/*/*/{File.STATUS}"))
    return [(path.parents[3], path.parents[1].name, path.parent) for path in every]


def _directories(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{File.STATUS}"))


def matching(rows: Iterable[JobRow], words: Iterable[str]) -> list[JobRow]:
    """Rows whose job or directory has one of ``words`` in its name (all without any). Raises :class:`UserError`."""
    rows, found = list(rows), {}
    words = list(words)
    for word in words:
        hits = [row for row in rows if word in row.name or file_name(word) in file_name(row.name)]
        if not hits:
            raise UserError(f"{word} is in no job's name; python slurm/status.py --runs DIR --all shows them")
        found.update({row.name: row for row in hits})
    return list(found.values()) if words else rows
