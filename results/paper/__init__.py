"""Published numbers with their sources, next to ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd
import yaml

from results.grids import cells_of_papers
from results.tables.render import MISSING, Column, Score, Table, TableRow
from results.tables.scores import METRICS, summarize, width_name
from rundir.errors import UserError
from rundir.manifest import GridManifest
from rundir.schema import PUBLISHED_FORMAT

PUBLISHED = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Source:
    """A publication, with its title and address."""

    title: str
    url: str


@dataclass(frozen=True)
class Number:
    """One published number (percent; None: not filled in) and the rows of ours (``paper`` in a grid file) next to it."""

    method: str
    arch: str
    task: str
    dataset: str
    metric: str
    width: float
    value: float | None
    std: float | None
    n: int | None
    source: Source
    place: str
    ours: str
    epochs: int | None = None
    recipe: str = ""  # how it was trained, where sources differ in it


def read_numbers(path: Path = PUBLISHED) -> list[Number]:
    """All numbers of the file. Raises :class:`UserError` for one that names no source, or no place in it."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if content.get("format") != PUBLISHED_FORMAT:
        raise UserError(f"{path} has format {content.get('format')!r}, this version reads format {PUBLISHED_FORMAT}")
    sources = {name: Source(**entry) for name, entry in content["sources"].items()}
    known, found = {field.name for field in fields(Number)}, []
    for entry in content["numbers"]:
        entry = content["defaults"] | entry
        name = f"{path}, {entry.get('method')} on {entry.get('dataset')}"
        if set(entry) - known:
            raise UserError(f"{name}: unknown key {sorted(set(entry) - known)[0]}; keys are {', '.join(sorted(known))}")
        if entry.get("source") not in sources:
            raise UserError(f"{name}: no source {entry.get('source')!r}; add one under sources, with title and url")
        if entry["value"] is not None and not entry.get("place"):
            raise UserError(f"{name}: place is empty; say in which table of the source the number stands, or set value: null")
        found.append(Number(**entry | {"source": sources[entry["source"]]}))
    return found


def beside(numbers: list[Number], scores: pd.DataFrame, grids: Mapping[str, GridManifest], name: str = "table-published") -> Table:
    """The published numbers, and the mean of our runs of the same network, data set, metric and width where there are any; of what
    has neither no row.
    """
    scores = scores[scores["value"].notna()].assign(width=scores["width"].round(6))
    rows, ours, cells = [], [], cells_of_papers(grids)
    places = pd.Series(list(zip(scores["grid"], scores["cell"], strict=True)), index=scores.index, dtype=object)
    for number in numbers:
        own = _ours(number, scores[places.isin(list(cells.get(number.ours, ())))] if number.ours else scores[:0])
        if own is None and number.value is None:
            continue  # nothing to show, and nothing to compare
        ours.append(own)
        value = MISSING if number.value is None else _as_given(number.value) + (f" ± {number.std:.1f}" if number.std else "")
        where = ", ".join(filter(None, [number.source.url, number.place]))
        labels = (
            number.method,
            number.recipe or MISSING,
            number.arch,
            number.dataset,
            METRICS.get(number.metric, number.metric),
            width_name(number.width),
            MISSING if number.epochs is None else str(number.epochs),
            value,
            where,
        )
        rows.append(TableRow(f"{number.task}, {number.dataset}", labels, (own,), number.width))
    seeds = max((score.n for score in ours if score), default=0)
    columns = tuple(
        Column(text, "right" if text in ("Width", "Epochs", "Published") else "left")
        for text in ("Method", "Recipe", "Network", "Data", "Metric", "Width", "Epochs", "Published", "Source")
    )
    caption = (
        "Numbers as their sources give them (percent). A dash: no number with a source that was at hand (published), or no "
        "runs of that network, data set, metric and width (ours, mean over seeds; epochs may differ and stand in the runs). "
        "Recipe: how the source trained it, where sources differ."
    )
    return Table(
        name, "Published numbers and ours", caption, columns, "Ours (%)", ("ours",), tuple(rows), seeds, ({"whose": "ours"},)
    )


def _as_given(value: float) -> str:
    """One decimal, or two where the source has them."""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"


def _ours(number: Number, scores: pd.DataFrame) -> Score | None:
    found = scores[scores["variant"].eq("")]
    for column in ("arch", "task", "dataset", "metric"):
        found = found[found[column].eq(getattr(number, column))]
    found = found[found["width"].sub(number.width).abs().lt(1e-6) & found["label_fraction"].eq(1) & found["initial"].ne("random")]
    score = summarize(found)
    return None if score is None or math.isnan(score.mean) else score
