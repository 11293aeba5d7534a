"""The benchmark of growth: its stand-ins answer as Slurm does, its runs are finished ones, and its rows tell linear from worse."""

from __future__ import annotations

import csv
import subprocess

import pytest

from benchmarks import scale


def test_rows_compare_with_linear_growth():
    rows = scale.rows(
        [
            {"cells": 100.0, "plan": 1.0, "report": 5.0},
            {"cells": 1000.0, "plan": 10.0, "report": 5.5},
            {"cells": 10_000.0, "plan": 1000.0, "report": 10.0},
        ]
    )
    assert [(row.what, row.met) for row in rows] == [
        ("plan: 100 cells", None),
        ("plan: 1,000 cells", True),
        ("plan: 10,000 cells", False),
        ("report: 100 cells", None),
        ("report: 1,000 cells", True),
        ("report: 10,000 cells", True),
    ]
    assert rows[2].ratio == pytest.approx(10.0) and rows[2].note == "110 ms for each further cell, 11.00× of before"
    assert scale.picture([{"cells": 100.0, "plan": 1.0}, {"cells": 200.0, "plan": 2.0}]).axes[0].get_xscale() == "log"


def test_the_stand_ins_queue_what_they_are_given(tmp_path):
    def asked(*words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    with scale.stand_in_for_slurm(tmp_path) as queue:
        assert asked("squeue", "-h") == "" and asked("sbatch", "--test-only", "--array=0-3%2", "x.sh") == ""
        assert [asked("sbatch", f"--array={spec}", "x.sh") for spec in ("0-2%4", "5,7-8%1")] == ["1\n", "2\n"]
        assert asked("squeue", "-h").splitlines() == [
            f"{task}|PENDING|Priority|" for task in ("1_0", "1_1", "1_2", "2_5", "2_7", "2_8")
        ]
        scale.empty(queue)
        assert asked("squeue", "-h") == "" and asked("sbatch", "--array=0", "x.sh") == "3\n"
        assert "MaxArraySize" in asked("scontrol", "show", "config")


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    assert scale.main(["--quick", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "scale.csv").open()))
    assert {row["what"].partition(":")[0] for row in rows} == {
        "plan",
        "submit",
        "status, all waiting",
        "status, all but 1 % done",
        "resume, all but 1 % done",
        "report",
        "report again",
    }
    assert all(float(row["ours"]) > 0 for row in rows) and (tmp_path / "scale.png").stat().st_size > 10_000
