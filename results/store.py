"""What was read of run directories before, so that only what changed is read again.

The store is a folder of Parquet files, by default ``.frame`` in the directory of runs. It may be deleted at any time; a store that
was written by other code, or that cannot be read, counts as none. Each file is replaced in one move.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from rundir import experiment, files, reading, records, schema

FOLDER = ".frame"


def stamp(path: str, names: Sequence[str]) -> str:
    """What changes when one of the files changes: their times, sizes and inodes (an atomic replacement is a new inode)."""
    found = []
    for name in names:
        try:
            status = os.stat(f"{path}{os.sep}{name}")
        except OSError:  # missing, or damaged: a link to itself
            found.append("-")
        else:
            found.append(f"{status.st_mtime_ns}.{status.st_size}.{status.st_ino}")
    return "/".join(found)


def load(folder: Path | None, kind: str, parts: Sequence[str]) -> list[pd.DataFrame] | None:
    """The tables ``parts`` that were stored together as ``kind``; None where there are none that this code wrote."""
    if folder is None:
        return None
    tables = []
    for part in parts:
        path = folder / f"{kind}-{part}-{VERSION}.parquet"
        try:
            if not path.is_file():  # a named pipe would be waited for
                return None
            table = pd.read_parquet(path)
        except (OSError, ValueError, KeyError):  # pyarrow's errors are ValueErrors
            return None
        tables.append(table)
    # Two processes may have replaced them at once: tables that do not belong together count as none.
    return tables if len({tuple(sorted(set(table["token"]))) for table in tables if len(table)}) <= 1 else None


def save(folder: Path | None, kind: str, tables: dict[str, pd.DataFrame]) -> None:
    """Store ``tables`` by part; nothing where the folder cannot be written (a store is a convenience)."""
    if folder is None:
        return
    token, made = os.urandom(8).hex(), None
    try:
        folder.mkdir(exist_ok=True)
        for old in folder.glob(f"{kind}-*.parquet"):
            if VERSION not in old.name:
                old.unlink(missing_ok=True)
        for part, table in tables.items():
            made = folder / f".{kind}-{part}-{token}"
            table.assign(token=token).to_parquet(made, index=False)
            os.replace(made, folder / f"{kind}-{part}-{VERSION}.parquet")
    except OSError:
        if made is not None:
            with suppress(OSError):
                made.unlink(missing_ok=True)


def _version_of_code() -> str:
    """Of the code that reads: a store of other code has other columns, or other meanings."""
    code = b"".join(Path(module.__file__).read_bytes() for module in (reading, experiment, files, records, schema))
    return hashlib.sha256(code + experiment.DEFAULTS.read_bytes() + pd.__version__.encode()).hexdigest()[:12]


VERSION = _version_of_code()  # as it was loaded: the files may change while this process runs
