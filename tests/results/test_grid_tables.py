"""Tables and pictures of the grids, on made-up runs: rows, missing cells, and what serving all widths cost."""

from __future__ import annotations

import csv
import io
import math

import pytest
from matplotlib.figure import Figure

from ablations import gridfile
from results import report
from results.frame import load, load_metrics, load_runs
from results.plots import scores as plots
from results.plots import training
from results.plots.drawing import NothingToPlot, decades
from results.tables import cost as costs
from results.tables.latex import latex
from results.tables.render import MISSING, comma_separated, markdown
from results.tables.scores import grid_table
from tests.results.synthetic import ALWAYS, FORMATS, WIDTHS, config, curves, grid_of, manifest, record, write_run

GUIDED = ("infonce", "infonce", "momentum")


def add(path, grid, cell, values=(), seed=100, cost=(60.0, 1e12), widths=(0.25, 1.0), base=GUIDED, **sections):
    """One run of ``cell`` with ``values``: width -> score."""
    cfg = config(*base, seed, widths, cell, grid, **sections)
    return write_run(
        path, cfg, [record(width, value) for width, value in dict(values).items()], cost=cost, state="done" if values else "running"
    )


def table(path, name):
    return grid_table(load(path), grid_of(path), name)


def row_of(table, *labels):
    return next(row for row in table.rows if row.labels[: len(labels)] == labels)


def all_widths(level=0.9):
    return {width: level - 0.1 * (1 - width) for width in WIDTHS}


def test_every_row_of_a_grid_is_there_before_anything_has_run(tmp_path):
    add(tmp_path, "sampling", "dynamic-n3", {1.0: 0.8, 0.25: 0.6})
    add(tmp_path, "sampling", "sandwich-n3")
    made = table(tmp_path, "sampling")
    assert [row.labels[:2] for row in made.rows] == [
        *((rule, n) for rule in ("uniform", "sandwich", "dynamic") for n in "234"),
        ("fixed list", "all asked"),
    ]
    assert [row.labels[:2] for row in made.rows if any(row.scores)] == [("dynamic", "3")]
    assert [score.mean for score in row_of(made, "dynamic", "3").scores] == [0.8, 0.6]
    # 9 rows without a run or a score: 3 numbers of cost and 2 scores each
    assert markdown(made).count(f"{MISSING} |") == 9 * 5
    assert "1 of 2 runs are not done (1 running)" in made.caption


def test_rows_hold_their_own_cells_scores_and_no_others(tmp_path):
    """Every cell of every grid with a score of its own; each must turn up once, in the row that selects its cell."""
    for grid in gridfile.grids():
        values = {}
        for place, row in enumerate(manifest(grid).rows):
            for cell, width in row.cells.items():
                add(tmp_path / grid, grid, cell, {width or 1.0: 0.3 + place / 100}, widths=(width or 0.25, width or 1.0))
            values[row.section, row.labels[0], place] = [0.3 + place / 100] * len(row.cells)
        made = table(tmp_path / grid, grid)
        assert {
            (row.section, row.labels[0], place): [s.mean for s in row.scores if s] for place, row in enumerate(made.rows)
        } == values


def test_a_cell_that_the_grid_does_not_know_is_shown_last(tmp_path):
    add(tmp_path, "head", "mse-mse-online-own", {1.0: 0.5}, base=("mse", "mse", "online"))
    add(tmp_path, "head", "two-layers", {1.0: 0.6}, base=("mse", "mse", "online"))
    made = table(tmp_path, "head")
    assert (made.rows[-1].section, made.rows[-1].labels, made.rows[-1].scores[0].mean) == ("other", ("two-layers", "", ""), 0.6)
    assert len(made.rows) == len(manifest("head").rows) + 1


def test_momentum_and_regularization_rows_say_their_factors(tmp_path):
    add(tmp_path / "m", "momentum", "mse-mse-m0.99-cosine", {1.0: 0.5})
    assert row_of(table(tmp_path / "m", "momentum"), "MSE", "0.99", "to 1 by cosine").scores[0].mean == 0.5
    add(tmp_path / "r", "regularization", "group8-alpha0.05-warmup-half", {1.0: 0.5})
    made = table(tmp_path / "r", "regularization")
    assert row_of(made, "group", "8", "0.05", "half of training").scores[0].mean == 0.5
    assert row_of(made, "group", "8", "0.05", "none").scores[0] is None


