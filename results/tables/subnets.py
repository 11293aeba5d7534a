"""The table of sub-networks' scores: those that stand for no plain width and so have no place in a table by width."""

from __future__ import annotations

import math

import pandas as pd

from results.grids import Grid, whole
from results.tables.render import MISSING, Column, Table, TableRow
from results.tables.scores import METRICS, protocol_name
from results.tables.tasks import DENSE_METRICS, INITIAL, initials

KINDS = ["metric", "score", "label_fraction", "variant"]  # what one column has one value of


def subnets(scores: pd.DataFrame, grid: Grid, name: str) -> Table:
    """Networks and sub-networks x metrics, each mean and sample standard deviation over seeds, in per cent, and what a sub-network
    costs; most FLOPs first. ``scores``: of one task, data set and model.
    """
    scores = scores[scores["value"].notna()]
    kinds, weights = _kinds(scores), initials(scores)
    columns = (
        Column("Network"),
        *([Column("Weights")] if weights else []),
        Column("Sub-network"),
        *(Column(f"{_named(kind)} (%)", "right") for kind in kinds),
        Column("MFLOPs", "right"),
        Column("Parameters", "right"),
    )
    rows = []
    for line in whole(grid.lines):
        for initial in weights or [None]:
            own = line.select(scores)
            own = own if initial is None else own[own["initial"].eq(initial)]
            for subnet in own.sort_values("flops", ascending=False)["subnet"].drop_duplicates():
                part = own[own["subnet"].eq(subnet)]
                values = [_mean(part[part[KINDS].eq(pd.Series(kind)).all(axis=1)]) for kind in kinds]
                cost = (f"{part['flops'].mean() / 1e6:,.1f}", f"{part['parameters'].mean():,.0f}")
                said = [INITIAL.get(initial, initial)] if initial is not None else []
                rows.append(TableRow(line.name, (line.name, *said, subnet, *values, *cost), ()))
    seeds = scores["seed"].nunique()
    spread = f"Mean ± sample standard deviation over {seeds} seeds." if seeds > 1 else "One seed."
    return Table(
        name, _title(scores.iloc[0]), f"{spread} FLOPs and parameters of the encoder, one image.", columns, "", (), tuple(rows), 0
    )


def _kinds(scores: pd.DataFrame) -> list[dict]:
    """What there is a column for: the fullest metric of the task first, and all labels before a share of them."""
    known = [*METRICS, *DENSE_METRICS.get(scores["task"].iloc[0], [])]
    kinds = scores[KINDS].drop_duplicates()
    place = kinds["metric"].map(lambda metric: known.index(metric) if metric in known else len(known))
    order = ["label_fraction", "place", "metric", "score"]
    return kinds.assign(place=place).sort_values(order, ascending=[False, True, True, False])[KINDS].to_dict("records")


def _named(kind: dict) -> str:
    """``k-NN with 1 % of the labels``; settings that all have are in the title."""
    return protocol_name(pd.Series(kind)) + (", by class" if kind["score"] == "mean_per_class" else "")


def _title(first: pd.Series) -> str:
    what = "Sub-networks" if first["task"] == "classification" else f"{first['task'].capitalize()} by sub-networks"
    schedule = f"schedule {first['schedule']}" if first["schedule"] else ""
    about = ", ".join(filter(None, [first["model"], schedule, first["variant"]]))
    return f"{what} on {first['dataset']}" + (f" ({about})" if about else "")


def _mean(scores: pd.DataFrame) -> str:
    values = scores.groupby("seed")["value"].mean()
    if values.empty:
        return MISSING
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return f"{100 * values.mean():.1f}" + ("" if math.isnan(spread) else f" ± {100 * spread:.1f}")
