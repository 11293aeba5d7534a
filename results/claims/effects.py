"""What a claim compares, one number per seed. A comparison whose runs are missing raises LookupError, which says what is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd
from scipy import stats

from results.claims.schema import Claim
from results.statistics.intervals import clopper_pearson
from results.tables.scores import METRICS, collapsed
from rundir.schema import State

MIN_CELLS = 4  # a rank correlation over fewer cells says nothing
# Where a data set is scored in several ways: transfer sets of unequal classes by the mean over classes, as is the convention.
SCORE_ORDER = ("mean_per_class", "top1")


@dataclass(frozen=True)
class Effect:
    """The effect at each seed in their order, what it was measured on and with, and the runs it used."""

    by_seed: dict[int, float]
    runs: tuple[str, ...]
    dataset: str = ""
    metric: str = ""
    note: str = ""
    each: dict[str, tuple[float, ...]] = field(default_factory=dict)  # of a claim about every cell: the effects at the seeds
    # Of a correlation: cells x seeds of the diagnostic and of the score.
    over: tuple[pd.DataFrame, pd.DataFrame] | None = None


def effect(claim: Claim, scores: pd.DataFrame, runs: pd.DataFrame, metrics: pd.DataFrame) -> Effect:
    """The effect that ``claim`` is about, on the runs of one grid and setting.

    Raises:
        LookupError: no seed has all the runs.
    """
    measure, how = claim.measure, claim.how
    if measure == "score":
        return _of_every_cell(how, scores, runs) if how.get("every") else _score(how, scores, runs)
    if measure == "collapse":
        return _collapse(how, runs, metrics)
    if measure == "diagnostic":
        return _diagnostic(how, runs, metrics)
    if measure == "correlation":
        return _correlation(how, scores, runs, metrics)
    if measure in ("search", "search_rank"):
        return _search(measure, how, scores)
    return _cost(measure, how, runs)


def primary(scores: pd.DataFrame, how: dict[str, Any]) -> pd.DataFrame:
    """The scores that a claim is about: its task, data set and metric.

    Classification is judged on the pretraining data by the best protocol there is: linear evaluation, else the linear probe, else
    k-NN; and with the fewest labels of those that as many runs are scored with as with all of them (evaluation.label_fractions).
    Widths narrower than those of pretraining do not count.
    """
    found = scores[
        scores["task"].eq(how.get("task", "classification"))
        & scores["value"].notna()
        & ~scores["initial"].eq("random")
        & scores["variant"].eq("")
        & scores["extrapolated"].eq(0)
    ]
    if how.get("task") == "classification":
        found = found[found["label_fraction"].eq(1)]
    if "task" not in how:
        found = found[found["dataset"].eq(found["pretrained_on"]) & found["score"].eq("top1")]
    if "dataset" in how:
        found = found[found["dataset"].str.startswith(how["dataset"])]
    known = list(dict.fromkeys([how["metric"]] if "metric" in how else [*METRICS, *found["metric"]]))
    metric = next((name for name in known if found["metric"].eq(name).any()), None)
    if metric is None:
        wanted = " ".join(filter(None, [how.get("dataset"), how.get("metric"), how.get("task", "classification")]))
        raise LookupError(f"no scores of {wanted}")
    return _of_one_kind(_with_fewest_labels(found[found["metric"].eq(metric)]))


def _with_fewest_labels(scores: pd.DataFrame) -> pd.DataFrame:
    runs = scores.groupby("label_fraction")["run"].nunique()
    return scores[scores["label_fraction"].eq(min(runs.index[runs.eq(runs.max())]))] if len(runs) else scores


def _measured(score: pd.Series) -> str:
    """The metric of a score, in words where only a part of the labels was used."""
    fraction, metric = score["label_fraction"], score["metric"]
    return f"{METRICS.get(metric, metric)}, {100 * fraction:g} % of the labels" if fraction < 1 else metric


def _of_one_kind(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of one data set, of one way to count them, and of one model and schedule: where there are several, those that most
    runs have.
    """
    for name in ("dataset", "score", "model", "schedule"):
        counts = scores.groupby(name, dropna=False)["run"].nunique()
        order = {value: place for place, value in enumerate(SCORE_ORDER)}
        ranked = {value: (order.get(value, 0), -counts[value], str(value)) for value in counts.index}
        chosen = min(ranked, key=lambda value, ranked=ranked: ranked[value])  # type: ignore[misc]
        scores = scores[scores[name].eq(chosen)]
    return scores


