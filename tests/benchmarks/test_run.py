"""Every benchmark runs, in its quick form, and gives a table that can be read."""

import csv
import math

import pytest
import torch

from benchmarks import measure, run, step
from benchmarks.measure import Row, at_most, faster, markdown, table_csv


@pytest.fixture(autouse=True)
def one_thread():
    with measure.threads(1):
        yield
    measure.use_clock("wall")


SLOWER = ("step-digits", "evaluation-digits")  # the same code as without digits


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOWER else n for n in run.ALL])
def test_quick(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(step, "memory", lambda *args: [])  # in processes of their own: below
    run.main(["--quick", "--only", name, "--out", str(tmp_path), "--name", "here"])
    rows = list(csv.DictReader((tmp_path / "here" / "table.csv").open()))
    assert rows
    for row in rows:
        assert float(row["ours"]) >= 0 and math.isfinite(float(row["ours"])), row
        assert row["met"] == "", row
    text = (tmp_path / "here" / "table.md").read_text()
    assert all(row["what"] in text for row in rows)
    assert "targets met" in capsys.readouterr().out


@pytest.mark.slow
def test_memory_of_fresh_processes():
    rows = step.memory("cifar", ["fp32 group"], True, "cpu")
    assert len(rows) == 1 and rows[0].ours > 0 and rows[0].reference > 0


def test_rows_say_whether_a_target_is_met():
    assert faster("p", "w", "u", 6.0, 3.0, 1.5).met and faster("p", "w", "u", 6.0, 3.0).met is None
    assert not faster("p", "w", "u", 4.0, 3.0, 1.5).met
    assert at_most("p", "w", "u", 1.0, 50.0, 0.02, percent=True).met
    assert not at_most("p", "w", "u", 1.2, 1.0, 1.1).met


def test_tables():
    rows = [Row("A", "one", "ms", 1234.5, 2.0, 0.021, "≤ 2 %", False), Row("A", "two", "s", 0.0123), Row("B", "three", "s", 1.0)]
    cells = [[cell.strip() for cell in line.split("|")[1:3]] for line in markdown(rows).splitlines()[2:]]
    assert cells == [["**A**", ""], ["one", "1,234"], ["two", "0.0123"], ["**B**", ""], ["three", "1"]]
    assert "2.1 % | ≤ 2 % | NO" in markdown(rows)
    assert next(csv.DictReader(table_csv(rows).splitlines()))["ratio"] == "0.021"


def test_the_processors_clock_does_not_count_waiting():
    measure.use_clock("cpu")
    assert measure.seconds(lambda: torch.cuda.is_available() or __import__("time").sleep(0.2)) < 0.1


def test_turns_are_taken():
    calls = []
    spent = measure.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, "turns")
    assert "".join(calls) == "ababab" and set(spent) == {"a", "b"}


@pytest.mark.parametrize(("name", "expected"), [
    ("aten::mkldnn_convolution", True), ("aten::convolution_backward", True), ("aten::addmm", True), ("aten::mm", True),
    ("aten::bmm", True), ("aten::_foreach_lerp_", False), ("aten::native_batch_norm", False), ("aten::copy_", False),
    ("aten::addcmul_", False), ("aten::sum", False), ("autograd::engine::evaluate_function: ConvolutionBackward0", False)])
def test_what_counts_as_a_product(name, expected):
    assert step.is_product(name) == expected
