"""Pictures of scores: the rows of a grid's table against width, cost of one image and cost of training; as a heat map; by task."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.grids import Grid, GridLine, whole
from results.plots.drawing import (
    INTERVAL,
    REFERENCE,
    Series,
    around,
    decades,
    draw_chance,
    draw_panels,
    headline,
    label_up,
    legend_of,
    legends,
    marker,
    note,
    points,
    require,
    score_label,
    series,
    settings,
    style,
    widths_across,
)
from results.plots.pareto import draw_front
from results.tables.cost import Cost, training_cost
from results.tables.scores import METRICS, width_name

ROW_HEIGHT = 0.235  # inches of a heat map's line
# The scores of a dense task that are drawn.
MAIN = {"detection": ["box_AP", "mask_AP"], "segmentation": ["mIoU"]}


def accuracy_by_width(scores: pd.DataFrame, grid: Grid) -> Figure:
    """Accuracy (percent) against width. ``scores``: one task, data set, metric, score and share of the labels.

    Error bars: std over seeds.
    """
    scores, panels = _panels(scores, grid)
    with style():
        figure, (axes,) = draw_panels(panels)
        for axis, panel in zip(axes, panels, strict=True):
            for line, look in panel.lines:
                points(axis, line.select(scores), "width", 1.0, look)
        widths_across(axes, scores)
        legends(figure, axes, panels, draw_chance(axes, scores))
        label_up(axes, score_label(scores))
        headline(figure, note(scores, "bars"))
    return figure


def accuracy_by(scores: pd.DataFrame, grid: Grid, across: str) -> Figure:
    """Accuracy (percent) against ``flops`` or ``latency_ms`` of one image, with 95 % bootstrap intervals and the Pareto front.

    The front (grey) is that of all rows and widths, the same in each panel. MFLOPs are 2 x multiply-adds.
    """
    scores = latencies(scores) if across == "latency_ms" else scores
    scores, panels = _panels(scores[scores[across].gt(0)], grid, f"no scores with {across} in result.json")
    label, scale = (latency_label(scores), 1.0) if across == "latency_ms" else ("MFLOPs per image, log scale", 1e-6)
    with style():
        figure, (axes,) = draw_panels(panels, label_lines=1 + label.count("\n"))
        for axis, panel in zip(axes, panels, strict=True):
            for line, look in panel.lines:
                points(axis, line.select(scores), across, scale, look, interval=True)
            draw_front(axis, scores, across, scale)
            axis.set_xscale("log")
            decades(axis.xaxis, scores[across] * scale)
            axis.set_xlabel(label)
        legends(figure, axes, panels, draw_chance(axes, scores))
        label_up(axes, score_label(scores))
        front = "dashed: Pareto front" + " of all panels" * (len(panels) > 1)
        headline(figure, f"{note(scores, 'bars', INTERVAL)}; {front}")
    return figure


def latencies(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with ``latency_ms`` the median over all of a device's measurements of networks of one shape.

    Time depends on a network's shape, not on its weights: that two runs' measurements differ is what else the machine was doing.
    """
    shape = scores.groupby(["latency_on", "arch", "flops", "parameters"], dropna=False)
    return scores.assign(latency_ms=shape["latency_ms"].transform("median"))


def latency_label(scores: pd.DataFrame) -> str:
    """The label of an abscissa of latencies, with what they were measured on where that is known."""
    devices = ", ".join(sorted(set(scores["latency_on"]) - {"", None}))
    return "Latency of one image (ms), log scale" + (f"\n{devices}" if devices else "")


def accuracy_by_cost(scores: pd.DataFrame, grid: Grid) -> Figure:
    """Accuracy (percent) at the widest and the narrowest width against the FLOPs of all trainings that serving all widths takes."""
    scores = scores[scores["value"].notna()]
    require(scores, "no scores in result.json")
    costs = [(line, cost) for line in grid.scored(scores) if (cost := training_cost(line, scores, grid.runs)).flops > 0]
    require(costs, "no row of the table has scores at all widths and train_flops in provenance.json")
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
        label_up(axes, score_label(scores))
        headline(figure, note(scores, "bars"))
        legend_of(figure, axes[0])
    return figure


