"""grid.json: what is written comes back, and what is not as documented is one clear line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rundir.files import Damaged
from rundir.manifest import GridManifest, GridRow, merged, read, write
from rundir.setting import as_now, in_words

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
WIDTH = st.none() | st.floats(0.1, 1.0)


def manifest(*rows, **changes) -> GridManifest:
    return GridManifest("mine", "Mine", ("Loss",), rows or (GridRow("s", ("MSE",), "MSE", {"a": None}),), **changes)


@given(st.lists(st.tuples(TEXT, TEXT, WIDTH), max_size=5), TEXT, st.booleans())
def test_what_is_written_comes_back(tmp_path_factory, rows, title, cost):
    folder = tmp_path_factory.mktemp("grid")
    made = GridManifest(
        "mine",
        title,
        ("Loss", "Head"),
        tuple(
            GridRow(section, (section, label), label, {f"cell{place}": width}) for place, (section, label, width) in enumerate(rows)
        ),
        cost=cost,
        claims=({"id": "a", "at": [0.5, 1]},),
        command="python x",
    )
    write(folder, made)
    assert read(folder) == made


def test_no_file_is_no_manifest(tmp_path):
    assert read(tmp_path) is None


DAMAGE = {
    "format": (lambda c: c.update(format=2), "format 2, this version reads format 1"),
    "title": (lambda c: c.update(title=3), "title is 3, not text"),
    "columns": (lambda c: c.update(columns="Loss"), "columns is 'Loss', not a list"),
    "labels": (lambda c: c["rows"][0].update(labels=["a", "b"]), "row 1: 2 labels for 1 columns"),
    "a label": (lambda c: c["rows"][0].update(labels=[1]), "row 1: labels is not a list of strings"),
    "cells": (lambda c: c["rows"][0].update(cells=["a"]), r"row 1: cells is \['a'\], not a mapping"),
    "width": (lambda c: c["rows"][0].update(cells={"a": 2}), "row 1: the width of a is 2"),
    "row": (lambda c: c.update(rows=[None]), "row 1 is None, not a mapping"),
    "twice": (lambda c: c.update(rows=c["rows"] * 2), "cell a is in two rows"),
    "claims": (lambda c: c.update(claims=[1]), "claims is not a list of mappings"),
    "cost": (lambda c: c.update(cost="yes"), "cost is 'yes', not true or false"),
    "missing": (lambda c: c.pop("rows"), "rows is None, not a list"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_line_that_says_what_and_what_to_do(tmp_path, what):
    change, message = DAMAGE[what]
    write(tmp_path, manifest())
    content = json.loads((tmp_path / "grid.json").read_text())
    change(content)
    (tmp_path / "grid.json").write_text(json.dumps(content))
    with pytest.raises(Damaged, match=message) as error:
        read(tmp_path)
    assert "grid.json" in str(error.value) and "start the grid again" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 10**5])
def test_a_file_that_is_no_manifest_is_damaged(tmp_path, text):
    (tmp_path / "grid.json").write_text(text)
    with pytest.raises(Damaged):
        read(tmp_path)


def test_another_launch_adds_its_widths_to_the_rows_and_nothing_else():
    def launched(*widths, title):
        return manifest(
            GridRow("s", ("all",), "all", {"us3l": None}), GridRow("s", ("alone",), "", {f"w{w}": w for w in widths}), profile=title
        )

    both = merged(launched(1.0, 0.5, title="old"), launched(0.75, 0.5, title="new"))
    assert both.profile == "new" and both.rows[0].cells == {"us3l": None}
    assert both.rows[1].cells == {"w1.0": 1.0, "w0.75": 0.75, "w0.5": 0.5}
    renamed = manifest(GridRow("s", ("all",), "all", {"other": None}))
    assert merged(launched(1.0, title=""), renamed) == renamed and merged(None, renamed) == renamed


def test_a_setting_of_an_earlier_version_reads_as_it_is_written_now():
    now = in_words("scans", 5000, 32, "resnet18_cifar", 400, 512)
    assert now == "scans (5,000 images) at 32 pixels, resnet18_cifar, 400 epochs, batch 512"
    assert as_now("folder (5000 images) at 32 pixels, resnet18_cifar, 400 epochs, batch 512", "scans") == now
    assert as_now("digits at 12 pixels, vit, 1 epochs, batch 8", "digits") == in_words("digits", None, 12, "vit", 1, 8)
    assert in_words("digits", None, 12, "vit", 1, 8).endswith("vit, 1 epoch, batch 8")
    assert as_now(now, "scans") == now and as_now("digits at 12 pixels, vit, 9 epochs, batch 1024", "digits").endswith("batch 1024")
