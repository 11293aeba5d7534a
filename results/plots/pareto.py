"""Which points of a picture no other point beats: cheaper and as good, or as cheap and better."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D


def pareto_front(cost: Sequence[float], value: Sequence[float]) -> list[int]:
    """Positions of the points that no other one beats: none is as cheap or cheaper and better, or cheaper and as good.

    By cost, rising. Of equal points the first counts.
    """
    front, best = [], -math.inf
    for position in sorted(range(len(cost)), key=lambda i: (cost[i], -value[i], i)):
        if value[position] > best:
            best = value[position]
            front.append(position)
    return front


def draw_front(axis: Axes, scores: pd.DataFrame, across: str, scale: float) -> Line2D:
    """The Pareto front of the means over seeds of all cells and widths, as steps; returns its legend handle."""
    means = scores.groupby(["cell", "width"])[["value", across]].mean()
    front = pareto_front(means[across].tolist(), means["value"].tolist())
    options = {"color": "0.55", "linewidth": 1.0, "linestyle": (0, (4, 1)), "zorder": 1}
    axis.step(means[across].iloc[front] * scale, 100 * means["value"].iloc[front], where="post", **options)
    return Line2D([], [], label="Pareto front", **options)