@pytest.fixture
def compared(tmp_path):
    """US3L in one training, BYOL in four, SEED in four and its teacher, with two seeds of different cost."""
    for seed, factor in ((100, 1.0), (101, 3.0)):
        add(tmp_path, "comparison", "us3l", all_widths(), seed, (600 * factor, 50e12 * factor), objective={"head": "own"})
        for width in WIDTHS:
            byol = add(
                tmp_path,
                "comparison",
                f"individual-byol-w{width}",
                {width: 0.7},
                seed,
                (100 * width * factor, 20e12 * width * factor),
                (width, width),
                ("mse", "none", "momentum"),
            )
            if width == 1.0:
                teacher = byol
        for width in WIDTHS:
            add(
                tmp_path,
                "comparison",
                f"seed-w{width}",
                {width: 0.6},
                seed,
                (10.0, 2e12),
                (width, width),
                ("seed", "none", "online"),
                objective={"seed_teacher": str(teacher)},
            )
    return tmp_path


def test_serving_all_widths_costs_all_trainings_it_takes(compared):
    """Means over two seeds, of factors 1 and 3: twice the first seed's numbers."""
    made = table(compared, "comparison")
    assert [column.name for column in made.columns] == ["Method", "Head", "Trainings", "Training TFLOPs", "Training minutes"]
    width_sum = sum(WIDTHS)
    expected = {
        "US3L": (1, 2 * 50, 2 * 600 / 60),
        "BYOL, individually trained": (4, 2 * 20 * width_sum, 2 * 100 * width_sum / 60),
        # each its own training, which all seeds paid alike, and once the teacher, which is BYOL at full width
        "SEED, from a larger BYOL": (5, 4 * 2 + 2 * 20, (4 * 10 + 2 * 100) / 60),
    }
    for label, (trainings, tera, minutes) in expected.items():
        assert row_of(made, label).labels[2:] == (str(trainings), f"{tera:.1f}", f"{minutes:.1f}"), label
    assert row_of(made, "SimSiam, individually trained").labels[2:] == (MISSING,) * 3
    assert [round(score.mean, 3) for score in row_of(made, "US3L").scores] == [0.9, 0.875, 0.85, 0.825]


def test_a_baseline_that_does_not_serve_all_widths_yet_has_no_cost(compared):
    for path in compared.glob("individual-byol-w0.5-*"):
        (path / "result.json").unlink()
    made = table(compared, "comparison")
    byol = row_of(made, "BYOL, individually trained")
    assert byol.labels[2:] == (MISSING,) * 3 and [score is None for score in byol.scores] == [False, False, True, False]
    assert row_of(made, "SEED, from a larger BYOL").labels[2] == "5"  # its teacher is there


def test_distillation_from_a_teacher_that_is_not_known_has_no_cost(compared):
    scores, grid = load(compared), grid_of(compared)
    [seed] = [line for line in grid.lines if line.name.startswith("SEED")]
    assert costs.training_cost(seed, scores, grid.runs).trainings == 5
    alone = grid.runs["cell"].str.startswith("individual")
    assert math.isnan(costs.training_cost(seed, scores, grid.runs[~alone]).trainings)


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([5e12], "GFLOPs"),
        ([2e13, 1e11], "TFLOPs"),
        ([9e18, math.nan], "PFLOPs"),
        ([3e19], "EFLOPs"),
        ([], "GFLOPs"),
        ([math.nan], "GFLOPs"),
    ],
)
def test_units_fit_the_largest_cost(values, unit):
    assert costs.unit(values, costs.FLOP_UNITS)[1] == unit


def test_formats_have_the_cost(compared):
    made = table(compared, "comparison")
    line = next(row for row in csv.DictReader(io.StringIO(comma_separated(made))) if row["method"] == "US3L")
    assert (line["trainings"], line["training_tflops"], line["training_minutes"]) == ("1", "100.0", "20.0")
    assert "| US3L | own | 1 | 100.0 | 20.0 |" in markdown(made) and "| :-- | :-- | --: | --: | --: |" in markdown(made)
    assert r"\begin{tabular}{llrrrrrrr}" in latex(made)
    assert "all trainings that serving all these widths takes" in made.caption


