"""What all pictures share: style, looks, panels, legends, files.

A panel is a section of the grid's table (or what its file calls a panel), and a series is one of its rows. Colour, marker and line
style together tell series apart; any one of the three is enough, so the pictures survive grey printing. A function that finds
nothing to draw raises :class:`NothingToPlot` with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from results.grids import GridLine
from results.plots.compact import compact
from results.statistics.intervals import bootstrap_interval
from results.tables.scores import protocol_name, score_name

STYLE = Path(__file__).with_name("us3l.mplstyle")
KINDS = ("png", "svg")
COLUMNS = 4  # panels in a line
BAND_ALPHA = 0.18
STD, INTERVAL = "one standard deviation", "95 % bootstrap interval"


class NothingToPlot(Exception):
    """The runs hold no numbers for this picture; the message says which are missing."""


@dataclass(frozen=True)
class Look:
    """Colour (Okabe and Ito's palette), marker and line style of a series; ``filled``: whether its marker is."""

    color: str
    marker: str
    line: str | tuple
    filled: bool = True

    def options(self) -> dict[str, object]:
        """Keywords for ``Axes.plot`` and ``Line2D``."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.line,
            "markerfacecolor": self.color if self.filled else "white",
        }


LOOKS = (
    Look("#0072B2", "s", "-"),
    Look("#E69F00", "o", "--", False),
    Look("#009E73", "^", "-."),
    Look("#D55E00", "D", ":", False),
    Look("#56B4E9", "v", "-", False),
    Look("#CC79A7", "P", "--"),
    Look("#000000", "x", ":"),
    Look("#8C8C8C", "*", "-."),
)

REFERENCE = Look("#444444", ".", (0, (4, 2)))  # what the others are held against


def around(place: int) -> Look:
    """The look of a picture's ``place``-th series: beyond one round of looks the marker is filled where it was not."""
    again, look = place // len(LOOKS), LOOKS[place % len(LOOKS)]
    return replace(look, filled=look.filled != bool(again % 2))


def marker(place: int) -> tuple[Look, float]:
    """Look and size of the marker of a picture's ``place``-th row: beyond one round of looks larger, filled where it was not."""
    again, look = place // len(LOOKS), LOOKS[place % len(LOOKS)]
    return replace(look, line="none", filled=look.filled != bool(again % 2)), 5 + 2.5 * again


@dataclass(frozen=True)
class Series:
    """What is drawn in one panel: its title, and each line with its look."""

    title: str
    lines: tuple[tuple[GridLine, Look], ...]


def series(lines: Sequence[GridLine]) -> list[Series]:
    """The panels of ``lines``. What is called the same in several panels looks the same, as far as there are looks."""
    panels = list(dict.fromkeys(line.panel for line in lines))
    names = list(dict.fromkeys(line.short for line in lines))
    found = []
    for title in panels:
        own = [line for line in lines if line.panel == title]
        places = [names.index(line.short) for line in own] if len(names) <= len(LOOKS) else range(len(own))
        found.append(Series(title, tuple((line, LOOKS[place % len(LOOKS)]) for line, place in zip(own, places, strict=True))))
    return found


def is_shared(panels: Sequence[Series]) -> bool:
    """Whether one legend says all: names stand in several panels, each with one look."""
    looks = {(line.short, look) for panel in panels for line, look in panel.lines}
    return len(looks) == len({name for name, _ in looks}) < sum(len(panel.lines) for panel in panels)


def draw_panels(
    panels: Sequence[Series], quantities: int = 1, label_lines: int = 1, share: bool | str = True
) -> tuple[Figure, list[list[Axes]]]:
    """A figure, and for each quantity the axes of all panels: of one quantity in lines of COLUMNS, of several a line for each."""
    columns = min(len(panels), COLUMNS) if quantities == 1 else len(panels)
    lines = math.ceil(len(panels) / columns) * quantities
    legend = 0 if is_shared(panels) else max(len(panel.lines) for panel in panels)
    below = 0.19 * legend / (1 if quantities == 1 else quantities)
    figure = Figure(figsize=(max(2.9 * columns + 0.6, 4.6), lines * (2.1 + 0.2 * label_lines + below) + 0.6))
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=share)
    for axis in grid.flat[len(panels) * quantities :]:
        axis.set_visible(False)
    rows = [list(grid.flat[: len(panels)])] if quantities == 1 else [list(row) for row in grid]
    for axis, panel in zip(rows[0], panels, strict=True):
        axis.set_title(panel.title)
    for axis in rows[-1]:
        axis.tick_params(labelbottom=True)
    return figure, rows


