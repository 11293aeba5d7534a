"""A table of scores, and how it looks in Markdown, CSV and the terminal (LaTeX, HTML: in latex.py and html.py).

The object holds plain text and numbers; each renderer does its own escaping.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from typing import Any

import rich.box
import rich.table
import rich.text

AT_CHANCE, COLLAPSED, OLDER, EXTRAPOLATED = "†", "‡", "§", "*"
YES, MISSING = "✓", "—"
CAPTION_WIDTH = 60  # characters in a terminal, under however narrow a table


@dataclass(frozen=True)
class Source:
    """Where one number comes from: the run's name, its seed, the value (a fraction)."""

    run: str
    seed: int
    value: float


@dataclass(frozen=True)
class Score:
    """One number of a table: mean and sample standard deviation (fractions, NaN for n = 1) over ``n`` seeds."""

    mean: float
    std: float
    n: int
    chance: float = math.nan
    count: float = math.nan
    flops: float = math.nan
    parameters: float = math.nan
    best: bool = False
    at_chance: bool = False
    collapsed: bool = False
    older: bool = False  # in at least one seed by older code of the method
    extrapolated: bool = False  # in at least one seed: the width is narrower than those trained
    low: float = math.nan  # 95 % bootstrap interval of the mean over seeds
    high: float = math.nan
    low_images: float = math.nan  # the same over seeds and images
    high_images: float = math.nan
    sources: tuple[Source, ...] = ()

    def interval(self) -> str:
        """``[94.1, 95.6]`` in percent; "" where there is none (one seed)."""
        return "" if math.isnan(self.low) else f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def parts(self, seeds: int) -> tuple[str, str, str]:
        """(mean, spread, marks) in percent, as text; ``seeds`` is what the caption says, another number is shown."""
        spread = f" ± {100 * self.std:.1f}" if self.n > 1 else ""
        if self.n != seeds:
            spread += f" (n={self.n})"
        marks = EXTRAPOLATED * self.extrapolated + AT_CHANCE * self.at_chance + COLLAPSED * self.collapsed + OLDER * self.older
        return f"{100 * self.mean:.1f}", spread, marks


@dataclass(frozen=True)
class Column:
    """A text column at the left; ``detail`` ones are dropped where a terminal is too narrow."""

    name: str
    align: str = "left"  # left | center | right
    detail: bool = False


@dataclass(frozen=True)
class TableRow:
    """Texts for the left columns, then one score a value column (None: missing). A rule separates sections."""

    section: str
    labels: tuple[str, ...]
    scores: tuple[Score | None, ...]
    width: float | None = None  # where a row is of one width only
    cells: tuple[str, ...] = ()  # of the grid, whose scores are in it


