"""What rundir/schema.py says of files is what is documented, and what is written."""

from __future__ import annotations

import json
import re

import pytest

from rundir import schema
from rundir.commit import ROOT
from rundir.directory import RunDirectory
from rundir.reading import read_records, read_run
from rundir.records import DEFAULTS, MEASURED
from tests.results.synthetic import record

TYPES = {schema.File.STATUS: schema.Status, schema.File.RESULT: schema.Score, schema.File.PROVENANCE: schema.Provenance}


@pytest.mark.parametrize("file", TYPES)
def test_the_documentation_names_the_entries(file):
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+)`", text))
    assert set(TYPES[file].__annotations__) - {"format"} <= named


def test_defaults_and_what_is_measured_are_entries_of_a_score():
    assert {*DEFAULTS, *MEASURED} <= set(schema.Score.__annotations__)


def test_only_these_entries_are_written(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.set_status(schema.State.DONE)
    run.add_provenance(started="x")
    run.add_stretch("evaluation", {"device": "cpu"}, [{"cpu": "a", "capability": "b", "threads": 1, "limits": {}}])
    for file in (schema.File.STATUS, schema.File.PROVENANCE):
        assert set(json.loads((run.path / file).read_text())) <= set(TYPES[file].__annotations__)


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"task": "classification"}, {"score": "top1", "model": "", "initial": "", "label_fraction": 1.0}),
        ({"task": "detection"}, {"score": "", "model": "", "initial": "pretrained", "label_fraction": 1.0}),
        ({"task": "detection", "initial": "random", "model": "x"}, {"score": "", "model": "x", "initial": "random"}),
    ],
)
def test_what_a_record_leaves_out_means_what_its_task_says(tmp_path, about, expected):
    bare = {name: entry for name, entry in record(1.0, 0.5).items() if name not in DEFAULTS} | about
    (tmp_path / schema.File.RESULT).write_text(json.dumps({"format": schema.FORMAT, "records": [bare]}))
    [row] = read_records(str(tmp_path), 100)
    assert {name: row[name] for name in expected} == expected


def test_a_fine_tuning_is_no_row(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / schema.File.CONFIG).write_text("format: 1\ntask: detection\n")
    assert read_run(str(tmp_path / "a")) is None
