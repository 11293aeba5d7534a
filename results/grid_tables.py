"""The tables of the ablation grids and of the comparison, one function each; which row each cell of a grid is.

A grid's rows are written out here, so that a cell that was never started has its row too. Cells that are in no row (added by
hand, or by a later version of the grid) come last, under their own names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pandas as pd

from results.frame import METHODS
from results.render import BLANK, MISSING, Column, Table
from results.tables import LOSSES, RowSpec, guideline_rows, guidelines, head_of, score_table
from rundir.schema import State

UPDATES = {"per_width": "one step a width", "accumulate": "one step for all widths"}
WARMUPS = {"": "none", "-warmup-quarter": "quarter of training", "-warmup-half": "half of training"}
PARTS = {"infonce-base": "InfoNCE base loss", "momentum": "momentum teacher", "head": "distillation head",
         "dynamic": "dynamic sampling", "group": "group regularization"}
# Recipes in words, by cell; those of one width by family.
RECIPES = {"us3l": "US3L", "us3l-mse": "US3L, MSE base loss", "us3l-r50": "US3L with feature distillation",
           "us3l-all-guidelines": "US3L, all guidelines", "us3l-simsiam": "US3L on SimSiam",
           "us3l-simsiam-momentum": "US3L on SimSiam with a momentum teacher"}
BASELINES = {"usnet-simsiam": "US-Net + SimSiam", "usnet-byol": "US-Net + BYOL"}
ALONE = {"individual-simsiam": "SimSiam, individually trained", "individual-byol": "BYOL, individually trained",
         "individual-simclr": "SimCLR, individually trained", "individual-momentum-simclr": "momentum SimCLR, individually trained",
         "individual-mocov2": "MoCo v2, individually trained", "seed": "SEED, from a larger BYOL"}
SEED_TEACHER = {"seed-teacher": "BYOL, a larger network (SEED's teacher)"}
GUIDELINES = ("guidelines", "guidelines-shared")  # their table is that of results/tables.py
# Units of the cost columns, smallest first: the size of one, and what its column is called.
FLOP_UNITS = ((1e9, "GFLOPs"), (1e12, "TFLOPs"), (1e15, "PFLOPs"), (1e18, "EFLOPs"))
TIME_UNITS = ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"), (86400.0, "days"))


@dataclass(frozen=True)
class Cost:
    """What training took for a row to serve all asked widths, mean over seeds; NaN where it is not known, or not yet served."""

    trainings: float = math.nan
    flops: float = math.nan
    seconds: float = math.nan


def head_rows() -> list[RowSpec]:
    """Base loss, distillation loss and teacher by head; only the MSE base loss has a predictor to share."""
    found = []
    for base, distill, teacher in (*product(["mse"], ["mse", "infonce"], ["online", "momentum"]),
                                   *product(["infonce"], ["infonce"], ["online", "momentum"])):
        section = f"{METHODS[base, teacher]}, {LOSSES[distill]} distillation"
        named, cell = (METHODS[base, teacher], LOSSES[distill]), f"{base}-{distill}-{teacher}"
        found += [RowSpec(section, (*named, head), {"cell": f"{cell}-{head}"}, head)
                  for head in ("own", "shared", "none") if (base, head) != ("infonce", "shared")]
    return found


def sampling_rows() -> list[RowSpec]:
    """Rule by number of widths a step, then the fixed list."""
    found = [RowSpec(rule, (rule, str(n)), {"cell": f"{rule}-n{n}"}, f"{n} widths a step")
             for rule, n in product(("uniform", "sandwich", "dynamic"), (2, 3, 4))]
    return [*found, RowSpec("fixed list", ("fixed list", "all asked"), {"cell": "fixed-list"}, "all asked widths")]


def regularization_rows() -> list[RowSpec]:
    """None and plain L2, then groups by alpha and by warm-up."""
    found = [RowSpec("no groups", ("none", BLANK, BLANK, BLANK), {"cell": "none"}, "none"),
             RowSpec("no groups", ("L2", BLANK, BLANK, BLANK), {"cell": "l2"}, "L2")]
    chosen = [*product((4, 8), ("0.02", "0.05", "0.1"), ("",)), *product((16,), ("0.02", "0.05"), ("",)),
              *product((8,), ("0.05",), ("-warmup-quarter", "-warmup-half"))]
    for groups, alpha, warmup in chosen:
        section = f"{groups} groups" + (", with warm-up" if warmup else "")
        short = f"α = {alpha}" + (f", warm-up {WARMUPS[warmup]}" if warmup else "")
        labels = ("group", str(groups), alpha, WARMUPS[warmup])
        found.append(RowSpec(section, labels, {"cell": f"group{groups}-alpha{alpha}{warmup}"}, short))
    return found


def momentum_rows() -> list[RowSpec]:
    """By loss (of base and distillation): online, then m constant and rising by half a cosine."""
    found = []
    for loss in ("mse", "infonce"):
        section = f"{LOSSES[loss]} base and distillation"
        found.append(RowSpec(section, (LOSSES[loss], "online", BLANK), {"cell": f"{loss}-{loss}-online"}, "online"))
        constant, cosine = ("0.5", "0.7", "0.9", "0.95", "0.99"), ("0.5", "0.9", "0.99")
        for m, schedule in (*product(constant, ("",)), *product(cosine, ("-cosine",))):
            label = "to 1 by cosine" if schedule else "constant"
            found.append(RowSpec(section, (LOSSES[loss], m, label), {"cell": f"{loss}-{loss}-m{m}{schedule}"}, f"{m}, {label}"))
    return found


def update_rows() -> list[RowSpec]:
    """By which guidelines are satisfied: the two update rules."""
    found = []
    for base, distill, teacher in (("mse", "mse", "online"), ("mse", "infonce", "momentum"), ("infonce", "infonce", "momentum")):
        section = f"{METHODS[base, teacher]}, {LOSSES[distill]} distillation"
        named, cell = (METHODS[base, teacher], LOSSES[distill]), f"{base}-{distill}-{teacher}"
        found += [RowSpec(section, (*named, text), {"cell": f"{cell}-{update}"}, text) for update, text in UPDATES.items()]
    return found


def _section(title: str, labels: dict[str, str], by: str = "cell") -> list[RowSpec]:
    """A row for each cell (or family of cells, one for each width), by its name in words."""
    return [RowSpec(title, (label,), {by: name}, label) for name, label in labels.items()]


def comparison_rows() -> list[RowSpec]:
    """US3L and what it loses without each part, then baselines of one training, then those of a training a width."""
    methods = {method.lower().replace(" ", "-"): method for method in METHODS.values()}

    without = {f"us3l-without-{part}": f"US3L without {text}" for part, text in PARTS.items()}
    naive = {f"naive-{key}": f"{method}, naive US-Net" for key, method in methods.items()}
    slimmable = {"slimmable": "momentum SimCLR, slimmable", "slimmable-switchable": "momentum SimCLR, slimmable, switchable BN",
                 "slimclr": "SlimCLR"}
    return [*_section("US3L", {name: RECIPES[name] for name in ("us3l", "us3l-all-guidelines", "us3l-simsiam")}),
            *_section("US3L without a part", without),
            *_section("one training, all widths", BASELINES | naive | slimmable),
            *_section("one training per width", ALONE, "family"), *_section("one training per width", SEED_TEACHER)]


def paper_rows() -> list[RowSpec]:
    """Every recipe: US3L's, then the baselines of one training, then those of one training per width."""
    rows = [*_section("US3L", RECIPES), *_section("one training, all widths", BASELINES | {"slimclr": "SlimCLR"}),
            *_section("one training per width", ALONE, "family"), *_section("one training per width", SEED_TEACHER)]
    return [replace(row, labels=(*row.labels, *row.where.values())) for row in rows]  # cells and families are called like recipes


