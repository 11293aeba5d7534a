"""matplotlib where MPLBACKEND names a backend that is not installed, as in a shell that a notebook started."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def import_matplotlib() -> None:
    """Import matplotlib, whatever MPLBACKEND says: nothing here shows a window, and files are drawn by backends of their own.

    Only where that variable is set and matplotlib is not imported yet there is anything to do; the variable stays as it is.
    """
    if "MPLBACKEND" not in os.environ or "matplotlib" in sys.modules:
        return
    try:
        import matplotlib
    except ImportError:
        return
    except ValueError:  # not a valid value for backend
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]
        with _without("MPLBACKEND"):
            import matplotlib  # noqa: F401


@contextmanager
def _without(name: str) -> Iterator[None]:
    value = os.environ.pop(name)
    try:
        yield
    finally:
        os.environ[name] = value
