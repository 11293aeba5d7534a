"""Files that others wrote: regular ones only, of bounded size, and folders, without following links in circles."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rundir.errors import UserError

MOST_BYTES = 2**30  # of one file that is read as a whole
# What operating systems and archivers leave in folders, besides hidden files.
LITTER = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"})
KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
NAMED = 3  # names that a message gives

Signature = tuple[int, int, int, int]  # inode, size, times of change of content and of anything, in ns


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file; never waits for a pipe or a device.

    Raises:
        UserError: there is no such file, it cannot be opened, it is something else, or it has more than ``most`` bytes.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer opens at once
        try:
            state = os.fstat(number)
            if not stat.S_ISREG(state.st_mode):
                kind = KINDS.get(stat.S_IFMT(state.st_mode), "no file")
                raise UserError(f"{path} is {kind}; put a regular file there, or remove it")
            if state.st_size > most:
                raise UserError(
                    f"{path} has {state.st_size:,} bytes, more than the {most:,} that are read; make it smaller, or remove it"
                )
            with open(number, "rb", closefd=False) as file:
                return file.read(state.st_size)  # and no more room than that is taken
        finally:
            os.close(number)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"cannot read {str(path)!r} ({reason}); correct or remove it") from None


def read_part(path: str | os.PathLike, first: int, size: int) -> bytes:
    """``size`` bytes of a regular file from byte ``first`` on. Raises UserError where they cannot be read."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            content = b""
            while len(content) < size and (more := os.pread(number, size - len(content), first + len(content))):
                content += more
        finally:
            os.close(number)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); correct or remove it") from None
    if len(content) < size:
        raise UserError(f"{path} is cut off: it has fewer than {first + size:,} bytes; copy or write it again")
    return content


def read_text(path: str | Path, most: int = MOST_BYTES) -> str:
    """The content of a text file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: as :func:`read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is no data: hidden, or left by an operating system or an archiver."""
    return name.startswith(".") or name.lower() in LITTER


def names_below(home: str | os.PathLike, paths: Sequence[str | os.PathLike]) -> list[str]:
    """What ``paths`` are called from ``home`` on, with slashes."""
    start, given = os.path.join(home, ""), [os.fspath(path) for path in paths]
    names = [path[len(start) :] if path.startswith(start) else os.path.relpath(path, home) for path in given]
    return names if os.sep == "/" else [name.replace(os.sep, "/") for name in names]


def some(names: Sequence[str], most: int = NAMED) -> str:
    """The first of ``names``, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass
class Tree:
    """What is below a folder, as paths relative to it.

    files: sorted; litter: what :func:`is_litter` names; repeated: folders that links lead to a second time; seen: signatures of
    every folder and of what every link leads to, taken before they were read. While these stay, so does the rest.
    """

    files: list[str] = field(default_factory=list)
    litter: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    seen: dict[str, Signature] = field(default_factory=dict)


def tree(folder: str | Path) -> Tree:
    """Everything below ``folder``; links are followed, each folder is read once.

    Raises:
        UserError: a folder cannot be read, or something in it is neither a file nor a folder (a pipe, a broken link).
    """
    found, root = Tree(), os.fspath(folder)
    seen, waiting = {_identity(root)}, [""]
    while waiting:
        place = waiting.pop()
        found.seen[place] = signature(os.path.join(root, place))
        for entry in entries(os.path.join(root, place)):
            name = os.path.join(place, entry.name)
            if is_litter(entry.name):
                found.litter.append(name)
                continue
            if entry.is_symlink():
                found.seen[name] = signature(entry.path)
            if _holds(entry.is_file):
                found.files.append(name)
            elif is_folder(entry):
                identity = _identity(entry.path)
                if identity in seen:
                    found.repeated.append(name)
                else:
                    seen.add(identity)
                    waiting.append(name)
            else:
                raise UserError(f"{entry.path} is neither a file nor a folder (a broken link, a pipe or a device); remove it")
    for names in (found.files, found.litter, found.repeated):
        names.sort()
    return found


def signature(path: str | os.PathLike, folder: int | None = None) -> Signature:
    """What shows that a file, or what a folder lists, is as it was: no write leaves all of it. Of nothing (a broken link) zeros.

    folder: descriptor of the folder that ``path`` is relative to.
    """
    try:
        return signature_of(os.stat(path, dir_fd=folder))
    except OSError:
        return 0, 0, 0, 0


def signature_of(state: os.stat_result) -> Signature:
    """The :data:`Signature` of what was asked already; each number below 2^63."""
    return state.st_ino & 2**63 - 1, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; a link to itself is none."""
    return _holds(entry.is_dir)


def _holds(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link to itself
        return False


def entries(folder: str) -> list[os.DirEntry]:
    """What is in ``folder``. Raises UserError where it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise UserError(f"cannot read the folder {folder} ({error.strerror}); correct or remove it") from None


def _identity(folder: str) -> tuple[int, int]:
    state = os.stat(folder)
    return state.st_dev, state.st_ino
