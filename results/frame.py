"""Run directories -> tidy pandas frames.

    from results.frame import load
    scores = load("runs")                 # one row per score of every run below runs/

Everything else of this room works on the three frames made here. What a call has read it keeps (:mod:`results.store`), so that the
next one reads only runs that changed.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from results import apart, store
from results.grids import read_grids
from rundir.errors import UserError
from rundir.files import Damaged
from rundir.manifest import GridManifest
from rundir.reading import (
    APART_RECORDS,
    APART_RUNS,
    FACTOR_NUMBERS,
    FACTORS,
    FILES,
    METRIC_COLUMNS,
    PLACE,
    RECORD_COLUMNS,
    RECORD_FLAGS,
    RECORD_NUMBERS,
    guidelines,
    read_metrics,
    read_records,
    read_run,
    shown,
)
from rundir.schema import File, State

__all__ = [
    "CELL_COLUMNS",
    "RUN_COLUMNS",
    "Frames",
    "current",
    "guidelines",
    "load",
    "load_all",
    "load_metrics",
    "load_runs",
    "run_directories",
]

# What names an experiment; these columns are the same in all three frames.
CELL_COLUMNS = [
    "run",
    "grid",
    "cell",
    "base_loss",
    "distill_loss",
    "teacher",
    "method",
    "guidelines",
    "kind",
    "arch",
    "width_min",
    "width_max",
    "setting",
    "trained",
    "preset",
    "needs",
    "seed",
    "state",
]
COST_COLUMNS = ["train_seconds", "train_flops"]
VERSION_COLUMNS = ["method_version"]  # of rundir/method.py
ORIGIN_COLUMNS = ["commit", "hardware", "command", "place"]
RUN_COLUMNS = [
    *CELL_COLUMNS,
    *FACTORS,
    "pretrained_on",
    "scored_at",  # widths of the grid's own evaluation, JSON
    "why",
    "started",
    "finished",
    *COST_COLUMNS,
    *VERSION_COLUMNS,
    *ORIGIN_COLUMNS,
    "path",
    "alike",
]
SCORE_COLUMNS = [*CELL_COLUMNS, *FACTORS, "pretrained_on", *RECORD_COLUMNS, *COST_COLUMNS, *VERSION_COLUMNS, "commit", "place"]
_RUN_NUMBERS = ["width_min", "width_max", *FACTOR_NUMBERS, *COST_COLUMNS, *VERSION_COLUMNS]
_HASHED = re.compile(r"-[0-9a-f]{8}$")

Places = Path | str | Sequence[Path | str]


@dataclass(frozen=True)
class Frames:
    """Everything below some directories: the three frames, a line for each run (or file of one) that was left out of them, and
    the grids by name. ``scores`` are of widths, and ``subnets`` of sub-networks that stand for none.
    """

    scores: pd.DataFrame
    runs: pd.DataFrame
    metrics: pd.DataFrame
    left_out: tuple[str, ...]
    grids: Mapping[str, GridManifest]
    subnets: pd.DataFrame = field(default_factory=pd.DataFrame)


def load_all(runs: Places, keep: bool = True) -> Frames:
    """What :func:`load`, :func:`load_runs` and :func:`load_metrics` give, and which runs could not be read, with why.

    Raises :class:`UserError`.
    """
    known, records, left_out = _read(runs, keep)
    metrics, more = _read_metrics(runs, known, keep)
    grids, missing = read_grids(known)
    scores = _scores(known, records)
    of_width = scores["width"].notna()
    return Frames(
        _told(scores[of_width]), known[RUN_COLUMNS], metrics, tuple(_once([*left_out, *more, *missing])), grids, scores[~of_width]
    )


def current_of(frames: Frames, places: Sequence[Path]) -> Frames:
    """Only the runs that count (:func:`current`), with paths as seen from ``places``.

    Raises :class:`UserError` where there are none.
    """
    left_out = tuple(seen_from(places, line) for line in frames.left_out)
    if frames.runs.empty:
        many = f" ({len(left_out)} cannot be read: {left_out[0]})" if left_out else ""
        raise UserError(
            f"{' '.join(map(str, places))} holds no runs (directories with a config.yaml){many}; give the "
            "directory of a grid's runs, such as runs/guidelines"
        )
    runs = current(frames.runs).reset_index(drop=True)
    scores, metrics, subnets = (rows[rows["run"].isin(runs["run"])] for rows in (frames.scores, frames.metrics, frames.subnets))
    return replace(frames, scores=scores, runs=runs, metrics=metrics, left_out=left_out, subnets=subnets)


def _told(scores: pd.DataFrame) -> pd.DataFrame:
    """``scores`` without those of a plain width where a run has a score of the sub-network that stands for that width there."""
    stands_in = scores["subnet"].ne("")
    if not stands_in.any():
        return scores
    place = ["run", "grid", *(name for name in PLACE if name not in ("subnet", "seed")), "variant"]
    known = scores[place].astype(str)
    taken = set(known[stands_in].itertuples(index=False, name=None))
    plain = [key not in taken for key in known.itertuples(index=False, name=None)]
    return scores[stands_in | pd.Series(plain, index=scores.index)]


def seen_from(places: Sequence[Path], line: str) -> str:
    """``line`` with paths as seen from ``places``."""
    for root in sorted({f"{Path(place).resolve().parent}{os.sep}" for place in places}, key=len, reverse=True):
        line = line.replace(root, "")
    return line


def load(runs: Places, keep: bool = True) -> pd.DataFrame:
    """One row per result record of every run under ``runs`` (a run, a grid's directory, a directory of grids, or several).

    Columns: ``SCORE_COLUMNS``. ``value`` and ``chance`` are fractions in 0..1, ``flops`` counts 2 x multiply-adds of one image;
    what is missing or undefined is NaN (numbers), None or "" (texts). ``variant`` is "" for the grid's own evaluation of a run and
    else names the settings that differ. A run without results has no rows here; :func:`load_runs` knows it. ``keep=False`` neither
    reads nor writes what is kept between calls. A damaged run is left out with a warning. Raises :class:`UserError`.
    """
    known, records, left_out = _read(runs, keep)
    _warn(left_out)
    return _scores(known, records)


def load_runs(runs: Places, keep: bool = True) -> pd.DataFrame:
    """One row per run directory under ``runs``, finished or not: ``RUN_COLUMNS``. Runs with an equal cell and setting differ in the
    seed alone. A damaged run is left out with a warning. Raises :class:`UserError`."""
    known, _, left_out = _read(runs, keep)
    _warn(left_out)
    return known[RUN_COLUMNS]


def load_metrics(runs: Places, keep: bool = True) -> pd.DataFrame:
    """The logged values of every run under ``runs`` in long form: ``CELL_COLUMNS`` and ``METRIC_COLUMNS``.

    ``width`` is NaN where a value belongs to no width. Where a resumed run logged the same (step, name, width) again,
    the last line counts. A line cut short by a killed job is skipped, any other that cannot be read with a warning. Raises
    :class:`UserError`.
    """
    known, _, left_out = _read(runs, keep)
    metrics, more = _read_metrics(runs, known, keep)
    _warn([*left_out, *more])
    return metrics


def _warn(left_out: Sequence[str]) -> None:
    for line in left_out:
        warnings.warn(f"left out: {line}", stacklevel=3)


def current(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`load_runs` that count: one run per (grid, cell, setting, seed).

    The same experiment may have been run twice under other names: the newest counts, a finished one before an unfinished one. Runs
    of one cell that differ in a setting have different ``setting`` texts, and all count.
    """
    keep = _by_age(runs).drop_duplicates(["grid", "cell", "setting", "seed"], keep="last").index
    return runs.loc[runs.index.isin(keep)]


def run_directories(runs: Path) -> list[Path]:
    """The directories at ``runs`` or up to two levels below that hold a config.yaml. These are not searched further.

    Raises :class:`UserError`.
    """
    return [Path(path) for path in _found(runs)[0]]


def _found(runs: Path) -> tuple[list[str], list[str]]:
    """The run directories below ``runs``, sorted, and a line for each place that cannot be searched."""
    runs = Path(runs)
    if not runs.is_dir():
        raise UserError(f"no directory {runs}; give the directory that holds a grid's runs, such as runs/guidelines")
    unread: list[str] = []
    return sorted(_holding_a_config(str(runs), 2, unread)), sorted(unread)


def _holding_a_config(place: str, depth: int, unread: list[str]) -> list[str]:
    if os.path.lexists(f"{place}{os.sep}{File.CONFIG}"):  # whatever it is
        return [place]
    try:
        with os.scandir(place) as entries:
            inside = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        unread.append(f"{place} cannot be read ({error.strerror})")
        return []
    if {entry.name for entry in inside} >= {File.STATUS, File.METRICS}:
        unread.append(f"{place} has no config.yaml")
        return []
    folders = [entry.path for entry in inside if depth and _is_folder(entry, unread)]
    return [path for folder in folders for path in _holding_a_config(folder, depth - 1, unread)]


def _is_folder(entry: os.DirEntry, unread: list[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself
        unread.append(f"{entry.path} cannot be read ({error.strerror})")
        return False


def _roots(runs: Places) -> list[Path]:
    """The given directories, each once."""
    given = [runs] if isinstance(runs, (str, Path)) else list(runs)
    return list(dict.fromkeys(Path(place).resolve() for place in given))


def _read(runs: Places, keep: bool) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The runs, each experiment once and named apart, and the records of all of them, both with ``path``; what was left out."""
    read = [_kept(root, "scores", FILES, _read_scores, keep) for root in _roots(runs)]
    known = pd.concat([tables["runs"] for tables, _ in read], ignore_index=True)
    records = pd.concat([tables["records"] for tables, _ in read], ignore_index=True)
    known = _distinct(known.drop_duplicates("path", ignore_index=True))  # one given directory may be inside another
    return apart.of_runs(known), records.drop_duplicates(ignore_index=True), _once(line for _, lines in read for line in lines)


def _read_metrics(runs: Places, known: pd.DataFrame, keep: bool) -> tuple[pd.DataFrame, list[str]]:
    """The logged values of the ``known`` runs, and what was left out of them."""
    read = [_kept(root, "metrics", [File.METRICS], _read_logs, keep) for root in _roots(runs)]
    logged = pd.concat([tables["values"] for tables, _ in read], ignore_index=True)
    table = logged.merge(known[["path", *CELL_COLUMNS]], on="path", how="inner", sort=False)
    return table[[*CELL_COLUMNS, *METRIC_COLUMNS]], _once(line for _, lines in read for line in lines)


def _once(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))


def _scores(known: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    table = records.merge(known, on="path", how="inner", sort=False)
    return table.assign(variant=apart.of_scores(table))[SCORE_COLUMNS]


def _distinct(known: pd.DataFrame) -> pd.DataFrame:
    """The same experiment of a grid may be in several places: the newest finished one counts; in two grids, it counts in both.
    Others of one name are named by place.
    """
    twice = known["run"].duplicated(keep=False)
    if not twice.any():
        return known
    hashed = known["run"].str.contains(_HASHED)
    place = known["path"].str.split(os.sep).str[-3:].str.join("/")
    known = known.assign(run=known["run"].where(~twice | hashed, place))
    keep = _by_age(known).drop_duplicates(["grid", "run"], keep="last").index
    return known.loc[known.index.isin(keep)].reset_index(drop=True)


def _by_age(runs: pd.DataFrame) -> pd.DataFrame:
    order = runs.assign(_done=runs["state"].eq(State.DONE), _when=runs["finished"].fillna(runs["started"]).fillna(""))
    return order.sort_values(["_done", "_when"], kind="stable")


def _kept(
    root: Path,
    kind: str,
    files: Sequence[str],
    read: Callable[[list[str]], tuple[dict[str, pd.DataFrame], dict[str, str]]],
    keep: bool,
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tables of all runs below ``root``, of those that have not changed from the store; and a line for what was left out.

    ``read`` gives the tables of some runs, and by path why something of a run is left out: such a run is read again the next time.
    """
    folder = root / store.FOLDER if keep else None
    paths, unread = _found(root)
    places = {shown(path): path for path in paths}
    stamps = {path: store.stamp(place, files) for path, place in places.items()}
    fresh, _ = read([])
    found = store.load(folder, kind, ["stamps", *fresh])
    stored = dict(zip(["stamps", *fresh], found, strict=True)) if found else {}
    old = dict(zip(stored["stamps"]["path"], stored["stamps"]["stamp"], strict=True)) if found else {}
    changed = [path for path, seen in stamps.items() if old.get(path) != seen]
    fresh, left_out = read([places[path] for path in changed])
    lines = list(map(shown, [*unread, *left_out.values()]))
    if found and not changed and old.keys() == stamps.keys():
        return {name: _typed(stored[name].drop(columns="token"), fresh[name]) for name in fresh}, lines
    same, order = set(stamps) - set(changed), {path: place for place, path in enumerate(stamps)}
    tables = {}
    for name, table in fresh.items():
        parts = [table]
        if found:
            kept = stored[name].drop(columns="token")
            parts.insert(0, _typed(kept[kept["path"].isin(same)], table))
        parts = [part for part in parts if len(part)] or [table]
        table = pd.concat(parts, ignore_index=True)
        tables[name] = table.sort_values("path", key=lambda paths, order=order: paths.map(order), kind="stable", ignore_index=True)
    whole = {path: seen for path, seen in stamps.items() if path not in left_out}
    if whole:
        table = pd.DataFrame({"path": list(whole), "stamp": list(whole.values())}, dtype=object)
        store.save(folder, kind, {"stamps": table, **tables})
    return tables, lines


def _read_scores(paths: list[str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Tables of runs and of their records, and why runs are in neither, by path."""
    rows, records, left_out = [], [], {}
    for path in paths:
        try:
            row = read_run(path)
            own = [] if row is None else read_records(path, row["seed"])
        except Damaged as error:
            left_out[shown(path)] = str(error)
            continue
        if row is not None:
            rows.append(row)
            records += [{**record, "path": row["path"]} for record in own]
    columns = [*RECORD_COLUMNS, *APART_RECORDS, "path"]
    return {
        "runs": _columns(rows, [*RUN_COLUMNS, *APART_RUNS[1:]], _RUN_NUMBERS, integers=("seed",)),
        "records": _columns(records, columns, RECORD_NUMBERS, integers=RECORD_FLAGS),
    }, left_out


def _read_logs(paths: list[str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """A table of logged values, and why lines or files are not in it, by path."""
    empty = _columns([], [*METRIC_COLUMNS, "path"], ["step", "epoch", "width", "value"])
    parts, left_out = [], {}
    for path in paths:
        try:
            lines, note = read_metrics(path)
        except Damaged as error:
            lines, note = [], str(error)
        if note:
            left_out[shown(path)] = note
        if lines:
            values = _columns(lines, METRIC_COLUMNS, ["step", "epoch", "width", "value"])
            parts.append(values.drop_duplicates(["step", "name", "width"], keep="last").assign(path=shown(path)))
    return {"values": pd.concat(parts, ignore_index=True).astype({"path": object}) if parts else empty}, left_out


def _columns(
    rows: list[dict[str, Any]], columns: Sequence[str], numbers: Sequence[str], integers: Sequence[str] = ()
) -> pd.DataFrame:
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
