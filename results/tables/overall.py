"""A grid's rows over all widths, data sets and seeds at once: interquartile mean, and probability of improvement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from results.claims.effects import primary
from results.grids import Grid, GridLine
from results.statistics.aggregates import improvement, improvement_interval, interquartile_interval, interquartile_mean
from results.tables.render import Column, Table, TableRow
from results.tables.scores import METRICS

MEASURED_ON = ["preset", "setting", "dataset", "metric"]


def matrices(scores: pd.DataFrame, grid: Grid) -> dict[str, tuple[GridLine, list[np.ndarray]]]:
    """Of each row of the grid that has them all, by name: scores of seeds x widths for each setting, 0 at chance and 1 where all is
    right. The widths are those of the row for which rows x widths are most, so that a width at which few rows were scored leaves
    out no others. Rows that lack one, and seeds without all of them, are left out.

    ``scores``: of one grid, by the best protocol of each setting (:func:`of_settings`).
    """
    scores = scores.assign(value=(scores["value"] - scores["chance"]) / (1 - scores["chance"]), width=scores["width"].round(6))
    lines, parts = {}, {}
    for line in grid.lines:
        own = line.select(scores).groupby([*MEASURED_ON, "seed", "width"])["value"].mean().unstack("width")
        lines[line.name] = line
        parts[line.name] = dict(list(own.groupby(level=MEASURED_ON)))
    candidates = [tasks for tasks in map(_tasks, parts.values()) if tasks]
    found = [{name: made for name, own in parts.items() if (made := _at(own, tasks)) is not None} for tasks in candidates]
    sizes = [(len(rows) * sum(map(len, tasks.values())), len(rows)) for tasks, rows in zip(candidates, found, strict=True)]
    best = found[sizes.index(max(sizes))] if sizes else {}
    return {name: (lines[name], made) for name, made in best.items()}


def _tasks(parts: dict[tuple, pd.DataFrame]) -> dict[tuple, list[float]]:
    """Of one row's scores (seeds x widths) in each setting the widths that at least two seeds have: where seeds differ in them,
    those for which seeds x widths are most.
    """
    found = {}
    for key, part in parts.items():
        there = part.notna()
        sets = [list(part.columns[row]) for row in there.drop_duplicates().to_numpy()]
        sizes = [(int(there[widths].all(axis=1).sum()), widths) for widths in sets if widths]
        blocks = [(seeds * len(widths), widths) for seeds, widths in sizes if seeds > 1]
        if blocks:
            found[key] = max(blocks)[1]
    return found


def _at(parts: dict[tuple, pd.DataFrame], tasks: dict[tuple, list[float]]) -> list[np.ndarray] | None:
    """One row's scores at the widths of ``tasks``, of the seeds that have all of them; None where fewer than two have."""
    made = [parts[key].reindex(columns=widths).dropna() for key, widths in tasks.items() if key in parts]
    complete = len(made) == len(tasks) and all(len(part) > 1 for part in made)
    return [part.to_numpy() for part in made] if complete else None


def of_settings(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores by which claims are judged, of each setting of one grid; none where there are none."""
    parts = []
    for _, part in scores.groupby(["preset", "setting"]):
        try:
            parts.append(primary(part, {}))
        except LookupError:
            continue
    return pd.concat(parts) if parts else scores.iloc[:0]


def overall(scores: pd.DataFrame, grid: Grid, name: str) -> Table | None:
    """The table; None where fewer than two rows have two seeds of the same widths. ``scores``: as :func:`matrices`."""
    found = matrices(scores, grid)
    if len(found) < 2:
        return None
    columns = [Column("Method"), *(Column(text, "right") for text in ("IQM", "95 %", "P(better)", "95 % of it"))]
    rows = []
    for row, (line, own) in found.items():
        others = [strata for other, (_, strata) in found.items() if other != row]
        texts = (
            f"{100 * interquartile_mean(own):.1f}",
            _interval(interquartile_interval(own)),
            f"{100 * improvement(own, others):.0f}",
            _interval(improvement_interval(own, others), 0),
        )
        rows.append(TableRow(line.section, (row, *texts), ()))
    first = next(iter(found.values()))[1]
    return Table(name, f"{grid.title}: all widths and data sets", _caption(scores, first), tuple(columns), "", (), tuple(rows), 0)


def _interval(ends: Sequence[float], digits: int = 1) -> str:
    return "[" + ", ".join(f"{100 * end:.{digits}f}" for end in ends) + "]"


def _caption(scores: pd.DataFrame, strata: Sequence[np.ndarray]) -> str:
    data = sorted(
        {f"{dataset} ({METRICS.get(metric, metric)})" for dataset, metric in zip(scores["dataset"], scores["metric"], strict=True)}
    )
    return (
        f"Over {sum(part.shape[1] for part in strata)} widths of {', '.join(data)} and all seeds, scaled to 0 at chance "
        "and 100 where all is right. IQM: mean of the middle half. P(better): probability (%) that a run beats one "
        "of another row at the same width, mean over widths and rows. Intervals: bootstrap over seeds with all their widths "
        "(Agarwal et al. 2021). Rows without all these widths are left out."
    )