def test_a_grid_gets_its_table_and_its_pictures(tmp_path):
    for cell in manifest("sampling").cells:
        add(tmp_path / "sampling", "sampling", cell, all_widths(), base=GUIDED)
    made = report.build(tmp_path / "sampling")
    pictures = [
        f"{what}-digits-knn.{kind}"
        for what in ("accuracy-cost", "accuracy-flops", "accuracy-width", "heat-map")
        for kind in ("png", "svg")
    ]
    assert sorted(made.paths) == sorted([*ALWAYS, *(f"table-digits-knn.{kind}" for kind in FORMATS), *pictures])
    assert not made.skipped and len(made.tables) == 1


def test_pictures_show_the_rows_of_the_table(compared):
    scores, grid = load(compared), grid_of(compared)
    figure = plots.accuracy_by_width(scores, grid)
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_visible()}
    shown = {title: [text.get_text() for text in axis.get_legend().get_texts()] for title, axis in panels.items()}
    assert shown == {"US3L": ["US3L"], "one training per width": ["BYOL, individually trained", "SEED, from a larger BYOL"]}
    assert list(panels["US3L"].containers[0].lines[0].get_ydata()) == pytest.approx([82.5, 85.0, 87.5, 90.0])
    axis = plots.accuracy_by_cost(scores, grid).axes[1]
    assert axis.get_title() == "Width 0.25" and axis.get_xscale() == "log"
    points = {box.get_label(): (box.lines[0].get_xdata()[0], box.lines[0].get_ydata()[0]) for box in axis.containers}
    assert points["US3L"] == pytest.approx((100e12, 82.5)) and points["SEED, from a larger BYOL"] == pytest.approx((48e12, 60.0))


def test_a_run_is_one_point_against_drift_however_often_labels_were_drawn(tmp_path):
    cells = ("mse", "mse", "online"), ("infonce", "mse", "online"), ("mse", "infonce", "online")
    for seed in (100, 101):
        for level, cell in zip((0.3, 0.5, 0.7), cells, strict=True):
            scores = [record(0.25, level + 0.1 * draw, label_fraction=0.01, label_seed=draw) for draw in (0, 1)]
            write_run(tmp_path / "guidelines", config(*cell, seed), scores, curves(*cell, seed))
    figure = training.drift_by_accuracy(load(tmp_path), load_metrics(tmp_path), grid_of(tmp_path))
    for axis in figure.axes[:2]:
        shown = sorted(value for line in axis.lines for value in line.get_ydata())
        assert shown == pytest.approx([35, 35, 55, 55, 75, 75])


def test_nothing_to_plot_is_said(tmp_path):
    add(tmp_path, "update", "mse-mse-online-per_width", {1.0: 0.5}, cost=(None, None))
    scores, grid = load(tmp_path), grid_of(tmp_path)
    with pytest.raises(NothingToPlot, match="train_flops"):
        plots.accuracy_by_cost(scores, grid)
    with pytest.raises(NothingToPlot, match="no scores"):
        plots.accuracy_by_width(scores[:0], grid)


def test_cells_of_a_launch_share_a_table_though_their_epochs_differ(tmp_path):
    """By base loss or by baseline: the launch names the setting, the caption what was trained."""
    for cell, epochs in (("us3l", 400), ("us3l-without-infonce-base", 800)):
        cfg = config(cell=cell, grid="comparison", optimizer={"epochs": epochs})
        cfg["experiment"]["setting"] = "digits, as launched"
        write_run(tmp_path, cfg, [record(1.0, 0.5)])
    frame = load_runs(tmp_path)
    assert set(frame["setting"]) == {"digits, as launched"} and frame["trained"].nunique() == 2
    made = report.build(tmp_path).tables
    assert len(made) == 1 and "400 epochs" in made[0].caption and "800 epochs" in made[0].caption


