"""A job array as sbatch takes it, made with submitit's Slurm executor; the only file that uses private parts of submitit.

That is ``SlurmExecutor._make_submission_file_text`` and the parameter ``map_count``, which names the files of arrays: submitit has
no public way to choose an array's indices or to see the script. ``tests/slurm/test_batch.py`` checks both against the installed
version.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

import submitit
from submitit.helpers import DelayedSubmission

from rundir.errors import UserError
from slurm import environment
from slurm.arrays import spec
from slurm.files import SHARED, NotOwn, check_own
from slurm.settings import Cluster
from slurm.squeue import last_line
from slurm.task import Task

TESTED = ("1.5",)  # versions of submitit
ROOT = Path(__file__).resolve().parent.parent
UNFIT = re.compile(r"[%\\\x00-\x1f\x7f]")  # sbatch, srun and submitit expand %j and its like; sbatch reads \ as "do not"


class ArrayExecutor(submitit.SlurmExecutor):
    """Submitit's executor, for an array of one kind of jobs whose indices are chosen: arrays can wait for each other by task."""

    def __init__(self, cluster: Cluster, kind: str, name: str, folder: Path):
        super().__init__(fit(folder), python=cluster.python or None)
        given = cluster.parameters(kind)
        # Modules are found as here, whatever the working directory and whether the cluster passes the environment on.
        setup = [*given["setup"], f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"]
        self.update_parameters(
            job_name=UNFIT.sub("_", f"{name}.{kind}"), stderr_to_stdout=True, wckey=None, **{**given, "setup": setup}
        )

    def script(self, options: Mapping[str, object] | None = None, tasks: int | None = None) -> str:
        """The batch script, with these further options of sbatch; ``tasks``: as an array of so many."""
        before: dict = self.parameters  # type: ignore[has-type]
        more = {**before["additional_parameters"], **(options or {})}
        python = self.python or shlex.quote(sys.executable)
        self.parameters = {**before, "additional_parameters": more, "map_count": tasks}
        try:
            return self._make_submission_file_text(f"{python} -u -m slurm.entry {shlex.quote(str(self.folder))}", "")
        finally:
            self.parameters = before

    def submit_at(self, tasks: Mapping[int, Task], parallel: int, options: Mapping[str, object]) -> tuple[str, dict[int, Path]]:
        """Submit one array with these tasks by index, at most ``parallel`` at once; its id, and the file of each call.

        Raises:
            UserError: Slurm refuses, or the folder of the calls is not only this user's.
        """
        token = uuid.uuid4().hex
        private_folder(self.folder)
        waiting = {}
        for index, task in tasks.items():
            waiting[index] = self.folder / f".{token}-{index}.pkl"
            delayed = DelayedSubmission(task)
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(waiting[index])
            waiting[index].chmod(waiting[index].stat().st_mode & ~SHARED)
        text = self.script({**options, "array": f"{spec(list(tasks))}%{parallel}"}, len(tasks))
        path = self.folder / f".{token}.sh"
        path.write_text(text, encoding="utf-8")
        array = sbatch(path, text)
        calls = {}
        for index, temporary in waiting.items():  # a task that starts before this waits for its file
            calls[index] = submitit.SlurmJob(folder=self.folder, job_id=f"{array}_{index}").paths.submitted_pickle
            temporary.rename(calls[index])
        path.rename(submitit.SlurmJob(folder=self.folder, job_id=f"{array}_0").paths.submission_file)
        return array, calls


def options(text: str) -> list[str]:
    """The options in a batch script's ``#SBATCH`` lines. On the command line they beat a user's ``SBATCH_*``, in the script not."""
    mark = "#SBATCH "
    return [word for line in text.splitlines() if line.startswith(mark) for word in shlex.split(line.removeprefix(mark))]


def sbatch(path: Path, text: str, *more: str) -> str:
    """Submit the script ``text``, which is in ``path``; the job's id.

    Raises:
        UserError: Slurm refuses.
    """
    given = options(text)
    done = subprocess.run(
        ["sbatch", "--parsable", *more, *given, str(path)],
        env=environment.for_sbatch(given),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise UserError(last_line(done.stderr))
    found = re.search(r"^(\d+)(?:;.*)?$", done.stdout, re.M)
    if found is None and "--test-only" not in more:
        raise UserError(f"sbatch gave no job id but {last_line(done.stdout)!r}")
    return found[1] if found else ""


def fit(folder: Path) -> Path:
    """``folder``, if its path may stand in a batch script. Raises :class:`UserError`."""
    if found := UNFIT.search(str(folder)):
        raise UserError(
            f"the path {str(folder)!r} holds {found[0]!r}, which Slurm and submitit expand; choose another "
            "folder (--runs), or set --slurm scratch=DIR to one without such characters"
        )
    if ":" in str(ROOT):
        raise UserError(f"{ROOT} holds a colon, so Python's path cannot name it; move the project to a folder without one")
    return folder


def scratch(cluster: Cluster, folder: Path) -> Path:
    """Where submitit keeps its files for the ledger in ``folder``."""
    if not cluster.scratch:
        return folder.absolute() / "submitit"
    known = re.sub(r"[^\w.=+-]+", "-", str(folder.absolute()).lstrip("/"))[-100:]
    return Path(cluster.scratch).absolute() / f"{known}-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]}"


def private_folder(folder: Path) -> None:
    """Make ``folder``, whose files run as programs, so that only this user writes in it. Raises :class:`UserError`."""
    folder.mkdir(parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid == os.geteuid() and about.st_mode & SHARED:
        folder.chmod(about.st_mode & ~SHARED)
    try:
        check_own(folder)
    except NotOwn as error:
        raise UserError(f"{error}, and jobs run what is in it; set --slurm scratch=DIR to a folder of your own") from None
