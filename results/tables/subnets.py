"""The table of sub-networks' scores: those that stand for no plain width and so have no place in a table by width."""

from __future__ import annotations

import math

import pandas as pd

from results.grids import Grid, whole
from results.tables.render import MISSING, Column, Table, TableRow
from results.tables.scores import METRICS


def subnets(scores: pd.DataFrame, grid: Grid, name: str) -> Table:
    """Networks and sub-networks x metrics, each mean and sample standard deviation over seeds, in per cent, and what a sub-network
    costs; most FLOPs first. ``scores``: of one task and data set.
    """
    scores = scores[scores["value"].notna()]
    found = [metric for metric in METRICS if scores["metric"].eq(metric).any()]
    found += sorted(set(scores["metric"]) - set(found))
    columns = (Column("Network"), Column("Sub-network"),
               *(Column(f"{METRICS.get(metric, metric)} (%)", "right") for metric in found),
               Column("MFLOPs", "right"), Column("Parameters", "right"))
    rows = []
    for line in whole(grid.lines):
        own = line.select(scores)
        for subnet in own.sort_values("flops", ascending=False)["subnet"].drop_duplicates():
            part = own[own["subnet"].eq(subnet)]
            values = [_mean(part.loc[part["metric"].eq(metric)].groupby("seed")["value"].mean()) for metric in found]
            cost = (f"{part['flops'].mean() / 1e6:,.1f}", f"{part['parameters'].mean():,.0f}")
            rows.append(TableRow(line.name, (line.name, subnet, *values, *cost), ()))
    first, seeds = scores.iloc[0], scores["seed"].nunique()
    spread = f"Mean ± sample standard deviation over {seeds} seeds." if seeds > 1 else "One seed."
    title = f"Sub-networks on {first['dataset']}" + (f" ({first['variant']})" if first["variant"] else "")
    return Table(name, title, f"{spread} FLOPs and parameters of the encoder, one image.", columns, "", (), tuple(rows), 0)


def _mean(values: pd.Series) -> str:
    if values.empty:
        return MISSING
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return f"{100 * values.mean():.1f}" + ("" if math.isnan(spread) else f" ± {100 * spread:.1f}")
