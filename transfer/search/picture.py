"""The picture of a search: score against cost, what each strategy looked at, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rundir.atomic import replacing
from transfer.search.options import EVOLUTIONARY, GREEDY, PREDICTOR, RANDOM, UNIFORM
from transfer.search.problem import Problem
from transfer.search.scores import MEANINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME, KINDS = "pareto", ("png", "svg")
FILES = tuple(f"{NAME}.{kind}" for kind in KINDS)
# Colour (Okabe and Ito's palette), marker and size in points of each strategy.
LOOKS = {
    RANDOM: ("#999999", "o", 14),
    PREDICTOR: ("#56B4E9", "v", 18),
    EVOLUTIONARY: ("#D55E00", "^", 20),
    GREEDY: ("#009E73", "D", 18),
    UNIFORM: ("#0072B2", "s", 30),
}
WORDS = {
    RANDOM: "random",
    PREDICTOR: "predictor's choice",
    EVOLUTIONARY: "evolutionary (NSGA-II)",
    GREEDY: "greedy slimming",
    UNIFORM: "uniform widths",
}


def save(folder: Path, problem: Problem, report: Mapping[str, Any]) -> None:
    """Write the picture into ``folder``."""
    from matplotlib import style

    with style.context({"svg.hashsalt": "us3l", "svg.fonttype": "none", "font.size": 9}):
        figure = draw(problem, report)
        for kind in KINDS:
            with replacing(folder / f"{NAME}.{kind}") as file:
                figure.savefig(file, format=kind, dpi=200)


def draw(problem: Problem, report: Mapping[str, Any]) -> Figure:
    """Every scored sub-network as a point in its strategy's look; the Pareto front; the chosen ones in circles, with names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kind, score = problem.kinds[0], report["score"]
    figure = Figure(figsize=(7.2, 4.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for name, (color, marker, size) in LOOKS.items():
        own = [one for one in problem.asked_by(name) if one.score is not None]
        if own:
            axis.scatter(
                [problem.load(one.width) for one in own],
                [one.score for one in own],
                s=size,
                marker=marker,
                color=color,
                alpha=0.55 if name != UNIFORM else 1.0,
                linewidths=0,
                label=f"{WORDS[name]} ({len(own)})",
                zorder=2,
            )
    front = [one for one in problem.front() if one.score is not None]
    axis.step(
        [problem.load(one.width) for one in front],
        [one.score for one in front],
        where="post",
        color="0.35",
        linewidth=1,
        linestyle=(0, (4, 1)),
        label="Pareto front",
        zorder=1,
    )
    _mark_chosen(axis, problem)
    axis.set_xlabel(f"{kind if kind != 'flops' else 'FLOPs'}, share of the full network")
    axis.set_ylabel(f"{score}: {MEANINGS[score]}")
    axis.set_title(f"{report['dataset']}, {report['count']:,} images without labels", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _mark_chosen(axis, problem: Problem) -> None:
    """Circles around the best sub-network within each budget, and its name beside the first of equal ones."""
    named: set[object] = set()
    for budget in problem.budgets:
        best = problem.best(budget)
        if best is None or best.score is None or problem.key(best.width) in named:
            continue
        place = (problem.load(best.width), best.score)
        axis.scatter(
            *place, s=110, facecolors="none", edgecolors="black", linewidths=1.1, zorder=3, label="chosen" if not named else None
        )
        axis.annotate(str(best.width), place, xytext=(6, -12), textcoords="offset points", fontsize=7, zorder=4)
        named.add(problem.key(best.width))
