"""What Slurm says about tasks of arrays: squeue about those it still knows, sacct about those that have ended."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rundir.errors import UserError
from slurm import environment

# States in which a job is going to run, or runs.
ALIVE = {
    "PENDING",
    "RUNNING",
    "SUSPENDED",
    "CONFIGURING",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESIZING",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
}
SECONDS = 120  # a controller under load may take its time


@dataclass(frozen=True)
class Said:
    """One task's state in Slurm's words, why, where."""

    state: str
    reason: str = ""
    node: str = ""

    @property
    def alive(self) -> bool:
        """Whether it is going to run, or runs."""
        return self.state in ALIVE


def available() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def queue(arrays: Iterable[str]) -> dict[str, Said]:
    """Tasks of these arrays that the controller knows (ended ones for some minutes), by ``ARRAY_INDEX``.

    Raises:
        UserError: the controller does not answer.
    """
    rows = _squeue(["-j", ",".join(sorted(set(arrays)))], "%i|%T|%r|%N") if arrays else []
    return {task: Said(state, "" if reason == "None" else reason, node) for task, state, reason, node in rows}


def arrays_by_comment(tokens: Iterable[str]) -> dict[str, str]:
    """Array ids of jobs in the queue by their comment, for those of ``tokens``."""
    wanted = set(tokens)
    rows = _squeue(["-u", str(os.getuid())], "%F|%k") if wanted else []
    return {comment: array for array, comment in rows if comment in wanted}


def _squeue(which: Sequence[str], fields: str) -> list[list[str]]:
    done = _asked("squeue", "-h", "-r", "-a", "-t", "all", *which, "-o", fields)
    if done.returncode and "Invalid job id" in done.stderr:  # known once, and forgotten by now
        return []
    if done.returncode:
        raise UserError(f"squeue: {last_line(done.stderr)}")
    width = fields.count("|") + 1
    return [line.split("|", width - 1) for line in done.stdout.splitlines() if line.count("|") >= width - 1]


def accounted(arrays: Iterable[str]) -> dict[str, Said] | None:
    """What accounting says about the tasks of these arrays; None where there is no accounting."""
    wanted = sorted(set(arrays))
    if not wanted or shutil.which("sacct") is None:
        return {} if not wanted else None
    done = _asked("sacct", "-n", "-P", "-X", "-j", ",".join(wanted), "-o", "JobID,State,ExitCode,Reason,NodeList")
    if done.returncode or "disabled" in done.stderr:
        return None
    found = {}
    for line in done.stdout.splitlines():
        names, state, code, reason, node = line.split("|")[:5]
        state = state.split()[0] if state else ""  # CANCELLED by 1000
        status, _, signum = code.partition(":")
        detail = f"exit code {status}" if status not in ("", "0") else ""
        if signum not in ("", "0") or status in ("9", "137"):  # srun says the signal as an exit code
            detail = f"killed by signal {signum if signum not in ('', '0') else 9}, perhaps out of memory"
        for task in _tasks(names):
            found[task] = Said(state, detail or ("" if reason == "None" else reason), node)
    return found


def _tasks(text: str) -> list[str]:
    """``7_3`` -> itself; ``7_[0-2,5%4]``, tasks that never started, -> each of them."""
    found = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", text)
    if not found:
        return [text]
    tasks = []
    for part in found[2].split(","):
        first, _, last = part.partition("-")
        tasks += [f"{found[1]}_{index}" for index in range(int(first), int(last or first) + 1)]
    return tasks


def cancel(tasks: Sequence[str]) -> None:
    """Cancel these tasks or arrays; those that have ended already are left alone. Raises :class:`UserError`."""
    for start in range(0, len(tasks), 500):  # a command line has an end
        done = _asked("scancel", *tasks[start : start + 500])
        if done.returncode and "Invalid job id" not in done.stderr:
            raise UserError(f"scancel: {last_line(done.stderr)}")


def largest_array() -> int:
    """How many tasks an array may have, and the limit of an index (MaxArraySize). Raises :class:`UserError`."""
    done = _asked("scontrol", "show", "config")
    if done.returncode:
        raise UserError(f"scontrol: {last_line(done.stderr)}")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.M)
    return max(1, int(found[1])) if found else 1001


def _asked(*command: str) -> subprocess.CompletedProcess[str]:
    """The finished command, which saw nothing of the environment that would change what it prints or which jobs it sees."""
    return subprocess.run(
        command,
        env=environment.for_questions(),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=SECONDS,
    )


def last_line(text: str) -> str:
    """The last line that a command of Slurm printed, without its name in front."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it does not say why"]
    return re.sub(r"^(\w+: )?(error: |fatal: )?", "", lines[-1])
