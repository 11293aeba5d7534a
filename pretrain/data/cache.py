"""What was found out about files, kept from one start to the next for as long as none of them has changed.

A note is a file of arrays with the signatures (inode, size, times of change) of all that its content depends on. It is believed
while each of these is as it was, so a change is noticed where reading everything again would notice it. Notes are replaced in one
move: processes that write one at the same time leave one of theirs. A damaged note counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np

from pretrain.data.files import Signature, signature
from rundir.errors import UserError

VARIABLE = "US3L_CACHE"  # names the folder of the notes; empty: none are kept
FORMAT = 2
WORTH = 4096  # files from which on a note is kept: fewer are read again as fast
READERS = 8  # threads: files on a network file system are waited for
SLOW = 100e-6  # seconds for a look at a file from which on threads pay
FINE, COARSE = 0.1, 2.0  # seconds within which a file may change twice and keep its times: where these have fractions, where not
OLD_SECONDS = 86400.0  # no process writes a note for so long


def place() -> Path | None:
    """The folder of the notes: that of ``US3L_CACHE``, else in the user's cache folder; None where none are to be kept."""
    chosen = os.environ.get(VARIABLE)
    if chosen is None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return Path(base) / "us3l-bench"
    return Path(chosen).expanduser() if chosen else None


def recall(what: str, root: str) -> dict[str, np.ndarray] | None:
    """The arrays that :func:`keep` kept of ``what`` about the folder ``root``; None where there are none, or something changed."""
    file = _file(what, root)
    if file is None or not file.is_file():
        return None
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as stored:  # numpy leaves a damaged file open
            note = {name: stored[name] for name in stored.files}
        known, seen = texts(note["about"]) == _about(what, root), texts(note["seen"])
        if known and np.array_equal(_signatures(root, seen), note["signatures"]):
            return note
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # of another version, or damaged
    return None


def seen_by(note: Mapping[str, np.ndarray]) -> dict[str, Signature]:
    """The signatures that a note depends on, by name."""
    return dict(zip(texts(note["seen"]), map(tuple, note["signatures"].tolist()), strict=True))


def keep(what: str, root: str, began: float, seen: Mapping[str, Signature], note: Mapping[str, np.ndarray]) -> None:
    """Keep the arrays ``note``, found from files below ``root`` whose signatures, by name, were ``seen``.

    Of files that changed just before ``began`` (of :func:`time.time`, before the first look) nothing is kept: one more change would
    not show.

    Raises:
        UserError: the folder that ``US3L_CACHE`` names cannot be written to.
    """
    file, signatures = _file(what, root), _table(seen.values(), len(seen))
    if file is None or not _settled(signatures, began):
        return
    arrays = {"about": as_array(_about(what, root)), "seen": as_array(seen), "signatures": signatures, **note}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(file.parent)
        number, part = tempfile.mkstemp(".part", dir=file.parent)
        try:
            with open(number, "wb") as target:
                np.savez(target, **arrays)
            os.replace(part, file)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as error:
        if os.environ.get(VARIABLE):
            raise UserError(
                f"cannot write to {file.parent} ({error.strerror}), the cache folder that {VARIABLE} names; set "
                f"{VARIABLE} to a folder that can be written to, or to nothing for no cache"
            ) from None
        if os.environ.get("RANK", "0") == "0":
            print(
                f"what files {root} holds is looked up at every start, since {file.parent} cannot be written to; set "
                f"{VARIABLE}=DIR to keep it in another folder",
                file=sys.stderr,
                flush=True,
            )


def as_array(names: Iterable[str]) -> np.ndarray:
    """Texts without zero bytes, names of files for example, as one array of bytes."""
    return np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), np.uint8)


def texts(array: np.ndarray) -> list[str]:
    """The texts of :func:`as_array`."""
    return array.tobytes().decode("utf-8", "surrogateescape").split("\0") if array.size else []


def _about(what: str, root: str) -> list[str]:
    return [f"format {FORMAT}", what, root]


def _file(what: str, root: str) -> Path | None:
    folder = place()
    if folder is None:
        return None
    # By the inode too: nodes of a cluster may share the cache and each have data of their own at one place.
    name = "\0".join([*_about(what, root), str(signature(root)[0])])
    return folder / f"{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"


def _signatures(root: str, names: Sequence[str]) -> np.ndarray:
    """The signatures (N, 4) int64 of ``names`` below ``root`` as they are now."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:

        def look(some: Sequence[str]) -> list[Signature]:
            return [signature(name or ".", folder) for name in some]

        started = time.perf_counter()
        found = look(names[:256])
        rest = names[256:]
        if time.perf_counter() - started > SLOW * len(found):
            with ThreadPoolExecutor(READERS) as pool:
                found += chain.from_iterable(pool.map(look, [rest[i : i + 256] for i in range(0, len(rest), 256)]))
        else:
            found += look(rest)
        return _table(found, len(names))
    finally:
        os.close(folder)


def _table(signatures: Iterable[Signature], count: int) -> np.ndarray:
    return np.fromiter(chain.from_iterable(signatures), np.int64, 4 * count).reshape(count, 4)


def _settled(signatures: np.ndarray, began: float) -> bool:
    """Whether all times of change are so far before ``began`` that a later change has another time."""
    times = signatures[:, 2:]
    slack = COARSE if not (times % 1_000_000).any() else FINE
    return bool(times.size) and times.max() < (began - slack) * 1e9


def _remove_left(folder: Path) -> None:
    """Remove what killed processes left half written."""
    for path in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > OLD_SECONDS:
                path.unlink()
