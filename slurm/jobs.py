"""The interface of executors: a job goes in, an outcome comes out."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rundir.cli import is_interruption
from rundir.schema import State


class Unfinished(Exception):
    """A job's function was asked to stop, has left what it did on the disk, and goes on from there when called again."""


class Left(Exception):
    """Another process is doing what the job would do: the job is neither done nor failed. The message names the process."""


class JobState(State):
    """The states of a job: those of a run, and those that only executors and the overview know."""

    SUBMITTED = "submitted"
    LEFT = "left"  # to another process, see :class:`Left`
    REQUEUED = "requeued"
    STOPPED = "stopped"
    STALLED = "stalled"
    SILENT = "silent"
    DEAD = "dead"
    CANCELLED = "cancelled"
    BLOCKED = "blocked"
    NOT_STARTED = "not started"


@dataclass(frozen=True)
class Job:
    """One call, ``function(*args)``, under a name that is unique in its launch.

    The function and its arguments must be picklable, since most executors run them in another process. What a job
    produces it writes to a directory: its return value is dropped. It may be called again after a kill at any moment.

    The rest is what a cluster wants to know; ``inline`` and ``local`` heed only ``after`` and ``last``.

    Attributes:
        kind: which of the cluster's resources it gets (``Cluster.kinds``).
        after: names of jobs that must have succeeded before; if one has not, this one never starts.
        last: starts when all other jobs of the launch have ended, however they ended.
        directory: where it keeps its ``status.json`` (docs/formats.md), if anywhere.
        stop: called by a signal handler when the job has to end soon; ``function`` should then soon save and raise
            :class:`Unfinished`. Without one, :class:`Unfinished` is raised at once, wherever the function is.
    """

    name: str
    function: Callable[..., object]
    args: tuple = ()
    kind: str = "job"
    after: tuple[str, ...] = ()
    last: bool = False
    directory: Path | None = None
    stop: Callable[[], object] | None = None

    def log(self, log_dir: Path) -> Path:
        """Where this job's output goes: ``<log_dir>/<name>.log``, with characters unfit for a file name replaced."""
        return log_dir / (file_name(self.name) + ".log")


def file_name(name: str) -> str:
    """A job's name with characters unfit for a file name replaced."""
    return re.sub(r"[^\w.=+-]+", "_", name)


@dataclass(frozen=True)
class Outcome:
    """Where a job stands. ``state`` is a word of :class:`JobState`. Only ``on_update`` sees ``running``: an executor returns
    ``done``, ``failed``, ``left`` where the function raised :class:`Left`, or ``submitted`` where nobody waited for it.

    ``error`` is one line, empty unless failed or left; the whole traceback is in ``log`` (None where nothing was written).
    """

    name: str
    state: str
    error: str = ""
    log: Path | None = None


def attempt(function: Callable[..., object], args: tuple, log: Callable[[], AbstractContextManager[TextIO]]) -> tuple[str, str]:
    """Call ``function(*args)``; return how that ended, ``done``, ``left`` or ``failed``, and unless done one line that says why.

    The traceback goes to the stream that ``log()`` opens. ``sys.exit`` in a job is a failure too; Ctrl-C is not caught, nor is
    :class:`Unfinished`, nor that nobody reads the output any more: these end all jobs.
    """
    try:
        function(*args)
    except Unfinished:
        raise
    except Left as left:
        return JobState.LEFT, " ".join(str(left).split())
    except (Exception, SystemExit) as error:
        if is_interruption(error):
            raise
        with log() as stream:
            traceback.print_exc(file=stream)
        return JobState.FAILED, describe(error)
    return JobState.DONE, ""


def describe(error: BaseException) -> str:
    """The exception in one line: ``ValueError: what it said``."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")


def check_names(jobs, log_dir: Path) -> None:
    """Raise ValueError where two of ``jobs`` share a name, or a log."""
    seen: dict[Path, str] = {}
    for job in jobs:
        log = job.log(log_dir)
        if log in seen:
            raise ValueError(f"jobs {seen[log]!r} and {job.name!r} would share the log {log.name}; name them apart")
        seen[log] = job.name