def test_what_is_made_without_training_costs_what_it_is_made_from(tmp_path):
    full = add(tmp_path, "controls", "individual-w1.0", {1.0: 0.9}, widths=(1.0, 1.0), base=("infonce", "none", "momentum"))
    made = {"sliced": {"network": "sliced", "source": str(full)}, "untrained": {"network": "untrained", "source": ""}}
    for cell, derived in made.items():
        add(tmp_path, "controls", cell, all_widths(0.6), cost=(0.0, 0.0), base=("infonce", "none", "momentum"), derived=derived)
    add(
        tmp_path,
        "controls",
        "individual-w1.0-same-flops",
        {1.0: 0.92},
        cost=(90.0, 1.5e12),
        widths=(1.0, 1.0),
        base=("infonce", "none", "momentum"),
    )
    found = table(tmp_path, "controls")
    assert row_of(found, "sliced, calibrated").labels[2:4] == ("1", "1000.0")  # the training of the full width
    assert row_of(found, "random initialisation").labels[2:4] == ("0", "0.0")
    assert row_of(found, "trained at full width, as many FLOPs as US3L").labels[2:4] == ("1", "1500.0")  # of one width, by design
    assert row_of(found, "trained for each width").labels[2] == MISSING  # it does not serve all widths yet
    assert set(load_runs(tmp_path)["kind"]) == {"derived", "individual"}


def test_tables_name_the_head_that_was_trained_with(tmp_path):
    us3l = ("infonce", "mse", "momentum")
    for cell, head, base in (("usnet-simsiam", "shared", ("mse", "mse", "online")), ("us3l", "own", us3l)):
        cfg = config(*base, 100, cell=cell, grid="paper", objective={"head": head})
        cfg["experiment"]["recipe"] = cell
        write_run(tmp_path, cfg, [record(1.0, 0.5)])
    found = table(tmp_path, "paper")
    assert row_of(found, "US-Net + SimSiam").labels[1:3] == ("usnet-simsiam", "shared")
    assert row_of(found, "US3L").labels[1:3] == ("us3l", "own") and row_of(found, "SlimCLR").labels[1:3] == ("slimclr", "")


def test_the_authors_baseline_is_no_cell_of_the_guidelines(tmp_path):
    """It has the losses and the teacher of the first cell, and another head and projector."""
    for cell, value in (("mse-mse-online", 0.8), ("usnet-simsiam", 0.3)):
        cfg = config("mse", "mse", "online", cell=cell, objective={"head": "shared" if value < 0.5 else "own"})
        cfg["experiment"]["recipe"] = cell if cell.startswith("usnet") else ""
        write_run(tmp_path, cfg, [record(1.0, value)])
    found = {row.labels[6:]: row.scores[0].mean for row in table(tmp_path, "guidelines").rows if row.scores[0]}
    assert found == {("own", "SimSiam + MSE distillation"): 0.8, ("shared", "SimSiam, US-Net as the authors run it"): 0.3}


def test_pictures_name_a_recipe_once(tmp_path):
    """Tables have a column of recipes; a legend of methods does not repeat them."""
    for cell in ("us3l", "usnet-simsiam", "mine"):
        add(tmp_path, "paper", cell, all_widths(0.5))
    names = {cell: line.name for line in grid_of(tmp_path).lines for cell in line.cells}
    assert (names["us3l"], names["usnet-simsiam"], names["mine"]) == ("US3L", "US-Net + SimSiam", "mine")


@pytest.mark.parametrize("values", [(0.031, 0.046), (0.03, 0.05), (0.14, 0.37), (6.4e11, 3.8e12), (0.001, 20.0), (3.0, 3.0)])
def test_ticks_of_a_logarithmic_axis_are_few(values):
    axis = Figure(figsize=(3.0, 2.0)).subplots()
    axis.plot(values, [1.0, 2.0])
    axis.set_xscale("log")
    decades(axis.xaxis, values)
    low, high = axis.get_xlim()
    assert len([tick for tick in axis.get_xticks() if low <= tick <= high]) <= 6


def test_a_legend_starts_below_a_label_of_two_lines(tmp_path):
    for cell in ("us3l", "us3l-mse", "us3l-r50", "us3l-all-guidelines", "us3l-simsiam", "us3l-simsiam-momentum", "usnet-simsiam"):
        cfg = config("infonce", "mse", "momentum", cell=cell, grid="paper")
        write_run(tmp_path, cfg, [record(w, 0.5, latency_ms=10 * w, latency_on="a device") for w in (1.0, 0.25)])
    figure = plots.accuracy_by(load(tmp_path), grid_of(tmp_path), "latency_ms")
    figure.draw_without_rendering()
    for axis in figure.axes:
        assert "\n" in axis.get_xlabel()
        legend = axis.get_legend().get_window_extent()
        assert legend.y0 >= 0 and legend.y1 <= axis.xaxis.label.get_window_extent().y0 + 1