def legends(figure: Figure, axes: Sequence[Axes], panels: Sequence[Series], extra: Sequence[Line2D] = ()) -> None:
    """One legend below all panels where that says all, else one below each panel; it never covers data."""
    handles = [[Line2D([], [], label=line.short, **look.options()) for line, look in panel.lines] for panel in panels]
    if is_shared(panels):
        named = {handle.get_label(): handle for own in handles for handle in own}
        _below(figure, [*named.values(), *extra])
        return
    for axis, own in zip(axes, handles, strict=True):
        lines = 1 + axis.get_xlabel().count("\n")  # in points, so that the label has room whatever the panel's height
        below = axis.transAxes + ScaledTranslation(0, -(19 + 12 * lines) / 72, figure.dpi_scale_trans)
        axis.legend(
            handles=own, loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=below, fontsize="small", frameon=False
        )
    if extra:
        _below(figure, extra)


def legend_of(figure: Figure, axis: Axes, columns: int = 2) -> None:
    """The legend of what is drawn in ``axis``, below all panels."""
    handles, _ = axis.get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize="small", frameon=False)


def _below(figure: Figure, handles: Sequence[Line2D]) -> None:
    lines = math.ceil(len(handles) / int(figure.get_figwidth() / 1.75))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=math.ceil(len(handles) / lines), fontsize="small", frameon=False
    )


def points(
    axis: Axes, group: pd.DataFrame, across: str, scale: float, look: Look, label: str | None = None, interval: bool = False
) -> None:
    """Mean over seeds at each width, with error bars of one standard deviation, or of the 95 % bootstrap ``interval``.

    ``across`` (times ``scale``) is the abscissa.
    """
    per_seed = group.assign(x=group[across]).groupby(["width", "seed"])[["value", "x"]].mean()
    summary = per_seed.groupby("width").agg(mean=("value", "mean"), std=("value", "std"), x=("x", "mean"))
    spread = 100 * summary["std"].fillna(0.0)
    if interval:
        ends = [bootstrap_interval(part.tolist()) for _, part in per_seed.groupby("width")["value"]]
        low, high = np.nan_to_num(100 * (summary["mean"].to_numpy() - np.array(ends).T) * [[1], [-1]])
        spread = np.maximum([low, high], 0.0)
    axis.errorbar(summary["x"] * scale, 100 * summary["mean"], yerr=spread, label=label, **look.options())


