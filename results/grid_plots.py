"""Pictures of the ablation grids and of the comparison: the rows of their tables against width, and against what training cost.

A panel is a section of the table, a series one of its rows, in the table's order. Colour, marker and line style together tell the
series of a panel apart; each panel has its own legend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import ScaledTranslation

from results.grid_tables import Cost, rows_of, training_cost, with_family
from results.pareto import draw_front
from results.plots import INTERVAL, Look, NothingToPlot, decades, latencies, latency_label, points, style
from results.tables import METRICS, RowSpec

LOOKS = (Look("#0072B2", "s", "-"), Look("#E69F00", "o", "--", False), Look("#009E73", "^", "-."), Look("#D55E00", "D", ":", False),
         Look("#56B4E9", "v", "-", False), Look("#CC79A7", "P", "--"), Look("#000000", "x", ":"), Look("#8C8C8C", "*", "-."))
COLUMNS = 4  # panels in a line
# Label of an abscissa, and what it is multiplied by.
ACROSS = {"flops": (lambda scores: "MFLOPs per image, log scale", 1e-6), "latency_ms": (latency_label, 1.0)}


def accuracy_by_width(scores: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Accuracy (percent) against width. ``scores``: one grid, task, data set and metric. Error bars: std over seeds.

    Raises:
        NothingToPlot: no row of the grid's table has a score.
    """
    scores, rows = _scored(scores, runs)
    with style():
        figure, panels = _panels(rows)
        for axis, section in panels:
            for row, look in zip([row for row in rows if row.section == section], _looks(), strict=False):
                points(axis, row.select(scores), "width", 1.0, look, row.short)
            axis.xaxis.set_major_locator(FixedLocator(sorted(set(scores["width"]))))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_xlabel("Width (fraction of channels)")
            _legend_below(axis)
        _label_left(figure, [axis for axis, _ in panels], scores)
    return figure


def _panels(rows: Sequence[RowSpec], label_lines: int = 1) -> tuple[Figure, list[tuple[Axes, str]]]:
    """One panel per section, with room for its own legend below a label of so many lines."""
    sections = list(dict.fromkeys(row.section for row in rows))
    lines = math.ceil(len(sections) / COLUMNS)
    longest = max(sum(row.section == section for row in rows) for section in sections)
    figure = Figure(figsize=(2.9 * min(len(sections), COLUMNS) + 0.6, lines * (2.1 + 0.2 * label_lines + 0.19 * longest) + 0.3))
    grid = figure.subplots(lines, min(len(sections), COLUMNS), squeeze=False, sharex=True, sharey=True)
    for axis in grid.flat[len(sections):]:
        axis.set_visible(False)
    panels = list(zip(grid.flat, sections, strict=False))
    for axis, section in panels:
        axis.set_title(section)
        axis.tick_params(labelbottom=True)
    return figure, panels


def _legend_below(axis: Axes) -> None:
    """A legend so far below the panel, in points, that the label of the abscissa has room, whatever the panel's height."""
    lines = 1 + axis.get_xlabel().count("\n")
    below = axis.transAxes + ScaledTranslation(0, -(19 + 12 * lines) / 72, axis.figure.dpi_scale_trans)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=below, fontsize="small", frameon=False)


def accuracy_by(scores: pd.DataFrame, runs: pd.DataFrame, across: str) -> Figure:
    """Accuracy (percent) against ``flops`` or ``latency_ms`` of one image, with 95 % bootstrap intervals and the Pareto front.

    The front (grey) is that of all rows and widths, the same in each panel.

    Raises:
        NothingToPlot: no row has a score and such a cost.
    """
    scores, rows = _scored(scores[scores[across].gt(0)], runs)
    label, scale = ACROSS[across]
    scores = latencies(scores) if across == "latency_ms" else scores
    label_lines = 1 + label(scores).count("\n")
    with style():
        figure, panels = _panels(rows, label_lines)
        for axis, section in panels:
            for row, look in zip([row for row in rows if row.section == section], _looks(), strict=False):
                points(axis, row.select(scores), across, scale, look, row.short, interval=True)
            draw_front(axis, scores, across, scale)
            axis.set_xscale("log")
            decades(axis.xaxis, scores[across] * scale)
            axis.set_xlabel(label(scores))
            _legend_below(axis)
        _label_left(figure, [axis for axis, _ in panels], scores, INTERVAL, "; dashed: Pareto front of all panels")
    return figure


