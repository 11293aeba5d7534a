"""The GPU's benchmark runs from end to end without a GPU, and says what it cannot say there."""

from __future__ import annotations

import csv

import pytest
import torch

from benchmarks import gpu, recorded
from pretrain import graphs


@pytest.fixture(autouse=True)
def recorders(monkeypatch):
    monkeypatch.setitem(graphs.RECORDERS, "cpu", recorded.recorder)  # as main() sets it, and gone again afterwards


@pytest.mark.slow
def test_quick_on_a_cpu(tmp_path, capsys):
    assert gpu.main(["--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "gpu.csv").open()))
    said = {row["what"]: row for row in rows}
    for cell in gpu.CELLS:
        row = said["graphs against none, " + "-".join(word.split("=")[1] for word in cell)]
        assert row["met"] == "True" and float(row["ours"]) == 0.0
    assert said["pytest -m gpu"]["met"] == "" and float(said["fp32, graphs"]["ours"]) > 0
    assert "not as it should be" not in capsys.readouterr().out


def test_without_a_gpu_it_says_what_to_set(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "error: there is no GPU here; set --quick --device cpu to see that everything runs\n"


def test_what_there_is_no_time_for_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr(gpu, "trainer", None)  # nothing is built
    rows = gpu.speed("cuda:0", True, 16, gpu.Clock(50))
    assert [row.note for row in rows] == ["no time left"] * len(gpu.WAYS)
