"""What a report consists of: which tables and pictures the runs at hand give, under which names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from results import cell_plots, grid_plots, grid_tables, plots, tables, task_tables
from results.names import file_name
from results.render import Table

# What one table or picture of scores has one value of; what tells several of them apart is in their file names.
SCORED = ["grid", "task", "dataset", "metric", "score", "label_fraction", "model", "schedule", "initial", "preset", "setting",
          "variant"]
DENSE = ["grid", "task", "dataset", "model", "schedule", "preset", "setting", "variant"]
SETTING = ["grid", "preset", "setting"]
NO_PART = pd.DataFrame({name: pd.Series(dtype=object) for name in SCORED})


@dataclass(frozen=True)
class Facets:
    """What a table, picture or claim is about; "" where it is about all."""

    grid: str = ""
    task: str = ""
    dataset: str = ""
    profile: str = ""
    width: float | None = None


@dataclass(frozen=True)
class TableItem:
    """A table and what it is about."""

    table: Table
    facets: Facets


@dataclass(frozen=True)
class PictureItem:
    """A picture's name, title, what draws it, and what it is about."""

    name: str
    title: str
    draw: partial[Figure]
    facets: Facets


def all_tables(scores: pd.DataFrame, runs: pd.DataFrame) -> list[TableItem]:
    """The tables of scores, fullest first and linear evaluation before k-NN; then those across tasks, and of cost."""
    made = []
    for name, part in parts(scores[scores["task"].eq("classification")], SCORED, ["dataset", "metric"]):
        first = part.iloc[0]
        make = grid_tables.TABLES.get(first["grid"], tables.by_cell)
        table = make(part, _same_setting(runs, first), join("table", name))
        made.append((-len(part), _rank(first["metric"]), TableItem(table, _facets(first))))
    main = [item for *_, item in sorted(made, key=lambda entry: entry[:2])]
    return [*main, *_transfer_tables(scores, runs), *_dense_tables(scores, runs), *_serving_tables(scores, runs)]


def _rank(metric: str) -> int:
    """Linear evaluation before k-NN."""
    known = list(tables.METRICS)
    return known.index(metric) if metric in known else len(known)


def _transfer_tables(scores: pd.DataFrame, runs: pd.DataFrame) -> list[TableItem]:
    """Of settings evaluated on more than the pretraining data, or in more than one way."""
    found = []
    for name, part in parts(scores[scores["task"].eq("classification") & scores["value"].notna()], SETTING, []):
        if len(part[task_tables.KINDS].drop_duplicates()) > 1:
            first = part.iloc[0]
            table = task_tables.classification(part, _same_setting(runs, first), join("table-transfer", name))
            found.append(TableItem(table, Facets(first["grid"], "classification", "", first["preset"])))
    return found


def _dense_tables(scores: pd.DataFrame, runs: pd.DataFrame) -> list[TableItem]:
    return [TableItem(task_tables.dense(part, _same_setting(runs, part.iloc[0]), join("table", name)), _facets(part.iloc[0]))
            for name, part in parts(_dense(scores), DENSE, ["task", "dataset"])]


def _serving_tables(scores: pd.DataFrame, runs: pd.DataFrame) -> list[TableItem]:
    found = []
    for name, part in parts(runs, SETTING, []):
        table = task_tables.serving(scores[scores["run"].isin(part["run"])], part, join("table-serving", name))
        if table is not None:
            found.append(TableItem(table, Facets(part["grid"].iloc[0], "", "", part["preset"].iloc[0])))
    return found


def all_pictures(scores: pd.DataFrame, metrics: pd.DataFrame, runs: pd.DataFrame, few: bool = False) -> list[PictureItem]:
    """Pictures of scores, then of training; ``few``: of each data set's first protocol only (linear evaluation before k-NN).

    The pictures of the guidelines tell runs apart by method and kind of training; where a grid varies something else they would
    mix its cells, and its own pictures follow the rows of its table instead.
    """
    classified = parts(scores[scores["task"].eq("classification")], SCORED, ["dataset", "metric"])
    classified.sort(key=lambda named: (-len(named[1]), _rank(named[1]["metric"].iloc[0])))
    if few:
        first = {tuple(part[["grid", "preset", "setting", "dataset"]].iloc[0]): name for name, part in reversed(classified)}
        classified = [(name, part) for name, part in classified if name in first.values()]
    found = [item for name, part in classified or [("", NO_PART)] for item in _of_scores(name, part, metrics, runs)]
    for name, part in parts(_dense(scores), DENSE, ["task", "dataset"]):
        first = part.iloc[0]
        found.append(PictureItem(join("width", name), f"{first['task'].capitalize()} on {first['dataset']} by width",
                                 partial(cell_plots.dense_by_width, part, _same_setting(runs, first)), _facets(first)))
    if len(runs) and runs["grid"].isin(list(grid_tables.ROWS)).all():
        return found
    trained = parts(metrics, SETTING, []) or [("", metrics)]
    return found + [item for name, part in trained for item in _of_training(name, part)]