def controls_rows() -> list[RowSpec]:
    """US3L, the same network trained alone, that sliced or pruned without training, and other controls."""
    sliced = {"sliced": "sliced, calibrated", "sliced-uncalibrated": "sliced, not calibrated"}
    pruned = {"pruned-weights": "pruned by weight norm", "pruned-variance": "pruned by variance of activations",
              "pruned-svd": "pruned by SVD of features"}
    alone = {"individual-w1.0-same-flops": "trained at full width, as many FLOPs as US3L"}
    return [*_section("trained at many widths", {"us3l": "US3L", "elastic-student": "elastic student (POA)"}),
            *_section("trained alone", {"individual": "trained for each width"}, "family"), *_section("trained alone", alone),
            *_section("full width, sliced anyway", sliced), *_section("full width, pruned without training", pruned),
            *_section("no training", {"untrained": "random initialisation"})]


ROWS: dict[str, Callable[[], list[RowSpec]]] = {
    "head": head_rows, "sampling": sampling_rows, "regularization": regularization_rows, "momentum": momentum_rows,
    "update": update_rows, "comparison": comparison_rows, "paper": paper_rows, "controls": controls_rows}


def rows_of(grid: str, runs: pd.DataFrame) -> list[RowSpec]:
    """The rows of ``grid``, those of cells that it does not know last, under their own names. ``runs``: with families."""
    known = ROWS[grid]()
    rows = with_family(runs)
    others = rows[~rows.index.isin([index for row in known for index in row.select(rows).index])]
    blank = (BLANK,) * (len(known[0].labels) - 1)
    return known + [RowSpec("other", (cell, *blank), {"cell": cell}, cell) for cell in sorted(set(others["cell"]))]


