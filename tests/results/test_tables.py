"""The guidelines table against numbers worked out by hand, and every way it is written."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from pretrain.config import from_dict
from pretrain.diagnostics import Diagnostics
from pretrain.objective.networks import Student
from results.claims.effects import primary
from results.frame import load, load_metrics
from results.tables import scores as tables
from results.tables.html import html
from results.tables.latex import latex, latex_escape
from results.tables.render import (
    MISSING,
    YES,
    Column,
    Score,
    Table,
    TableRow,
    comma_separated,
    markdown,
    terminal,
)
from results.tables.scores import above_chance, grid_table, mark_collapse, width_name
from tests.results.synthetic import config, grid_of, metric, record, write_run

METHOD = 7  # position of the method among the left columns


def build(path):
    return grid_table(mark_collapse(load(path), load_metrics(path)), grid_of(path), "guidelines")


@pytest.fixture(scope="module")
def whole(grid):
    return build(grid)


def row_of(table, method):
    return next(row for row in table.rows if row.labels[METHOD] == method)


def test_rows_are_ordered_by_the_guidelines_satisfied(whole):
    table = whole
    ticks = ["".join(str(i) for i in range(1, 4) if row.labels[i - 1] == YES) for row in table.rows]
    assert ticks == ["", "1", "2", "3", "12", "13", "23", "123", *[""] * 7]
    assert [row.labels[METHOD] for row in table.rows] == [
        "SimSiam + MSE distillation",
        "SimCLR + MSE distillation",
        "SimSiam + InfoNCE distillation",
        "BYOL + MSE distillation",
        "SimCLR + InfoNCE distillation",
        "momentum SimCLR + MSE distillation",
        "BYOL + InfoNCE distillation",
        "momentum SimCLR + InfoNCE distillation",
        "SimSiam, US-Net as the authors run it",
        "SimSiam, naive US-Net",
        "momentum SimCLR, naive US-Net",
        "SimSiam, individually trained",
        "BYOL, individually trained",
        "SimCLR, individually trained",
        "momentum SimCLR, individually trained",
    ]
    assert table.value_names == ("1.0×", "0.75×", "0.5×", "0.25×")
    assert row_of(table, "BYOL + MSE distillation").labels[3:6] == ("MSE", "MSE", "momentum")


def test_mean_and_sample_std_over_seeds(tmp_path):
    values = [0.81, 0.84, 0.90]
    for seed, value in enumerate(values):
        write_run(tmp_path, config(seed=seed), [record(0.25, value)])
    score = row_of(build(tmp_path), "momentum SimCLR + InfoNCE distillation").scores[0]
    assert score.mean == pytest.approx(0.85)
    assert score.std == pytest.approx(math.sqrt((0.04**2 + 0.01**2 + 0.05**2) / 2))
    assert score.std == pytest.approx(np.std(values, ddof=1))
    assert (score.n, score.chance, score.count, score.flops) == (3, 0.1, 500, 4e7 / 16)
    assert score.parts(3) == ("85.0", " ± 4.6", "")
    assert score.parts(4) == ("85.0", " ± 4.6 (n=3)", "")


def test_one_seed_shows_no_spread(tmp_path):
    write_run(tmp_path, config(), [record(1.0, 0.5)])
    table = build(tmp_path)
    assert row_of(table, "momentum SimCLR + InfoNCE distillation").scores[0].parts(1) == ("50.0", "", "")
    assert "One seed" in table.caption and "±" not in table.caption


def test_each_width_of_an_individual_row_is_its_own_network(tmp_path):
    for width in (1.0, 0.5, 0.25):
        cell = f"individual-mse-online-w{width}"
        own = config("mse", "none", "online", widths=(width, width), cell=cell)
        write_run(tmp_path, own, [record(width, width / 2)])
    row = row_of(build(tmp_path), "SimSiam, individually trained")
    assert [score.mean for score in row.scores] == [0.5, 0.25, 0.125]


def test_the_best_of_a_column_is_marked_and_so_is_its_equal_in_print(tmp_path):
    values = {("mse", "online"): 0.7001, ("mse", "momentum"): 0.7004, ("infonce", "online"): 0.6}
    for (base, teacher), value in values.items():
        write_run(tmp_path, config(base, "mse", teacher), [record(1.0, value), record(0.5, 1 - value)])
    table = build(tmp_path)
    best = [[row.labels[METHOD] for row in table.rows if row.scores[i] and row.scores[i].best] for i in (0, 1)]
    assert best == [["SimSiam + MSE distillation", "BYOL + MSE distillation"], ["SimCLR + MSE distillation"]]


def test_missing_cells_and_unfinished_runs_are_said(tmp_path):
    write_run(tmp_path, config("mse", "mse", "online"), [record(1.0, 0.5), record(0.5, None)])
    write_run(tmp_path, config(), state="failed")
    write_run(tmp_path, config("mse", "none", "online", cell="naive-mse-online"), state="running")
    table = build(tmp_path)
    assert table.value_names == ("1.0×",)
    assert [row.scores[0] is None for row in table.rows] == [False] + [True] * 14
    assert "2 of 3 runs are not done (1 failed, 1 running)" in table.caption
    assert markdown(table).count(f"| {MISSING} |") == 14


def test_a_grid_without_any_score_has_a_table_of_rows_only(tmp_path):
    write_run(tmp_path, config(), state="running")
    table = build(tmp_path)
    assert len(table.rows) == 15 and table.value_names == ()
    assert markdown(table).count("\n") > 8


def test_chance():
    # 500 fair guesses among 10: P(hits > 61) = 0.0457 and P(hits > 60) = 0.0610 (binomial tail, exact).
    assert not above_chance(61 / 500, 0.1, 500)
    assert above_chance(62 / 500, 0.1, 500)
    assert above_chance(0.0, math.nan, 500) and above_chance(0.0, 0.1, math.nan)


def test_the_chance_bound_is_the_exact_binomial_one():
    def tail(hits, n, p):
        return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1))

    for n, p in ((500, 0.1), (40, 0.5), (200, 0.01)):
        first = next(hits for hits in range(n) if tail(hits, n, p) <= 0.05)
        assert above_chance(first / n, p, n) and not above_chance((first - 1) / n, p, n)


def test_a_score_at_chance_is_marked(tmp_path):
    write_run(tmp_path, config("mse", "mse", "online"), [record(1.0, 0.5), record(0.25, 0.11)])
    table = build(tmp_path)
    scores = row_of(table, "SimSiam + MSE distillation").scores
    assert [score.at_chance for score in scores] == [False, True]
    assert "Chance is 10.0 %" in table.caption and "†: not above chance" in table.caption
    assert "**11.0** †" in markdown(table)


@pytest.mark.parametrize(
    ("name", "value", "fallen"),
    [("feature_std", 0.05, True), ("feature_std", 0.15, False), ("effective_rank", 1.2, True), ("effective_rank", 2.5, False)],
)
def test_collapse_is_judged_by_the_last_diagnostics_at_that_width(tmp_path, name, value, fallen):
    lines = [
        metric(name, 1, 0.0, 0.25),
        metric(name, 2, value, 0.25),
        metric(name, 3, None, 0.25),
        metric(name, 1, 9.0, 1.0),
        metric(name, 2, 9.0, 1.0),
    ]
    write_run(tmp_path, config("mse", "mse", "online"), [record(1.0, 0.5), record(0.25, 0.4)], lines)
    table = build(tmp_path)
    assert [score.collapsed for score in row_of(table, "SimSiam + MSE distillation").scores] == [False, fallen]
    assert ("‡: collapsed" in table.caption) == fallen == ("‡" in markdown(table))


def test_a_grid_of_another_name_gets_a_row_a_cell(tmp_path):
    write_run(tmp_path, config(cell="dynamic", grid="mine"), [record(1.0, 0.6)])
    write_run(tmp_path, config(cell="sandwich", grid="mine"), [record(1.0, 0.5)])
    table = grid_table(load(tmp_path), grid_of(tmp_path), "cells")
    assert [(row.labels, row.scores[0].mean, row.scores[0].best) for row in table.rows] == [
        (("dynamic",), 0.6, True),
        (("sandwich",), 0.5, False),
    ]


@pytest.mark.parametrize(("width", "name"), [(1.0, "1.0×"), (0.5, "0.5×"), (0.25, "0.25×"), (0.375, "0.375×")])
def test_width_names(width, name):
    assert width_name(width) == name


def awkward() -> Table:
    """A table whose texts mean something to each of the formats."""
    labels = ("a|b_c*d", r"50% & $x^2$ #1 {~} \end", "[bold]<tag>[/bold]")
    scores = (Score(0.5, 0.01, 3, best=True, at_chance=True, collapsed=True), None)
    return Table(
        "odd",
        "Odd_title",
        "100 % _sure_",
        (Column("A|B"), Column("C&D", "center"), Column("E", detail=True)),
        "Accuracy (%)",
        ("1.0×", "0.5×"),
        (TableRow("", labels, scores), TableRow("next", labels, scores)),
        3,
        ({"width": 1.0}, {"width": 0.5}),
    )


def test_markdown_escapes_and_has_the_same_columns_everywhere():
    lines = [line for line in markdown(awkward()).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {6}
    assert r"a\|b\_c\*d" in lines[2] and r"\<tag\>" in lines[2] and "**50.0** ± 1.0 †‡" in lines[2]


def test_csv_is_raw_and_tidy():
    rows = list(csv.DictReader(io.StringIO(comma_separated(awkward()))))
    assert len(rows) == 4
    assert rows[0]["a|b"] == "a|b_c*d" and rows[0]["width"] == "1.0"
    assert [rows[0][name] for name in ("mean", "std", "n", "best", "chance")] == ["0.5", "0.01", "3", "1", ""]
    assert (rows[1]["mean"], rows[1]["n"], rows[1]["best"]) == ("", "0", "")


def test_csv_numbers_are_those_of_the_frame(grid, whole):
    table, scores = whole, load(grid)
    rows = list(csv.DictReader(io.StringIO(comma_separated(table))))
    picked = next(row for row in rows if row["method"] == "BYOL + InfoNCE distillation" and row["width"] == "0.5")
    values = scores.loc[scores["cell"].eq("mse-infonce-momentum") & scores["width"].eq(0.5), "value"]
    assert float(picked["mean"]) == pytest.approx(np.mean(values)) and float(picked["std"]) == pytest.approx(np.std(values, ddof=1))
    assert (picked["g1"], picked["g2"], picked["g3"], picked["n"]) == ("", "1", "1", "3")


def test_latex_escaping():
    assert latex_escape(r"5% & a_b $ # {x} ~^\ ") == (
        r"5\% \& a\_b \$ \# \{x\} \textasciitilde{}\textasciicircum{}"
        r"\textbackslash{} "
    )


def test_latex_structure(whole):
    text = latex(whole)
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(rows) == 16 and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {11}
    assert body.count(r"\midrule") == 7 and r"\textbf{" in body and r"$\checkmark$" in body
    for name in ("table*", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here; apt-get install texlive-latex-base")
def test_latex_compiles(whole, tmp_path):
    (tmp_path / "main.tex").write_text(
        "\n".join(
            [
                r"\documentclass{article}",
                r"\usepackage{booktabs,amssymb,graphicx}",
                r"\begin{document}",
                latex(whole),
                latex(awkward()),
                latex(replace(whole, rows=whole.rows * 6)),
                r"\end{document}",
            ]
        ),
        encoding="utf-8",
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and "Float too large" not in done.stdout  # of 90 rows either


def test_terminal_shows_everything_as_it_is_and_drops_details_where_narrow():
    def printed(width):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(terminal(awkward(), width))
        return console.export_text()

    wide, narrow = printed(160), printed(70)
    assert "[bold]<tag>[/bold]" in wide and "50.0 ± 1.0†‡" in wide and MISSING in wide
    assert "[bold]<tag>" not in narrow and "50.0 ± 1.0†‡" in narrow


def test_a_terminal_too_narrow_for_all_widths_shows_some_and_says_so():
    names = tuple(f"{width / 20:g}×" for width in range(20, 4, -1))
    rows = (TableRow("", ("us",), (Score(0.5, 0.01, 3),) * 16),)
    table = Table("many", "Many", "Caption.", (Column("Method"),), "", names, rows, 3)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal(table, 80))
    text = console.export_text()
    assert "…" not in text and " 1×" in text and "0.25×" in text and "5 of 16 widths shown" in text


def test_a_small_table_leaves_its_caption_room():
    caption = "Trained on digits at 12 pixels, resnet_small, 16 epochs."
    table = Table("t", "T", caption, (Column("Cell"),), "", ("1×",), (TableRow("", ("a",), (Score(0.5, 0.01, 3),)),), 3)
    for width, lines in ((80, 1), (30, 2)):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(terminal(table, width))
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= width and (caption in text) == (lines == 1)


def test_the_guidelines_table_fits_eighty_characters(whole):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal(whole, 80))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text and "momentum SimCLR" in text


def test_collapse_is_marked_by_what_runs_log():
    """Every threshold is one of a diagnostic that pretraining writes, under that name."""
    cfg = from_dict(
        {
            "model": {"arch": "resnet_small", "projector_hidden": 16, "projector_out": 16, "predictor_hidden": 16},
            "data": {"size": 12},
        }
    )
    logged = Diagnostics(cfg, torch.randn(8, 3, 12, 12)).measure(Student(cfg), None)
    assert set(tables.COLLAPSE) <= {name for name, *_ in logged}


def test_rows_made_by_older_code_are_marked_and_the_intervals_with_images_are_in_the_csv(tmp_path, monkeypatch):
    for seed, version in ((0, None), (1, 2)):
        path = write_run(tmp_path / "mine", config(seed=seed, grid="mine"), [record(1.0, 0.9), record(0.5, 0.8)])
        if version:
            (path / "provenance.json").write_text(json.dumps({"format": 1, "method_version": version}))
    scores, grid = load(tmp_path), grid_of(tmp_path)
    now = grid_table(scores, grid, "cells")
    assert "§" not in markdown(now)
    monkeypatch.setattr(tables.method, "VERSION", 2)
    later = grid_table(scores, grid, "cells")
    assert later.rows[0].scores[0].older and "§" in markdown(later)
    assert "made by older code of the method, which gives other numbers (1 run by version 1; today's is 2)" in later.caption
    score = now.rows[0].scores[0]
    assert score.low_images < score.low and score.high < score.high_images
    head, line, *_ = comma_separated(now).splitlines()
    row = dict(zip(head.split(","), line.split(","), strict=True))
    assert float(row["low_images"]) == pytest.approx(score.low_images) and row["older"] == "0"


def test_widths_narrower_than_those_trained_are_marked_in_every_form_and_decide_no_claim(tmp_path):
    records = [record(1.0, 0.9), record(0.25, 0.8), record(0.125, 0.6, extrapolated=True)]
    write_run(tmp_path / "mine", config(seed=0, grid="mine"), records)
    scores, grid = load(tmp_path), grid_of(tmp_path)
    table = grid_table(scores, grid, "cells")
    assert [score.extrapolated for score in table.rows[0].scores] == [False, False, True]
    assert table.caption.count("*: narrower than the widths of pretraining.") == 1
    assert "**60.0** \\*" in markdown(table) and "80.0** \\*" not in markdown(table)
    assert "<b>60.0</b><small></small><sup>*</sup>" in html(table) and r"\textsuperscript{*}" in latex(table)
    head, *lines = comma_separated(table).splitlines()
    assert [dict(zip(head.split(","), line.split(","), strict=True))["extrapolated"] for line in lines] == ["0", "0", "1"]
    assert sorted(primary(scores, {})["width"]) == [0.25, 1.0]
    assert "narrower" not in grid_table(scores[scores["extrapolated"].eq(0)], grid, "cells").caption


def test_a_mark_that_is_neither_true_nor_false_is_a_damaged_record(tmp_path):
    write_run(tmp_path / "mine", config(seed=0, grid="mine"), [record(0.5, 0.8, extrapolated="yes")])
    with pytest.warns(UserWarning, match="extrapolated is 'yes', not true or false"):
        assert load(tmp_path).empty
