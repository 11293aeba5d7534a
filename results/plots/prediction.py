"""Accuracy against each measure without labels: does one of them say which network and width is good?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from results.plots.drawing import COLUMNS, LOOKS, headline, legend_of, score_label, style
from results.prediction import Prediction
from results.tables.scores import width_name


def prediction(found: pd.DataFrame, judged: pd.DataFrame, made: Sequence[Prediction]) -> Figure:
    """A panel per measure, a point per cell and width (mean over seeds), a look per width; Spearman's rho in the title, mean over
    seeds with its 95 % interval.

    ``found``: :func:`results.prediction.points`; ``judged``: the scores that accuracy is of; ``made``: of each measure.
    """
    columns = min(COLUMNS, len(made))
    lines, widths = math.ceil(len(made) / columns), sorted(set(found["width"]), reverse=True)
    with style():
        figure = Figure(figsize=(2.6 * columns + 0.6, 2.5 * lines + 0.6))
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for axis in grid.flat[len(made) :]:
            axis.set_visible(False)
        axes = list(grid.flat[: len(made)])
        for axis, one in zip(axes, made, strict=True):
            means = found[found[one.measure].notna()].groupby(["cell", "width"])[[one.measure, "accuracy"]].mean()
            for place, width in enumerate(widths):
                own, look = means[means.index.get_level_values("width") == width], LOOKS[place % len(LOOKS)]
                axis.plot(
                    own[one.measure],
                    100 * own["accuracy"],
                    **{**look.options(), "linestyle": "none"},
                    markersize=4.5,
                    label=width_name(width),
                )
            rho, low, high = one.everywhere
            interval = "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
            axis.set_title(f"ρ = {rho:.2f}{interval}".replace("-", "−"))
            axis.set_xlabel(one.name.replace(" the individually", "\nthe individually"))
        figure.supylabel(score_label(judged), fontsize="medium")
        seeds = found["seed"].nunique()
        headline(
            figure,
            "one point per cell and width"
            + (
                f", mean over up to {seeds} seeds; ρ: mean over seeds of Spearman's rank correlation, 95 % interval over seeds"
                if seeds > 1
                else ", one seed"
            ),
        )
        legend_of(figure, axes[0], len(widths))
    return figure
