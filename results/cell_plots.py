"""Pictures across the cells of a grid: scores as a heat map, drift against final accuracy, detection and segmentation by width."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from scipy import stats

from results.claims.effects import diagnostic
from results.grid_plots import LOOKS, marker
from results.grid_tables import named_rows, with_family
from results.plots import INTERVAL, NothingToPlot, decades, points, style
from results.tables import METRICS, RowSpec, metric_name, score_name, width_name

DRIFTS = {"drift/absolute": "Absolute drift (1 − cosine)", "drift/relative": "Relative drift (1 − correlation)"}
ROW_HEIGHT = 0.235  # inches of a heat map's line


def heat_map(scores: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Mean scores (percent) of all rows of the grid's table at all widths. ``scores``: one grid, data set, metric and score.

    Colour is viridis, which keeps its order for the colour-blind and in grey; each number stands in its field.
    """
    scores, rows = _scored(scores, runs)
    widths = sorted(set(scores["width"].round(6)), reverse=True)
    table = np.array([[_mean(row.select(scores), width) for width in widths] for row in rows])
    about = scores.iloc[0]
    with style():
        figure = Figure(figsize=(3.6 + 0.75 * len(widths), 0.9 + ROW_HEIGHT * len(rows)))
        axis = figure.subplots()
        image = axis.imshow(100 * table, aspect="auto", cmap="viridis")
        for (line, column), value in np.ndenumerate(table):
            if math.isnan(value):
                axis.text(column, line, "—", ha="center", va="center", fontsize=7.5, color="0.5")
            else:
                color = "white" if image.norm(100 * value) < 0.6 else "black"
                axis.text(column, line, f"{100 * value:.1f}", ha="center", va="center", fontsize=7.5, color=color)
        axis.set_xticks(range(len(widths)), [width_name(width) for width in widths])
        axis.set_yticks(range(len(rows)), [row.labels[0] for row in rows])
        axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axis.grid(False)
        axis.spines[:].set_visible(False)
        for line in range(1, len(rows)):
            if rows[line].section != rows[line - 1].section:
                axis.axhline(line - 0.5, color="white", linewidth=2)
        seeds = scores["seed"].nunique()
        figure.colorbar(image, label=f"{score_name(about)} on {about['dataset']},\n{metric_name(about)} (%)"
                                     + (f", mean over up to {seeds} seeds" if seeds > 1 else ""))
    return figure


def drift_by_accuracy(scores: pd.DataFrame, metrics: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Does temporal consistency predict success? Accuracy at the narrowest width against mean drift, a point a cell and seed.

    Drift is that of the widest network's guidance, averaged over epochs. Each panel says Spearman's rho over all points.
    """
    scores = scores[scores["value"].notna() & scores["kind"].ne("individual")]
    _require(scores, "no scores of slimmable networks in result.json")
    narrow = scores["width"].round(6).min()
    scores = with_family(scores[scores["width"].round(6).eq(narrow)])
    found = {name: diagnostic(metrics, name).merge(scores[["run", "value"]], on="run", suffixes=("_drift", "")) for name in DRIFTS}
    found = {name: rows[rows["value_drift"].gt(0)] for name, rows in found.items()}
    found = {name: rows for name, rows in found.items() if rows["cell"].nunique() > 2}
    if not found:
        raise NothingToPlot("no drift of three cells that also have a score at the narrowest width")
    about = scores.iloc[0]
    with style():
        figure = Figure(figsize=(3.3 * len(found) + 0.4, 4.6))
        axes = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
        rows = [row for row in named_rows(about["grid"], with_family(runs)) if len(row.select(scores))]
        for axis, (name, part) in zip(axes, found.items(), strict=True):
            _scatter(axis, part, rows, scores)
            axis.set_xscale("log")
            decades(axis.xaxis, part["value_drift"])
            axis.set_xlabel(f"{DRIFTS[name]},\nmean over epochs, log scale")
            cells = part.groupby("cell")[["value_drift", "value"]].mean()  # seeds repeat the same cells
            rho = stats.spearmanr(cells["value_drift"], cells["value"])
            axis.set_title(f"Spearman's ρ = {rho.statistic:.2f} over {len(cells)} cells")
        axes[0].set_ylabel(f"{score_name(about)} on {about['dataset']} at width {narrow:g},\n{metric_name(about)} (%)")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _scatter(axis: Axes, part: pd.DataFrame, rows: list[RowSpec], scores: pd.DataFrame) -> None:
    for place, row in enumerate(rows):
        own = part[part["run"].isin(row.select(scores)["run"])]
        if own.empty:
            continue
        look, size = marker(place)
        axis.plot(own["value_drift"], 100 * own["value"], label=row.labels[0], markersize=size, **look.options())


def dense_by_width(scores: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Detection or segmentation scores (percent) against width: a panel a metric, a series a network and kind of initial weights.

    ``scores``: one grid, task, data set, model and schedule. Bars: 95 % bootstrap intervals over seeds.
    """
    main = {"detection": ["box_AP", "mask_AP"], "segmentation": ["mIoU"]}
    scores = scores[scores["value"].notna()]
    _require(scores, "no scores in result.json")
    metrics = [metric for metric in main.get(scores["task"].iloc[0], []) if scores["metric"].eq(metric).any()]
    metrics = metrics or sorted(set(scores["metric"]))[:2]
    scores, rows = _scored(scores, runs)
    series = [(row, initial) for row in rows for initial in sorted(set(row.select(scores)["initial"]))]
    about = scores.iloc[0]
    with style():
        figure = Figure(figsize=(3.2 * len(metrics) + 0.6, 3.0 + 0.17 * len(series)))
        axes = figure.subplots(1, len(metrics), squeeze=False, sharex=True)[0]
        for axis, metric in zip(axes, metrics, strict=True):
            for place, (row, initial) in enumerate(series):
                part = row.select(scores)
                part = part[part["initial"].eq(initial) & part["metric"].eq(metric)]
                text = row.labels[0] + (", from random weights" if initial == "random" else "")
                points(axis, part, "width", 1.0, LOOKS[place % len(LOOKS)], text, interval=True)
            axis.set_xlabel("Width (fraction of channels)")
            axis.set_ylabel(f"{METRICS.get(metric, metric)} on {about['dataset']} (%)")
            axis.xaxis.set_major_locator(FixedLocator(sorted(set(scores["width"]))))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        seeds = scores["seed"].nunique()
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=1 if len(metrics) == 1 else 2, fontsize="small",
                      title=f"mean over up to {seeds} seeds, bars: {INTERVAL}" if seeds > 1 else "one seed")
    return figure


def _scored(scores: pd.DataFrame, runs: pd.DataFrame) -> tuple[pd.DataFrame, list[RowSpec]]:
    """The scores with families, and the rows of their grid that have one."""
    scores = with_family(scores[scores["value"].notna()])
    _require(scores, "no scores in result.json")
    rows = named_rows(scores["grid"].iloc[0], with_family(runs))
    return scores, [row for row in rows if len(row.select(scores))]


def _mean(rows: pd.DataFrame, width: float) -> float:
    per_seed = rows.loc[rows["width"].round(6).eq(width)].groupby("seed")["value"].mean()
    return float(per_seed.mean()) if len(per_seed) else math.nan


def _require(rows: pd.DataFrame, reason: str) -> None:
    if rows.empty:
        raise NothingToPlot(reason)
