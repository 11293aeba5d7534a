"""A grid file of one's own: what it makes, and every mistake in it as one line."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from ablations import grid, gridfile
from ablations.describe import manifest, merge_into, write_into
from rundir.errors import UserError
from rundir.manifest import read

MINE = """
title: Mine
columns: [Loss, Teacher]
words:
  base: {mse: MSE}
  name: {"{base}-{teacher}": {mse-online: SimSiam, infonce-online: SimCLR}}
cells:
  - name: "{base}"
    factors: {base: [mse, infonce], teacher: [online]}
    set: {objective.base_loss: "{base}", objective.teacher: "{teacher}"}
    row: {section: "{name}", labels: ["{base}", "{objective.teacher}"]}
  - name: "alone-{width}"
    factors: {width: $widths}
    set: {widths.min: "{width}", widths.max: "{width}", objective.distill_loss: none}
    row: {section: alone, labels: [alone, ""], width: "{width}"}
claims:
  - {id: better, statement: It is., measure: score, better: [infonce], than: [mse], at: all, minimum: 0,
     command: run}
"""


def write(folder: Path, change=None, name="mine.yaml") -> str:
    content = yaml.safe_load(MINE)
    if change:
        change(content)
    (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
    return str(folder / name)


def described(path: str, widths=(1.0, 0.5), overrides=()):
    return manifest(path, "digits", list(widths), overrides, "python ablations/run.py")


def test_a_file_of_ones_own_is_a_grid(tmp_path):
    path = write(tmp_path)
    runs = grid.expand(path, "digits", [], [100], [1.0, 0.5], [], tmp_path / "runs")
    assert [run.cell for run in runs] == ["mse", "infonce", "alone-1.0", "alone-0.5"]
    assert {run.directory.parent for run in runs} == {tmp_path / "runs" / "mine"}
    assert {run.cfg.experiment.grid for run in runs} == {"mine"} and runs[1].cfg.experiment.cell == "infonce"
    made = described(path)
    assert [(row.section, row.labels, row.cells) for row in made.rows] == [
        ("SimSiam", ("MSE", "{objective.teacher}"), {"mse": None}),
        ("SimCLR", ("infonce", "{objective.teacher}"), {"infonce": None}),
        ("alone", ("alone", ""), {"alone-1.0": 1.0, "alone-0.5": 0.5}),
    ]
    assert (made.grid, made.title, made.columns, made.profile) == ("mine", "Mine", ("Loss", "Teacher"), "digits")
    assert made.claims[0]["better"] == ["infonce"] and made.setting.startswith("digits at 12 pixels")


def test_without_columns_the_table_has_a_row_per_cell_and_its_factors_as_columns(tmp_path):
    (tmp_path / "plain.yaml").write_text("""
cells:
  - {name: "lr{lr}-b{b}", factors: {lr: [0.1, 0.2], b: [32]}, set: {optimizer.lr: "{lr}", optimizer.batch_size: "{b}"}}
  - {name: default}