def _of_scores(name: str, part: pd.DataFrame, metrics: pd.DataFrame, runs: pd.DataFrame) -> list[PictureItem]:
    """Pictures of one data set and metric; of no scores, those that say what is missing."""
    if part.empty:
        draw = partial(plots.accuracy_by_width, part.assign(value=math.nan))
        return [PictureItem("accuracy-width", "Accuracy by width", draw, Facets())]
    first = part.iloc[0]
    facets, own = _facets(first), _same_setting(runs, first)
    on = f"{first['dataset']}, {tables.metric_name(first)}, grid {first['grid']}"
    logged = metrics[metrics["run"].isin(own["run"])]

    def item(kind: str, title: str, draw: partial[Figure]) -> PictureItem:
        return PictureItem(join(kind, name), f"{title} ({on})", draw, facets)

    grid = first["grid"] in grid_tables.ROWS
    made = [item("accuracy-width", "Accuracy by width", partial(grid_plots.accuracy_by_width, part, own) if grid
                 else partial(plots.accuracy_by_width, part))]
    made.append(item("accuracy-flops", "Accuracy by FLOPs", partial(grid_plots.accuracy_by, part, own, "flops") if grid
                     else partial(plots.accuracy_by_flops, part)))
    for device, timed in parts(part[part["latency_ms"].notna()], ["latency_on"], []):  # times of two devices have nothing in common
        drawn = partial(grid_plots.accuracy_by, timed, own, "latency_ms") if grid else partial(plots.accuracy_by_latency, timed)
        made.append(item(join("accuracy-latency", device), "Accuracy by latency", drawn))
    if grid:
        made.append(item("accuracy-cost", "Accuracy by training cost", partial(grid_plots.accuracy_by_cost, part, own)))
    made.append(item("heat-map", "All cells and widths", partial(cell_plots.heat_map, part, own)))
    if not grid or logged["name"].str.startswith("drift/").any():
        made.append(item("drift-accuracy", "Does temporal consistency predict success?",
                         partial(cell_plots.drift_by_accuracy, part, logged, own)))
    return made


def _of_training(name: str, part: pd.DataFrame) -> list[PictureItem]:
    """Curves of one grid's training: losses, drift, rank and spread of the features."""
    if len(part) and part["grid"].iloc[0] in grid_tables.ROWS:
        return []
    first = part.iloc[0] if len(part) else {"grid": "", "preset": ""}
    facets = Facets(first["grid"], "", "", first["preset"])
    made = [PictureItem(join(kind, name), join(title, f"({first['grid']}, {first['preset']})", by=" "), partial(draw, part), facets)
            for kind, title, draw in (("training-base-loss", "Base loss", plots.training_base),
                                      ("training-distillation-loss", "Loss of the narrower widths", plots.training_distillation),
                                      ("drift", "Drift of the guidance", plots.drift))]
    widths = part.loc[part["name"].eq("effective_rank"), "width"].dropna()
    for width in sorted({widths.min(), widths.max()}) if len(widths) else [1.0]:
        title = f"Effective rank and spread of the features at width {width:g} ({first['grid']}, {first['preset']})"
        made.append(PictureItem(join(f"collapse-width-{width:g}", name), title, partial(plots.collapse, part, width),
                                replace(facets, width=float(width))))
    return made


def parts(rows: pd.DataFrame, by: Sequence[str], keep: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """``rows`` cut by the columns ``by``, each with a file name made of ``keep`` and of what is needed to tell the parts apart."""
    groups = [part for _, part in rows.groupby(list(by), sort=True, dropna=False)] if len(rows) else []
    keys, said = [part.iloc[0] for part in groups], [name for name in by if name in keep]
    for name in by:
        if len({tuple(key[said]) for key in keys}) == len(keys):
            break
        if name not in said and len({key[name] for key in keys}) > 1:
            said = [column for column in by if column in (*said, name)]
    names = [file_name([_text(name, key[name]) for name in said]) for key in keys]
    return list(zip(names, groups, strict=True))


def join(*words: str, by: str = "-") -> str:
    """The words that are not empty, joined."""
    return by.join(filter(None, words))


def _text(name: str, value: object) -> str:
    if name == "label_fraction":
        return "" if value == 1 else f"{100 * value:g}-percent"
    return "" if value is None else str(value)


def _dense(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores["task"].isin(list(task_tables.DENSE_METRICS)) & scores["value"].notna()]


def _same_setting(runs: pd.DataFrame, first: pd.Series) -> pd.DataFrame:
    return runs[runs["grid"].eq(first["grid"]) & runs["setting"].eq(first["setting"]) & runs["preset"].eq(first["preset"])]


def _facets(first: pd.Series) -> Facets:
    return Facets(first["grid"], first["task"], first["dataset"], first["preset"])
