"""Running a command line in this process as a program would."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

import pytest

from rundir.cli import cli


def exit_code(main: Callable, argv: Sequence[str], **options) -> int:
    """The exit code of ``main`` with these words; what it prints goes where the test captures it."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as end:
            cli(main, argv, **options)
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    return end.value.code
