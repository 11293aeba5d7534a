"""Run directories -> tidy pandas frames.

    from results.frame import load
    scores = load("runs")                 # one row a score of every run below runs/

Everything else of this room works on the three frames made here. What a call has read it keeps (:mod:`results.store`), so that the
next one reads only runs that changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from results import store
from results.reading import (
    FACTOR_NUMBERS,
    FACTORS,
    FILES,
    FORMAT,
    METHODS,
    METRIC_COLUMNS,
    RECORD_COLUMNS,
    RECORD_NUMBERS,
    InputError,
    guidelines,
    read_metrics,
    read_records,
    read_run,
)

__all__ = ["CELL_COLUMNS", "FORMAT", "METHODS", "RUN_COLUMNS", "InputError", "current", "guidelines", "load", "load_metrics",
           "load_runs", "run_directories", "save"]

# What names an experiment; these columns are the same in all three frames.
CELL_COLUMNS = ["run", "grid", "cell", "base_loss", "distill_loss", "teacher", "method", "guidelines", "kind", "arch",
                "width_min", "width_max", "setting", "trained", "preset", "needs", "seed", "state"]
COST_COLUMNS = ["train_seconds", "train_flops"]
ORIGIN_COLUMNS = ["commit", "hardware", "command", "place"]
RUN_COLUMNS = [*CELL_COLUMNS, *FACTORS, "pretrained_on", "why", "started", "finished", *COST_COLUMNS, *ORIGIN_COLUMNS, "path"]
SCORE_COLUMNS = [*CELL_COLUMNS, *FACTORS, "pretrained_on", *RECORD_COLUMNS, *COST_COLUMNS, "commit", "place"]
_RUN_NUMBERS = ["width_min", "width_max", *FACTOR_NUMBERS, *COST_COLUMNS]
_HASHED = re.compile(r"-[0-9a-f]{8}$")

Places = Path | str | Sequence[Path | str]


def load(runs: Places, keep: bool = True) -> pd.DataFrame:
    """One row per result record of every run under ``runs`` (a run, a grid's directory, a directory of grids, or several).

    Columns: ``SCORE_COLUMNS``. ``value`` and ``chance`` are fractions in 0..1, ``flops`` counts 2 x multiply-adds of one image;
    what is missing or undefined is NaN (numbers), None or "" (texts). A run without results has no rows here; :func:`load_runs`
    knows it. ``keep=False`` neither reads nor writes what is kept between calls. Raises :class:`InputError`.
    """
    known, records = _read(runs, keep)
    table = records.merge(known, on="path", how="inner", sort=False)
    return table[SCORE_COLUMNS]


def load_runs(runs: Places, keep: bool = True) -> pd.DataFrame:
    """One row per run directory under ``runs``, finished or not: ``RUN_COLUMNS``. Raises :class:`InputError`."""
    return _read(runs, keep)[0]


def load_metrics(runs: Places, keep: bool = True) -> pd.DataFrame:
    """The logged values of every run under ``runs`` in long form: ``CELL_COLUMNS`` and ``METRIC_COLUMNS``.

    ``width`` is NaN where a value belongs to no width. Where a resumed run logged the same (step, name, width) again,
    the last line counts. A line cut short by a killed job is skipped. Raises :class:`InputError`.
    """
    known = _read(runs, keep)[0]
    parts = [_kept(root, "metrics", ["metrics.jsonl"], {"values": _metrics_table}, keep)["values"] for root in _roots(runs)]
    table = pd.concat(parts, ignore_index=True).merge(known[["path", *CELL_COLUMNS]], on="path", how="inner", sort=False)
    return table[[*CELL_COLUMNS, *METRIC_COLUMNS]]


def current(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`load_runs` that count: one run per (grid, cell, setting, seed).

    The same cell may lie there twice, run with other options under another hash. Averaging both as if they were seeds
    would be wrong, so the newest counts, a finished one before an unfinished one.
    """
    keep = _by_age(runs).drop_duplicates(["grid", "cell", "setting", "seed"], keep="last").index
    return runs.loc[runs.index.isin(keep)]


def save(scores: pd.DataFrame, stem: Path) -> list[Path]:
    """Write a frame as ``stem``.parquet and ``stem``.csv; :func:`pandas.read_parquet` gives the same frame back."""
    paths = [stem.with_suffix(".parquet"), stem.with_suffix(".csv")]
    scores.to_parquet(paths[0], index=False)
    scores.to_csv(paths[1], index=False)
    return paths


def run_directories(runs: Path) -> list[Path]:
    """The directories at ``runs`` or up to two levels below that hold a config.yaml. Nothing is sought inside of them.

    Raises :class:`InputError`.
    """
    runs = Path(runs)
    if not runs.is_dir():
        raise InputError(f"no directory {runs}; give the directory that holds a grid's runs, such as runs/guidelines")
    return sorted(map(Path, _holding_a_config(str(runs), 2)))


def _holding_a_config(place: str, depth: int) -> list[str]:
    if os.path.isfile(f"{place}{os.sep}config.yaml"):
        return [place]
    if not depth:
        return []
    with os.scandir(place) as entries:
        folders = [entry.path for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return [path for folder in folders for path in _holding_a_config(folder, depth - 1)]


def _roots(runs: Places) -> list[Path]:
    """The given directories, each once."""
    given = [runs] if isinstance(runs, (str, Path)) else list(runs)
    return list(dict.fromkeys(Path(place).resolve() for place in given))


def _read(runs: Places, keep: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs, each experiment once, and the records of all of them, both with ``path``."""
    read = [_kept(root, "scores", FILES, {"runs": _runs_table, "records": _records_table}, keep) for root in _roots(runs)]
    known = pd.concat([tables["runs"] for tables in read], ignore_index=True)
    records = pd.concat([tables["records"] for tables in read], ignore_index=True)
    known = known.drop_duplicates("path", ignore_index=True)  # one directory given may lie in another
    return _distinct(known), records.drop_duplicates(ignore_index=True)


def _distinct(known: pd.DataFrame) -> pd.DataFrame:
    """The same experiment may lie in several places: the newest finished one counts. Others of one name are named by place."""
    twice = known["run"].duplicated(keep=False)
    if not twice.any():
        return known
    hashed = known["run"].str.contains(_HASHED)
    place = known["path"].str.split(os.sep).str[-3:].str.join("/")
    known = known.assign(run=known["run"].where(~twice | hashed, place))
    keep = _by_age(known).drop_duplicates(["run"], keep="last").index
    return known.loc[known.index.isin(keep)].reset_index(drop=True)


def _by_age(runs: pd.DataFrame) -> pd.DataFrame:
    order = runs.assign(_done=runs["state"].eq("done"), _when=runs["finished"].fillna(runs["started"]).fillna(""))
    return order.sort_values(["_done", "_when"], kind="stable")


def _kept(root: Path, kind: str, files: Sequence[str], make: dict[str, Callable[[list[str]], pd.DataFrame]],
          keep: bool) -> dict[str, pd.DataFrame]:
    """The tables of all runs below ``root``: those of runs that have not changed from the store, the others read.

    The first table of ``make`` has a row for each run that has been looked at, with its ``stamp``.
    """
    folder = root / store.FOLDER if keep else None
    stamps = {path: store.stamp(path, files) for path in map(str, run_directories(root))}
    found = store.load(folder, kind, ["stamps", *make])
    stored = dict(zip(["stamps", *make], found, strict=True)) if found else {}
    old = dict(zip(stored["stamps"]["path"], stored["stamps"]["stamp"], strict=True)) if found else {}
    changed = [path for path, seen in stamps.items() if old.get(path) != seen]
    fresh = {name: build(changed) for name, build in make.items()}
    if found and not changed and old.keys() == stamps.keys():
        return {name: _typed(stored[name].drop(columns="token"), fresh[name]) for name in make}
    changed_names, tables = set(changed), {}
    for name in make:
        parts = [fresh[name]]
        if found:
            kept = stored[name].drop(columns="token")
            same = kept["path"].isin([path for path in stamps if path not in changed_names])
            parts.insert(0, _typed(kept[same], fresh[name]))
        parts = [part for part in parts if len(part)] or [fresh[name]]
        table = pd.concat(parts, ignore_index=True)
        order = {path: place for place, path in enumerate(stamps)}
        tables[name] = table.sort_values("path", key=lambda paths, order=order: paths.map(order), kind="stable", ignore_index=True)
    table = pd.DataFrame({"path": list(stamps), "stamp": list(stamps.values())}, dtype=object)
    if stamps:
        store.save(folder, kind, {"stamps": table, **tables})
    return tables


def _runs_table(paths: list[str]) -> pd.DataFrame:
    rows = [row for path in paths if (row := read_run(path)) is not None]
    return _columns(rows, RUN_COLUMNS, _RUN_NUMBERS, integers=("seed",))


def _records_table(paths: list[str]) -> pd.DataFrame:
    rows = [{**row, "path": path} for path in paths for row in read_records(path)]
    return _columns(rows, [*RECORD_COLUMNS, "path"], RECORD_NUMBERS)


def _metrics_table(paths: list[str]) -> pd.DataFrame:
    parts = []
    for path in paths:
        lines = read_metrics(path)
        if lines:
            values = _columns(lines, METRIC_COLUMNS, ["step", "epoch", "width", "value"])
            parts.append(values.drop_duplicates(["step", "name", "width"], keep="last").assign(path=path))
    empty = _columns([], [*METRIC_COLUMNS, "path"], ["step", "epoch", "width", "value"])
    return pd.concat(parts, ignore_index=True).astype({"path": object}) if parts else empty


def _columns(rows: list[dict[str, Any]], columns: Sequence[str], numbers: Sequence[str],
             integers: Sequence[str] = ()) -> pd.DataFrame:
    """A frame of these columns: numbers float64, integers int64, all others texts (object, None where missing)."""
    found = {}
    for name in columns:
        values = [row.get(name) for row in rows]
        kind = "float64" if name in numbers else "int64" if name in integers else object
        found[name] = pd.Series(values, dtype=kind)
    return pd.DataFrame(found)


def _typed(stored: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    """A stored table with the types of a fresh one: Parquet has its own idea of texts and of missing ones."""
    table = stored.astype(like.dtypes.to_dict())
    for name in like.select_dtypes(object).columns:
        table[name] = table[name].where(table[name].notna(), None)
    return table[like.columns].reset_index(drop=True)
