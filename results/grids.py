"""The grids whose runs are reported: what ``grid.json`` says of each, and the rows of its table with their runs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from rundir.experiment import defaults
from rundir.files import Damaged
from rundir.manifest import GridManifest, GridRow, merged, read
from rundir.schema import File

_SETTING = re.compile(r"\{(\w+(?:\.\w+)+)\}")
LAUNCHER = "ablations/run.py"


@dataclass(frozen=True)
class GridLine:
    """One row of a grid's table, or a part of one: its texts, and which runs and scores are in it."""

    section: str
    labels: tuple[str, ...]
    cells: Mapping[str, float | None] = field(default_factory=dict)  # each with the one width that it serves, or None
    name: str = ""
    short: str = ""
    panel: str = ""
    paper: str = ""
    against: str = ""
    initial: str | None = None  # of fine-tuned networks: the kind of weights that they started from
    width: float | None = None  # where the line is of one width only

    def select(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of ``frame`` that belong here."""
        served = frame["cell"].map(self.cells)
        keep = frame["cell"].isin(list(self.cells))
        if "width" in frame:
            keep &= served.isna() | frame["width"].isna() | frame["width"].sub(served.astype(float)).abs().lt(1e-6)
        return frame[keep if self.initial is None else keep & frame["initial"].eq(self.initial)]


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid and its runs of one setting."""

    manifest: GridManifest
    runs: pd.DataFrame

    @cached_property
    def lines(self) -> list[GridLine]:
        """The rows of the table with what the runs say filled in; cells that are in no row come last, under their own names."""
        rows = [
            GridLine(
                row.section,
                tuple(self._said(label, row) for label in row.labels),
                row.cells,
                row.name,
                row.short,
                row.panel,
                row.paper,
                row.against,
            )
            for row in self.manifest.rows
        ]
        known, blank = set(self.manifest.cells), [""] * (len(self.manifest.columns) - 1)
        section = "other" if rows else ""
        return rows + [
            GridLine(section, (cell, *blank), {cell: None}, cell, cell, section) for cell in sorted(set(self.runs["cell"]) - known)
        ]

    def scored(self, scores: pd.DataFrame) -> list[GridLine]:
        """The lines that have one of these scores."""
        return [line for line in self.lines if len(line.select(scores))]

    @property
    def title(self) -> str:
        """The table's title; ``{networks}`` is what is compared, without larger networks that others only learn from."""
        compared = self.runs[~self.runs["run"].isin(list(self.runs["needs"]))]
        named = " and ".join(sorted({f"{'ViT' if 'vit' in arch else 'CNN'} ({arch})" for arch in compared["arch"]}))
        return self.manifest.title.replace("{networks}", named)

    def _said(self, label: str, row: GridRow) -> str:
        """A label with the settings of the row's runs in the place of ``{section.key}``."""
        found = _SETTING.search(label)
        if not found:
            return label
        own = self.runs[self.runs["cell"].isin(list(row.cells))]
        if found[1] == "objective.head":  # nothing is behind a projection where nothing is distilled
            own = own[own["distill_loss"].ne("none")]
        values = {_text(json.loads(alike).get(found[1], defaults().get(found[1]))) for alike in own["alike"]}
        return label.replace(found[0], ", ".join(sorted(values)))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def read_grids(runs: pd.DataFrame) -> tuple[dict[str, GridManifest], list[str]]:
    """The manifest of each grid of ``runs``, rows by cell where there is none; and a line for each that is missing or damaged."""
    found, lines = {}, []
    for grid, own in runs.groupby("grid"):
        manifest = None
        for folder in sorted({str(Path(path).parent) for path in own["path"]}):
            try:
                here = read(Path(folder))
            except Damaged as error:
                lines.append(str(error))
                continue
            if here is None:
                lines += _missing(folder, str(grid), own)
            elif here.grid == grid:
                manifest = _joined(manifest, here)
        found[str(grid)] = manifest or GridManifest(str(grid), f"Grid {grid}", ("Cell",), ())
    return found, lines


def _joined(old: GridManifest | None, new: GridManifest) -> GridManifest:
    """Of one grid in two places: the rows of both."""
    both, known = merged(old, new), set(new.cells)
    if old is None or old.columns != new.columns:
        return both
    rows = {(row.section, row.labels) for row in new.rows}
    more = [
        replace(row, cells={cell: width for cell, width in row.cells.items() if cell not in known})
        for row in old.rows
        if (row.section, row.labels) not in rows
    ]
    return replace(both, rows=(*both.rows, *(row for row in more if row.cells)))


def _missing(folder: str, grid: str, runs: pd.DataFrame) -> list[str]:
    """A line for a folder without a manifest, if its runs are a launcher's."""
    here = runs[runs["path"].str.startswith(f"{folder}{os.sep}")]
    commands = [command for command in here["command"] if LAUNCHER in command]
    if all(Path(path).name == cell for path, cell in zip(here["path"], here["cell"], strict=True)):
        return []  # started by hand: they belong to no grid
    command = f"python {commands[-1]}" if commands else f"python {LAUNCHER} --grid {grid} --profile {here['preset'].iloc[-1]}"
    return [f"{folder} has no {File.MANIFEST}, so rows are called by their cells; {command} writes it (what is finished stays)"]


def of_setting(manifests: Mapping[str, GridManifest], runs: pd.DataFrame, first: pd.Series) -> Grid:
    """The grid of the score or run ``first`` with its runs of the same setting."""
    own = runs[runs["grid"].eq(first["grid"]) & runs["setting"].eq(first["setting"]) & runs["preset"].eq(first["preset"])]
    return Grid(manifests[first["grid"]], own)


def cells_of_papers(manifests: Mapping[str, GridManifest]) -> dict[str, set[tuple[str, str]]]:
    """The (grid, cell) pairs that reproduce each published method."""
    found: dict[str, set[tuple[str, str]]] = {}
    for grid, manifest in manifests.items():
        for row in manifest.rows:
            found.setdefault(row.paper, set()).update((grid, cell) for cell in row.cells)
    return found


def whole(lines: Sequence[GridLine]) -> list[GridLine]:
    """The lines with one label each, their whole name."""
    return [replace(line, labels=(line.name,), short=line.name) for line in lines]
