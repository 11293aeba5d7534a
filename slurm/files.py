"""Files that other processes write, perhaps others than ours: read without trust, written in one move."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

LARGEST = 256 * 2**20  # bytes; a ledger of ten thousand jobs has a tenth of that
SHARED = stat.S_IWGRP | stat.S_IWOTH


class NotOwn(Exception):
    """A file that somebody else owns or may write. The message is one line that names it."""


def read_text(path: Path, own: bool = False) -> str:
    """The text of a regular file; a pipe is not waited for. What is not UTF-8 in it is replaced.

    Args:
        own: check what was opened: it must be this user's, and nobody else may write it.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, is no regular file, or is larger than anything that this project writes.
        NotOwn: see ``own``.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(f"{path} is not a regular file")
        if about.st_size > LARGEST:
            raise OSError(f"{path} is larger than {LARGEST >> 20} MiB")
        if own:
            check_own(path, about)
        return file.read().decode("utf-8", errors="replace")


def read_json(path: Path) -> dict:
    """The JSON object in ``path``; {} where there is none, or none that can be read."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict) -> None:
    """Replace ``path`` by this object in one move. Raises OSError; then the old file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, path)


def check_own(path: Path, about: os.stat_result | None = None) -> None:
    """Check that ``path`` belongs to this user and that nobody else may write it.

    Raises:
        NotOwn: it does not.
        OSError: there is no such file.
    """
    about = about or os.stat(path)
    if about.st_uid != os.geteuid():
        raise NotOwn(f"{path} belongs to user {about.st_uid}, not to you (user {os.geteuid()})")
    if about.st_mode & SHARED:
        raise NotOwn(f"{path} may be written by others (mode {stat.S_IMODE(about.st_mode):o})")
