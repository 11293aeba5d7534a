"""Jobs into Slurm's queue: as arrays with dependencies, through submitit, each job once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cloudpickle
import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, environment_variables
from submitit.helpers import clean_env

from slurm import squeue
from slurm.arrays import Array, plan, spec
from slurm.jobs import InputError, Job, describe
from slurm.ledger import Entry, Ledger
from slurm.settings import Cluster
from slurm.task import Task

ROOT = Path(__file__).resolve().parent.parent
MAX_INDEX = 1001  # Slurm's default, where there is no Slurm to ask


@dataclasses.dataclass(frozen=True)
class Submission:
    """What came of submitting: tasks by job name, those that were in the queue before, and the arrays submitted now."""

    tasks: dict[str, str]
    queued: dict[str, str]
    arrays: list[tuple[Array, str]]


class ArrayExecutor(submitit.SlurmExecutor):
    """Submitit's executor for arrays whose indices are chosen, so that one array can wait for another task by task."""

    def submit_at(self, tasks: Mapping[int, Task], parallel: int) -> tuple[str, dict[int, Path]]:
        """Submit one array with these tasks by index; its id, and the file of each call."""
        token = uuid.uuid4().hex
        self.folder.mkdir(parents=True, exist_ok=True)
        waiting = {}
        for index, task in tasks.items():
            waiting[index] = self.folder / f".{token}-{index}.pkl"
            delayed = DelayedSubmission(task)
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(waiting[index])
        extra = {**self.parameters["additional_parameters"], "array": f"{spec(list(tasks))}%{parallel}"}
        self.parameters |= {"additional_parameters": extra, "map_count": len(tasks)}
        array = self._submit_command(self._submitit_command_str).job_id
        calls = {}
        for index, path in waiting.items():  # a task that starts before this waits for its file
            calls[index] = submitit.SlurmJob(folder=self.folder, job_id=f"{array}_{index}").paths.submitted_pickle
            path.rename(calls[index])
        return array, calls


def executor(cluster: Cluster, kind: str, name: str, folder: Path) -> ArrayExecutor:
    """The executor of jobs of ``kind``, with their sbatch parameters."""
    made = ArrayExecutor(folder, python=cluster.python or None)
    parameters = cluster.parameters(kind)
    # Modules are found as here, whatever the working directory and whether the cluster passes the environment on.
    parameters["setup"] = [*parameters["setup"], f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"]
    made.update_parameters(job_name=f"{name}.{kind}", stderr_to_stdout=True, **parameters)
    return made


def batch_lines(cluster: Cluster, kind: str, name: str, folder: Path) -> list[str]:
    """The ``#SBATCH`` and set-up lines of jobs of ``kind``, for people; needs no Slurm here and writes nothing."""
    found = shutil.which("srun") is not None
    parameters = cluster.parameters(kind)
    if not found:
        return [f"{key}: {value}" for key, value in parameters.items()]
    text = executor(cluster, kind, name, scratch(cluster, folder))._make_submission_file_text("", "")
    skipped = ("--output", "--open-mode", "--wckey")
    return [line.removeprefix("#SBATCH ") for line in text.split("# command")[0].splitlines()
            if line and (line.startswith("#SBATCH") or not line.startswith("#")) and not any(word in line for word in skipped)]


def scratch(cluster: Cluster, folder: Path) -> Path:
    """Where submitit keeps its files for the ledger in ``folder``."""
    if not cluster.scratch:
        return folder / "submitit"
    return Path(cluster.scratch).absolute() / "-".join(folder.absolute().parts[1:])


def submit(jobs: Sequence[Job], cluster: Cluster, folder: Path, log_dir: Path, name: str) -> Submission:
    """Submit those of ``jobs`` that are not in the queue yet; the ledger in ``folder`` knows which are.

    name: what Slurm calls the jobs, with their kind behind.

    A job that is last is submitted only with others, or where none of its name waits yet. All or nothing: if Slurm refuses an
    array, what was submitted before it is cancelled.

    Raises:
        InputError: Slurm is not here, does not answer, or refuses.
    """
    if not squeue.available():
        raise InputError("there is no sbatch here; run this on a machine that submits to Slurm, or take --executor local")
    ledger = Ledger(folder)
    calls = {job.name: packed(job) for job in jobs}
    with ledger.lock(), _outside_of_jobs():
        queued = in_queue(ledger)
        new = [job for job in jobs if job.name not in queued or job.last]
        if all(job.last and job.name in queued for job in new):
            return Submission({}, {job.name: queued[job.name] for job in jobs}, [])
        arrays = plan(new, queued, squeue.largest_array())
        folder_of_calls = scratch(cluster, folder)
        _check_with_slurm({array.kind for array in arrays}, cluster, name, folder_of_calls)
        tasks = {job.name: Task(job.name, calls[job.name], job.log(log_dir).absolute(), ledger.state_file(job.name).absolute(),
                                cluster.requeues, cluster.signal_seconds) for job in new}
        made = _submit_arrays(arrays, tasks, queued, cluster, name, folder_of_calls, ledger, log_dir)
        ids = {job.name: f"{array_id}_{index}" for array, array_id in made for index, job in array.jobs.items()}
        return Submission(ids, {job.name: queued[job.name] for job in jobs if job.name not in ids}, made)


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without what a job that submits would pass on to those it submits; the user's own defaults stay."""
    kept = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or name.startswith("SBATCH_")}
    with clean_env(), environment_variables(**kept):
        yield


