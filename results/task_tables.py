"""Tables across data sets and tasks: transfer classification, detection, segmentation; and what serving several widths costs."""

from __future__ import annotations

import math

import pandas as pd

from results.frame import METHODS
from results.grid_tables import FLOP_UNITS, TIME_UNITS, named_rows, unit, with_family
from results.render import MISSING, Column, Row, Table
from results.tables import METRICS, RowSpec, metric_name, value_table, width_name
from rundir.schema import State

# What a table of a dense task shows, in this order.
DENSE_METRICS = {"detection": [f"{kind}_AP{what}" for kind in ("box", "mask") for what in ("", "50", "75", "s", "m", "l")],
                 "segmentation": ["mIoU", "mAcc", "aAcc"]}
# What one column of classification scores has one value of.
KINDS = ["dataset", "metric", "score", "label_fraction", "variant"]
INITIAL = {"random": "random weights", "pretrained": "pretrained"}


def classification(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "transfer") -> Table:
    """Linear evaluation and transfer classification: networks and widths x data sets and protocols. ``scores``: of one grid."""
    scores = scores[scores["task"].eq("classification") & scores["value"].notna()]
    kinds = scores[KINDS].drop_duplicates()
    order = {metric: place for place, metric in enumerate(METRICS)}
    own = set(runs["pretrained_on"])
    kinds = kinds.assign(foreign=~kinds["dataset"].isin(own), place=kinds["metric"].map(order).fillna(len(order)))
    kinds = kinds.sort_values(["foreign", "dataset", "label_fraction", "place", "score", "variant"],
                              ascending=[True, True, False, True, False, True])
    keys = kinds[KINDS].to_dict("records")
    names = [f"{kind['dataset']}, {metric_name(pd.Series(kind))}" + (", by class" if kind["score"] == "mean_per_class" else "")
             for kind in keys]
    return value_table(name, "Linear evaluation and transfer classification", with_family(scores), runs, _columns(scores),
                       _by_width(scores, runs), keys, names, "Accuracy (%)")


def dense(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "dense") -> Table:
    """Detection or segmentation: networks, initial weights and widths x metrics.

    ``scores``: of one grid, task, data set, model and schedule. AP is the mean over IoU 0.5 to 0.95 for COCO-style metrics.
    """
    scores = scores[scores["value"].notna()]
    first = scores.iloc[0]
    found = [metric for metric in DENSE_METRICS.get(first["task"], []) if scores["metric"].eq(metric).any()]
    found += sorted(set(scores["metric"]) - set(found))
    about = ", ".join(filter(None, [first["model"], f"schedule {first['schedule']}" if first["schedule"] else "",
                                      first["variant"]]))
    title = f"{first['task'].capitalize()} on {first['dataset']}" + (f" ({about})" if about else "")
    return value_table(name, title, with_family(scores), runs, _columns(scores), _by_width(scores, runs),
                       [{"metric": metric} for metric in found], [METRICS.get(metric, metric) for metric in found], "Score (%)")


def _columns(scores: pd.DataFrame) -> list[Column]:
    initial = [Column("Weights", detail=True)] if _initials(scores) else []
    return [Column("Network"), *initial, Column("Width", "right")]


def _initials(scores: pd.DataFrame) -> list[str]:
    """The kinds of initial weights, where they are worth a column."""
    kinds = sorted(set(scores["initial"]) - {""})
    return kinds if kinds and kinds != ["pretrained"] else []


def _by_width(scores: pd.DataFrame, runs: pd.DataFrame) -> list[RowSpec]:
    """A row a network, kind of initial weights and width that has a score, each network a section."""
    runs, rows = with_family(runs), []
    for spec in named_rows(runs["grid"].iloc[0], runs):
        own = spec.select(with_family(scores))
        for initial in _initials(own) or [None]:
            part = own if initial is None else own[own["initial"].eq(initial)]
            where = dict(spec.where) if initial is None else spec.where | {"initial": initial}
            blank = [INITIAL.get(initial, initial)] if initial is not None else [""] if _initials(scores) else []
            for width in sorted(set(part["width"].round(6)), reverse=True):
                rows.append(RowSpec(spec.labels[0], (*spec.labels, *blank, width_name(width)), where, width=width))
    return rows