def of_cells(rows: pd.DataFrame, patterns: Iterable[str]) -> pd.DataFrame:
    """The rows of cells that match one of the patterns."""
    known = {cell: any(fnmatchcase(cell, pattern) for pattern in patterns) for cell in set(rows["cell"])}
    return rows[rows["cell"].map(known).astype(bool)]


def _planned(how: dict[str, Any], runs: pd.DataFrame) -> set[float]:
    """The widths at which the grid's own evaluation scores at least half of ``runs``; none where a claim is about others, or
    where nothing is recorded.
    """
    if {"task", "widths"} & how.keys():
        return set()
    plans = [{round(width, 6) for width in json.loads(plan)} for plan in runs["scored_at"]]
    plans = [plan for plan in plans if plan]
    return {width for width, count in Counter(width for plan in plans for width in plan).items() if 2 * count >= len(plans)}


def _without_extra(gain: pd.DataFrame, planned: set[float]) -> pd.DataFrame:
    """``gain`` (seeds x widths) without widths that were scored beside the ``planned`` ones, at some of the seeds alone."""
    own = [width for width in gain if width in planned]
    if not own:
        return gain
    complete = gain.loc[gain[own].notna().all(axis=1)]
    return gain[[width for width in gain if width in planned or complete[width].notna().all()]]


def _score(how: dict[str, Any], scores: pd.DataFrame, runs: pd.DataFrame) -> Effect:
    scores = primary(scores, how)
    scores = scores.assign(width=scores["width"].round(6))
    if "widths" in how:
        scores = scores[scores["width"].isin([round(width, 6) for width in how["widths"]])]
    ahead, behind = (_by_seed_and_width(scores, runs, how[side]) for side in ("better", "than"))
    widths = sorted(set(ahead.columns) & set(behind.columns), reverse=True)
    gain = 100 * (ahead - behind).reindex(columns=widths)
    gain = _without_extra(gain, _planned(how, of_cells(runs, [*how["better"], *how["than"]])))
    widths = list(gain.columns)
    at = how["at"]
    if at in ("narrower", "growth") and len(widths) < 2:
        raise LookupError("no two widths that both sides have")
    if at == "growth":
        gain = (gain[widths[-1]] - gain[widths[0]]).to_frame()
    elif at != "all":
        gain = gain[widths[1:] if at == "narrower" else widths[-1:]]
    complete = gain.dropna(how="any")
    if complete.empty or not len(widths):
        raise LookupError(f"no seed has {' and '.join([*how['better'], *how['than']])} at the same widths")
    used = of_cells(scores, [*how["better"], *how["than"]])
    used = used[used["seed"].isin(complete.index)]
    first = scores.iloc[0]
    return Effect(
        {int(seed): float(value) for seed, value in complete.mean(axis=1).items()}, _names(used), first["dataset"], _measured(first)
    )


def _of_every_cell(how: dict[str, Any], scores: pd.DataFrame, runs: pd.DataFrame) -> Effect:
    """The effect of each cell of one side by itself, at the seeds that all have; the numbers are those of the weakest."""
    side = how["every"]
    parts = {cell: _score({**how, side: [cell]}, scores, runs) for cell in how[side]}
    seeds = sorted(set.intersection(*(set(part.by_seed) for part in parts.values())))
    if not seeds:
        raise LookupError(f"no seed has all of {', '.join([*how['better'], *how['than']])}")
    each = {cell: tuple(part.by_seed[seed] for seed in seeds) for cell, part in parts.items()}
    weakest = min(each, key=lambda cell: sum(each[cell]))
    ranked = sorted(each, key=lambda cell: sum(each[cell]))
    note = f"the weakest of {len(each)}: " + ", ".join(f"{cell} {sum(each[cell]) / len(seeds):+.2f}" for cell in ranked)
    used = sorted({run for part in parts.values() for run in part.runs})
    first = parts[weakest]
    return Effect(dict(zip(seeds, each[weakest], strict=True)), tuple(used), first.dataset, first.metric, note, each)


