"""The notebook of the published runs: its cells run, and what it shows is what they give today."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts.run_notebook import executed, outputs

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "published.ipynb"


def test_outputs_are_what_a_cell_prints_and_the_value_of_its_last_expression():
    space: dict = {}
    assert outputs("a = 3\nprint(a)", space, 1) == [{"output_type": "stream", "name": "stdout", "text": ["3\n"]}]
    [value] = outputs("a + 1", space, 2)
    assert (value["data"], value["execution_count"]) == ({"text/plain": ["4"]}, 2)


def texts(book: dict) -> list:
    """All that a notebook shows but for pictures, whose bytes depend on fonts."""
    return [
        [{kind: said for kind, said in output.get("data", output).items() if kind != "image/png"} for output in cell["outputs"]]
        for cell in book["cells"]
        if cell["cell_type"] == "code"
    ]


@pytest.mark.slow
def test_the_notebook_shows_what_its_cells_give(monkeypatch):
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    book, space = json.loads(NOTEBOOK.read_text(encoding="utf-8")), {}
    again = executed(book, space)
    assert texts(again) == texts(book), "run python scripts/run_notebook.py examples/published.ipynb"
    assert space["picture"]._repr_png_().startswith(b"\x89PNG")
    assert [axis.get_title() for axis in space["picture"].figure.axes] == ["SimSiam", "SimCLR", "BYOL", "momentum SimCLR"]