def _cost_points(axis: Axes, costs: Sequence[tuple[GridLine, Cost]], scores: pd.DataFrame) -> None:
    for place, (line, cost) in enumerate(costs):
        look, size = marker(place)
        per_seed = line.select(scores).groupby("seed")["value"].mean()
        spread = 0.0 if len(per_seed) < 2 else float(per_seed.std())
        axis.errorbar(
            [cost.flops], [100 * per_seed.mean()], yerr=[100 * spread], markersize=size, label=line.name, **look.options()
        )


def heat_map(scores: pd.DataFrame, grid: Grid) -> Figure:
    """Mean scores (percent) of all rows of the grid's table at all widths. ``scores``: one grid, data set, metric and score.

    Colour is viridis, which keeps its order for the colour-blind and in grey; each number stands in its field.
    """
    scores = scores[scores["value"].notna()]
    require(scores, "no scores in result.json")
    lines, widths = grid.scored(scores), sorted(set(scores["width"].round(6)), reverse=True)
    table = np.array([[_mean(line.select(scores), width) for width in widths] for line in lines])
    with style():
        figure = Figure(figsize=(3.6 + 0.75 * len(widths), 1.1 + ROW_HEIGHT * len(lines)))
        axis = figure.subplots()
        image = axis.imshow(100 * table, aspect="auto", cmap="viridis")
        for (place, column), value in np.ndenumerate(table):
            text = "—" if math.isnan(value) else f"{100 * value:.1f}"
            color = "0.5" if math.isnan(value) else "white" if image.norm(100 * value) < 0.6 else "black"
            axis.text(column, place, text, ha="center", va="center", fontsize=7.5, color=color)
        axis.set_xticks(range(len(widths)), [width_name(width) for width in widths])
        axis.set_yticks(range(len(lines)), [line.name for line in lines])
        axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axis.grid(False)
        axis.spines[:].set_visible(False)
        for place in range(1, len(lines)):
            if lines[place].section != lines[place - 1].section:
                axis.axhline(place - 0.5, color="white", linewidth=2)
        seeds = scores["seed"].nunique()
        what = score_label(scores).replace("\n", " ")
        headline(figure, "; ".join([f"{what}, mean over up to {seeds} seeds" if seeds > 1 else what, *settings(scores)]))
        figure.colorbar(image)
    return figure


def dense_by_width(scores: pd.DataFrame, grid: Grid) -> Figure:
    """Detection or segmentation scores (percent) against width: one panel per metric, one series per network and initial weights.

    ``scores``: one grid, task, data set, model and schedule. Bars: 95 % bootstrap intervals over seeds.
    """
    scores = scores[scores["value"].notna()]
    require(scores, "no scores in result.json")
    metrics = [metric for metric in MAIN.get(scores["task"].iloc[0], []) if scores["metric"].eq(metric).any()]
    metrics = metrics or sorted(set(scores["metric"]))[:2]
    drawn = [(line, initial) for line in whole(grid.scored(scores)) for initial in sorted(set(line.select(scores)["initial"]))]
    references = sum(initial == "random" for _, initial in drawn)
    with style():
        figure = Figure(figsize=(3.2 * len(metrics) + 0.6, 3.0 + 0.17 * len(drawn)))
        axes = figure.subplots(1, len(metrics), squeeze=False, sharex=True)[0]
        for axis, metric in zip(axes, metrics, strict=True):
            for place, (line, initial) in enumerate(drawn):
                part = line.select(scores)
                part = part[part["initial"].eq(initial) & part["metric"].eq(metric)]
                text = line.name + (", from random weights" if initial == "random" else "")
                look = REFERENCE if references == 1 and initial == "random" else around(place)
                points(axis, part, "width", 1.0, look, text, interval=True)
            axis.set_ylabel(f"{METRICS.get(metric, metric)} on {scores['dataset'].iloc[0]} (%)")
        widths_across(axes, scores)
        headline(figure, note(scores, "bars", INTERVAL))
        legend_of(figure, axes[0], 1 if len(metrics) == 1 else 2)
    return figure


def _panels(scores: pd.DataFrame, grid: Grid, reason: str = "no scores in result.json") -> tuple[pd.DataFrame, list[Series]]:
    scores = scores[scores["value"].notna()]
    require(scores, reason)
    return scores, series(grid.scored(scores))


def _mean(rows: pd.DataFrame, width: float) -> float:
    per_seed = rows.loc[rows["width"].round(6).eq(width)].groupby("seed")["value"].mean()
    return float(per_seed.mean()) if len(per_seed) else math.nan