@dataclass(frozen=True)
class Table:
    """A finished table. ``value_header`` stands over all value columns; ``seeds`` is the usual n of its scores."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    value_header: str
    value_names: tuple[str, ...]
    rows: tuple[TableRow, ...]
    seeds: int
    keys: tuple[dict[str, Any], ...] = field(default=())  # what each value column is, for the CSV: {"width": 0.25}


def markdown(table: Table, intervals: bool = False) -> str:
    """GitHub Markdown: the title, the caption and a pipe table, best scores in bold; ``intervals`` of the means behind them."""

    def cells(texts: list[str]) -> str:
        return "| " + " | ".join(texts) + " |"

    names = [_md(column.name) for column in table.columns] + [_md(name) for name in table.value_names]
    rules = [{"left": ":--", "center": ":-:", "right": "--:"}[column.align] for column in table.columns]
    rules += ["--:"] * len(table.value_names)
    lines = [f"**{_md(table.title)}**", "", _md(table.caption), "", cells(names), cells(rules)]
    for row in table.rows:
        scores = [_md_score(score, table.seeds, intervals) for score in row.scores]
        lines.append(cells([_md(label) for label in row.labels] + scores))
    return "\n".join(lines) + "\n"


def _md(text: str) -> str:
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ")


def _md_score(score: Score | None, seeds: int, intervals: bool) -> str:
    if score is None:
        return MISSING
    mean, spread, marks = score.parts(seeds)
    text = (f"**{mean}**" if score.best else mean) + spread + (f" {_md(marks)}" if marks else "")
    return " ".join(filter(None, [text, score.interval() if intervals else ""]))


def comma_separated(table: Table) -> str:
    """CSV with one line per score: the row's labels, the column's key, raw mean, std and 95 % interval (fractions), n, chance,
    cost and runs.

    A missing score is a line with n = 0 and empty numbers.
    """
    keys = list(table.keys[0]) if table.keys else []
    numbers = [
        "mean",
        "std",
        "n",
        "low",
        "high",
        "low_images",
        "high_images",
        "chance",
        "count",
        "flops",
        "parameters",
        "best",
        "at_chance",
        "collapsed",
        "older",
        "extrapolated",
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not table.keys:  # a table of texts
        writer.writerow(["section", *(_identifier(column.name) for column in table.columns)])
        writer.writerows([row.section, *row.labels] for row in table.rows)
        return text.getvalue()
    writer.writerow(["section", *(_identifier(column.name) for column in table.columns), *keys, *numbers, "runs"])
    for row in table.rows:
        for key, score in zip(table.keys, row.scores, strict=True):
            labels = [1 if label == YES else label for label in row.labels]
            values = ["", "", 0, *[""] * (len(numbers) - 3)] if score is None else [_raw(getattr(score, name)) for name in numbers]
            runs = "" if score is None else " ".join(source.run for source in score.sources)
            writer.writerow([row.section, *labels, *key.values(), *values, runs])
    return text.getvalue()


def _identifier(text: str) -> str:
    return text.lower().replace(" ", "_")


def _raw(value: float | int | bool) -> object:
    if isinstance(value, float) and math.isnan(value):
        return ""
    return int(value) if isinstance(value, bool) or float(value).is_integer() else repr(float(value))


def terminal(table: Table, width: int | None = None) -> rich.table.Table:
    """A ``rich`` table to print. Where ``width`` characters do not hold all of it, detail columns go first, then every
    other value column until the rest fits; the caption says how many are shown.
    """
    texts, values = _natural_widths(table)
    whole = width is None or sum(texts) + sum(values) <= width
    shown = [index for index, column in enumerate(table.columns) if whole or not column.detail]
    picked = list(range(len(values)))
    # Texts wrap at words; 20 characters are room enough for them.
    while not whole and len(picked) > 2 and sum(values[i] for i in picked) + sum(min(20, texts[i]) for i in shown) > width:
        picked = sorted({*picked[::2], picked[-1]}) if len(picked) > 3 else [picked[0], picked[-1]]
    caption = table.caption
    if len(picked) < len(values):
        caption += f" {len(picked)} of {len(values)} widths shown; the files have all."
    view = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
        title=rich.text.Text(table.title, style="bold"),
        caption_justify="left",
        caption=rich.text.Text(caption, style="dim"),
        min_width=min(CAPTION_WIDTH, width or CAPTION_WIDTH),
    )
    for index in shown:
        view.add_column(rich.text.Text(table.columns[index].name), justify=table.columns[index].align)
    for index in picked:
        view.add_column(rich.text.Text(table.value_names[index]), justify="right", no_wrap=True)
    for index, row in enumerate(table.rows):
        last = index + 1 == len(table.rows) or table.rows[index + 1].section != row.section
        labels = [rich.text.Text(row.labels[position]) for position in shown]
        view.add_row(*labels, *(_terminal_score(row.scores[i], table.seeds) for i in picked), end_section=last)
    return view


def _terminal_score(score: Score | None, seeds: int) -> rich.text.Text:
    if score is None:
        return rich.text.Text(MISSING, style="dim")
    mean, spread, marks = score.parts(seeds)
    return rich.text.Text.assemble((mean, "bold green" if score.best else ""), spread, (marks, "red"))


def _natural_widths(table: Table) -> tuple[list[int], list[int]]:
    """Characters that each text column and each value column takes unwrapped, with its padding."""
    texts = [[column.name, *(row.labels[index] for row in table.rows)] for index, column in enumerate(table.columns)]
    scores = [
        [name, *(_terminal_score(row.scores[index], table.seeds).plain for row in table.rows)]
        for index, name in enumerate(table.value_names)
    ]
    return [max(map(len, column)) + 2 for column in texts], [max(map(len, column)) + 2 for column in scores]