def accuracy_by_cost(scores: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Accuracy (percent) at the widest and at the narrowest width against the FLOPs of all trainings that serving all widths takes.

    Raises:
        NothingToPlot: no row has scores at all widths and a known cost.
    """
    scores, rows = _scored(scores, runs)
    costs = [(row, cost) for row in rows if (cost := training_cost(row, scores, with_family(runs))).flops > 0]
    if not costs:
        raise NothingToPlot("no row of the table has scores at all widths and train_flops in provenance.json")
    ends = sorted({scores["width"].max(), scores["width"].min()}, reverse=True)
    with style():
        figure = Figure(figsize=(3.3 * len(ends) + 0.6, 3.1 + 0.17 * len(costs)))
        axes = figure.subplots(1, len(ends), squeeze=False, sharex=True, sharey=True)[0]
        for axis, width in zip(axes, ends, strict=True):
            _cost_points(axis, costs, scores[scores["width"].sub(width).abs().lt(1e-6)])
            axis.set_title(f"Width {width:g}")
            axis.set_xscale("log")
            decades(axis.xaxis, [cost.flops for _, cost in costs])
            axis.set_xlabel("Training FLOPs to serve all widths, log scale")
        _label_left(figure, axes, scores)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def _cost_points(axis: Axes, costs: Sequence[tuple[RowSpec, Cost]], scores: pd.DataFrame) -> None:
    alone = len({row.short for row, _ in costs}) == len(costs)
    for place, (row, cost) in enumerate(costs):
        look, size = marker(place)
        per_seed = row.select(scores).groupby("seed")["value"].mean()
        spread = 0.0 if len(per_seed) < 2 else float(per_seed.std())
        axis.errorbar([cost.flops], [100 * per_seed.mean()], yerr=[100 * spread], markersize=size,
                       label=row.short if alone else f"{row.section}: {row.short}", **look.options())


def marker(place: int) -> tuple[Look, float]:
    """Look and size of the marker of a picture's ``place``-th row: beyond one round of looks larger, filled where it was not."""
    again, look = place // len(LOOKS), LOOKS[place % len(LOOKS)]
    return replace(look, line="none", filled=look.filled != bool(again % 2)), 5 + 2.5 * again


def _scored(scores: pd.DataFrame, runs: pd.DataFrame) -> tuple[pd.DataFrame, list[RowSpec]]:
    """The scores with families, and the rows of their grid's table that have one."""
    scores = with_family(scores[scores["value"].notna()])
    if scores.empty:
        raise NothingToPlot("no scores in result.json")
    rows = [row for row in rows_of(scores["grid"].iloc[0], runs) if len(row.select(scores))]
    return scores, rows


def _looks() -> Iterable[Look]:
    """The looks, over and over."""
    while True:
        yield from LOOKS


def _label_left(figure: Figure, axes: Sequence[Axes], scores: pd.DataFrame, spread: str = "one standard deviation",
                more: str = "") -> None:
    """What the ordinate is, at the leftmost panels; over all of them what the points and bars are."""
    metric, seeds = scores["metric"].iloc[0], scores["seed"].nunique()
    note = f"mean over up to {seeds} seeds, bars: {spread}" if seeds > 1 else "one seed"
    figure.suptitle(note + more, fontsize="small")
    for axis in axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(f"Accuracy on {scores['dataset'].iloc[0]},\n{METRICS.get(metric, metric)} (%)")
