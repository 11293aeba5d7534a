"""``python results/report.py --runs DIR``: all tables and pictures of the runs under DIR."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, results/ is on the path, not the directory above it
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import matplotlib
import pandas as pd
import rich.console
from matplotlib.figure import Figure

from results import frame, grid_plots, grid_tables, plots, render, tables

FORMAT = 1
MANIFEST = "report.json"
SCORED = ["grid", "setting", "dataset", "metric", "score", "label_fraction"]  # scores of one table or picture have these equal
RENDERERS: dict[str, Callable[[render.Table], str]] = {"md": render.markdown, "csv": render.comma_separated,
                                                       "tex": render.latex}


@dataclass
class Report:
    """What was written: paths by file name, why pictures were skipped by their name, main table first."""

    out: Path
    paths: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    tables: list[render.Table] = field(default_factory=list)


def report(runs: Path, out: Path | None = None) -> dict[str, Path]:
    """Write all tables and pictures of a grid's directory; the path of each file by its name.

    ``out`` defaults to report/ in the grid's directory. Each file is replaced in one move, and what an earlier report
    wrote there and this one does not is removed. Raises :class:`results.frame.InputError`.
    """
    return build(runs, out).paths


def build(runs: Path, out: Path | None = None) -> Report:
    """:func:`report` with the tables themselves and the reasons for pictures that were skipped."""
    runs = Path(runs)
    known = frame.load_runs(runs)
    if known.empty:
        raise frame.InputError(f"{runs} holds no runs (directories with a config.yaml); give the directory of a grid")
    result = Report(Path(out) if out is not None else _default_out(runs))
    counted = frame.current(known)
    metrics = frame.load_metrics(runs)
    metrics = metrics[metrics["run"].isin(counted["run"])]
    scores = frame.load(runs)
    scores = tables.mark_collapse(scores[scores["run"].isin(counted["run"])], metrics)
    texts, pictures = _tables(scores, counted, result), _pictures(scores, metrics, counted)
    try:
        _write(result, texts, pictures)
    except FileExistsError:
        raise frame.InputError(f"{result.out} is a file; give another directory to write the report to") from None
    return result


def show(result: Report, console: rich.console.Console | None = None) -> None:
    """Print the main table, what was skipped and where the files are."""
    console = console or rich.console.Console()
    for table in result.tables[:1]:
        console.print(render.terminal(table, console.width))
    if not result.tables:
        console.print("no scores yet: no run has a result.json")
    for name, reason in result.skipped.items():
        console.print(f"skipped {name}: {reason}", markup=False, highlight=False)
    console.print(f"in {result.out}:", markup=False, highlight=False)
    for stem, names in _by_stem(result.paths).items():
        console.print(f"  {stem}: {', '.join(names)}", markup=False, highlight=False)


def _tables(scores: pd.DataFrame, runs: pd.DataFrame, result: Report) -> dict[str, str]:
    """File name -> content. The table with most scores is the main one; linear evaluation before k-NN."""
    made = []
    preference = list(tables.METRICS)
    for name, part in _parts(scores, SCORED, ["dataset", "metric"]):
        first = part.iloc[0]
        own = runs[runs["grid"].eq(first["grid"]) & runs["setting"].eq(first["setting"])]
        make = grid_tables.TABLES.get(first["grid"], tables.by_cell)
        metric = first["metric"]
        rank = preference.index(metric) if metric in preference else len(preference)
        made.append((-len(part), rank, make(part, own, f"table-{name}")))
    made.sort(key=lambda entry: entry[:2])
    result.tables = [table for *_, table in made]
    return {f"{table.name}.{suffix}": renderer(table)
            for table in result.tables for suffix, renderer in RENDERERS.items()}


def _pictures(scores: pd.DataFrame, metrics: pd.DataFrame, runs: pd.DataFrame) -> dict[str, partial[Figure]]:
    """Name -> what draws it.

    The pictures of the guidelines tell runs apart by method and kind of training; where a grid varies something else they would
    mix its cells, and its own pictures follow the rows of its table instead.
    """
    todo: dict[str, partial[Figure]] = {}
    for name, part in _parts(scores, SCORED, ["dataset", "metric"]) or [("", scores)]:
        first = part.iloc[0] if len(part) else None
        if first is not None and first["grid"] in grid_tables.ROWS:
            own = runs[runs["grid"].eq(first["grid"]) & runs["setting"].eq(first["setting"])]
            todo[_join("accuracy-width", name)] = partial(grid_plots.accuracy_by_width, part, own)
            todo[_join("accuracy-cost", name)] = partial(grid_plots.accuracy_by_cost, part, own)
            continue
        todo[_join("accuracy-width", name)] = partial(plots.accuracy_by_width, part)
        todo[_join("accuracy-flops", name)] = partial(plots.accuracy_by_flops, part)
    if len(runs) and runs["grid"].isin(list(grid_tables.ROWS)).all():
        return todo
    for name, part in _parts(metrics, ["grid", "setting"], []) or [("", metrics)]:
        if len(part) and part["grid"].iloc[0] in grid_tables.ROWS:
            continue
        todo[_join("training-base-loss", name)] = partial(plots.training_base, part)
        todo[_join("training-distillation-loss", name)] = partial(plots.training_distillation, part)
        todo[_join("drift", name)] = partial(plots.drift, part)
        widths = part.loc[part["name"].eq("effective_rank"), "width"].dropna()
        for width in sorted({widths.min(), widths.max()}) if len(widths) else [1.0]:
            todo[_join(f"collapse-width-{width:g}", name)] = partial(plots.collapse, part, width)
    return todo


def _parts(rows: pd.DataFrame, by: Sequence[str], keep: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """``rows`` cut by the columns ``by``, each with a file name made of ``keep`` and of what tells the parts apart."""
    said = [name for name in by if name in keep or rows[name].nunique() > 1]
    groups = rows.groupby(list(by), sort=True) if len(rows) else []
    return [("-".join(_slug(str(part[name].iloc[0])) for name in said), part) for _, part in groups]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-")


def _join(*parts: str) -> str:
    return "-".join(filter(None, parts))


def _write(result: Report, texts: dict[str, str], pictures: dict[str, partial[Figure]]) -> None:
    """Everything is made beside its place first: a report that fails half-way leaves the old one as it was.

    Drawing takes most of the time, so a picture whose numbers and code are those of the earlier report is kept.
    """
    result.out.mkdir(parents=True, exist_ok=True)
    earlier, drawn, kept = _earlier(result.out), {}, []
    with tempfile.TemporaryDirectory(prefix=".report-", dir=result.out) as made:
        for name, text in texts.items():
            (Path(made) / name).write_text(text, encoding="utf-8")
        for name, draw in pictures.items():
            drawn[name], files = _fingerprint(draw), plots.files(Path(name))
            if earlier.get("pictures", {}).get(name) == drawn[name] and all((result.out / f).is_file() for f in files):
                kept += map(str, files)
                continue
            try:
                plots.save(draw(), Path(made) / name)
            except plots.NothingToPlot as reason:
                result.skipped[name] = str(reason)
        fresh = [path.name for path in Path(made).iterdir()]
        names = sorted([*fresh, *kept])
        manifest = {"format": FORMAT, "files": names, "skipped": result.skipped, "pictures": drawn}
        (Path(made) / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for name in (*fresh, MANIFEST):
            os.replace(Path(made) / name, result.out / name)
    for name in set(earlier.get("files", [])) - set(names):
        (result.out / Path(name).name).unlink(missing_ok=True)
    result.paths = {name: result.out / name for name in names}


def _earlier(out: Path) -> dict[str, Any]:
    """The manifest of the report that lies in ``out``; empty where there is none that can be read."""
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else {}


def _fingerprint(draw: partial[Figure]) -> str:
    """Of all that decides a picture: the rows and options it is drawn from, this package's code, matplotlib."""
    frames = [value for value in draw.args if isinstance(value, pd.DataFrame)]
    options = [value for value in draw.args if not isinstance(value, pd.DataFrame)]
    known = hashlib.sha256(f"{matplotlib.__version__} {draw.func.__name__} {options}".encode())
    for rows in frames:
        known.update(pd.util.hash_pandas_object(rows.drop(columns="state"), index=False).to_numpy().tobytes())
    for source in sorted([*Path(__file__).parent.glob("*.py"), plots.STYLE]):
        known.update(source.read_bytes())
    return known.hexdigest()[:16]


def _default_out(runs: Path) -> Path:
    """The report directory of the grid that ``runs`` is or holds; of ``runs`` itself where it holds several."""
    parents = {path.parent for path in frame.run_directories(runs) if path != runs}
    return (parents.pop() if len(parents) == 1 else runs) / "report"


def _by_stem(paths: dict[str, Path]) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = {}
    for name in paths:
        stem, _, suffix = name.rpartition(".")
        stems.setdefault(stem, []).append(suffix)
    return stems


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit code 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(description="Write all tables and pictures of a grid's runs.")
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="directory of a grid's runs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: DIR/report)")
    arguments = parser.parse_args(argv)
    try:
        show(build(arguments.runs, arguments.out))
    except frame.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES):
            raise
        print(f"error: {error.strerror} while writing the report; free space or give another --out", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