def curve(axis: Axes, rows: pd.DataFrame, look: Look, place: int = 0, log: bool = False) -> None:
    """Mean over runs by epoch with a band of one standard deviation; nothing of no rows. ``place``: which series of its panel.

    ``log``: on a logarithmic axis, with mean and standard deviation of the logarithms.
    """
    if rows.empty:
        return
    per_run = rows.groupby(["epoch", "run"])["value"].mean()
    summary = (np.log(per_run) if log else per_run).groupby("epoch").agg(["mean", "std"])
    spread = summary["std"].fillna(0.0)
    middle, low, high = (np.exp(y) if log else y for y in (summary["mean"], summary["mean"] - spread, summary["mean"] + spread))
    every = max(1, len(summary) // 5)
    axis.plot(summary.index, middle, markevery=(place % 4 * every // 4, every), **look.options())
    axis.fill_between(summary.index, low, high, color=look.color, alpha=BAND_ALPHA, linewidth=0)


def widths_across(axes: Iterable[Axes], scores: pd.DataFrame) -> None:
    """Abscissas of widths, with a tick at each."""
    for axis in axes:
        axis.xaxis.set_major_locator(FixedLocator(sorted(set(scores["width"]))))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlabel("Width (fraction of channels)")


def epochs_across(axes: Iterable[Axes]) -> None:
    """Abscissas of epochs, labelled at the bottom."""
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if axis.get_subplotspec().is_last_row():
            axis.set_xlabel("Epoch")


def label_up(axes: Iterable[Axes], text: str) -> None:
    """The label of the ordinate at the leftmost panels."""
    for axis in axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(text)


def score_label(scores: pd.DataFrame) -> str:
    """What is scored, on what, with what: the label of an ordinate. Settings are in the headline, where there is room."""
    about = scores.iloc[0]
    if about["task"] != "classification":
        return f"{protocol_name(about)} on {about['dataset']} (%)"
    return f"{score_name(about)} on {about['dataset']},\n{protocol_name(about)} (%)"


def draw_chance(axes: Iterable[Axes], scores: pd.DataFrame) -> list[Line2D]:
    """A line at chance level where scores come near it, with its handle; elsewhere it would only flatten the picture."""
    chance = scores["chance"].mean()
    if pd.isna(chance) or scores["value"].min() > chance + 0.15:
        return []
    options = {"color": "0.45", "linestyle": (0, (1, 2)), "linewidth": 1.2}
    for axis in axes:
        axis.axhline(100 * chance, **options)
    return [Line2D([], [], label=f"chance ({100 * chance:.1f} %)", **options)]


def headline(figure: Figure, text: str) -> None:
    """What marks and lines mean, above all panels, in as many lines as the figure's width needs."""
    figure.suptitle(text, fontsize="small", wrap=True)


def note(rows: pd.DataFrame, spread: str, what: str = STD) -> str:
    """What points and bars or bands are, and the settings of scores that are not a grid's own evaluation."""
    seeds = rows["seed"].nunique()
    said = f"mean over up to {seeds} seeds, {spread}: {what}" if seeds > 1 else "one seed"
    return "; ".join([said, *settings(rows)])


def settings(scores: pd.DataFrame) -> list[str]:
    """The settings of scores that are not a grid's own evaluation, each kind in words."""
    return sorted(set(scores["variant"]) - {""}) if "variant" in scores else []


def decades(axis: Axis, values: Sequence[float]) -> None:
    """Plain numbers on a logarithmic axis, between the powers of ten too where these alone would be too few."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marked = sum(low <= step * 10.0**power <= high for power in powers for step in (1, 2, 5))
    if marked < 2 and high > low:  # LogLocator would mark so many places between that their labels meet
        axis.set_major_locator(MaxNLocator(4))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def require(rows: pd.DataFrame | Sequence, reason: str) -> None:
    """Raise NothingToPlot for ``reason`` where there are no rows."""
    if not len(rows):
        raise NothingToPlot(reason)


def save(figure: Figure, stem: Path, kinds: Sequence[str] = KINDS) -> list[Path]:
    """Write ``stem``.png and ``stem``.svg; the same figure gives the same bytes."""
    with style():
        for path in files(stem, kinds):
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
            figure.set_layout_engine("none")  # the layout stands; working it out is the slow part
            if path.suffix == ".svg":
                path.write_text(compact(path.read_text(encoding="utf-8")), encoding="utf-8")
    return files(stem, kinds)


def files(stem: Path, kinds: Sequence[str] = KINDS) -> list[Path]:
    """The files that a picture of this name has."""
    return [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]


@contextmanager
def style() -> Iterator[None]:
    """Everything drawn inside looks like this project's pictures, whatever the user's matplotlib settings."""
    with matplotlib.style.context(["default", STYLE]):
        yield
