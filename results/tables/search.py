"""The table of searches: what each strategy found for each budget."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from results.grids import Grid, whole
from results.tables.render import Column, Table
from results.tables.scores import value_table

# In this order; ``all`` is the best of them by the label-free score.
STRATEGIES = {
    "uniform": "uniform widths",
    "random": "random",
    "greedy": "greedy slimming",
    "evolutionary": "evolutionary",
    "predictor": "predictor",
    "all": "best of all",
}


def strategies(scores: pd.DataFrame, grid: Grid, name: str) -> Table:
    """Networks and strategies x budgets: k-NN accuracy of the sub-network with the best label-free score. ``scores``: of one data
    set.
    """
    first, lines, rows = scores.iloc[0], [], []
    for strategy, word in STRATEGIES.items():
        own = scores[scores["strategy"].eq(strategy)]
        for line in whole(grid.lines) if len(own) else []:
            part = line.select(own)
            cell = f"{strategy} of {line.name}"
            if len(part):
                rows.append(part.assign(cell=cell))
                lines.append(replace(line, section=line.name, labels=(line.name, word), cells={cell: None}))
    budgets = list(dict.fromkeys(scores["budget"]))
    lines.sort(key=lambda line: line.section)
    about = f" ({first['variant']})" if first["variant"] else ""
    return value_table(
        name,
        f"Sub-networks found without labels on {first['dataset']}{about}",
        pd.concat(rows),
        grid.runs,
        [Column("Network"), Column("Search")],
        lines,
        [{"budget": budget} for budget in budgets],
        budgets,
        "k-NN accuracy (%) for a budget",
    )
