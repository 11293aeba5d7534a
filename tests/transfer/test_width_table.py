"""The printed table of scores by width."""

from __future__ import annotations

import pytest

from transfer.width_table import milliseconds, show


def record(width, metric, value, **more):
    return {"width": width, "metric": metric, "value": value, "flops": 5e6 * width, "parameters": int(1e4 * width), **more}


def printed(records, capsys, *arguments):
    show(records, lambda r: r["metric"], *arguments)
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")] for line in lines if line[0] in "┃│"]


def test_a_row_a_width_and_a_column_a_score(capsys):
    records = [record(1.0, "knn", 0.953), record(0.5, "knn", None), record(1.0, "linear", 0.99, latency_ms=1.234)]
    assert printed(records, capsys) == [
        ["width", "knn", "linear", "MFLOPs", "parameters", "ms per image"],
        ["1", "95.3", "99.0", "5.0", "10,000", "1.23"],
        ["0.5", "–", "–", "2.5", "5,000", "–"],
    ]


def test_large_networks_are_counted_in_giga(capsys):
    records = [record(1.0, "AP", 0.4) | {"flops": 8.24e9}, record(0.25, "AP", 0.3) | {"flops": 6e8}]
    assert printed(records, capsys, "box, width") == [
        ["box, width", "AP", "GFLOPs", "parameters"],
        ["1", "40.0", "8.2", "10,000"],
        ["0.25", "30.0", "0.6", "2,500"],
    ]


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.456, "0.46"), (12.34, "12.3"), (1234.5, "1,234")])
def test_latency_has_three_digits(value, text):
    assert milliseconds(value) == text
