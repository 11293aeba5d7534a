"""Tables across data sets and tasks: transfer classification, detection, segmentation."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from results.grids import Grid, GridLine, whole
from results.tables.render import Column, Table
from results.tables.scores import METRICS, metric_name, value_table, width_name

# What a table of a dense task shows, in this order.
DENSE_METRICS = {
    "detection": [f"{kind}_AP{what}" for kind in ("box", "mask") for what in ("", "50", "75", "s", "m", "l")],
    "segmentation": ["mIoU", "mAcc", "aAcc"],
}
# What one column of classification scores has one value of.
KINDS = ["dataset", "metric", "score", "label_fraction", "variant"]
INITIAL = {"random": "random weights", "pretrained": "pretrained"}


def classification(scores: pd.DataFrame, grid: Grid, name: str = "transfer") -> Table:
    """Linear evaluation and transfer classification: networks and widths x data sets and protocols. ``scores``: of one grid."""
    scores = scores[scores["task"].eq("classification") & scores["value"].notna()]
    kinds = scores[KINDS].drop_duplicates()
    order = {metric: place for place, metric in enumerate(METRICS)}
    own = set(grid.runs["pretrained_on"])
    kinds = kinds.assign(foreign=~kinds["dataset"].isin(own), place=kinds["metric"].map(order).fillna(len(order)))
    kinds = kinds.sort_values(
        ["foreign", "dataset", "label_fraction", "place", "score", "variant"], ascending=[True, True, False, True, False, True]
    )
    keys = kinds[KINDS].to_dict("records")
    names = [
        f"{kind['dataset']}, {metric_name(pd.Series(kind))}" + (", by class" if kind["score"] == "mean_per_class" else "")
        for kind in keys
    ]
    return value_table(
        name,
        "Linear evaluation and transfer classification",
        scores,
        grid.runs,
        _columns(scores),
        _by_width(scores, grid),
        keys,
        names,
        "Accuracy (%)",
    )


def dense(scores: pd.DataFrame, grid: Grid, name: str = "dense") -> Table:
    """Detection or segmentation: networks, initial weights and widths x metrics.

    ``scores``: of one grid, task, data set, model and schedule. AP is the mean over IoU 0.5 to 0.95 for COCO-style metrics.
    """
    scores = scores[scores["value"].notna()]
    first = scores.iloc[0]
    found = [metric for metric in DENSE_METRICS.get(first["task"], []) if scores["metric"].eq(metric).any()]
    found += sorted(set(scores["metric"]) - set(found))
    about = ", ".join(
        filter(None, [first["model"], f"schedule {first['schedule']}" if first["schedule"] else "", first["variant"]])
    )
    title = f"{first['task'].capitalize()} on {first['dataset']}" + (f" ({about})" if about else "")
    return value_table(
        name,
        title,
        scores,
        grid.runs,
        _columns(scores),
        _by_width(scores, grid),
        [{"metric": metric} for metric in found],
        [METRICS.get(metric, metric) for metric in found],
        "Score (%)",
    )


def _columns(scores: pd.DataFrame) -> list[Column]:
    initial = [Column("Weights", detail=True)] if initials(scores) else []
    return [Column("Network"), *initial, Column("Width", "right")]


def initials(scores: pd.DataFrame) -> list[str]:
    """The kinds of initial weights of ``scores``, where they are worth a column."""
    kinds = sorted(set(scores["initial"]) - {""})
    return kinds if kinds and kinds != ["pretrained"] else []


def _by_width(scores: pd.DataFrame, grid: Grid) -> list[GridLine]:
    """One line per network, initial weights and width with a score; one section per network."""
    lines = []
    for line in whole(grid.lines):
        own = line.select(scores)
        for initial in initials(own) or [None]:
            part = own if initial is None else own[own["initial"].eq(initial)]
            said = [INITIAL.get(initial or "pretrained", initial)] if initials(scores) else []
            lines += [
                replace(line, section=line.name, labels=(line.name, *said, width_name(width)), initial=initial, width=width)
                for width in sorted(set(part["width"].round(6)), reverse=True)
            ]
    return lines
