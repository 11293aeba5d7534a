"""What every executor takes and gives back: a job goes in, an outcome comes out."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO


@dataclass(frozen=True)
class Job:
    """One call, ``function(*args)``, under a name that is unique in its launch.

    The function and its arguments must be picklable, since most executors run them in another process. What a job
    produces it writes to a directory: its return value is dropped.
    """

    name: str
    function: Callable[..., object]
    args: tuple = ()

    def log(self, log_dir: Path) -> Path:
        """Where this job's output goes: ``<log_dir>/<name>.log``, with characters unfit for a file name replaced."""
        return log_dir / (re.sub(r"[^\w.=+-]+", "_", self.name) + ".log")


@dataclass(frozen=True)
class Outcome:
    """Where a job stands. Only ``on_update`` sees ``running``: what an executor returns is ``done`` or ``failed``.

    ``error`` is one line, empty unless failed; the whole traceback is in ``log`` (None where nothing was written).
    """

    name: str
    state: Literal["running", "done", "failed"]
    error: str = ""
    log: Path | None = None


def attempt(function: Callable[..., object], args: tuple, log: Callable[[], TextIO]) -> str:
    """Call ``function(*args)``; return "" or, where it raised, one line that says what.

    The traceback goes to the stream that ``log()`` opens. ``sys.exit`` in a job is a failure too; Ctrl-C is not caught.
    """
    try:
        function(*args)
    except (Exception, SystemExit) as error:
        with log() as stream:
            traceback.print_exc(file=stream)
        return describe(error)
    return ""


def describe(error: BaseException) -> str:
    """The exception in one line: ``ValueError: what it said``."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
