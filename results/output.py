"""Files of a report, all or none: written next to their target, moved there at the end; obsolete files are removed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from results.grids import Grid
from results.plots import drawing
from rundir.atomic import make_folder
from rundir.files import Damaged, read_json
from rundir.machine import cores
from rundir.schema import REPORT_FORMAT

_work: Callable[[str], str | None]
UNFINISHED, LEFT_SECONDS = ".report-", 3600.0
MANIFEST = "report.json"


@dataclass
class Written:
    """Paths by file name, why pictures were skipped by their name."""

    paths: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def write(
    out: Path,
    writers: Mapping[str, Callable[[Path], object]],
    pictures: Mapping[str, partial[Figure]],
    after: Callable[[Path], Mapping[str, Callable[[Path], object]]],
    about: Mapping[str, Any],
    kinds: Sequence[str] = drawing.KINDS,
) -> Written:
    """Write files and pictures into ``out``, then the files of ``after``, which is given the directory with the pictures.

    A report that fails half-way leaves the old one as it was; of several at once each waits for the one before. Drawing takes most
    of the time, so a picture whose numbers and code are those of the earlier report is kept. ``about`` goes into the manifest.
    """
    make_folder(out, "the report")
    with _alone(out) as alone:
        _clear(out, 0.0 if alone else LEFT_SECONDS)
        return _write(out, writers, pictures, after, about, kinds)


@contextmanager
def _alone(out: Path) -> Iterator[bool]:
    """Hold ``out`` against other reports; the lock goes with the process. False where directories cannot be locked (NFS)."""
    descriptor = os.open(out, os.O_RDONLY)
    alone = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)


def _write(
    out: Path,
    writers: Mapping[str, Callable[[Path], object]],
    pictures: Mapping[str, partial[Figure]],
    after: Callable[[Path], Mapping[str, Callable[[Path], object]]],
    about: Mapping[str, Any],
    kinds: Sequence[str],
) -> Written:
    earlier, drawn, result = _earlier(out), {}, Written()
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=out, ignore_cleanup_errors=True) as folder:
        made = Path(folder)
        due: dict[str, partial[Figure]] = {}
        for name, draw in pictures.items():
            drawn[name], files = fingerprint(draw), drawing.files(Path(name), kinds)
            if earlier.get("pictures", {}).get(name) == drawn[name] and all((out / file).is_file() for file in files):
                for file in files:
                    shutil.copyfile(out / file, made / file)
            else:
                due[name] = draw
        result.skipped = draw_all(due, made, kinds)
        for name, put in {**writers, **after(made)}.items():
            put(made / name)
        names = sorted(path.name for path in made.iterdir())
        manifest = {"format": REPORT_FORMAT, **about, "files": names, "skipped": result.skipped, "pictures": drawn}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for name in (*names, MANIFEST):
            if (out / name).is_dir():  # before the first is moved: a report is replaced whole
                raise IsADirectoryError(errno.EISDIR, "Is a directory", str(out / name))
        for name in (*names, MANIFEST):
            os.replace(made / name, out / name)
    for name in set(earlier.get("files", [])) - set(names):
        with suppress(OSError):  # what cannot be removed stays
            (out / Path(name).name).unlink(missing_ok=True)
    result.paths = {name: out / name for name in names}
    return result


def draw_all(pictures: Mapping[str, partial[Figure]], folder: Path, kinds: Sequence[str]) -> dict[str, str]:
    """Draw ``pictures`` into ``folder``, one process for each core; why some were skipped, by name and in their order."""
    names, work, processes = list(pictures), partial(_draw, pictures, folder, kinds), min(cores(), len(pictures))
    if processes < 2:
        found = list(map(work, names))
    else:
        global _work
        _work = work  # a fork has it; rows and functions need not be sent
        with multiprocessing.get_context("fork").Pool(processes, _as_a_helper) as pool:
            found = pool.map(_do, names, chunksize=1)
    return {name: reason for name, reason in zip(names, found, strict=True) if reason is not None}


def _as_a_helper() -> None:
    """Ctrl-C is for the process that asked; that one ends this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _do(name: str) -> str | None:
    return _work(name)


def _draw(pictures: Mapping[str, partial[Figure]], folder: Path, kinds: Sequence[str], name: str) -> str | None:
    try:
        drawing.save(pictures[name](), folder / name, kinds)
    except drawing.NothingToPlot as reason:
        return str(reason)
    return None


def _clear(out: Path, seconds: float) -> None:
    """Remove what killed processes left, if it is older than so many ``seconds``: the younger may be another's at work."""
    for left in out.glob(f"{UNFINISHED}*"):
        with suppress(FileNotFoundError):  # another report removes it too
            if time.time() - left.stat().st_mtime >= seconds:
                shutil.rmtree(left, ignore_errors=True)


def text(content: str) -> Callable[[Path], object]:
    """What writes ``content``."""
    return lambda path: path.write_text(content, encoding="utf-8")


def _earlier(out: Path) -> dict[str, Any]:
    """The manifest of the report in ``out``; empty where there is none that can be read."""
    try:
        manifest = read_json(out / MANIFEST)
    except (FileNotFoundError, Damaged):
        return {}
    known = isinstance(manifest, dict) and manifest.get("format") == REPORT_FORMAT
    whole = known and isinstance(manifest.get("files"), list) and isinstance(manifest.get("pictures"), dict)
    return manifest if whole and all(isinstance(name, str) for name in manifest["files"]) else {}


def fingerprint(draw: partial[Figure]) -> str:
    """Of all that decides a picture: the rows and options it is drawn from, this package's code, matplotlib."""
    grids = [value for value in draw.args if isinstance(value, Grid)]
    frames = [value for value in draw.args if isinstance(value, pd.DataFrame)] + [grid.runs for grid in grids]
    options = [value for value in draw.args if not isinstance(value, (pd.DataFrame, Grid))]
    options += [(grid.manifest.title, grid.manifest.columns, grid.manifest.rows) for grid in grids]
    known = hashlib.sha256(f"{matplotlib.__version__} {draw.func.__name__} {options}".encode())
    for rows in frames:
        same = rows.drop(columns=["state", "path", "place", "command"], errors="ignore")
        known.update(pd.util.hash_pandas_object(same, index=False).to_numpy().tobytes())
    known.update(_code())
    return known.hexdigest()[:16]


def _code() -> bytes:
    sources = sorted([*Path(__file__).parent.rglob("*.py"), drawing.STYLE])
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).digest()
