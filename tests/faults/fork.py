"""Command lines in forked children of a process that has imported everything and computed nothing: a start costs milliseconds.

A child can be killed (SIGKILL) at a chosen event of its life, so that a seed says where it dies, whatever the speed of the machine.
Events are calls and returns of functions, Python's and C's, as ``sys.setprofile`` sees them: all of them, or only file operations.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rundir.cli import cli

LIMIT = 150.0  # seconds after which a child hangs
# C functions that change or hold files; torch writes its archives by the last three.
FILE_CALLS = frozenset(
    [
        "open",
        "write",
        "writelines",
        "flush",
        "close",
        "replace",
        "rename",
        "unlink",
        "remove",
        "rmdir",
        "mkdir",
        "fsync",
        "ftruncate",
        "truncate",
        "link",
        "symlink",
        "flock",
        "utime",
        "chmod",
        "fchmod",
        "PyTorchFileWriter",
        "write_record",
        "write_end_of_file",
    ]
)


@dataclass(frozen=True)
class Ended:
    """How a child ended: ``code`` as of ``subprocess`` (negative: a signal; None: it hung), what it printed, and, if they were
    counted, its events and those of file operations."""

    code: int | None
    out: str
    err: str
    events: int = 0
    file_events: int = 0

    @property
    def killed(self) -> bool:
        """Whether it died of SIGKILL, as asked."""
        return self.code == -signal.SIGKILL

    def last(self) -> str:
        """What it said last."""
        return (self.err.strip().splitlines() or self.out.strip().splitlines() or ["nothing"])[-1]


def program(
    main: Callable[[Sequence[str]], int | None],
    argv: Sequence[str | os.PathLike],
    folder: Path,
    *,
    kill_at: int = 0,
    files: bool = False,
    count: bool = False,
    limit: float = LIMIT,
) -> Ended:
    """``main(argv)`` as a program, in a child whose working directory is ``folder``.

    Args:
        kill_at: die at this event (from 1); 0: do not.
        files: only events of file operations count.
        count: count events without dying.
    """
    words = [os.fspath(word) for word in argv]
    return child(lambda: cli(main, words), folder, kill_at=kill_at, files=files, count=count, limit=limit)


def child(
    function: Callable[[], object],
    folder: Path,
    *,
    kill_at: int = 0,
    files: bool = False,
    count: bool = False,
    limit: float = LIMIT,
) -> Ended:
    """``function()`` in a child; see :func:`program`."""
    folder.mkdir(parents=True, exist_ok=True)
    out, err, number = (folder.parent / f".{folder.name}.{name}" for name in ("out", "err", "events"))
    number.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            _enter(folder, out, err)
            code = _run(function, kill_at, files, count, number)
        finally:
            os._exit(code)
    code = _wait(pid, limit)
    events = map(int, number.read_text().split()) if number.exists() else ()
    return Ended(code, _read(out), _read(err), *events)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="backslashreplace")


def _enter(folder: Path, out: Path, err: Path) -> None:
    os.setsid()  # what it starts can be killed with it
    os.chdir(folder)
    for descriptor, path in ((1, out), (2, err)):
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(target, descriptor)
        os.close(target)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "w" if n else "r", encoding="utf-8", closefd=False) for n in range(3))
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr


def _run(function: Callable[[], object], kill_at: int, files: bool, count: bool, number: Path) -> int:
    events = _Events(kill_at, files) if kill_at or count else None
    code = 0
    try:
        if events:
            sys.setprofile(events)
        function()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.setprofile(None)
    if count:
        number.write_text(f"{events.all} {events.of_files}")
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 120
    return code


class _Events:
    """A profile function that counts, and kills its process at one event."""

    def __init__(self, kill_at: int, files: bool):
        self.kill_at, self.files, self.all, self.of_files = kill_at, files, 0, 0

    def __call__(self, frame, event: str, argument: object) -> None:
        self.all += 1
        if event in ("c_call", "c_return") and getattr(argument, "__name__", "") in FILE_CALLS:
            self.of_files += 1
        elif self.files:
            return
        if (self.of_files if self.files else self.all) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _wait(pid: int, limit: float) -> int | None:
    """The exit code; None after ``limit`` seconds, when the child and all it started are killed."""
    watched = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([watched], [], [], limit)
    finally:
        os.close(watched)
    if not ready:
        os.killpg(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # children of a killed child
    if not ready:
        return None
    return os.waitstatus_to_exitcode(status)


def elapsed(start: float) -> str:
    """Time since ``start`` (``time.monotonic``), for people."""
    return f"{time.monotonic() - start:.0f} s"
