"""Pictures of training by epoch: losses, drift of the guidance, rank and spread of features; and drift against final accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from results.claims.effects import diagnostic
from results.grids import Grid
from results.plots.drawing import (
    LOOKS,
    NothingToPlot,
    curve,
    decades,
    draw_panels,
    epochs_across,
    headline,
    label_up,
    legend_of,
    legends,
    marker,
    note,
    require,
    score_label,
    series,
    settings,
    style,
)
from results.tables.scores import LOSSES

DRIFTS = {"drift/absolute": "Absolute drift (1 − cosine)", "drift/relative": "Relative drift (1 − correlation)"}


def base_loss(metrics: pd.DataFrame, grid: Grid) -> Figure:
    """The base loss of the widest network by epoch. Panels have axes of their own: their losses may be of different kinds."""
    rows = _widest(metrics[metrics["name"].eq("loss/base")])
    require(rows, "no loss/base in metrics.jsonl")
    return _curves(rows, grid, {"loss/base": "Base loss\nof the widest network"}, share=False)


def distillation_loss(metrics: pd.DataFrame, grid: Grid) -> Figure:
    """The loss of the narrower widths by epoch, one panel per kind of loss: their scales have nothing in common.

    A naive baseline distils nothing; its narrower widths' own losses stand in the panel of their kind.
    """
    rows = metrics[metrics["name"].eq("loss/distill") & metrics["value"].notna() & metrics["kind"].ne("individual")]
    require(rows, "no loss/distill in metrics.jsonl")
    loss = rows["distill_loss"].where(rows["distill_loss"].ne("none"), rows["base_loss"])
    kinds, lines = sorted(set(loss), key=[*LOSSES, *loss].index), grid.scored(rows)
    with style():
        figure = Figure(figsize=(max(3.6 * len(kinds) + 0.3, 4.6), 3.2 + 0.09 * len(lines)))
        axes = figure.subplots(1, len(kinds), squeeze=False)[0]
        for place, line in enumerate(lines):
            own, look = line.select(rows), LOOKS[place % len(LOOKS)]
            for axis, kind in zip(axes, kinds, strict=True):
                curve(axis, own[loss[own.index].eq(kind)], look, place)
            axes[0].plot([], [], label=line.name, **look.options())
        for axis, kind in zip(axes, kinds, strict=True):
            axis.set_title(f"{LOSSES.get(kind, kind)} loss")
        epochs_across(axes)
        label_up(axes, "Loss of the narrower widths")
        headline(figure, note(rows, "bands"))
        legend_of(figure, axes[0], max(1, len(kinds)))
    return figure


def drift(metrics: pd.DataFrame, grid: Grid) -> Figure:
    """How far the guidance moved since the epoch before: absolute above relative.

    Absolute: 1 - mean cosine of an image's target now and then. Relative: 1 - correlation of the images' similarities.
    Logarithmic, since drift falls by orders of magnitude with the learning rate; a drift of 0 has no place on it.
    """
    names = {"drift/absolute": "Absolute drift\n(1 − cosine)", "drift/relative": "Relative drift\n(1 − correlation)"}
    rows = _widest(metrics[metrics["name"].isin(list(names)) & metrics["value"].gt(0)])
    return _curves(_all_of(rows, names), grid, names, log=True)


def collapse(metrics: pd.DataFrame, grid: Grid, width: float) -> Figure:
    """Effective rank and feature standard deviation at ``width`` by epoch."""
    names = {"effective_rank": f"Effective rank\nat width {width:g}", "feature_std": f"Feature std × √dim\nat width {width:g}"}
    rows = metrics[metrics["name"].isin(list(names)) & metrics["width"].sub(width).abs().lt(1e-6) & metrics["value"].notna()]
    return _curves(_all_of(rows, names, f" at width {width:g}"), grid, names)


def drift_by_accuracy(scores: pd.DataFrame, metrics: pd.DataFrame, grid: Grid) -> Figure:
    """Does temporal consistency predict success? Accuracy at the narrowest width against mean drift, one point per cell and seed.

    Drift is that of the widest network's guidance, averaged over epochs. Each panel says Spearman's rho over all cells.
    """
    scores = scores[scores["value"].notna() & scores["kind"].ne("individual")]
    require(scores, "no scores of slimmable networks in result.json")
    narrow = scores["width"].round(6).min()
    scores = scores[scores["width"].round(6).eq(narrow)]
    by_run = scores.groupby("run", as_index=False)["value"].mean()  # over the draws of labels, if there are several
    found = {name: diagnostic(metrics, name).merge(by_run, on="run", suffixes=("_drift", "")) for name in DRIFTS}
    found = {name: rows[rows["value_drift"].gt(0)] for name, rows in found.items()}
    found = {name: rows for name, rows in found.items() if rows["cell"].nunique() > 2}
    require(found, "fewer than three cells have both a drift and a score at the narrowest width")
    with style():
        figure = Figure(figsize=(3.3 * len(found) + 0.4, 4.6))
        axes = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
        for axis, (name, part) in zip(axes, found.items(), strict=True):
            for place, line in enumerate(grid.scored(scores)):
                own, (look, size) = part[part["cell"].isin(list(line.cells))], marker(place)
                if len(own):
                    axis.plot(own["value_drift"], 100 * own["value"], label=line.name, markersize=size, **look.options())
            axis.set_xscale("log")
            decades(axis.xaxis, part["value_drift"])
            axis.set_xlabel(f"{DRIFTS[name]},\nmean over epochs, log scale")
            cells = part.groupby("cell")[["value_drift", "value"]].mean()  # seeds repeat the same cells
            rho = stats.spearmanr(cells["value_drift"], cells["value"])
            axis.set_title(f"Spearman's ρ = {rho.statistic:.2f} over {len(cells)} cells")
        label_up(axes, score_label(scores).replace(",\n", f" at width {narrow:g},\n"))
        headline(figure, "; ".join(["one point per cell and seed", *settings(scores)]))
        legend_of(figure, axes[0])
    return figure


def _curves(rows: pd.DataFrame, grid: Grid, names: Mapping[str, str], log: bool = False, share: bool | str = "row") -> Figure:
    """A line of panels for each logged quantity of ``names``, with its label."""
    panels = series(grid.scored(rows))
    with style():
        figure, table = draw_panels(panels, len(names), share=share)
        for (name, label), axes in zip(names.items(), table, strict=True):
            part = rows[rows["name"].eq(name)]
            for axis, panel in zip(axes, panels, strict=True):
                if log:
                    axis.set_yscale("log")
                for place, (line, look) in enumerate(panel.lines):
                    curve(axis, line.select(part), look, place, log=log)
            if log:
                decades(axes[0].yaxis, axes[0].get_ylim())
            elif share:
                axes[0].set_ylim(bottom=min(0.0, axes[0].get_ylim()[0]))
            epochs_across(axes)
            label_up(axes, label)
        legends(figure, table[-1], panels)
        headline(figure, note(rows, "bands") + (" of the logarithm" if log and rows["seed"].nunique() > 1 else ""))
    return figure


def _all_of(rows: pd.DataFrame, names: Iterable[str], where: str = "") -> pd.DataFrame:
    missing = [name for name in names if not rows["name"].eq(name).any()]
    if missing:
        raise NothingToPlot(f"no {' and no '.join(missing)}{where} in metrics.jsonl")
    return rows


def _widest(rows: pd.DataFrame) -> pd.DataFrame:
    """Values of each run's widest network; runs narrower than the grid's widest (single networks) are left out."""
    rows = rows[rows["value"].notna()]
    rows = rows[rows["width_max"].eq(rows["width_max"].max())]
    return rows[rows["width"].isna() | rows["width"].sub(rows["width_max"]).abs().lt(1e-6)]
