"""Run directories in one Parquet file: everything a report reads of them, and nothing else.

    python results/report.py --runs runs --publish results/published/records.parquet
    python results/report.py --runs results/published/records.parquet --out OUT

A row per run: its place, its files as they are, and its logged values in columns (:data:`LOGGED`); and a row per grid, which holds
its manifest. Text that runs share costs next to nothing, so that a run takes one or two kilobytes. A report of the file is that of
the directories, since they are made again from it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.frame import run_directories
from rundir.atomic import make_folder
from rundir.errors import UserError
from rundir.files import Damaged, read_text
from rundir.schema import File

FORMAT, SUFFIX = 1, ".parquet"
TEXTS = (File.CONFIG, File.STATUS, File.RESULT, File.PROVENANCE, File.MANIFEST)
LOGGED = {"step": pa.int64(), "epoch": pa.int64(), "name": pa.string(), "width": pa.float64(), "value": pa.float64()}
MOST_METRICS = 2**30  # bytes
_FORMAT_KEY = b"run directories"


def _schema() -> pa.Schema:
    fields = [
        ("place", pa.string()),
        *((name, pa.string()) for name in TEXTS),
        (File.METRICS, pa.string()),
        *((f"logged.{name}", pa.list_(kind)) for name, kind in LOGGED.items()),
    ]
    return pa.schema(fields, metadata={_FORMAT_KEY: str(FORMAT).encode()})


def pack(roots: Sequence[Path], path: Path) -> int:
    """Write the runs below ``roots`` and the manifests of their grids to ``path`` in one move; returns the number of runs.

    Raises:
        UserError: there are none, or one is damaged.
    """
    runs = list(dict.fromkeys(run.resolve() for root in roots for run in run_directories(root)))
    places = _places(sorted({run.parent for run in runs}))
    if not runs:
        raise UserError(f"{' '.join(map(str, roots))} holds no runs (directories with a config.yaml); there is nothing to publish")
    rows = [_row(folder, place, True) for folder, place in places.items()]
    rows += [_row(run, f"{places[run.parent]}/{run.name}", False) for run in runs]
    table = pa.Table.from_pylist(rows, schema=_schema())
    make_folder(path.parent, "published runs")
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(
            table,
            made,
            compression="zstd",
            compression_level=19,
            write_statistics=False,
            use_dictionary=["logged.name.list.element"],
            column_encoding={"logged.value.list.element": "BYTE_STREAM_SPLIT"},
        )
        os.replace(made, path)
    finally:
        made.unlink(missing_ok=True)
    return len(runs)


def _places(folders: Sequence[Path]) -> dict[Path, str]:
    """Where each folder of runs goes: below 0, or below 1, 2, ... where others of its name are there already."""
    same: dict[str, int] = {}
    places = {}
    for folder in folders:
        number = same.get(folder.name, 0)
        same[folder.name] = number + 1
        places[folder] = f"{number}/{folder.name}"
    return places


def _row(folder: Path, place: str, grid: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"place": place}
    for name in (File.MANIFEST,) if grid else tuple(name for name in TEXTS if name != File.MANIFEST):
        row[name] = _text(folder / name)
    text = None if grid else _text(folder / File.METRICS)
    if text is not None:
        row |= _columns(text) or {File.METRICS: text}
    return row


def _text(path: Path) -> str | None:
    try:
        return read_text(path, MOST_METRICS)
    except FileNotFoundError:
        return None
    except Damaged as error:
        raise UserError(f"{error}; a damaged run cannot be published, take it out") from None


def _columns(text: str) -> dict[str, Any]:
    """The logged values by column; nothing where the text is not exactly what these give back."""
    try:
        lines = [json.loads(line) for line in text.splitlines()]
        columns = {f"logged.{name}": [line[name] for line in lines] for name in LOGGED}
        back = {name: pa.array(values, LOGGED[name.removeprefix("logged.")]).to_pylist() for name, values in columns.items()}
    except (ValueError, KeyError, TypeError, RecursionError, pa.ArrowException):
        return {}
    same = all(set(line) == set(LOGGED) for line in lines) and back == columns
    return columns if same else {}


def unpack(path: Path, folder: Path) -> list[Path]:
    """Make the run directories of ``path`` again, below ``folder``; returns the roots that they had.

    Raises:
        UserError: the file is not one that :func:`pack` wrote.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"no file {path}; make it with python results/report.py --runs DIR --publish FILE") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path} is not a Parquet file of runs ({str(error).splitlines()[0]}); make it with "
            "python results/report.py --runs DIR --publish FILE"
        ) from None
    found = (table.schema.metadata or {}).get(_FORMAT_KEY, b"none").decode("ascii", "replace")
    if found != str(FORMAT) or not table.schema.equals(_schema()):
        raise UserError(
            f"{path} is no file of runs of format {FORMAT} (it says {found}); make it with python results/report.py "
            "--runs DIR --publish FILE"
        )
    for row in table.to_pylist():
        parts = PurePosixPath(row["place"] or "..").parts
        if not 2 <= len(parts) <= 3 or any(part in ("..", "/") or "\0" in part for part in parts):
            raise UserError(f"{path} names the place {row['place']!r}, which is no grid and no run of one; make the file again")
        own = folder.joinpath(*parts)
        own.mkdir(parents=True, exist_ok=True)
        texts = {name: row[name] for name in (*TEXTS, File.METRICS)}
        if row["logged.step"] is not None:
            logged = zip(*(row[f"logged.{name}"] for name in LOGGED), strict=True)
            texts[File.METRICS] = "".join(json.dumps(dict(zip(LOGGED, values, strict=True))) + "\n" for values in logged)
        for name, text in texts.items():
            if text is not None:
                (own / name).write_text(text, encoding="utf-8")
    return sorted(folder.iterdir())


@contextmanager
def opened(places: Sequence[Path]) -> Iterator[list[Path]]:
    """``places`` with directories, for as long as this lasts, in the place of Parquet files. Raises as :func:`unpack`."""
    with ExitStack() as stack:
        found = []
        for place in map(Path, places):
            if place.suffix == SUFFIX and not place.is_dir():
                found += unpack(place, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runs-"))))
            else:
                found.append(place)
        yield found
