"""Pictures, one function each, from the tidy frames of one setting. Style: us3l.mplstyle.

A panel is a method (base loss x teacher), laid out by these two factors. Inside a panel, colour, marker and line style
together say how the narrower widths are trained; any one of the three is enough, so the pictures survive grey printing.
A function that finds nothing to draw raises :class:`NothingToPlot` with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from results.frame import METHODS
from results.pareto import draw_front
from results.statistics import bootstrap_interval
from results.tables import LOSSES, metric_name, score_name

STYLE = Path(__file__).with_name("us3l.mplstyle")
BAND_ALPHA = 0.18
KINDS = ("png", "svg")
# Coordinates; not what stands in a name or in a text.
_LONG_NUMBER = re.compile(r"(?<=[ \"(,])-?\d+\.\d{3,}(?=[ \"),\n])")
STD, INTERVAL = "one standard deviation", "95 % bootstrap interval"


class NothingToPlot(Exception):
    """The runs hold no numbers for this picture; the message says which are missing."""


@dataclass(frozen=True)
class Look:
    """Colour (Okabe and Ito's palette), marker and line style of a series; ``filled``: whether its marker is."""

    color: str
    marker: str
    line: str | tuple
    filled: bool = True

    def options(self) -> dict[str, object]:
        """Keywords for ``Axes.plot`` and ``Line2D``."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.line,
                "markerfacecolor": self.color if self.filled else "white"}


# How a panel's networks are trained below full width.
TRAINING = {"InfoNCE distillation": Look("#0072B2", "s", "-"), "MSE distillation": Look("#E69F00", "o", "--", False),
            "KL distillation": Look("#CC79A7", "P", (0, (5, 1))),
            "US-Net, shared predictor": Look("#D55E00", "D", (0, (3, 1, 1, 1)), False),
            "naive US-Net": Look("#000000", "x", ":"), "individually trained": Look("#009E73", "^", "-.", False),
            "made without training": Look("#8C8C8C", "*", (0, (1, 3)))}
TRAINING_KINDS = {"naive": "naive US-Net", "individual": "individually trained", "usnet": "US-Net, shared predictor",
                  "derived": "made without training"}
METHOD = {"SimSiam": Look("#E69F00", "o", "--", False), "BYOL": Look("#D55E00", "s", "-"),
          "SimCLR": Look("#56B4E9", "^", "--", False), "momentum SimCLR": Look("#0072B2", "D", "-")}
NAIVE_LINE = ":"


def training_kind(frame: pd.DataFrame) -> pd.Series:
    """The key into ``TRAINING`` of each row."""
    distilled = frame["distill_loss"].map(LOSSES) + " distillation"
    kinds = frame["kind"].map(TRAINING_KINDS)
    return kinds.fillna(distilled)


def accuracy_by_width(scores: pd.DataFrame) -> Figure:
    """Accuracy (percent) against width. ``scores``: one task, data set, metric, score and share of
    the labels. Error bars: std over seeds."""
    return _accuracy(scores, "width", "Width (fraction of channels)", 1.0)


def accuracy_by_flops(scores: pd.DataFrame) -> Figure:
    """Accuracy (percent) against the encoder's MFLOPs of one image (2 x multiply-adds), logarithmic.

    Error bars: 95 % bootstrap intervals; a grey line: the Pareto front of all networks and widths.
    """
    return _accuracy(scores, "flops", "MFLOPs per image (2 × MACs), log scale", 1e-6)


def accuracy_by_latency(scores: pd.DataFrame) -> Figure:
    """Accuracy (percent) against milliseconds for one image on one device, of :func:`latencies`; else as by FLOPs."""
    return _accuracy(latencies(scores), "latency_ms", latency_label(scores), 1.0)


def latencies(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with ``latency_ms`` the median over all of a device's measurements of networks of one shape.

    Time depends on a network's shape, not on its weights: that two runs' measurements differ is what else the machine was doing.
    """
    shape = scores.groupby(["latency_on", "arch", "flops", "parameters"], dropna=False)
    return scores.assign(latency_ms=shape["latency_ms"].transform("median"))


def latency_label(scores: pd.DataFrame) -> str:
    """The label of an abscissa of latencies, with what they were measured on where that is known."""
    devices = ", ".join(sorted(set(scores["latency_on"]) - {"", None}))
    return "Latency of one image (ms), log scale" + (f"\n{devices}" if devices else "")


def _accuracy(scores: pd.DataFrame, across: str, label: str, scale: float) -> Figure:
    scores = scores[scores["value"].notna()]
    _require(scores, "no scores in result.json")
    scores = scores[scores[across].gt(0)]
    _require(scores, f"no scores with a {across} in result.json")
    about = scores.iloc[0]
    log = across != "width"
    ticks = _apart(sorted(scores.groupby("width")[across].mean() * scale), log=log)
    with style():
        figure, axes = _method_axes(scores, share=True)
        for method, axis in axes.items():
            part = scores[scores["method"].eq(method)]
            for name, group in part.groupby(training_kind(part), sort=False):
                points(axis, group, across, scale, TRAINING[name], interval=log)
            if log:
                front = draw_front(axis, scores, across, scale)
                axis.set_xscale("log")
                axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_locator(FixedLocator(ticks))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        extra = [*_draw_chance(axes, scores), *([front] if log else [])]
        _label(axes.values(), label, f"{score_name(about)} on {about['dataset']},\n{metric_name(about)} (%)")
        _legend(figure, TRAINING, training_kind(scores), extra, _note(scores, "bars", INTERVAL if log else STD))
    return figure


def training_base(metrics: pd.DataFrame) -> Figure:
    """The base loss of the widest network by epoch, a panel a method; losses of one kind share their axis."""
    rows = _widest(metrics[metrics["name"].eq("loss/base")])
    _require(rows, "no loss/base in metrics.jsonl")
    with style():
        figure, axes = _method_axes(rows, share="row")
        for method, axis in axes.items():
            part = rows[rows["method"].eq(method)]
            _curves(axis, part, training_kind(part), TRAINING)
        _epochs(axes.values())
        _label(axes.values(), "Epoch", "Base loss\nof the widest network")
        _legend(figure, TRAINING, training_kind(rows), [], _note(rows, "bands"))
    return figure


def training_distillation(metrics: pd.DataFrame) -> Figure:
    """The loss of the narrower widths by epoch, a panel a kind of loss: their scales have nothing in common.

    The naive baseline distils nothing; its narrower widths' own losses stand in the panel of their kind.
    """
    rows = metrics[metrics["name"].eq("loss/distill") & metrics["value"].notna() & metrics["kind"].ne("individual")]
    _require(rows, "no loss/distill in metrics.jsonl")
    loss = rows["distill_loss"].where(rows["kind"].ne("naive"), rows["base_loss"])
    kinds = [kind for kind in ("mse", "infonce") if loss.eq(kind).any()]
    with style():
        figure = Figure(figsize=(3.6 * len(kinds) + 0.3, 3.4))
        grid = figure.subplots(1, len(kinds), squeeze=False)[0]
        for axis, kind in zip(grid, kinds, strict=True):
            part = rows[loss.eq(kind)]
            for naive in (False, True):
                chosen = part[part["kind"].eq("naive") == naive]
                _curves(axis, chosen, chosen["method"], METHOD, NAIVE_LINE if naive else None)
            axis.set_title(f"{LOSSES[kind]} loss")
        _epochs(grid)
        _label(grid, "Epoch", "Loss of the narrower widths")
        naive = [Line2D([], [], color="0.35", linestyle=NAIVE_LINE, marker="x", label="naive US-Net of that method")]
        _legend(figure, METHOD, rows["method"], naive if rows["kind"].eq("naive").any() else [], _note(rows, "bands"))
    return figure


def drift(metrics: pd.DataFrame) -> Figure:
    """How far the guidance moved since the epoch before: absolute above relative, a column a method.

    Absolute: 1 - mean cosine of an image's target now and then. Relative: 1 - correlation of the images' similarities.
    Logarithmic, since drift falls by orders of magnitude with the learning rate; a drift of 0 has no place on it.
    """
    names = {"drift/absolute": "Absolute drift\n(1 − cosine)", "drift/relative": "Relative drift\n(1 − correlation)"}
    return _quantities(metrics, names, None, log=True)


def collapse(metrics: pd.DataFrame, width: float) -> Figure:
    """Effective rank and feature standard deviation at ``width`` by epoch, a column a method."""
    return _quantities(metrics, {"effective_rank": f"Effective rank\nat width {width:g}",
                                 "feature_std": f"Feature std × √dim\nat width {width:g}"}, width)


def _quantities(metrics: pd.DataFrame, names: dict[str, str], width: float | None, log: bool = False) -> Figure:
    rows = metrics[metrics["name"].isin(list(names)) & (metrics["value"].gt(0) if log else True)]
    rows = _widest(rows) if width is None else rows[rows["width"].sub(width).abs().lt(1e-6) & rows["value"].notna()]
    missing = [name for name in names if not rows["name"].eq(name).any()]
    if missing:
        at = "" if width is None else f" at width {width:g}"
        raise NothingToPlot(f"no {' and no '.join(missing)}{at} in metrics.jsonl")
    methods = [method for method in METHODS.values() if rows["method"].eq(method).any()]
    with style():
        figure = Figure(figsize=(max(2.3 * len(methods) + 0.6, 4.6), 2.1 * len(names) + 0.9))
        grid = figure.subplots(len(names), len(methods), squeeze=False, sharey="row", sharex=True)
        for line, (name, label) in zip(grid, names.items(), strict=True):
            for axis, method in zip(line, methods, strict=True):
                part = rows[rows["name"].eq(name) & rows["method"].eq(method)]
                _curves(axis, part, training_kind(part), TRAINING, log=log)
            if log:
                decades(line[0].yaxis, line[0].get_ylim())
            else:
                line[0].set_ylim(bottom=min(0.0, line[0].get_ylim()[0]))
            _label(line, "Epoch" if name == list(names)[-1] else "", label)
        for axis, method in zip(grid[0], methods, strict=True):
            axis.set_title(_method_title(method))
        figure.align_ylabels(grid[:, 0])
        _epochs(grid.flat)
        note = _note(rows, "bands") + (" of the logarithm" if log and rows["seed"].nunique() > 1 else "")
        _legend(figure, TRAINING, training_kind(rows), [], note)
    return figure


def save(figure: Figure, stem: Path, kinds: Sequence[str] = KINDS) -> list[Path]:
    """Write ``stem``.png and ``stem``.svg; the same figure gives the same bytes."""
    with style():
        for path in files(stem, kinds):
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
            figure.set_layout_engine("none")  # the layout stands; working it out is the slow part
            if path.suffix == ".svg":  # a hundredth of a point is finer than any screen or press
                text = path.read_text(encoding="utf-8")
                path.write_text(_LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}", text), encoding="utf-8")
    return files(stem, kinds)


def files(stem: Path, kinds: Sequence[str] = KINDS) -> list[Path]:
    """The files that a picture of this name has."""
    return [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]


@contextmanager
def style() -> Iterator[None]:
    """Everything drawn inside looks like this project's pictures, whatever the user's matplotlib settings."""
    with matplotlib.style.context(["default", STYLE]):
        yield


def _require(rows: pd.DataFrame, reason: str) -> None:
    if rows.empty:
        raise NothingToPlot(reason)


def _widest(rows: pd.DataFrame) -> pd.DataFrame:
    """Values of each run's widest network; runs narrower than the grid's widest (single networks) are left out."""
    rows = rows[rows["value"].notna()]
    rows = rows[rows["width_max"].eq(rows["width_max"].max())]
    return rows[rows["width"].isna() | rows["width"].sub(rows["width_max"]).abs().lt(1e-6)]


def _method_axes(frame: pd.DataFrame, share: bool | str) -> tuple[Figure, dict[str, Axes]]:
    """A panel a method that ``frame`` knows: rows are base losses, columns teachers."""
    known = [pair for pair, method in METHODS.items() if frame["method"].eq(method).any()]
    bases, teachers = list(dict.fromkeys(p[0] for p in known)), list(dict.fromkeys(p[1] for p in known))
    figure = Figure(figsize=(max(3.2 * len(teachers) + 0.4, 4.6), 2.35 * len(bases) + 1.0))
    grid = figure.subplots(len(bases), len(teachers), squeeze=False, sharex=True, sharey=share)
    axes = {}
    for row, base in enumerate(bases):
        for column, teacher in enumerate(teachers):
            if (base, teacher) in known:
                axes[METHODS[base, teacher]] = grid[row, column]
                grid[row, column].set_title(_method_title(METHODS[base, teacher]))
            else:
                grid[row, column].set_visible(False)
    return figure, axes


def _method_title(method: str) -> str:
    base, teacher = next(pair for pair, name in METHODS.items() if name == method)
    return f"{method}\n{LOSSES[base]} base, {teacher} teacher"


def points(axis: Axes, group: pd.DataFrame, across: str, scale: float, look: Look, label: str | None = None,
           interval: bool = False) -> None:
    """Mean over seeds at each width, with error bars of one standard deviation, or of the 95 % bootstrap ``interval``.

    ``across`` (times ``scale``) is the abscissa.
    """
    per_seed = group.assign(x=group[across]).groupby(["width", "seed"])[["value", "x"]].mean()
    summary = per_seed.groupby("width").agg(mean=("value", "mean"), std=("value", "std"), x=("x", "mean"))
    spread = 100 * summary["std"].fillna(0.0)
    if interval:
        ends = [bootstrap_interval(part.tolist()) for _, part in per_seed.groupby("width")["value"]]
        low, high = np.nan_to_num(100 * (summary["mean"].to_numpy() - np.array(ends).T) * [[1], [-1]])
        spread = np.maximum([low, high], 0.0)
    axis.errorbar(summary["x"] * scale, 100 * summary["mean"], yerr=spread, label=label, **look.options())


def _curves(axis: Axes, rows: pd.DataFrame, keys: pd.Series, looks: dict[str, Look], line: str | None = None,
            log: bool = False) -> None:
    """Mean over seeds by epoch with a band of one standard deviation, a series a value of ``keys`` (into ``looks``).

    ``log``: on a logarithmic axis, with mean and standard deviation of the logarithms.
    """
    if log:
        axis.set_yscale("log")
    for position, (name, look) in enumerate(looks.items()):
        group = rows[keys.eq(name)]
        if group.empty:
            continue
        per_run = group.groupby(["epoch", "run"])["value"].mean()
        summary = (np.log(per_run) if log else per_run).groupby("epoch").agg(["mean", "std"])
        spread = summary["std"].fillna(0.0)
        middle, low, high = (np.exp(y) if log else y for y in
                             (summary["mean"], summary["mean"] - spread, summary["mean"] + spread))
        every = max(1, len(summary) // 5)
        options = {**look.options(), **({} if line is None else {"linestyle": line, "marker": "x"})}
        axis.plot(summary.index, middle, markevery=(position * every // 4, every), **options)
        axis.fill_between(summary.index, low, high, color=look.color, alpha=BAND_ALPHA, linewidth=0)


def _apart(ticks: list[float], log: bool, share: float = 0.12) -> list[float]:
    """The highest tick and those below that lie at least ``share`` of the axis apart: labels do not meet."""
    place = {tick: math.log(tick) if log else tick for tick in ticks}
    room = share * (place[ticks[-1]] - place[ticks[0]])
    kept: list[float] = []
    for tick in reversed(ticks):
        if not kept or place[kept[-1]] - place[tick] >= room:
            kept.append(tick)
    return kept[::-1]


def _draw_chance(axes: dict[str, Axes], scores: pd.DataFrame) -> list[Line2D]:
    """A line at chance level where scores come near it; elsewhere it would only flatten the picture."""
    chance = scores["chance"].mean()
    if pd.isna(chance) or scores["value"].min() > chance + 0.15:
        return []
    options = {"color": "0.45", "linestyle": (0, (1, 2)), "linewidth": 1.2}
    for axis in axes.values():
        axis.axhline(100 * chance, **options)
    return [Line2D([], [], label=f"chance ({100 * chance:.1f} %)", **options)]


def _epochs(axes: Iterable[Axes]) -> None:
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def decades(axis: Axis, values: Sequence[float]) -> None:
    """Plain numbers on a logarithmic axis, between the powers of ten too where these alone would be too few."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marked = sum(low <= step * 10.0**power <= high for power in powers for step in (1, 2, 5))
    if marked < 2 and high > low:  # LogLocator would mark so many places between that their labels meet
        axis.set_major_locator(MaxNLocator(4))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _label(axes: Iterable[Axes], across: str, up: str) -> None:
    """Labels on the outer panels only."""
    for axis in axes:
        place = axis.get_subplotspec()
        if place.is_first_col():
            axis.set_ylabel(up)
        if place.is_last_row():
            axis.set_xlabel(across)


def _note(rows: pd.DataFrame, spread: str, what: str = STD) -> str:
    seeds = rows["seed"].nunique()
    return f"mean over up to {seeds} seeds, {spread}: {what}" if seeds > 1 else "one seed"


def _legend(figure: Figure, looks: dict[str, Look], used: pd.Series, extra: Sequence[Line2D], note: str) -> None:
    """One legend below all panels, so that it never lies on data; its title says what spread is drawn."""
    handles = [Line2D([], [], label=name, **look.options()) for name, look in looks.items() if used.eq(name).any()]
    handles += extra
    lines = math.ceil(len(handles) / int(figure.get_figwidth() / 1.75))
    figure.legend(handles=handles, title=note, loc="outside lower center", ncols=math.ceil(len(handles) / lines))