""")
    made = described(str(tmp_path / "plain.yaml"))
    assert (made.title, made.columns) == ("plain", ("Cell", "lr", "b"))
    assert [row.labels for row in made.rows] == [("lr0.1-b32", "0.1", "32"), ("lr0.2-b32", "0.2", "32"), ("default", "", "")]


def test_a_list_of_factors_is_a_list_of_combinations(tmp_path):
    def change(content):
        content["cells"][0]["factors"] = [{"base": "infonce", "teacher": "online"}, {"base": "mse", "teacher": "online"}]

    runs = grid.expand(write(tmp_path, change), "digits", [], [100], [1.0, 0.5], [], tmp_path)
    assert [run.cell for run in runs][:2] == ["infonce", "mse"]


def entry(place=0, **changes):
    return lambda content: content["cells"][place].update(changes)


def row(**changes):
    return lambda content: content["cells"][0]["row"].update(changes)


FAULTS = {
    "unknown key": (lambda c: c.update(colums=["a"]), "unknown key colums; did you mean columns"),
    "unknown key of a cell": (entry(factor={}), "unknown key factor; did you mean factors"),
    "unknown key of a row": (row(label=[]), r"unknown key row\.label; did you mean labels"),
    "no cells": (lambda c: c.pop("cells"), "no cells"),
    "empty cells": (lambda c: c.update(cells=[]), "no cells"),
    "no name": (lambda c: c["cells"][0].pop("name"), "entry 1 of cells must be a mapping with a name"),
    "name": (entry(name="{bas}"), r"name: nothing gives the placeholder \{bas\}; did you mean \{base\}"),
    "unsafe name": (entry(name="../{base}"), "cell name '../mse'"),
    "brace": (entry(name="{base"), "a brace without its partner"),
    "setting": (entry(set={"objective.base_loss": "{los}"}), r"nothing gives the placeholder \{los\}"),
    "unquoted": (entry(set={"objective.base_loss": {"base": None}}), "put a placeholder in quotes"),
    "dollar": (entry(set={"widths.fixed": "$width"}), r"use \$widths"),
    "label": (row(labels=["{lss}", ""]), r"row.labels: nothing gives the placeholder \{lss\}"),
    "label setting": (row(labels=["{objective.hed}", ""]), r"did you mean \{objective.head\}"),
    "labels": (row(labels=["a"]), "1 texts for 2 columns; set one for each of Loss, Teacher"),
    "no labels": (lambda c: c["cells"][0].pop("row"), "row.labels is missing"),
    "columns": (lambda c: c.pop("columns"), "the file has no columns"),
    "details": (lambda c: c.update(details=["Los"]), "Los is no column; did you mean Loss"),
    "same row": (row(section="x", labels=["a", "b"]), "cells mse and infonce have the same section and labels"),
    "duplicate": (entry(name="same"), "cell same is there twice"),
    "width": (lambda c: c["cells"][1]["row"].update(width=2), "row.width is 2, not a width"),
    "width word": (lambda c: c["cells"][1]["row"].update(width="{base}"), r"row.width: nothing gives the placeholder \{base\}"),
    "words": (lambda c: c["words"].update(bse={"mse": "M"}), "words.bse: no cell has a factor bse; did you mean base"),
    "derived words": (lambda c: c["words"]["name"]["{base}-{teacher}"].pop("mse-online"), "words.name has no words for mse-online"),
    "words of no cell": (lambda c: c["words"]["base"].update(mze="M"), "words.base has words for mze, .* did you mean mse"),
    "derived words of no cell": (
        lambda c: c["words"]["name"]["{base}-{teacher}"].update({"mse-offline": "x"}),
        "words.name has words for mse-offline, which no cell has; did you mean mse-online",
    ),
    "words of nothing": (lambda c: c["words"].update(base=3), "words.base must be"),
    "by": (entry(by={"bas": {}}), "by.bas: no such factor; did you mean base"),
    "by value": (entry(by={"base": {"mze": {}}}), "by.base: mze is not a value of it; did you mean mse"),
    "factor": (entry(factors={"base": "mse"}), "factor base must be a list"),
    "factors": (entry(factors=[{"base": "mse"}, {"teacher": "online"}]), "all have the same factors"),
    "factor value": (entry(factors={"base": [None], "teacher": ["online"]}), "factor base has the value None"),
    "too many": (entry(factors={name: list(range(100)) for name in ("base", "teacher", "c")}), "1,000,000 combinations"),
    "needs": (entry(needs="infonc"), "needs is infonc, which is no cell; did you mean infonce"),
    "circle": (lambda c: (c["cells"][0].update(needs="alone-1.0"), c["cells"][1].update(needs="mse")), "in a circle"),
    "flops_of": (entry(flops_of="us3l"), "flops_of is us3l, which is no cell"),
    "against": (row(against="us3l"), "row.against is us3l, which is no cell"),
    "where": (entry(where=["batchnorm"]), "batchnorm is not known; did you mean batch_norm"),
    "config key": (entry(set={"objective.base_los": "{base}"}), "did you mean objective.base_loss"),
    "config value": (entry(set={"objective.base_loss": "l1"}), "base_loss"),
    "kind": (lambda c: c.update(cost="maybe"), "cost is 'maybe', but must be true or false"),
    "claims": (lambda c: c.update(claims=["a"]), "claim number 1 is 'a', not a mapping"),
    "claim of a grid": (lambda c: c["claims"][0].update(grid="paper"), "claim better: unknown key grid"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_mistake_is_one_line_that_names_the_file(tmp_path, what):
    change, message = FAULTS[what]
    path = write(tmp_path, change)
    with pytest.raises(UserError, match=message) as error:
        grid.expand(path, "digits", [], [100], [1.0, 0.5], [], tmp_path / "runs")
    assert "\n" not in str(error.value)
    assert "mine.yaml" in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.yaml", None, "no grid file"),
        ("mine.yaml", "a: [", "is not YAML"),
        ("mine.yaml", "- a", "not a mapping"),
        ("my grid.yaml", "cells: [{name: a}]", "named after its file"),
        ("mine.yaml", "cells: [{name: a}]\ncells: []", "twice"),
    ],
)
def test_a_file_that_is_no_grid_is_refused(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        gridfile.load(str(tmp_path / name))


def test_the_name_of_a_file_without_its_ending_says_how_to_give_it(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"set --grid mine\.yaml"):
        gridfile.load("mine")
    for name, meant in (
        ("mine.yml", "mine.yaml"),
        ("guidelines.yaml", "guidelines"),
        (f"{tmp_path}/mne.yaml", f"{tmp_path}/mine.yaml"),
    ):
        with pytest.raises(UserError, match=f"no grid file .*; did you mean {re.escape(meant)}\\?"):
            gridfile.load(name)


def test_launches_into_one_folder_add_up_and_another_grid_is_refused(tmp_path):
    folder, path = tmp_path / "runs" / "mine", write(tmp_path)
    for widths in ((1.0, 0.5), (1.0, 0.25)):
        made, note = merge_into(folder, described(path, widths))
        assert note == ""
        write_into(folder, made)
    assert read(folder).rows[-1].cells == {"alone-1.0": 1.0, "alone-0.5": 0.5, "alone-0.25": 0.25}
    before = (folder / "grid.json").stat().st_mtime_ns
    write_into(folder, made)
    assert (folder / "grid.json").stat().st_mtime_ns == before  # the same is not written again
    write(
        tmp_path,
        lambda c: (
            c["cells"][0]["factors"].update(base=["mse"]),
            c.pop("claims"),
            c.pop("words"),
            c["cells"][0]["row"].update(section="SimSiam", labels=["MSE", "{objective.teacher}"]),
        ),
    )
    made, note = merge_into(folder, described(path))
    assert "had the cells infonce, which are not in the grid file any more" in note and "infonce" not in made.cells
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.yaml").write_text("cells: [{name: foreign}]")
    with pytest.raises(UserError, match="is of another grid, 'Mine' with the cells mse"):
        merge_into(folder, described(str(tmp_path / "b" / "mine.yaml")))
    (folder / "grid.json").write_text("{")
    made, note = merge_into(folder, described(path))
    assert "it is written anew" in note and made == described(path)


def test_renaming_a_cell_keeps_the_rows(tmp_path):
    before = described(write(tmp_path))
    with pytest.raises(UserError, match=r"claim better: better names infonce, and no cell .* did you mean other-infonce"):
        described(write(tmp_path, entry(name="other-{base}")))
    after = described(
        write(
            tmp_path, lambda c: (entry(name="other-{base}")(c), c["claims"][0].update(better=["other-infonce"], than=["other-mse"]))
        )
    )
    after = dataclasses.replace(after, claims=before.claims)
    assert [dataclasses.replace(r, cells={}) for r in after.rows] == [dataclasses.replace(r, cells={}) for r in before.rows]
    assert after.rows[0].cells == {"other-mse": None}
