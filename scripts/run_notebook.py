"""Run a notebook's cells in this Python and store what they print and show, without Jupyter.

python scripts/run_notebook.py examples/published.ipynb
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def outputs(source: str, space: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What a code cell prints, and the value of its last expression, as a notebook holds them. ``space``: the names so far."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), space)
        value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), space)
    made: list[dict[str, Any]] = []
    if printed.getvalue():
        made.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)})
    if value is not None:
        made.append({"output_type": "execute_result", "data": _shown(value), "metadata": {}, "execution_count": count})
    return made


def _shown(value: Any) -> dict[str, Any]:
    if hasattr(value, "_repr_png_"):
        return {"image/png": base64.b64encode(value._repr_png_()).decode(), "text/plain": [f"<{type(value).__name__}>"]}
    plain = {"text/plain": repr(value).splitlines(keepends=True)}
    return plain | ({"text/html": value._repr_html_().splitlines(keepends=True)} if hasattr(value, "_repr_html_") else {})


def executed(book: dict[str, Any], space: dict[str, Any] | None = None) -> dict[str, Any]:
    """The notebook with what its code cells give now; ``space`` takes the names that they define."""
    space, cells, count = {} if space is None else space, [], 0
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell = {**cell, "execution_count": count, "outputs": outputs("".join(cell["source"]), space, count)}
        cells.append(cell)
    return {**book, "cells": cells}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name).resolve()  # cells may change the working directory
        made = executed(json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