def named_rows(grid: str, runs: pd.DataFrame) -> list[RowSpec]:
    """The rows of the grid's table with one text each, its whole name; of a grid without a table of its own, its cells."""
    if grid in GUIDELINES:
        rows = [replace(row, labels=(row.labels[-1],)) for row in guideline_rows(runs)]
    elif grid in ROWS:
        rows = [replace(row, labels=(_name(row),)) for row in rows_of(grid, runs)]
    else:
        rows = [RowSpec("", (cell,), {"cell": cell}) for cell in sorted(set(runs["cell"]))]
    return [replace(row, short=row.labels[0]) for row in rows]


def _name(row: RowSpec) -> str:
    """All labels but empty ones and, behind the first, what only repeats the cell's own name."""
    return ", ".join(filter(None, (row.labels[0], *(label for label in row.labels[1:] if label not in row.where.values()))))


def with_family(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with a column ``family``: the cell's name without the width at its end."""
    return frame.assign(family=frame["cell"].str.replace(r"-w[\d.]+$", "", regex=True))


def head(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "head") -> Table:
    """Distillation head: what a narrower width puts behind its projection."""
    return _table("head", "Distillation head", ["Base", "Distillation loss", "Head"], scores, runs, name)


def sampling(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "sampling") -> Table:
    """Width sampling, with what training cost: dynamic sampling is said to save time."""
    return _table("sampling", "Width sampling", ["Rule", "Widths a step"], scores, runs, name, cost=True)


def regularization(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "regularization") -> Table:
    """Regularization: none, plain L2 and groups by their number, alpha and warm-up."""
    return _table("regularization", "Regularization", ["Penalty", "Groups", "α", "Warm-up"], scores, runs, name)


def momentum(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "momentum") -> Table:
    """Momentum of the teacher and its schedule."""
    return _table("momentum", "Teacher momentum", ["Losses", "Momentum", "Schedule"], scores, runs, name)


def update(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "update") -> Table:
    """Update rule, with what training cost: a step a width takes more of them."""
    return _table("update", "Update rule", ["Base", "Distillation loss", "Update"], scores, runs, name, cost=True)


def comparison(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "comparison") -> Table:
    """Methods by width, with the cost of all trainings that serving all asked widths takes."""
    kinds = _architectures(runs)
    return _table("comparison", f"Comparison of methods, {kinds}", ["Method"], scores, runs, name, cost=True, heads=True)


def paper(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "paper") -> Table:
    """The recipes as their authors run them, by width."""
    kinds = _architectures(runs)
    return _table("paper", f"The recipes of the papers, {kinds}", ["Method", "Recipe"], scores, runs, name, cost=True, heads=True)


def controls(scores: pd.DataFrame, runs: pd.DataFrame, name: str = "controls") -> Table:
    """US3L against the same network trained alone, sliced or pruned without training, and as it is initialised."""
    return _table("controls", "Controls", ["Network"], scores, runs, name, cost=True, heads=True)


def _architectures(runs: pd.DataFrame) -> str:
    """Those of the methods that are compared, without SEED's larger teacher."""
    compared = runs[~runs["cell"].isin(list(SEED_TEACHER))]
    return " and ".join(sorted({architecture(arch) for arch in compared["arch"]}))


def architecture(arch: str) -> str:
    """``CNN (resnet18_cifar)``, ``ViT (vit_tiny)``."""
    return f"{'ViT' if 'vit' in arch else 'CNN'} ({arch})"


TABLES: dict[str, Callable[..., Table]] = {"guidelines": guidelines, "head": head, "sampling": sampling,
                                           "regularization": regularization, "momentum": momentum, "update": update,
                                           "comparison": comparison, "paper": paper, "controls": controls,
                                           "guidelines-shared": guidelines}


def _table(grid: str, title: str, factors: Sequence[str], scores: pd.DataFrame, runs: pd.DataFrame, name: str,
           cost: bool = False, heads: bool = False) -> Table:
    scores, runs = with_family(scores), with_family(runs)
    rows, columns = rows_of(grid, runs), [Column(factor) for factor in factors]
    if heads:
        rows = [replace(row, labels=(*row.labels, head_of(row, runs))) for row in rows]
        columns.append(Column("Head"))
    if not cost:
        return score_table(name, title, scores, runs, columns, rows)
    texts, names = _cost_texts([training_cost(row, scores, runs) for row in rows])
    rows = [replace(row, labels=(*row.labels, *text)) for row, text in zip(rows, texts, strict=True)]
    table = score_table(name, title, scores, runs, [*columns, *(Column(name, "right") for name in names)], rows)
    return replace(table, caption=f"{table.caption} Training cost is that of all trainings that serving all these widths takes, "
                                  "mean over seeds, evaluation not included.")


def training_cost(row: RowSpec, scores: pd.DataFrame, runs: pd.DataFrame) -> Cost:
    """What the trainings behind ``row`` cost together: its own, and the teachers' that these learn from.

    A network trained for one width serves only that one. As long as a width of ``scores`` has no score in this row, the cost of
    serving all of them is not known; a row of one cell that was trained for one width has the cost of that. What is made without
    training costs nothing itself.
    """
    scored = scores[scores["value"].notna()]
    own = row.select(scored)
    alone = "cell" in row.where and own["width_min"].eq(own["width_max"]).all()
    if own.empty or (not alone and set(scored["width"].round(6)) - set(own["width"].round(6))):
        return Cost()
    trained = runs[runs["cell"].isin(own["cell"])]
    teachers = set(trained["needs"]) - {""}
    if teachers - set(runs["run"]):
        return Cost()
    needed = pd.concat([trained, runs[runs["run"].isin(teachers) & ~runs["cell"].isin(own["cell"])]])
    done = needed[needed["state"].eq(State.DONE)]
    per_cell = done.groupby("cell")[["train_flops", "train_seconds"]].mean()
    if len(per_cell) < needed["cell"].nunique():
        return Cost()
    total = per_cell.sum(skipna=False)
    return Cost(done.loc[done["kind"].ne("derived"), "cell"].nunique(), float(total["train_flops"]), float(total["train_seconds"]))


def _cost_texts(costs: Sequence[Cost]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Trainings, FLOPs and time of each cost as text, and the names of these columns with the units that fit the largest."""
    flop, flop_name = unit([cost.flops for cost in costs], FLOP_UNITS)
    time, time_name = unit([cost.seconds for cost in costs], TIME_UNITS)
    texts = [(_number(cost.trainings, ".0f"), _number(cost.flops / flop, ".1f"), _number(cost.seconds / time, ".1f"))
             for cost in costs]
    return texts, ("Trainings", f"Training {flop_name}", f"Training {time_name}")


def unit(values: Sequence[float], units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The largest unit of which the largest value has at least ten; the smallest where there is none."""
    largest = max((value for value in values if not math.isnan(value)), default=0.0)
    return next((unit for unit in reversed(units) if largest >= 10 * unit[0]), units[0])


def _number(value: float, form: str) -> str:
    return MISSING if math.isnan(value) else format(value, form)
