"""Performance profiles of a grid's rows: the share of all widths, data sets and seeds that scores above each threshold."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from results.grids import Grid
from results.plots.drawing import LOOKS, NothingToPlot, legend_of, style
from results.statistics.aggregates import profile
from results.tables.overall import matrices


def profiles(scores: pd.DataFrame, grid: Grid) -> Figure:
    """Curves that lie higher or further to the right are better; one that falls early has widths or seeds that fail.

    ``scores``: as :func:`results.tables.overall.matrices`.
    """
    found = matrices(scores, grid)
    if len(found) < 2:
        raise NothingToPlot("fewer than two rows have two seeds of the same widths")
    lowest = min(float(part.min()) for _, strata in found.values() for part in strata)
    thresholds = np.linspace(lowest - 0.02, 1.0, 401)
    with style():
        figure = Figure(figsize=(6.2, 3.4 + 0.09 * len(found)))
        axis = figure.subplots()
        for place, (name, (_, strata)) in enumerate(found.items()):
            look = LOOKS[place % len(LOOKS)]
            axis.plot(
                100 * thresholds,
                100 * profile(strata, thresholds),
                color=look.color,
                linestyle=look.line,
                label=name,
                linewidth=1.2 if place < len(LOOKS) else 2.2,
            )
        axis.set_xlabel("Score (0: chance, 100: all right), τ")
        axis.set_ylabel("Widths, data sets and seeds above τ (%)")
        axis.set_ylim(-2, 102)
        legend_of(figure, axis)
    return figure
