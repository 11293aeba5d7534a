"""Every benchmark runs, in its quick form, and gives a table that can be read."""

import contextlib
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


# Processes of their own, and the same code as without digits.
SLOWER = ("step", "step-digits", "evaluation-digits")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOWER else n for n in run.ALL])
def test_quick(name, tmp_path, capsys):
    run.main(["--quick", "--only", name, "--out", str(tmp_path), "--name", "here"])
    rows = list(csv.DictReader((tmp_path / "here" / "table.csv").read_text().splitlines()))
    assert rows
    for row in rows:
        assert float(row["ours"]) >= 0 and math.isfinite(float(row["ours"])), row
        assert row["met"] == "", row
    text = (tmp_path / "here" / "table.md").read_text()
    assert all(row["what"] in text for row in rows)
    assert "targets met" in capsys.readouterr().out


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


def test_the_step_and_its_parts_in_this_process(monkeypatch):
    """The quick step without other processes: what each of them does, then the parts."""

    @contextlib.contextmanager
    def here(preset, quick, device, name, threads, clock):
        answers = {"step": 0.5, "peak": 2**20 * (1 if "reference" in name else 2), "work": (4e9, 16)}
        yield answers.get

    monkeypatch.setattr(step, "contender", here)
    rows = {row.what: row for row in step.rows("digits", quick=True)}
    assert rows["step, fp32, with the regularizer"].ours == 32 and rows["step, fp32, with the regularizer"].ratio == 1
    assert rows["work of a step"].ours == 4
    assert rows["group penalty"].ratio >= 0 and rows["EMA of the teacher"].ratio > 0
    assert any(name.startswith("diagnostics") for name in rows)


def test_turns_are_taken():
    calls = []
    spent = measure.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, "turns")
    assert "".join(calls) == "ababab" and set(spent) == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aten::mkldnn_convolution", True),
        ("aten::convolution_backward", True),
        ("aten::addmm", True),
        ("aten::mm", True),
        ("aten::bmm", True),
        ("aten::_foreach_lerp_", False),
        ("aten::native_batch_norm", False),
        ("aten::copy_", False),
        ("aten::addcmul_", False),
        ("aten::sum", False),
        ("autograd::engine::evaluate_function: ConvolutionBackward0", False),
    ],
)
def test_what_counts_as_a_product(name, expected):
    assert step.is_product(name) == expected