def packed(job: Job) -> bytes:
    """The job's call as bytes. Raises :class:`InputError` where it cannot travel."""
    if isinstance(job.function, Packed):
        return job.function.call
    try:
        return cloudpickle.dumps((job.function, job.args, job.stop))
    except Exception as error:  # pickling raises what it likes
        raise InputError(f"{job.name} cannot be sent to another process: {describe(error)}") from None


@dataclasses.dataclass(frozen=True)
class Packed:
    """Stands for the function of a job whose call is packed already: one that is submitted again."""

    call: bytes

    def __call__(self) -> None:
        function, args, _ = cloudpickle.loads(self.call)
        function(*args)


def in_queue(ledger: Ledger) -> dict[str, str]:
    """Tasks by name of all jobs of the ledger that are in Slurm's queue. Finds those of a launcher that died while submitting.

    Raises:
        InputError: Slurm does not answer.
    """
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
        with tempfile.NamedTemporaryFile("w", suffix=".sh", prefix="check-") as script:
            script.write(executor(cluster, kind, name, folder)._make_submission_file_text("true", ""))
            script.flush()
            refused = squeue.refusal(script.name)
        if refused:
            raise InputError(f"Slurm refuses the {kind} jobs: {refused}; change the settings (--slurm key=value, --slurm-config)")


def _submit_arrays(arrays: Sequence[Array], tasks: Mapping[str, Task], queued: Mapping[str, str], cluster: Cluster, name: str,
                   folder: Path, ledger: Ledger, log_dir: Path) -> list[tuple[Array, str]]:
    made: list[tuple[Array, str]] = []
    try:
        for array in arrays:
            token = uuid.uuid4().hex
            ledger.write([{"event": "intent", "token": token, "kind": array.kind, "cluster": dataclasses.asdict(cluster)}])
            runner = executor(cluster, array.kind, name, folder)
            options = {"comment": token, **dependency(array, made, queued)}
            runner.parameters["additional_parameters"] = {**runner.parameters["additional_parameters"], **options}
            array_id, calls = runner.submit_at({index: tasks[job.name] for index, job in array.jobs.items()},
                                               cluster.kinds[array.kind].array_parallelism)
            made.append((array, array_id))
            ledger.write([{"event": "submitted", "token": token, "jobs": [
                _line(job, f"{array_id}_{index}", tasks[job.name], calls[index]) for index, job in array.jobs.items()]}])
    except (subprocess.CalledProcessError, FailedJobError, FailedSubmissionError) as error:
        squeue.cancel([array_id for _, array_id in made])
        said = (str(error).strip().splitlines() or [describe(error)])[-1]
        raise InputError(f"Slurm refused an array of {array.kind} jobs, and nothing was left in the queue: {said}") from None
    except BaseException:
        squeue.cancel([array_id for _, array_id in made])
        raise
    return made


def _line(job: Job, task: str, call: Task, pickled: Path) -> dict:
    directory = str(Path(job.directory).absolute()) if job.directory else ""
    return {"name": job.name, "task": task, "kind": job.kind, "after": list(job.after), "last": job.last, "directory": directory,
            "log": str(call.log), "pickled": str(pickled)}


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
    # Without the second option what waits for a failed job would wait for ever.
    return {"dependency": ",".join([f"aftercorr:{behind}", *also]), "kill-on-invalid-dep": "yes"}


def resubmitted(entry: Entry) -> Job:
    """The job of a ledger's entry, with the call that was submitted. Raises :class:`InputError` where its file is gone."""
    try:
        call = DelayedSubmission.load(entry.pickled).function.call
    except FileNotFoundError:
        raise InputError(f"the call of {entry.name} is gone ({entry.pickled}); start the grid again instead") from None
    return Job(entry.name, Packed(call), kind=entry.kind, after=entry.after, last=entry.last,
               directory=Path(entry.directory) if entry.directory else None)
