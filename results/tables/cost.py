"""What training cost: of a table's row to serve all widths, and of one slimmable network against a network per width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from results.grids import Grid, GridLine
from results.tables.render import MISSING, Column, Table, TableRow
from rundir.schema import State

# Units of the cost columns, smallest first: the size of one, and what its column is called.
FLOP_UNITS = ((1e9, "GFLOPs"), (1e12, "TFLOPs"), (1e15, "PFLOPs"), (1e18, "EFLOPs"))
TIME_UNITS = ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"), (86400.0, "days"))


@dataclass(frozen=True)
class Cost:
    """What training took for a row to serve all asked widths, mean over seeds; NaN where it is not known, or not yet served."""

    trainings: float = math.nan
    flops: float = math.nan
    seconds: float = math.nan


def training_cost(row: GridLine, scores: pd.DataFrame, runs: pd.DataFrame) -> Cost:
    """What the trainings behind ``row`` cost together: its own, and the teachers' that these learn from.

    A network trained for one width serves only that one. As long as a width of ``scores`` has no score in this row, the cost of
    serving all of them is not known; a row of one cell that was trained for one width has the cost of that. What is made without
    training costs nothing itself.
    """
    scored = scores[scores["value"].notna()]
    own = row.select(scored)
    alone = set(row.cells.values()) == {None} and own["width_min"].eq(own["width_max"]).all()
    if own.empty or (not alone and set(scored["width"].round(6)) - set(own["width"].round(6))):
        return Cost()
    trained = runs[runs["cell"].isin(own["cell"])]
    teachers = set(trained["needs"]) - {""}
    if teachers - set(runs["run"]):
        return Cost()
    needed = pd.concat([trained, runs[runs["run"].isin(teachers) & ~runs["cell"].isin(own["cell"])]])
    done = needed[needed["state"].eq(State.DONE)]
    per_cell = done.groupby("cell")[["train_flops", "train_seconds"]].mean()
    if len(per_cell) < needed["cell"].nunique():
        return Cost()
    total = per_cell.sum(skipna=False)
    return Cost(done.loc[done["kind"].ne("derived"), "cell"].nunique(), float(total["train_flops"]), float(total["train_seconds"]))


def cost_columns(
    lines: Sequence[GridLine], scores: pd.DataFrame, runs: pd.DataFrame
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Trainings, FLOPs and time of each line as text, and the names of these columns with the units that fit the largest."""
    costs = [training_cost(line, scores, runs) for line in lines]
    flop, flop_name = unit([cost.flops for cost in costs], FLOP_UNITS)
    time, time_name = unit([cost.seconds for cost in costs], TIME_UNITS)
    texts: list[tuple[str, ...]] = [
        (_number(cost.trainings, ".0f"), _number(cost.flops / flop), _number(cost.seconds / time)) for cost in costs
    ]
    return texts, ("Trainings", f"Training {flop_name}", f"Training {time_name}")


def unit(values: Sequence[float], units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The largest unit of which the largest value has at least ten; the smallest where there is none."""
    largest = max((value for value in values if not math.isnan(value)), default=0.0)
    return next((unit for unit in reversed(units) if largest >= 10 * unit[0]), units[0])


def _number(value: float, form: str = ".1f") -> str:
    return MISSING if math.isnan(value) else format(value, form)


def serving(scores: pd.DataFrame, grid: Grid, name: str = "serving") -> Table | None:
    """What k widths cost from one slimmable network and from k networks: training and stored parameters.

    A section per row of the grid that stands against a slimmable cell; k counts the widths from the widest on. None where the runs
    of no such pair are there.
    """
    runs = grid.runs
    done = runs[runs["state"].eq(State.DONE)]
    lines = [line for row in grid.lines if row.against for line in _served(scores, done, row)]
    if not lines:
        return None
    flop, flop_name = unit([x for line in lines for x in (line["flops"], line["k_flops"])], FLOP_UNITS)
    time, time_name = unit([x for line in lines for x in (line["seconds"], line["k_seconds"])], TIME_UNITS)
    columns = [
        Column("Method"),
        Column("Widths"),
        Column("k", "right"),
        *(
            Column(text, "right")
            for text in (
                f"{flop_name}, one",
                f"{flop_name}, k",
                "ratio",
                f"{time_name}, one",
                f"{time_name}, k",
                "Parameters, one",
                "Parameters, k",
            )
        ),
    ]
    rows = []
    for line in lines:
        texts = (
            _number(line["flops"] / flop),
            _number(line["k_flops"] / flop),
            _number(line["k_flops"] / line["flops"], ".2f"),
            _number(line["seconds"] / time),
            _number(line["k_seconds"] / time),
            _number(line["parameters"], ",.0f"),
            _number(line["k_parameters"], ",.0f"),
        )
        rows.append(TableRow(line["method"], (line["method"], line["widths"], str(line["k"]), *texts), ()))
    caption = (
        "Training (forward and backward passes, mean over seeds, evaluation not included) and stored parameters of the "
        "encoder: one slimmable network (US3L, else that with InfoNCE distillation) for all k widths, against k networks "
        "trained for one width each. FLOPs are counted; seconds are those of the runs, whatever else their machine did. "
        f"Trained on {' and '.join(sorted(set(runs['trained'])))}."
    )
    return Table(name, "Cost of serving k widths", caption, tuple(columns), "", (), tuple(rows), 0)


def _served(scores: pd.DataFrame, runs: pd.DataFrame, row: GridLine) -> list[dict]:
    """The lines of one pair; none where it lacks the slimmable network or that of the widest width."""
    slim, alone = runs[runs["cell"].eq(row.against)], row.select(runs)
    if slim.empty or alone.empty:
        return []
    parameters = scores[scores["run"].isin([*slim["run"], *alone["run"]])].groupby("width")["parameters"].mean()
    by_width = alone.groupby("width_max")[["train_flops", "train_seconds"]].mean().sort_index(ascending=False)
    one, lines, total = slim[["train_flops", "train_seconds"]].mean(), [], [0.0, 0.0, 0.0]
    for k, (width, cost) in enumerate(by_width.iterrows(), start=1):
        if k == 1 and not math.isclose(float(width), slim["width_max"].max()):
            return []  # the widest network is missing: sums from here on would compare other things
        added = (cost["train_flops"], cost["train_seconds"], parameters.get(width, math.nan))
        total = [a + float(b) for a, b in zip(total, added, strict=True)]
        lines.append(
            {
                "method": slim["method"].iloc[0],
                "k": k,
                "widths": " ".join(f"{w:g}" for w in by_width.index[:k]),
                "flops": one["train_flops"],
                "seconds": one["train_seconds"],
                "k_flops": total[0],
                "k_seconds": total[1],
                "parameters": parameters.get(by_width.index[0], math.nan),
                "k_parameters": total[2],
            }
        )
    return lines if len(lines) > 1 else []
