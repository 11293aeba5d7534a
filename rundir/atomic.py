"""Files that are replaced in one move, so that a kill at any moment leaves the old one or the new one."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rundir.errors import UserError

OLD_SECONDS = 3600.0  # no process still writes a temporary file this old, even if its process id has been reused


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the block ends; where it raises, the old file stays and nothing is left."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8 in one move. Raises OSError with the name of the file."""
    try:
        try:
            _write(path, text)
        except FileNotFoundError:  # a process of another computer took our temporary file for a leftover
            _write(path, text)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace ``path`` by a JSON object in one move. Raises OSError with the name of the file."""
    write_atomically(path, json.dumps(content, indent=1))


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def make_folder(path: Path, what: str, option: str = "--out DIR") -> None:
    """Make the directory ``path`` for ``what``, and see that it can be written to, which leaves nothing.

    Raises:
        UserError: neither can be done; it says to give another ``option``.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except FileExistsError:
        raise UserError(f"cannot write {what} to {path}, which is a file; give another {option}") from None
    except OSError as error:
        raise UserError(f"cannot write {what} to {path} ({error.strerror}); give another {option}") from None


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files of ``names`` that a killed :func:`replacing` left behind; other files are never touched."""
    pattern = re.compile(rf"\.({'|'.join(map(re.escape, names))})(?:\.(\d+))?\.tmp")
    for path in folder.iterdir():
        found = pattern.fullmatch(path.name)
        if found and _is_left(path, found[2]):
            path.unlink(missing_ok=True)


def _is_left(path: Path, pid: str | None) -> bool:
    """Whether no process can be at a temporary file any more; without a number it is of an earlier version."""
    if pid is None or int(pid) == os.getpid() or not _lives(int(pid)):
        return True
    try:
        return time.time() - path.stat().st_mtime > OLD_SECONDS
    except FileNotFoundError:
        return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
