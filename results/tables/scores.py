"""Scores by row and column: mean and spread over seeds, what is best, at chance or collapsed; the table of a grid."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
from scipy import stats

from results.grids import Grid, GridLine
from results.statistics.intervals import bootstrap_interval, interval_with_images
from results.tables.cost import cost_columns
from results.tables.render import AT_CHANCE, COLLAPSED, EXTRAPOLATED, OLDER, YES, Column, Score, Source, Table, TableRow
from rundir import method
from rundir.schema import State
from rundir.wording import counted

# A score at or below what guessing reaches with this probability is not above chance.
CHANCE_LEVEL = 0.05
# Of unit-length features, sqrt(dim) x std over images is 1 where they spread over the sphere and 0 where all images are
# mapped to one point (SimSiam, section 4.1); fewer than 2 effective dimensions is a line.
COLLAPSE_STD = 0.1
COLLAPSE_RANK = 2.0
COLLAPSE = {
    "feature_std": COLLAPSE_STD,
    "projection_std": COLLAPSE_STD,
    "effective_rank": COLLAPSE_RANK,
    "projection_rank": COLLAPSE_RANK,
}  # by the name that a run logs

LOSSES = {"mse": "MSE", "infonce": "InfoNCE", "kl": "KL", "none": "none"}
METRICS = {
    "linear": "linear evaluation",
    "linear_fast": "linear probe",
    "knn": "k-NN",
    "finetune": "fine-tuning",
    **{f"{kind}_AP{what}": f"{kind} AP{what}" for kind in ("box", "mask") for what in ("", "50", "75", "s", "m", "l")},
    "mIoU": "mIoU",
    "mAcc": "mean class accuracy",
    "aAcc": "pixel accuracy",
}
MOST_KINDS = 4  # of machine, that a caption names
SCORES = {"top1": "Accuracy", "mean_per_class": "Mean per-class accuracy"}
# Scores of one table have these equal.
SCORED = ["grid", "setting", "task", "dataset", "metric", "score", "label_fraction", "model", "schedule", "initial", "variant"]


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


def grid_table(scores: pd.DataFrame, grid: Grid, name: str) -> Table:
    """The table of a grid, as its file lays it out: every row of the file has a line, scored or not; a cell that is in no row if it
    is scored.

    ``scores``: of one data set, metric, score and share of the labels (:func:`mark_collapse` before, if collapse is to be marked).
    """
    columns, lines = [_column(grid, place) for place in range(len(grid.manifest.columns))], grid.lines
    known = set(grid.manifest.cells)
    lines = [line for line in lines if not known or known & set(line.cells) or len(line.select(scores))]
    if not grid.manifest.cost:
        return score_table(name, grid.title, scores, grid.runs, columns, lines)
    texts, names = cost_columns(lines, scores, grid.runs)
    lines = [replace(line, labels=(*line.labels, *text)) for line, text in zip(lines, texts, strict=True)]
    table = score_table(name, grid.title, scores, grid.runs, [*columns, *(Column(name, "right") for name in names)], lines)
    return replace(
        table,
        caption=f"{table.caption} Training cost is that of all trainings that serving all these widths takes, "
        "mean over seeds, evaluation not included.",
    )


def _column(grid: Grid, place: int) -> Column:
    """A column of labels; ticks stand in its middle."""
    name = grid.manifest.columns[place]
    ticks = {row.labels[place] for row in grid.manifest.rows} <= {YES, ""} and bool(grid.manifest.rows)
    return Column(name, "center" if ticks else "left", detail=name in grid.manifest.details)


def score_table(
    name: str, title: str, scores: pd.DataFrame, runs: pd.DataFrame, columns: Sequence[Column], lines: Sequence[GridLine]
) -> Table:
    """``lines`` x the widths found in ``scores`` (wide to narrow): mean and std over seeds, the best a width marked.

    ``scores`` must be of one task, data set, metric, score and share of the labels.
    """
    scores = scores[scores["value"].notna()]
    widths = sorted(set(scores["width"].round(6)), reverse=True)
    about = scores.iloc[0] if len(scores) else None
    header = "Accuracy (%) at width" if about is None else f"{score_name(about)} (%) at width"
    place = "" if about is None else f" on {about['dataset']}, {metric_name(about)}"
    return value_table(
        name,
        title + place,
        scores,
        runs,
        columns,
        lines,
        [{"width": width} for width in widths],
        [width_name(width) for width in widths],
        header,
    )


def value_table(
    name: str,
    title: str,
    scores: pd.DataFrame,
    runs: pd.DataFrame,
    columns: Sequence[Column],
    lines: Sequence[GridLine],
    keys: Sequence[dict[str, object]],
    names: Sequence[str],
    header: str,
) -> Table:
    """``lines`` x ``keys`` (what the frame's columns have in a value column, called ``names``): mean and std over seeds.

    The best of each column is marked. Rows of one width only take that width's scores.
    """
    scores = scores[scores["value"].notna()].assign(width=scores["width"].round(6))
    parts = [scores[scores[list(key)].eq(pd.Series(key)).all(axis=1)] for key in keys]
    values = [[summarize(_at_width(line.select(part), line.width)) for part in parts] for line in lines]
    for width in {line.width for line in lines}:  # scores of different widths do not compete
        rivals = [own for line, own in zip(lines, values, strict=True) if line.width == width]
        for position in range(len(keys)):
            _mark_best(rivals, position)
    rows = tuple(
        TableRow(line.section, line.labels, tuple(own), line.width, tuple(line.cells))
        for line, own in zip(lines, values, strict=True)
    )
    found = [score for own in values for score in own if score is not None]
    seeds = max((score.n for score in found), default=0)
    best = "a column" if all(line.width is None for line in lines) else "a column at each width"
    return Table(name, title, _caption(found, seeds, runs, best), tuple(columns), header, tuple(names), rows, seeds, tuple(keys))


def _at_width(rows: pd.DataFrame, width: float | None) -> pd.DataFrame:
    return rows if width is None else rows[rows["width"].eq(round(width, 6))]


def protocol_name(about: pd.Series) -> str:
    """What a row of the tidy frame was measured with: ``linear evaluation``, ``fine-tuning with 1 % of the labels``."""
    name, fraction = METRICS.get(about["metric"], about["metric"]), about["label_fraction"]
    return name if fraction == 1 else f"{name} with {100 * fraction:g} % of the labels"


def metric_name(about: pd.Series) -> str:
    """The same with the settings that are not those of a grid's own evaluation: ``linear probe (C=0.1)``."""
    name = protocol_name(about)
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
    low_images, high_images = interval_with_images(per_seed.tolist(), float(part["image_error"].mean()))
    names = part.groupby("seed")["run"].first()
    sources = tuple(Source(str(names[seed]), int(seed), float(value)) for seed, value in per_seed.items())
    chance, count = float(part["chance"].max()), float(part["count"].min())
    return Score(
        mean,
        float(per_seed.std(ddof=1)) if n > 1 else math.nan,
        n,
        chance,
        count,
        float(part["flops"].mean()),
        float(part["parameters"].mean()),
        at_chance=not above_chance(mean, chance, count),
        collapsed=bool(part["collapsed"].any()) if "collapsed" in part else False,
        older=bool(part["method_version"].lt(method.VERSION).any()),
        extrapolated=bool(part["extrapolated"].any()),
        low=low,
        high=high,
        low_images=low_images,
        high_images=high_images,
        sources=sources,
    )


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
        text.append(
            f"Mean ± sample standard deviation over {seeds} seeds (n given where it differs); best of {best} in bold (no test)."
        )
    elif seeds == 1:
        text.append(f"One seed; best of {best} in bold.")
    chances = sorted({round(100 * score.chance, 1) for score in found if not math.isnan(score.chance)})
    if chances:
        text.append(f"Chance is {' or '.join(f'{chance:.1f}' for chance in chances)} %.")
    if any(score.at_chance for score in found):
        text.append(
            f"{AT_CHANCE}: not above chance (one-sided binomial test, {100 * CHANCE_LEVEL:.0f} %, "
            f"n = {min(score.count for score in found if score.at_chance):.0f} images)."
        )
    if any(score.collapsed for score in found):
        text.append(
            f"{COLLAPSED}: collapsed in at least one seed (standard deviation of features or projections below "
            f"{COLLAPSE_STD:g} or effective rank below {COLLAPSE_RANK:g} at that width after the last epoch)."
        )
    if any(score.extrapolated for score in found):
        text.append(f"{EXTRAPOLATED}: narrower than the widths of pretraining.")
    if any(score.older for score in found):
        old = runs.loc[runs["method_version"].lt(method.VERSION), "method_version"].value_counts().sort_index()
        text.append(
            f"{OLDER}: made by older code of the method, which gives other numbers ("
            + ", ".join(f"{counted(count, 'run')} by version {version:g}" for version, count in old.items())
            + f"; today's is {method.VERSION})."
        )
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
    return [
        f"{states.sum()} of {len(runs)} runs are not done ("
        + ", ".join(f"{number} {state}" for state, number in states.items())
        + ")."
    ]
