"""``runs/<grid>/grid.json`` (format 1): what a grid compares and how its table is laid out, for whoever reads its runs.

It describes the grid, all cells of its file, and not one launch; what a launch chose stands in each run's config. ``profile``,
``setting`` and ``command`` are those of the last launch.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rundir.atomic import write_atomically
from rundir.files import Damaged, read_json
from rundir.schema import MANIFEST_FORMAT, File


@dataclass(frozen=True)
class GridRow:
    """One row of a grid's table.

    ``cells`` are those whose runs are in it, each with the one width that it serves, or None for all. ``labels``: one text per
    column; ``{section.key}`` in one is that setting of the row's runs. ``name`` names the row alone, ``short`` within its
    ``panel`` of a picture. ``paper``: the published method that it reproduces; ``against``: the cell of one slimmable network
    that these, trained for one width each, are the alternative to.
    """

    section: str
    labels: tuple[str, ...]
    short: str
    cells: dict[str, float | None]
    name: str = ""
    panel: str = ""
    paper: str = ""
    against: str = ""


@dataclass(frozen=True)
class GridManifest:
    """The table of a grid: its title, its columns, those of them that a narrow terminal drops (``details``), whether it shows what
    training cost, its rows, and its claims as its file has them."""

    grid: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]
    details: tuple[str, ...] = ()
    cost: bool = False
    claims: tuple[dict[str, Any], ...] = ()
    profile: str = ""
    setting: str = ""
    command: str = ""
    format: int = field(default=MANIFEST_FORMAT)

    @property
    def cells(self) -> list[str]:
        """The names of all cells, by row."""
        return [cell for row in self.rows for cell in row.cells]


def write(folder: Path, manifest: GridManifest) -> None:
    """Write the ``grid.json`` of ``folder``, which is there, in one move. Raises OSError."""
    write_atomically(folder / File.MANIFEST, json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n")


def read(folder: Path) -> GridManifest | None:
    """The manifest in ``folder``; None where there is none.

    Raises:
        Damaged: it is not as documented; the message is one line.
    """
    path = folder / File.MANIFEST
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    try:
        return _manifest(content)
    except _Wrong as error:
        raise Damaged(f"{path}: {error}; delete it and start the grid again, which writes it") from None


def merged(old: GridManifest | None, new: GridManifest) -> GridManifest:
    """``new`` with the cells of other widths that an earlier launch of the same grid added to its rows."""
    rows = {(row.section, row.labels): row for row in (old.rows if old else ())}
    fixed = set(new.cells)
    kept = []
    for row in new.rows:
        earlier = rows.get((row.section, row.labels))
        served = {width for width in row.cells.values() if width is not None}
        more = {
            cell: width
            for cell, width in (earlier.cells.items() if earlier and served else ())
            if cell not in fixed and width is not None and width not in served
        }
        cells = {**row.cells, **more}
        ordered = sorted(cells.items(), key=lambda item: -(item[1] or 0)) if more else cells.items()
        kept.append(replace(row, cells=dict(ordered)))
    return replace(new, rows=tuple(kept))


class _Wrong(ValueError):
    """What is wrong with the content of a manifest."""


def _manifest(content: Any) -> GridManifest:
    number = content.get("format") if isinstance(content, Mapping) else None
    if number != MANIFEST_FORMAT or isinstance(number, bool):
        raise _Wrong(f"format {reprlib.repr(number)}, this version reads format {MANIFEST_FORMAT}")
    columns = _texts(content, "columns")
    rows = tuple(_row(row, place, len(columns)) for place, row in enumerate(_list(content, "rows"), start=1))
    cells = [cell for row in rows for cell in row.cells]
    if twice := sorted({cell for cell in cells if cells.count(cell) > 1}):
        raise _Wrong(f"cell {twice[0]} is in two rows")
    claims = _list(content, "claims")
    if not all(isinstance(claim, dict) for claim in claims):
        raise _Wrong("claims is not a list of mappings")
    return GridManifest(
        _of(content, "grid", str),
        _of(content, "title", str),
        columns,
        rows,
        _texts(content, "details", ()),
        _of(content, "cost", bool),
        tuple(claims),
        *(_of(content, name, str, "") for name in ("profile", "setting", "command")),
    )


def _row(row: Any, place: int, columns: int) -> GridRow:
    if not isinstance(row, Mapping):
        raise _Wrong(f"row {place} is {reprlib.repr(row)}, not a mapping")
    try:
        labels, cells = _texts(row, "labels"), _of(row, "cells", dict)
        if len(labels) != columns:
            raise _Wrong(f"{len(labels)} labels for {columns} columns")
        if wrong := [cell for cell, width in cells.items() if width is not None and not _is_width(width)]:
            raise _Wrong(f"the width of {wrong[0]} is {reprlib.repr(cells[wrong[0]])}, not a width or null")
        return GridRow(
            _of(row, "section", str),
            labels,
            _of(row, "short", str),
            cells,
            *(_of(row, name, str, "") for name in ("name", "panel", "paper", "against")),
        )
    except _Wrong as error:
        raise _Wrong(f"row {place}: {error}") from None


def _is_width(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1


_KINDS: dict[type, str] = {str: "text", bool: "true or false", dict: "a mapping", list: "a list"}


def _of(content: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    found = content.get(key, default)
    if not isinstance(found, kind):
        raise _Wrong(f"{key} is {reprlib.repr(found)}, not {_KINDS[kind]}")
    return found


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    return _of(content, key, list)


def _texts(content: Mapping[str, Any], key: str, default: Any = None) -> tuple[str, ...]:
    found = _list(content, key) if default is None or key in content else default
    if not all(isinstance(text, str) for text in found):
        raise _Wrong(f"{key} is not a list of strings")
    return tuple(found)