def _search(measure: str, how: dict[str, Any], scores: pd.DataFrame) -> Effect:
    """Of each seed the mean gain over budgets of one strategy's sub-networks against another's, in points of k-NN accuracy; or the
    rank correlation of a label-free score with it.
    """
    found = scores[scores["task"].eq("search") & scores["value"].notna() & scores["variant"].eq("")]
    found = of_cells(found, how.get("cells", ["*"]))
    found = found[found["dataset"].str.startswith(how.get("dataset", ""))]
    if measure == "search_rank":
        metric = f"rank_{how['name']}"
        own = found[found["metric"].eq(metric)]
        by_seed = own.groupby("seed")["value"].mean()
    else:
        metric = "knn"
        own = found[found["metric"].eq(metric) & found["strategy"].isin([how["strategy"], how["against"]])]
        sides = (
            own.groupby(["seed", "budget", "strategy"])["value"]
            .mean()
            .unstack("strategy")
            .reindex(columns=[how["strategy"], how["against"]])
            .dropna()
        )
        by_seed = 100 * (sides[how["strategy"]] - sides[how["against"]]).groupby("seed").mean()
    if by_seed.empty:
        raise LookupError(f"no search with {metric}" + (f" of {how['strategy']} and {how['against']}" if "strategy" in how else ""))
    return Effect({int(seed): float(value) for seed, value in by_seed.items()}, _names(own), own["dataset"].iloc[0], metric)


def _collapse(how: dict[str, Any], runs: pd.DataFrame, metrics: pd.DataFrame) -> Effect:
    """Of each seed that has all ``cells``, 100 where they collapsed (or did not) at the narrowest width measured, else 0; the
    shares at all widths, each with an exact binomial interval for this number of seeds, stand in the note.
    """
    rows = of_cells(collapsed(metrics), how["cells"])
    if rows.empty:
        raise LookupError(f"no diagnostics of {' and '.join(how['cells'])}")
    rows = rows.assign(hit=rows["collapsed"].eq(how["outcome"] == "collapsed"))
    every = _of_all_cells(rows.groupby(["seed", "width", "cell"])["hit"].all(), of_cells(runs, how["cells"]), "all")
    if every.empty:
        raise LookupError(f"no seed has the diagnostics of all of {', '.join(how['cells'])}")
    by_seed = every.unstack("width")
    rows = rows[rows["seed"].isin(by_seed.index)]
    texts = []
    for width in sorted(by_seed.columns, reverse=True):
        found = by_seed[width].dropna()
        low, high = clopper_pearson(int(found.sum()), len(found))
        texts.append(f"{int(found.sum())} of {len(found)} at {width:g} [{100 * low:.0f}, {100 * high:.0f}]")
    narrowest = by_seed[min(by_seed.columns)].dropna()
    return Effect(
        {int(seed): 100.0 * bool(hit) for seed, hit in narrowest.items()},
        _names(rows),
        "",
        "collapse",
        f"seeds {how['outcome']}: " + ", ".join(texts),
    )


def _of_all_cells(by_cell: pd.Series, runs: pd.DataFrame, how: str) -> pd.Series:
    """What the groupby method ``how`` makes of values by seed, width and cell, by seed and width: only where all cells of ``runs``
    that are trained for the width have one, so that no seed is of other cells than the next.
    """
    ranges = runs[["cell", "width_min", "width_max"]].drop_duplicates()
    together = by_cell.groupby(["seed", "width"])
    widths = together.size().index.get_level_values("width")
    wanted = [int((ranges["width_min"].le(width + 1e-6) & ranges["width_max"].ge(width - 1e-6)).sum()) for width in widths]
    return getattr(together, how)()[together.size().to_numpy() >= wanted]


def _by_seed_and_width(scores: pd.DataFrame, runs: pd.DataFrame, patterns: Sequence[str]) -> pd.DataFrame:
    """Seeds x widths: the mean over the patterns, of each the mean over its cells; NaN where one of them has no score."""
    parts = [of_cells(scores, [pattern]).groupby(["seed", "width", "cell"])["value"].mean() for pattern in patterns]
    parts = [_of_all_cells(part, of_cells(runs, [pattern]), "mean") for part, pattern in zip(parts, patterns, strict=True)]
    if any(part.empty for part in parts):
        missing = [pattern for pattern, part in zip(patterns, parts, strict=True) if part.empty]
        raise LookupError(f"no scores of {' and '.join(missing)}")
    return pd.concat(parts, axis=1).mean(axis=1, skipna=False).unstack("width")


