"""Tables, one function each, from the tidy frame of one data set and metric to a :class:`results.render.Table`.

A new table is a list of :class:`RowSpec` given to :func:`score_table`, and its function's place in ``grid_tables.TABLES``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import pandas as pd
from scipy import stats

from results.frame import METHODS
from results.frame import guidelines as satisfied_guidelines
from results.render import AT_CHANCE, BLANK, COLLAPSED, YES, Column, Row, Score, Source, Table
from results.statistics import bootstrap_interval
from rundir.schema import State

# A score at or below what guessing reaches with this probability is not above chance.
CHANCE_LEVEL = 0.05
# Of unit-length features, sqrt(dim) x std over images is 1 where they spread over the sphere and 0 where all images are
# mapped to one point (SimSiam, section 4.1); fewer than 2 effective dimensions is a line.
COLLAPSE_STD = 0.1
COLLAPSE_RANK = 2.0
COLLAPSE = {"feature_std": COLLAPSE_STD, "projection_std": COLLAPSE_STD, "effective_rank": COLLAPSE_RANK,
            "projection_rank": COLLAPSE_RANK}  # by the name that a run logs

LOSSES = {"mse": "MSE", "infonce": "InfoNCE", "kl": "KL", "none": "none"}
METRICS = {"linear": "linear evaluation", "linear_fast": "linear probe", "knn": "k-NN", "finetune": "fine-tuning",
           **{f"{kind}_AP{what}": f"{kind} AP{what}" for kind in ("box", "mask") for what in ("", "50", "75", "s", "m", "l")},
           "mIoU": "mIoU", "mAcc": "mean class accuracy", "aAcc": "pixel accuracy"}
MOST_KINDS = 4  # of machine, that a caption names
SCORES = {"top1": "Accuracy", "mean_per_class": "Mean per-class accuracy"}
# Scores of one table have these equal.
SCORED = ["grid", "setting", "task", "dataset", "metric", "score", "label_fraction", "model", "schedule", "initial",
          "variant"]
GUIDELINE_ORDER = ("none", "G1", "G2", "G3", "G1+G2", "G1+G3", "G2+G3", "G1+G2+G3")


@dataclass(frozen=True)
class RowSpec:
    """One row: its section, its texts, the values that the frame's columns have in it, and its name in a picture of its section."""

    section: str
    labels: tuple[str, ...]
    where: dict[str, object] = field(default_factory=dict)
    short: str = ""
    width: float | None = None  # where the row is of one width only

    def select(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of ``frame`` that belong here."""
        keep = pd.Series(True, index=frame.index)
        for name, value in self.where.items():
            keep &= frame[name].eq(value)
        return frame[keep]


def collapsed(metrics: pd.DataFrame) -> pd.DataFrame:
    """One row per run and width with diagnostics (cell, run, seed, width): whether the last of these are below the thresholds."""
    wanted = metrics[metrics["name"].isin(list(COLLAPSE)) & metrics["value"].notna()]
    last = wanted.sort_values("step", kind="stable").drop_duplicates(["run", "name", "width"], keep="last")
    limit = last["name"].map(COLLAPSE).astype("float64")
    marked = last.assign(collapsed=last["value"] < limit, width=last["width"].round(6))
    return marked.groupby(["cell", "run", "seed", "width"], as_index=False)["collapsed"].any()


def mark_collapse(scores: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """``scores`` with a column ``collapsed``: the run's last diagnostics at that width are below the thresholds.

    False where the run logged no diagnostics at that width.
    """
    fallen = collapsed(metrics)
    fallen = fallen[fallen["collapsed"]]
    pairs = set(zip(fallen["run"], fallen["width"], strict=True))
    marks = [(run, round(width, 6)) in pairs for run, width in zip(scores["run"], scores["width"], strict=True)]
    return scores.assign(collapsed=marks)


def guidelines(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "guidelines") -> Table:
    """The guidelines table: the 8 cells by which guidelines they satisfy, then naive and individually trained networks.

    ``scores`` is the frame of one data set and metric (:func:`results.frame.load`, after :func:`mark_collapse` if
    collapse is to be marked), ``runs`` that of all its runs, unfinished ones too. All 8 cells have a row; an
    individually trained method is one row, each width of it from its own network.
    """
    columns = [Column("G1", "center"), Column("G2", "center"), Column("G3", "center"), Column("Base loss", detail=True),
               Column("Distillation loss", detail=True), Column("Teacher", detail=True), Column("Head", detail=True),
               Column("Method")]
    rows = [replace(row, labels=(*row.labels[:-1], head_of(row, runs), row.labels[-1])) for row in guideline_rows(runs)]
    title = "Guidelines grid, shared head" if set(runs["grid"]) == {"guidelines-shared"} else "Guidelines grid"
    return score_table(name, title, scores, runs, columns, rows)


def head_of(row: RowSpec, runs: pd.DataFrame) -> str:
    """What narrower widths put behind their projection in the runs of ``row``; nothing where they distil nothing."""
    own = row.select(runs)
    distilled = own[own["distill_loss"].ne("none") & own["head"].notna()]
    return ", ".join(sorted(set(distilled["head"]))) or BLANK


def guideline_rows(runs: pd.DataFrame) -> list[RowSpec]:
    """The 8 cells by which guidelines they satisfy, then the other kinds of networks that ``runs`` knows."""
    cells = sorted(product(("mse", "infonce"), ("mse", "infonce"), ("online", "momentum")),
                   key=lambda cell: GUIDELINE_ORDER.index(satisfied_guidelines(*cell)))
    rows = []
    for base, distill, teacher in cells:
        satisfied = satisfied_guidelines(base, distill, teacher)
        ticks = tuple(YES if mark in satisfied.split("+") else BLANK for mark in ("G1", "G2", "G3"))
        section = f"{0 if satisfied == 'none' else satisfied.count('+') + 1} guidelines"
        labels = (*ticks, LOSSES[base], LOSSES[distill], teacher,
                  f"{METHODS[base, teacher]} + {LOSSES[distill]} distillation")
        rows.append(RowSpec(section, labels, {"kind": "us3l", "base_loss": base, "distill_loss": distill,
                                              "teacher": teacher}))
    others = (("usnet", "US-Net as the authors run it"), ("naive", "naive US-Net"), ("individual", "individually trained"))
    for kind, text in others:
        known = set(zip(*(runs.loc[runs["kind"].eq(kind), factor] for factor in ("base_loss", "teacher")), strict=True))
        for base, teacher in (pair for pair in METHODS if pair in known):
            distill = LOSSES[base] if kind == "usnet" else "none"
            labels = (*[BLANK] * 3, LOSSES[base], distill, teacher, f"{METHODS[base, teacher]}, {text}")
            rows.append(RowSpec(kind, labels, {"kind": kind, "base_loss": base, "teacher": teacher}))
    return rows


def by_cell(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "cells") -> Table:
    """One row a cell, by name: the table of a grid that has none of its own."""
    rows = [RowSpec(kind, (cell,), {"cell": cell})
            for kind, cell in sorted(set(zip(runs["kind"], runs["cell"], strict=True)), key=lambda pair: pair[1])]
    grid = ", ".join(sorted(set(runs["grid"])))
    return score_table(name, f"Grid {grid}", scores, runs, [Column("Cell")], [replace(row, section="") for row in rows])


def score_table(name: str, title: str, scores: pd.DataFrame, runs: pd.DataFrame, columns: Sequence[Column],
                specs: Sequence[RowSpec]) -> Table:
    """``specs`` x the widths found in ``scores`` (wide to narrow): mean and std over seeds, the best a width marked.

    ``scores`` must be of one task, data set, metric, score and share of the labels.
    """
    scores = scores[scores["value"].notna()]
    widths = sorted(set(scores["width"].round(6)), reverse=True)
    about = scores.iloc[0] if len(scores) else None
    header = "Accuracy (%) at width" if about is None else f"{score_name(about)} (%) at width"
    place = "" if about is None else f" on {about['dataset']}, {metric_name(about)}"
    return value_table(name, title + place, scores, runs, columns, specs, [{"width": width} for width in widths],
                       [width_name(width) for width in widths], header)


def value_table(name: str, title: str, scores: pd.DataFrame, runs: pd.DataFrame, columns: Sequence[Column],
                specs: Sequence[RowSpec], keys: Sequence[dict[str, object]], names: Sequence[str], header: str) -> Table:
    """``specs`` x ``keys`` (what the frame's columns have in a value column, called ``names``): mean and std over seeds.

    The best of each column is marked. Rows of one width only take that width's scores.
    """
    scores = scores[scores["value"].notna()].assign(width=scores["width"].round(6))
    parts = [RowSpec("", (), key).select(scores) for key in keys]
    grid = [[summarize(_at_width(spec.select(part), spec.width)) for part in parts] for spec in specs]
    for width in {spec.width for spec in specs}:  # scores of different widths do not compete
        rivals = [line for spec, line in zip(specs, grid, strict=True) if spec.width == width]
        for position in range(len(keys)):
            _mark_best(rivals, position)
    rows = tuple(Row(spec.section, spec.labels, tuple(line), spec.width) for spec, line in zip(specs, grid, strict=True))
    found = [score for line in grid for score in line if score is not None]
    seeds = max((score.n for score in found), default=0)
    best = "a column" if all(spec.width is None for spec in specs) else "a column at each width"
    return Table(name, title, _caption(found, seeds, runs, best), tuple(columns), header, tuple(names), rows, seeds, tuple(keys))


def _at_width(rows: pd.DataFrame, width: float | None) -> pd.DataFrame:
    return rows if width is None else rows[rows["width"].eq(round(width, 6))]


def metric_name(about: pd.Series) -> str:
    """What a row of the tidy frame was measured with: ``linear evaluation``, ``fine-tuning with 1 % of the labels``; and the
    settings that are not those of a grid's own evaluation: ``linear probe (C=0.1)``."""
    name, fraction = METRICS.get(about["metric"], about["metric"]), about["label_fraction"]
    name = name if fraction == 1 else f"{name} with {100 * fraction:g} % of the labels"
    return f"{name} ({about['variant']})" if about["variant"] else name


def score_name(about: pd.Series) -> str:
    """What the values of a row of the tidy frame are: ``Accuracy``, ``Mean per-class accuracy``."""
    return SCORES.get(about["score"], about["score"])


def width_name(width: float) -> str:
    """``0.25×``, ``1.0×``."""
    text = f"{width:.4f}".rstrip("0")
    return (text + "0" if text.endswith(".") else text) + "×"


def summarize(part: pd.DataFrame) -> Score | None:
    """Mean and sample standard deviation over the seeds of one cell, metric and width; None where there are none."""
    if part.empty:
        return None
    per_seed = part.groupby("seed")["value"].mean()
    mean, n = float(per_seed.mean()), len(per_seed)
    low, high = bootstrap_interval(per_seed.tolist())
    names = part.groupby("seed")["run"].first()
    sources = tuple(Source(str(names[seed]), int(seed), float(value)) for seed, value in per_seed.items())
    chance, count = float(part["chance"].max()), float(part["count"].min())
    return Score(mean, float(per_seed.std(ddof=1)) if n > 1 else math.nan, n, chance, count,
                 float(part["flops"].mean()), float(part["parameters"].mean()),
                 at_chance=not above_chance(mean, chance, count),
                 collapsed=bool(part["collapsed"].any()) if "collapsed" in part else False,
                 low=low, high=high, sources=sources)


def above_chance(value: float, chance: float, count: float) -> bool:
    """Whether an accuracy of ``value`` on ``count`` images is more than guessing explains (one-sided binomial test).

    True where chance or count is not known. A mean over seeds is tested as one evaluation: its seeds share the images,
    so the test asks, if anything, too much. For a mean over classes it is an approximation: exact where they are of one size.
    """
    if math.isnan(chance) or math.isnan(count):
        return True
    # isf: the number of hits that guessing exceeds with a probability of at most CHANCE_LEVEL.
    return value * count > stats.binom.isf(CHANCE_LEVEL, int(count), chance) + 1e-9


def _mark_best(grid: list[list[Score | None]], position: int) -> None:
    """Marks the highest score of a column, and those that look the same at the table's one decimal."""
    means = [round(100 * line[position].mean, 1) for line in grid if line[position] is not None]
    for line in grid:
        score = line[position]
        if score is not None and round(100 * score.mean, 1) == max(means):
            line[position] = replace(score, best=True)


def _caption(found: list[Score], seeds: int, runs: pd.DataFrame, best: str) -> str:
    text = ["Trained on " + " and ".join(sorted(set(runs["trained"]))) + "."]
    if seeds > 1:
        text.append(f"Mean ± sample standard deviation over {seeds} seeds (n given where it differs); "
                    f"best of {best} in bold (no test).")
    elif seeds == 1:
        text.append(f"One seed; best of {best} in bold.")
    chances = sorted({round(100 * score.chance, 1) for score in found if not math.isnan(score.chance)})
    if chances:
        text.append(f"Chance is {' or '.join(f'{chance:.1f}' for chance in chances)} %.")
    if any(score.at_chance for score in found):
        text.append(f"{AT_CHANCE}: not above chance (one-sided binomial test, {100 * CHANCE_LEVEL:.0f} %, "
                    f"n = {min(score.count for score in found if score.at_chance):.0f} images).")
    if any(score.collapsed for score in found):
        text.append(f"{COLLAPSED}: collapsed in at least one seed (standard deviation of features or projections below "
                    f"{COLLAPSE_STD:g} or effective rank below {COLLAPSE_RANK:g} at that width after the last epoch).")
    return " ".join(text + _machines(runs) + _unfinished(runs))


def _machines(runs: pd.DataFrame) -> list[str]:
    """A note where runs were made on different kinds of machine: that alone can change a score by points (docs/formats.md)."""
    kinds = Counter(filter(None, runs["hardware"]))
    if len(kinds) < 2:
        return []
    most = sorted(kinds, key=lambda kind: (-kinds[kind], kind))
    named = [f"{kinds[kind]} on {kind}" for kind in most[:MOST_KINDS]]
    more = [f"{sum(kinds[kind] for kind in most[MOST_KINDS:])} on others"] if len(kinds) > MOST_KINDS else []
    return [f"Runs come from {len(kinds)} kinds of machine, which alone can change scores by points: {'; '.join(named + more)}."]


def _unfinished(runs: pd.DataFrame) -> list[str]:
    states = runs.loc[runs["state"].ne(State.DONE), "state"].value_counts().sort_index()
    if not len(states):
        return []
    return [f"{states.sum()} of {len(runs)} runs are not done ("
            + ", ".join(f"{number} {state}" for state, number in states.items()) + ")."]
