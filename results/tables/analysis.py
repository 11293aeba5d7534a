"""Tables of analyses: the measures of every network and width, and which of them predict accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from results.grids import Grid, whole
from results.prediction import MEASURES, Part, Prediction
from results.tables.render import MISSING, Column, Table, TableRow
from results.tables.scores import METRICS, width_name


def measures(scores: pd.DataFrame, grid: Grid, name: str) -> Table:
    """Networks and widths x measures: mean and sample standard deviation over seeds; of each network sub-networks behind widths.
    ``scores``: of analyses of one data set.
    """
    scores = scores[scores["value"].notna()].assign(width=scores["width"].round(6))
    found = [measure for measure in MEASURES if scores["metric"].eq(measure).any()]
    columns = (Column("Network"), Column("Width", "right"), *(Column(MEASURES[measure], "right") for measure in found))
    rows = []
    for line in whole(grid.lines):
        own = line.select(scores)
        networks = own[["width", "subnet"]].drop_duplicates().itertuples(index=False, name=None)
        for width, subnet in sorted(networks, key=_place):
            part = own[own["subnet"].eq(subnet) & (own["width"].eq(width) | math.isnan(width))]
            texts = [_mean(part.loc[part["metric"].eq(measure)].groupby("seed")["value"].mean()) for measure in found]
            rows.append(TableRow(line.name, (line.name, subnet or width_name(width), *texts), (), None if subnet else width))
    first, seeds = scores.iloc[0], scores["seed"].nunique()
    spread = f"Mean ± sample standard deviation over {seeds} seeds." if seeds > 1 else "One seed."
    caption = f"Encoder features of {_counts(scores)} training images, no labels. {spread}"
    title = f"Features on {first['dataset']}" + (f" ({first['variant']})" if first["variant"] else "")
    return Table(name, title, caption, columns, "", (), tuple(rows), 0)


def _place(network: tuple[float, str]) -> tuple[bool, float, str]:
    width, subnet = network
    return subnet != "", -width if subnet == "" else 0.0, subnet


def prediction(found: Sequence[Prediction], judged: pd.Series, ends: Sequence[float], name: str) -> Table:
    """A row per measure: Spearman's rho with accuracy. ``judged``: a score of those that are predicted; ``ends``: widest and
    narrowest width.
    """
    columns = (
        Column("Measure"),
        *(
            Column(text, "right")
            for text in (
                "Points",
                "Cells and widths",
                f"Cells at {width_name(ends[0])}",
                f"Cells at {width_name(ends[1])}",
                "Widths of a network",
            )
        ),
    )
    rows = tuple(
        TableRow(
            "logged" if "(logged)" in one.name else "analysis",
            (one.name, str(one.points), *map(_rho, (one.everywhere, one.widest, one.narrowest, one.within))),
            (),
        )
        for one in found
    )
    fraction = judged["label_fraction"]
    labels = "" if fraction == 1 else f" with {100 * fraction:g} % of the labels"
    metric = METRICS.get(judged["metric"], judged["metric"])
    caption = (
        f"Spearman's rho of each measure with the accuracy on {judged['dataset']} ({metric}{labels}), mean over "
        f"{max(one.seeds for one in found)} seeds, and the 95 % bootstrap interval over seeds. Points: cells and widths. "
        "Logged measures are of the last epoch. The cells are these of the grid: other cells could have another rho."
    )
    return Table(name, "Which measures without labels predict accuracy", caption, columns, "", (), rows, 0)


def _counts(scores: pd.DataFrame) -> str:
    return " or ".join(f"{count:,.0f}" for count in sorted(set(scores["count"].dropna())))


def _mean(values: pd.Series) -> str:
    if values.empty:
        return MISSING
    mean, spread = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan
    digits = 0 if abs(mean) >= 1000 else 1 if abs(mean) >= 10 else 2
    return f"{mean:,.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:,.{digits}f}")


def _rho(part: Part) -> str:
    """``+0.61 [+0.52, +0.70]``."""
    rho, low, high = part
    return MISSING if math.isnan(rho) else f"{rho:+.2f}" + ("" if math.isnan(low) else f" [{low:+.2f}, {high:+.2f}]")
