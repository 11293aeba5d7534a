"""What a report consists of: which tables and pictures these runs give, under which names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from results.frame import Frames
from results.grids import Grid, of_setting
from results.names import file_name
from results.plots import overall as profiles
from results.plots import prediction as predicting
from results.plots import scores as pictures
from results.plots import training
from results.prediction import Prediction, points, predictions
from results.tables import analysis, cost, overall, search, tasks
from results.tables.gains import MAIN, gains
from results.tables.render import Table
from results.tables.scores import METRICS, grid_table, metric_name
from results.tables.subnets import subnets

# What one table or picture of scores has one value of; what tells several of them apart is in their file names.
SCORED = [
    "grid",
    "task",
    "dataset",
    "metric",
    "score",
    "label_fraction",
    "model",
    "schedule",
    "initial",
    "preset",
    "setting",
    "variant",
]
DENSE = ["grid", "task", "dataset", "model", "schedule", "preset", "setting", "variant"]
SETTING = ["grid", "preset", "setting"]
ANALYSED = ["grid", "dataset", "preset", "setting", "variant"]


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


# Of each setting: a file name, a row per run and width, the scores that are predicted, and what each measure predicts.
Predicted = list[tuple[str, pd.DataFrame, pd.DataFrame, list[Prediction]]]


def all_tables(frames: Frames, predicted: Predicted | None = None) -> list[TableItem]:
    """The tables of scores, fullest first and linear evaluation before k-NN; then those across tasks, and of cost.

    predicted: :func:`predicted_of` these frames, where it is known already.
    """
    scores, made = frames.scores, []
    for name, part in parts(scores[scores["task"].eq("classification")], SCORED, ["dataset", "metric"]):
        first = part.iloc[0]
        table = grid_table(part, _grid(frames, first), join("table", name))
        made.append((-len(part), _rank(first["metric"]), TableItem(table, _facets(first))))
    main = [item for *_, item in sorted(made, key=lambda entry: entry[:2])]
    return [
        *main,
        *_overall_tables(frames),
        *_transfer_tables(frames),
        *_dense_tables(frames),
        *_gain_tables(frames),
        *_serving_tables(frames),
        *_subnet_tables(frames),
        *_search_tables(frames),
        *_analysis_tables(frames),
        *_prediction_tables(predicted_of(frames) if predicted is None else predicted),
    ]


def _overall(frames: Frames) -> list[tuple[str, pd.DataFrame, Grid]]:
    """Of each grid, all its settings together: a file name, the scores that count, and its runs."""
    found = []
    for name, part in parts(frames.scores, ["grid"], []):
        grid = part["grid"].iloc[0]
        scores = overall.of_settings(part)
        found.append((name, scores, Grid(frames.grids[grid], frames.runs[frames.runs["grid"].eq(grid)])))
    return found


def _overall_tables(frames: Frames) -> list[TableItem]:
    made = [(overall.overall(scores, grid, join("table-overall", name)), grid) for name, scores, grid in _overall(frames)]
    return [TableItem(table, Facets(grid.manifest.grid, "classification")) for table, grid in made if table is not None]


def _rank(metric: str) -> int:
    """Linear evaluation before k-NN."""
    known = list(METRICS)
    return known.index(metric) if metric in known else len(known)


def _transfer_tables(frames: Frames) -> list[TableItem]:
    """Of settings evaluated on more than the pretraining data, or in more than one way."""
    found, scores = [], frames.scores
    for name, part in parts(scores[scores["task"].eq("classification") & scores["value"].notna()], SETTING, []):
        if len(part[tasks.KINDS].drop_duplicates()) > 1:
            first = part.iloc[0]
            table = tasks.classification(part, _grid(frames, first), join("table-transfer", name))
            found.append(TableItem(table, Facets(first["grid"], "classification", "", first["preset"])))
    return found


def _dense_tables(frames: Frames) -> list[TableItem]:
    return [
        TableItem(tasks.dense(part, _grid(frames, part.iloc[0]), join("table", name)), _facets(part.iloc[0]))
        for name, part in parts(_dense(frames.scores), DENSE, ["task", "dataset"])
    ]


def _gain_tables(frames: Frames) -> list[TableItem]:
    made = [
        (part, gains(part, _grid(frames, part.iloc[0]), join("table-gains", name)))
        for name, part in parts(_dense(frames.scores), DENSE, ["task", "dataset"])
    ]
    return [TableItem(table, _facets(part.iloc[0])) for part, table in made if table is not None]


def _serving_tables(frames: Frames) -> list[TableItem]:
    found = []
    for name, part in parts(frames.runs, SETTING, []):
        first = part.iloc[0]
        own = frames.scores[frames.scores["run"].isin(part["run"]) & frames.scores["grid"].eq(first["grid"])]
        table = cost.serving(own, _grid(frames, first), join("table-serving", name))
        if table is not None:
            found.append(TableItem(table, Facets(first["grid"], "", "", first["preset"])))
    return found


def _subnet_tables(frames: Frames) -> list[TableItem]:
    if frames.subnets.empty:
        return []
    scores = frames.subnets[frames.subnets["task"].ne("analysis") & frames.subnets["value"].notna()]
    return [
        TableItem(subnets(part, _grid(frames, part.iloc[0]), join("table-subnets", name)), _facets(part.iloc[0]))
        for name, part in parts(scores, DENSE, ["task", "dataset"])
    ]


def _analysis_tables(frames: Frames) -> list[TableItem]:
    scores = pd.concat([frames.scores, frames.subnets]) if len(frames.subnets) else frames.scores
    scores = scores[scores["task"].eq("analysis") & scores["value"].notna()]
    return [
        TableItem(analysis.measures(part, _grid(frames, part.iloc[0]), join("table-analysis", name)), _facets(part.iloc[0]))
        for name, part in parts(scores, ANALYSED, ["dataset"])
    ]


def _search_tables(frames: Frames) -> list[TableItem]:
    scores = frames.scores[frames.scores["task"].eq("search") & frames.scores["metric"].eq("knn") & frames.scores["value"].notna()]
    return [
        TableItem(search.strategies(part, _grid(frames, part.iloc[0]), join("table-search", name)), _facets(part.iloc[0]))
        for name, part in parts(scores, ANALYSED, ["dataset"])
    ]


def predicted_of(frames: Frames) -> Predicted:
    """Of each setting that has them: a file name, a row per run and width with its accuracy and measures, the scores this accuracy
    is of, and what each measure predicts.
    """
    found = []
    for name, part in parts(frames.scores, SETTING, []):
        judged = overall.of_settings(part)
        if judged.empty:
            continue
        logged = frames.metrics[frames.metrics["run"].isin(set(part["run"])) & frames.metrics["grid"].eq(part["grid"].iloc[0])]
        together = points(part, logged)
        made = predictions(together)
        found += [(name, together, judged, made)] if made else []
    return found


def _prediction_tables(predicted: Predicted) -> list[TableItem]:
    found = []
    for name, together, judged, made in predicted:
        first, ends = judged.iloc[0], (together["width"].max(), together["width"].min())
        found.append(TableItem(analysis.prediction(made, first, ends, join("table-prediction", name)), _facets(first)))
    return found


def all_pictures(frames: Frames, few: bool = False, predicted: Predicted | None = None) -> list[PictureItem]:
    """Pictures of scores, then of training; ``few``: of each data set's first protocol only (linear evaluation before k-NN).

    predicted: :func:`predicted_of` these frames, where it is known already.
    """
    scores, metrics = frames.scores, frames.metrics
    classified = parts(scores[scores["task"].eq("classification")], SCORED, ["dataset", "metric"])
    classified.sort(key=lambda named: (-len(named[1]), _rank(named[1]["metric"].iloc[0])))
    if few:
        first = {tuple(part[["grid", "preset", "setting", "dataset"]].iloc[0]): name for name, part in reversed(classified)}
        classified = [(name, part) for name, part in classified if name in first.values()]
    found = [item for name, part in classified for item in _of_scores(name, part, frames)]
    for name, part in parts(_dense(scores), DENSE, ["task", "dataset"]):
        first = part.iloc[0]
        found.append(
            PictureItem(
                join("width", name),
                f"{first['task'].capitalize()} on {first['dataset']} by width{_setting(frames, first)}",
                partial(pictures.dense_by_width, part, _grid(frames, first)),
                _facets(first),
            )
        )
        for metric in (metric for metric in MAIN.get(first["task"], ()) if part["metric"].eq(metric).any()):
            own = part[part["metric"].eq(metric) & part["initial"].ne("random")]
            found.append(
                PictureItem(
                    join("score-flops", name, metric),
                    f"{METRICS[metric]} on {first['dataset']} by FLOPs{_setting(frames, first)}",
                    partial(pictures.accuracy_by, own, _grid(frames, first), "flops"),
                    _facets(first),
                )
            )
            for device, timed in parts(own[own["latency_ms"].notna()], ["latency_on"], []):
                found.append(
                    PictureItem(
                        join("score-latency", name, metric, device),
                        f"{METRICS[metric]} on {first['dataset']} by latency{_setting(frames, first)}",
                        partial(pictures.accuracy_by, timed, _grid(frames, first), "latency_ms"),
                        _facets(first),
                    )
                )
    for name, own, grid in _overall(frames):
        if len(overall.matrices(own, grid)) > 1:
            found.append(
                PictureItem(
                    join("profiles", name),
                    f"Performance profiles (grid {grid.manifest.grid})",
                    partial(profiles.profiles, own, grid),
                    Facets(grid.manifest.grid, "classification"),
                )
            )
    for name, together, judged, made in predicted_of(frames) if predicted is None else predicted:
        found.append(
            PictureItem(
                join("prediction", name),
                f"Which measures predict accuracy? (grid {judged['grid'].iloc[0]}{_setting(frames, judged.iloc[0])})",
                partial(predicting.prediction, together, judged.head(1), made),
                _facets(judged.iloc[0]),
            )
        )
    return found + [item for name, part in parts(metrics, SETTING, []) for item in _of_training(name, part, frames)]


def _of_scores(name: str, part: pd.DataFrame, frames: Frames) -> list[PictureItem]:
    """Pictures of one data set and metric."""
    first = part.iloc[0]
    facets, grid = _facets(first), _grid(frames, first)
    on = f"{first['dataset']}, {metric_name(first)}, grid {first['grid']}{_setting(frames, first)}"
    logged = frames.metrics[frames.metrics["run"].isin(grid.runs["run"]) & frames.metrics["grid"].eq(first["grid"])]

    def item(kind: str, title: str, draw: partial[Figure]) -> PictureItem:
        return PictureItem(join(kind, name), f"{title} ({on})", draw, facets)

    made = [
        item("accuracy-width", "Accuracy by width", partial(pictures.accuracy_by_width, part, grid)),
        item("accuracy-flops", "Accuracy by FLOPs", partial(pictures.accuracy_by, part, grid, "flops")),
    ]
    for device, timed in parts(part[part["latency_ms"].notna()], ["latency_on"], []):  # times of two devices have nothing in common
        made.append(
            item(join("accuracy-latency", device), "Accuracy by latency", partial(pictures.accuracy_by, timed, grid, "latency_ms"))
        )
    if grid.manifest.cost:
        made.append(item("accuracy-cost", "Accuracy by training cost", partial(pictures.accuracy_by_cost, part, grid)))
    made.append(item("heat-map", "All cells and widths", partial(pictures.heat_map, part, grid)))
    if logged["name"].str.startswith("drift/").any():
        made.append(
            item(
                "drift-accuracy",
                "Does temporal consistency predict success?",
                partial(training.drift_by_accuracy, part, logged, grid),
            )
        )
    return made


def _of_training(name: str, part: pd.DataFrame, frames: Frames) -> list[PictureItem]:
    """Curves of one grid's training: losses, drift, rank and spread of the features."""
    first = part.iloc[0]
    facets, grid = Facets(first["grid"], "", "", first["preset"]), _grid(frames, first)
    about = f"({first['grid']}, {first['preset']}{_setting(frames, first)})"
    made = [
        PictureItem(join(kind, name), f"{title} {about}", partial(draw, part, grid), facets)
        for kind, title, draw in (
            ("training-base-loss", "Base loss", training.base_loss),
            ("training-distillation-loss", "Loss of the narrower widths", training.distillation_loss),
            ("drift", "Drift of the guidance", training.drift),
        )
    ]
    widths = part.loc[part["name"].eq("effective_rank"), "width"].dropna()
    for width in sorted({widths.min(), widths.max()}) if len(widths) else [1.0]:
        made.append(
            PictureItem(
                join(f"collapse-width-{width:g}", name),
                f"Effective rank and spread of the features at width {width:g} {about}",
                partial(training.collapse, part, grid, width),
                replace(facets, width=float(width)),
            )
        )
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


def _text(name: str, value: Any) -> str:
    if name == "label_fraction":
        return "" if value == 1 else f"{100 * value:g}percent"
    return "" if value is None else str(value)


def _dense(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores["task"].isin(list(tasks.DENSE_METRICS)) & scores["value"].notna()]


def _grid(frames: Frames, first: pd.Series) -> Grid:
    return of_setting(frames.grids, frames.runs, first)


def _setting(frames: Frames, first: pd.Series) -> str:
    """What to add to a picture's title so that the settings of one grid are told apart; "" where there is one."""
    same = frames.runs[frames.runs["grid"].eq(first["grid"])]
    return f", {first['setting']}" if len(same[SETTING].drop_duplicates()) > 1 else ""


def _facets(first: pd.Series) -> Facets:
    return Facets(first["grid"], first["task"], first["dataset"], first["preset"])