def _cost(name: str, how: dict[str, Any], runs: pd.DataFrame) -> Effect:
    """% saved: all trainings of ``better`` against all of ``than``, each as many as its cells."""
    done = runs[runs["state"].eq(State.DONE)]
    totals = []
    for side in ("better", "than"):
        own, wanted = of_cells(done, how[side]), set(of_cells(runs, how[side])["cell"])
        per_seed = own.groupby("seed").agg(cells=("cell", "nunique"), total=(name, lambda values: values.sum(skipna=False)))
        totals.append(per_seed.loc[per_seed["cells"].eq(len(wanted)) & per_seed["total"].gt(0), "total"])
    both = pd.concat(totals, axis=1, join="inner")
    if both.empty:
        raise LookupError(f"no seed has the {name} of {' and '.join([*how['better'], *how['than']])}")
    saved = 100 * (1 - both.iloc[:, 0] / both.iloc[:, 1])
    used = of_cells(done, [*how["better"], *how["than"]])
    return Effect({int(seed): float(value) for seed, value in saved.items()}, _names(used[used["seed"].isin(saved.index)]))


def diagnostic(metrics: pd.DataFrame, name: str) -> pd.DataFrame:
    """Mean over epochs of a logged value of each run's widest network: columns cell, run, seed, value."""
    rows = metrics[metrics["name"].eq(name) & metrics["value"].notna()]
    rows = rows[rows["width"].isna() | rows["width"].sub(rows["width_max"]).abs().lt(1e-6)]
    return rows.groupby(["cell", "run", "seed"], as_index=False)["value"].mean()


def last_logged(metrics: pd.DataFrame, name: str, width: float) -> pd.DataFrame:
    """The last logged value of each run at ``width``: columns cell, run, seed, value."""
    rows = metrics[metrics["name"].eq(name) & metrics["value"].notna() & metrics["width"].sub(width).abs().lt(1e-6)]
    rows = rows.sort_values("step", kind="stable").drop_duplicates("run", keep="last")
    return rows[["cell", "run", "seed", "value"]]


def _diagnostic(how: dict[str, Any], runs: pd.DataFrame, metrics: pd.DataFrame) -> Effect:
    sides = [of_cells(diagnostic(metrics, how[f"{side}_name"]), how[side]) for side in ("better", "than")]
    if any(side.empty for side in sides):
        raise LookupError(f"no {how['better_name']} or {how['than_name']} of {' and '.join([*how['better'], *how['than']])}")
    wanted = [of_cells(runs, how[side])["cell"].nunique() for side in ("better", "than")]
    by_seed = [side.groupby("seed") for side in sides]
    means = [part["value"].mean()[part["cell"].nunique().ge(count)] for part, count in zip(by_seed, wanted, strict=True)]
    both = pd.concat(means, axis=1, join="inner").dropna()
    lower = 100 * (1 - both.iloc[:, 0] / both.iloc[:, 1])
    if lower.empty:
        raise LookupError(f"no seed has {' and '.join([*how['better'], *how['than']])}")
    used = pd.concat(sides)
    return Effect(
        {int(seed): float(value) for seed, value in lower.items()},
        _names(used[used["seed"].isin(lower.index)]),
        "",
        how["better_name"],
    )


def _correlation(how: dict[str, Any], scores: pd.DataFrame, runs: pd.DataFrame, metrics: pd.DataFrame) -> Effect:
    scores = primary(scores, how)
    widths = scores["width"].round(6)
    planned = widths[widths.isin(list(_planned(how, of_cells(runs, how["cells"]))))]
    narrowest = scores[widths.eq((planned if len(planned) else widths).min())]
    logged = last_logged(metrics, how["name"], how["width"]) if "width" in how else diagnostic(metrics, how["name"])
    own = of_cells(logged, how["cells"])
    if how.get("direction") == "higher":  # as if lower were better
        own = own.assign(value=-own["value"])
    both = own.merge(narrowest[["run", "value"]], on="run", suffixes=("", "_score"))
    both = both[both.groupby("seed")["run"].transform("size").ge(MIN_CELLS)] if len(both) else both
    found = {
        int(seed): -float(stats.spearmanr(part["value"], part["value_score"]).statistic)
        for seed, part in both.groupby("seed")
        if part["value"].nunique() > 1 and part["value_score"].nunique() > 1
    }
    if not found:
        raise LookupError(f"no seed has {how['name']} and a score of at least {MIN_CELLS} cells")
    # Seeds repeat the same cells, so they cannot say whether other cells would do the same: the cells are the sample.
    over, first = both.pivot_table(index="cell", columns="seed", values=["value", "value_score"]), scores.iloc[0]
    return Effect(
        found,
        _names(both[both["seed"].isin(list(found))]),
        first["dataset"],
        first["metric"],
        f"over {len(over)} cells, their means over {len(found)} seeds",
        over=(over["value"], over["value_score"]),
    )


def _names(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(sorted(set(rows["run"])))
