"""This room's files: read without trust (``rundir.files``), run from only where they are this user's alone; and logs."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from rundir.files import Damaged
from rundir.files import read_json as read_any

SHARED = stat.S_IWGRP | stat.S_IWOTH


class NotOwn(Exception):
    """A file that somebody else owns or may write. The message is one line that names it."""


def read_json(path: Path) -> dict:
    """The JSON object in ``path``; {} where there is none, or none that can be read."""
    try:
        content = read_any(path)
    except (FileNotFoundError, Damaged):
        return {}
    return content if isinstance(content, dict) else {}


def check_own(path: Path) -> tuple[int, int]:
    """Check that ``path`` belongs to this user and that nobody else may write it; which file it is.

    Raises:
        NotOwn: it does not.
        FileNotFoundError: there is no such file.
    """
    about = os.stat(path)
    if about.st_uid != os.geteuid():
        raise NotOwn(f"{path} belongs to user {about.st_uid}, not to you (user {os.geteuid()})")
    if about.st_mode & SHARED:
        raise NotOwn(f"{path} may be written by others (mode {stat.S_IMODE(about.st_mode):o})")
    return about.st_dev, about.st_ino


def print_to(log: Path, heading: str) -> None:
    """Append all that this process and its children print to ``log``, below ``heading``: on the descriptors, for native code too.

    Raises:
        OSError: ``log`` cannot be written.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab", buffering=0) as stream:
        stream.write(f"--- {heading}\n".encode())
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    for printed in (sys.stdout, sys.stderr):
        printed.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]  # whatever the terminal's is