def serving(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "serving") -> Table | None:
    """What k widths cost from one slimmable network and from k networks: training and stored parameters.

    A section a method that has both; k counts the widths from the widest on. None where no method has both.
    """
    done = runs[runs["state"].eq(State.DONE)]
    lines = [line for base, teacher in METHODS for line in _served(scores, done, base, teacher)]
    if not lines:
        return None
    flop, flop_name = unit([x for line in lines for x in (line["flops"], line["k_flops"])], FLOP_UNITS)
    time, time_name = unit([x for line in lines for x in (line["seconds"], line["k_seconds"])], TIME_UNITS)
    columns = [Column("Method"), Column("Widths"), Column("k", "right"),
               *(Column(text, "right") for text in (f"{flop_name}, one", f"{flop_name}, k", "ratio", f"{time_name}, one",
                                                    f"{time_name}, k", "Parameters, one", "Parameters, k"))]
    rows = []
    for line in lines:
        texts = (_text(line["flops"] / flop), _text(line["k_flops"] / flop), _text(line["k_flops"] / line["flops"], ".2f"),
                 _text(line["seconds"] / time), _text(line["k_seconds"] / time), _text(line["parameters"], ",.0f"),
                 _text(line["k_parameters"], ",.0f"))
        rows.append(Row(line["method"], (line["method"], line["widths"], str(line["k"]), *texts), ()))
    caption = ("Training (forward and backward passes, mean over seeds, evaluation not included) and stored parameters of the "
               "encoder: one slimmable network (US3L, else that with InfoNCE distillation) for all k widths, against k networks "
               "trained for one width each. FLOPs are counted; seconds are those of the runs, whatever else their machine did. "
               f"Trained on {' and '.join(sorted(set(runs['trained'])))}.")
    return Table(name, "Cost of serving k widths", caption, tuple(columns), "", (), tuple(rows), 0)


def _served(scores: pd.DataFrame, runs: pd.DataFrame, base: str, teacher: str) -> list[dict]:
    """The lines of one method; none where it lacks the slimmable network or those of the widest width."""
    mine = runs[runs["base_loss"].eq(base) & runs["teacher"].eq(teacher) & ~runs["cell"].str.contains("mocov2|seed")]
    slim = next((mine[mine["cell"].eq(cell)] for cell in ("us3l", "us3l-mse", "us3l-simsiam", f"{base}-infonce-{teacher}")
                 if mine["cell"].eq(cell).any()), mine[:0])
    alone = mine[mine["kind"].eq("individual") & with_family(mine)["family"].ne(mine["cell"])]  # called after their width
    if slim.empty or alone.empty:
        return []
    parameters = scores[scores["run"].isin([*slim["run"], *alone["run"]])].groupby("width")["parameters"].mean()
    by_width = alone.groupby("width_max")[["train_flops", "train_seconds"]].mean().sort_index(ascending=False)
    one, lines, total = slim[["train_flops", "train_seconds"]].mean(), [], [0.0, 0.0, 0.0]
    for k, (width, cost) in enumerate(by_width.iterrows(), start=1):
        if k == 1 and not math.isclose(float(width), slim["width_max"].max()):
            return []  # the widest network is missing: sums from here on would compare other things
        added = (cost["train_flops"], cost["train_seconds"], parameters.get(width, math.nan))
        total = [a + float(b) for a, b in zip(total, added, strict=True)]
        lines.append({"method": METHODS[base, teacher], "k": k, "widths": " ".join(f"{w:g}" for w in by_width.index[:k]),
                      "flops": one["train_flops"], "seconds": one["train_seconds"], "k_flops": total[0], "k_seconds": total[1],
                      "parameters": parameters.get(by_width.index[0], math.nan), "k_parameters": total[2]})
    return lines if len(lines) > 1 else []


def _text(value: float, form: str = ".1f") -> str:
    return MISSING if math.isnan(value) else format(value, form)
