"""Jobs into Slurm's queue: as arrays with dependencies, each job once."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import cloudpickle

from rundir.errors import UserError
from slurm import batch, environment, squeue
from slurm.arrays import Array, plan
from slurm.batch import ArrayExecutor, fit, scratch
from slurm.calls import described
from slurm.jobs import Job, JobState, describe
from slurm.ledger import Ledger, pack
from slurm.settings import COMMON, Cluster
from slurm.task import Task

MAX_INDEX = 1001  # Slurm's default, where there is no Slurm to ask


@dataclasses.dataclass(frozen=True)
class Submission:
    """What came of submitting: tasks by job name, those that were in the queue before, and the arrays submitted now."""

    tasks: dict[str, str]
    queued: dict[str, str]
    arrays: list[tuple[Array, str]]


def batch_lines(cluster: Cluster, kind: str, name: str, folder: Path) -> list[str]:
    """The options of sbatch and the set-up lines of jobs of ``kind``, for people; needs no Slurm here and writes nothing.

    Raises:
        UserError: the folder of the calls has a path that cannot be used.
    """
    place = fit(scratch(cluster, folder))
    if shutil.which("srun") is None:
        return [f"{key}: {value}" for key, value in cluster.parameters(kind).items()]
    text = ArrayExecutor(cluster, kind, name, place).script()
    given = [option for option in batch.options(text) if not option.startswith(("--output", "--open-mode"))]
    setup = text.partition("# setup\n")[2].partition("\n\n# command")[0].splitlines()
    return [*given, *setup]


def environment_lines(cluster: Cluster, kinds: Sequence[str]) -> list[str]:
    """One line for each variable of the environment that decides something about these jobs which the settings leave open."""
    if shutil.which("srun") is None:
        return []
    found: dict[str, list[str]] = {}
    for kind in kinds:
        text = ArrayExecutor(cluster, kind, "", Path("/")).script()
        for name in environment.in_effect(batch.options(text)):
            found.setdefault(name, []).append(kind)
    values = environment.for_sbatch([])
    return [
        f"{name}={values[name]} of the environment applies to the {', '.join(of)} jobs"
        + (f"; set --slurm {environment.option_of(name)}=... to choose" if environment.option_of(name) in COMMON else "")
        for name, of in sorted(found.items())
    ]


def submit(jobs: Sequence[Job], cluster: Cluster, folder: Path, log_dir: Path, name: str) -> Submission:
    """Submit those of ``jobs`` that are not in the queue yet; the ledger in ``folder`` knows which are.

    name: what Slurm calls the jobs, with their kind behind.

    A job that is last is submitted only with others, or where none of its name waits yet. All or nothing: if Slurm refuses an
    array, what was submitted before it is cancelled.

    Raises:
        UserError: Slurm is not here, does not answer, or refuses; or the folder cannot be used.
    """
    if not squeue.available():
        raise UserError("there is no sbatch here; run this on a machine that submits to Slurm, or take --executor local")
    place = fit(scratch(cluster, folder))
    largest = squeue.largest_array()  # asked first: where Slurm does not answer, nothing is written
    ledger = Ledger(folder)
    calls = {job.name: packed(job) for job in jobs}
    with ledger.lock():
        queued = in_queue(ledger)
        new = [job for job in jobs if job.name not in queued or job.last]
        if all(job.last and job.name in queued for job in new):
            return Submission({}, {job.name: queued[job.name] for job in jobs}, [])
        arrays = plan(new, queued, largest)
        _check_with_slurm({array.kind for array in arrays}, cluster, name, place)
        tasks = {
            job.name: Task(
                job.name,
                calls[job.name],
                job.log(log_dir).absolute(),
                ledger.state_file(job.name).absolute(),
                cluster.requeues,
                cluster.signal_seconds,
            )
            for job in new
        }
        made = _submit_arrays(arrays, tasks, queued, cluster, name, place, ledger)
        ids = {job.name: f"{array_id}_{index}" for array, array_id in made for index, job in array.jobs.items()}
        return Submission(ids, {job.name: queued[job.name] for job in jobs if job.name not in ids}, made)


def packed(job: Job) -> bytes:
    """The job's call as bytes. Raises :class:`UserError` where it cannot travel."""
    try:
        return cloudpickle.dumps((job.function, job.args, job.stop))
    except Exception as error:  # pickling raises what it likes
        raise UserError(f"{job.name} cannot be sent to another process: {describe(error)}") from None


