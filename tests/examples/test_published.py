"""The notebook of the published runs: its cells run, and what it shows is what they print today."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "published.ipynb"


def run(source: str, space: dict) -> tuple[str, object]:
    """What a cell prints, and the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), space)
        value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), space)
    return printed.getvalue(), value


def stored(cell: dict) -> tuple[str, dict]:
    """The text and the value that the notebook holds of a cell."""
    printed = "".join(text for output in cell["outputs"] for text in output.get("text", []))
    return printed, next((output["data"] for output in cell["outputs"] if "data" in output), {})


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_its_cells_give(monkeypatch):
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    space: dict = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        printed, value = run("".join(cell["source"]), space)
        text, shown = stored(cell)
        assert printed == text
        if "text/html" in shown:
            assert repr(value) == "".join(shown["text/plain"])
    figure = space["picture"].figure
    assert space["picture"]._repr_png_().startswith(b"\x89PNG")
    assert [axis.get_title() for axis in figure.axes] == ["SimSiam", "SimCLR", "BYOL", "momentum SimCLR"]
