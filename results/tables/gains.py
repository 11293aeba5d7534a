"""What one slimmable network gains over networks trained for each width alone, in detection and segmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from results.grids import Grid, GridLine
from results.statistics.intervals import bootstrap_interval
from results.tables.render import MISSING, Column, Table, TableRow
from results.tables.scores import METRICS, width_name

MAIN = {"detection": ("box_AP", "mask_AP"), "segmentation": ("mIoU",)}


def gains(scores: pd.DataFrame, grid: Grid, name: str = "gains") -> Table | None:
    """Points that the slimmable network is better by: a line per width, a section per row of the grid that is compared with one.

    ``scores``: of one grid, task, data set, model and schedule. Differences are of the same seed, both from pretrained weights;
    the interval is the 95 % bootstrap interval of their mean. None where no width has both.
    """
    scores = scores[scores["value"].notna() & scores["initial"].ne("random")]
    if scores.empty:
        return None
    first = scores.iloc[0]
    metrics = [metric for metric in MAIN.get(first["task"], ()) if scores["metric"].eq(metric).any()]
    rows = [row for line in grid.lines if line.against for row in _rows(line, scores, grid, metrics)]
    if not rows:
        return None
    columns = (
        Column("Slimmable network"),
        Column("Trained for each width"),
        Column("Width", "right"),
        Column("Seeds", "right"),
        *(Column(f"Gain in {METRICS.get(metric, metric)} (points)", "right") for metric in metrics),
    )
    caption = (
        "One slimmable network minus the network trained for that width alone, at the same seed: mean and 95 % bootstrap "
        f"interval over seeds. Pretrained on {' and '.join(sorted(set(grid.runs['trained'])))}."
    )
    about = ", ".join(filter(None, (first["model"], f"schedule {first['schedule']}" if first["schedule"] else "")))
    title = f"Gain over networks trained for each width: {first['task']} on {first['dataset']}" + (f" ({about})" if about else "")
    return Table(name, title, caption, columns, "", (), tuple(rows), 0)


def _rows(line: GridLine, scores: pd.DataFrame, grid: Grid, metrics: Sequence[str]) -> list[TableRow]:
    slim = next((other for other in grid.lines if line.against in other.cells), None)
    if slim is None:
        return []
    ours, alone = (
        part.assign(width=part["width"].round(6)).pivot_table(index=["width", "seed"], columns="metric", values="value")
        for part in (slim.select(scores), line.select(scores))
    )
    shared = [metric for metric in metrics if metric in ours and metric in alone]
    if not shared:
        return []
    apart = 100 * (ours[shared] - alone[shared]).dropna(how="all")
    rows = []
    for width in sorted(set(apart.index.get_level_values("width")), reverse=True):
        own = apart.loc[width]
        texts = [_text(own[metric].dropna().to_list()) if metric in own else MISSING for metric in metrics]
        rows.append(TableRow(line.name, (slim.name, line.name, width_name(width), str(len(own)), *texts), (), width))
    return rows


def _text(values: Sequence[float]) -> str:
    """The mean of differences with its sign, and its interval where there are several."""
    if not values:
        return MISSING
    low, high = bootstrap_interval(values)
    mean = sum(values) / len(values)
    return f"{mean:+.1f}" + ("" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")