def in_queue(ledger: Ledger, settle: bool = True) -> dict[str, str]:
    """Tasks by name of all jobs of the ledger that are in Slurm's queue.

    Args:
        settle: first cancel what a launcher left that died while submitting. Only under the ledger's lock: without it, another
            launcher may be submitting just now.

    Raises:
        UserError: Slurm does not answer.
    """
    if settle:
        _settle(ledger)
    entries = ledger.entries()
    said = squeue.queue({entry.array for entry in entries.values()})
    return {name: entry.task for name, entry in entries.items() if entry.task in said and said[entry.task].alive}


def _settle(ledger: Ledger) -> None:
    """Cancel arrays that a launcher submitted without coming to write down their id; they cannot have all their files."""
    intents = ledger.open_intents()
    found = squeue.arrays_by_comment(intents)
    if found:
        squeue.cancel(sorted(set(found.values())))
    if intents:
        ledger.write([{"event": "dropped", "token": token} for token in intents])


def _check_with_slurm(kinds: set[str], cluster: Cluster, name: str, folder: Path) -> None:
    """Let sbatch judge the parameters of each kind of job before anything is submitted."""
    for kind in sorted(kinds):
        text = ArrayExecutor(cluster, kind, name, folder).script()
        with tempfile.NamedTemporaryFile("w", suffix=".sh", prefix="check-", encoding="utf-8") as script:
            script.write(text)
            script.flush()
            try:
                batch.sbatch(Path(script.name), text, "--test-only")
            except UserError as refused:
                raise UserError(
                    f"Slurm refuses the {kind} jobs: {refused}; change the settings (--slurm key=value, --slurm-config)"
                ) from None


def _submit_arrays(
    arrays: Sequence[Array],
    tasks: Mapping[str, Task],
    queued: Mapping[str, str],
    cluster: Cluster,
    name: str,
    folder: Path,
    ledger: Ledger,
) -> list[tuple[Array, str]]:
    made: list[tuple[Array, str]] = []
    try:
        for array in arrays:
            token = uuid.uuid4().hex
            ledger.write(
                [
                    {
                        "event": "intent",
                        "token": token,
                        "kind": array.kind,
                        "folder": str(ledger.folder.absolute()),
                        "cluster": dataclasses.asdict(cluster),
                    }
                ]
            )
            executor = ArrayExecutor(cluster, array.kind, name, folder)
            array_id, calls = executor.submit_at(
                {index: tasks[job.name] for index, job in array.jobs.items()},
                cluster.kinds[array.kind].array_parallelism,
                {"comment": token, **dependency(array, made, queued)},
            )
            made.append((array, array_id))
            ledger.write(
                [
                    {
                        "event": JobState.SUBMITTED,
                        "token": token,
                        "jobs": [
                            _line(job, f"{array_id}_{index}", tasks[job.name], calls[index]) for index, job in array.jobs.items()
                        ],
                        "calls": pack([described(job) for job in array.jobs.values()]),
                    }
                ]
            )
    except UserError as error:
        squeue.cancel([array_id for _, array_id in made])
        raise UserError(f"Slurm refused an array of {array.kind} jobs, and nothing was left in the queue: {error}") from None
    except BaseException:
        squeue.cancel([array_id for _, array_id in made])
        raise
    return made


def _line(job: Job, task: str, call: Task, pickled: Path) -> dict:
    directory = str(Path(job.directory).absolute()) if job.directory else ""
    return {
        "name": job.name,
        "task": task,
        "kind": job.kind,
        "after": list(job.after),
        "last": job.last,
        "directory": directory,
        "log": str(call.log),
        "pickled": str(pickled),
    }


def dependency(array: Array, made: Sequence[tuple[Array, str]], queued: Mapping[str, str]) -> dict[str, str]:
    """sbatch's options for what ``array`` waits for; ``made`` are the arrays submitted before it, in order."""
    if array.last:
        ids = [array_id for _, array_id in made] + sorted({task.partition("_")[0] for task in queued.values()})
        return {"dependency": "afterany:" + ":".join(dict.fromkeys(ids))} if ids else {}
    if array.behind is None:
        return {}
    task_of = {job.name: f"{array_id}_{index}" for own, array_id in made for index, job in own.jobs.items()} | dict(queued)
    behind = made[array.behind][1] if isinstance(array.behind, int) else array.behind
    also = [f"afterok:{task_of[name]}" for name in array.also if name in task_of]
    # Without the second option, dependents of a failed job would stay in the queue and never start.
    return {"dependency": ",".join([f"aftercorr:{behind}", *also]), "kill-on-invalid-dep": "yes"}
