"""``python results/report.py --runs DIR [DIR ...]``: everything the runs say, as files to publish and as one page to read.

The frame (Parquet, CSV), tables (Markdown, CSV, LaTeX, HTML), pictures (PNG, SVG), verdicts on the paper's claims (Markdown, JSON),
and index.html.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # as a script, results/ is on the path, not the directory above it
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import rich.console

from results import archive, contents, frame, output, paper
from results.claims import judging, rendering, sources
from results.output import MANIFEST
from results.page import Made, Picture, page
from results.plots import drawing
from results.tables import render
from results.tables.html import html
from results.tables.latex import latex
from results.tables.scores import mark_collapse
from rundir.arguments import Parser, place
from rundir.cli import cli
from rundir.commit import git_commit
from rundir.errors import UserError
from rundir.reading import portable
from rundir.schema import REPORT_FORMAT
from rundir.wording import counted

__all__ = ["MANIFEST", "Report", "build", "main", "show"]

RENDERERS: dict[str, Callable[[render.Table], str]] = {
    "md": render.markdown,
    "csv": render.comma_separated,
    "tex": latex,
    "html": html,
}
WITH_INTERVALS = RENDERERS | {"md": partial(render.markdown, intervals=True), "tex": partial(latex, intervals=True)}
PAGE = "index.html"


@dataclass
class Report:
    """What was written: paths by file name, why pictures were skipped by their name, main table first, the verdicts, and a line for
    each run that could not be read."""

    out: Path
    paths: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    tables: list[render.Table] = field(default_factory=list)
    verdicts: list[judging.Verdict] = field(default_factory=list)
    left_out: tuple[str, ...] = ()


def build(
    runs: frame.Places,
    out: Path | None = None,
    intervals: bool = False,
    keep: bool = True,
    command: str = "",
    small: bool = False,
    grids: Sequence[Path] = (),
) -> Report:
    """Write everything about the runs to ``out``, by default report/ in the grid's directory (of a file of runs, next to it).

    Each file is replaced in one move, and what an earlier report wrote there and this one does not is removed. ``intervals``:
    with 95 % intervals in Markdown and LaTeX too. ``keep``: as in :func:`results.frame.load`. ``command``: what the page says it
    was made by. ``small``: pictures as SVG only, and of each data set's best protocol only. ``grids``: grid files whose claims
    count besides those of the runs' manifests.
    """
    places = [Path(root) for root in ([runs] if isinstance(runs, (str, Path)) else runs)]
    with archive.opened(places) as roots:
        return _build(places, roots, out, intervals, keep, command, small, grids)


def _build(
    places: Sequence[Path],
    roots: Sequence[Path],
    out: Path | None,
    intervals: bool,
    keep: bool,
    command: str,
    small: bool,
    grids: Sequence[Path],
) -> Report:
    """:func:`build` of ``places``, whose runs are in ``roots``."""
    loaded = _load(roots, keep)
    claims, unread = sources.of_places(roots, grids)
    loaded = replace(loaded, left_out=tuple(dict.fromkeys([*loaded.left_out, *(frame.seen_from(roots, line) for line in unread)])))
    result = Report(Path(out) if out is not None else _default_out(places, roots), left_out=loaded.left_out)
    predicted = contents.predicted_of(loaded)
    items = contents.all_tables(loaded, predicted)
    pictures = {item.name: item for item in contents.all_pictures(loaded, small, predicted)}
    result.verdicts = judging.judge(claims, loaded.scores, loaded.runs, loaded.metrics)
    result.tables = [item.table for item in items]
    made = Made(command or f"python results/report.py --runs {' '.join(place.name for place in places)}", git_commit() or "")
    renderers = WITH_INTERVALS if intervals else RENDERERS
    numbers = paper.read_numbers()
    beside = paper.beside(numbers, loaded.scores, loaded.grids)
    writers = {
        f"{table.name}.{suffix}": output.text(write(table))
        for table in [*result.tables, beside]
        for suffix, write in renderers.items()
    }
    writers |= _frame_writers(loaded) | _claim_writers(result.verdicts, made)

    def last(folder: Path) -> dict[str, Callable[[Path], object]]:
        drawn = [
            Picture(item.title, (folder / f"{name}.svg").read_text(encoding="utf-8"), item.facets)
            for name, item in pictures.items()
            if (folder / f"{name}.svg").is_file()
        ]
        return {
            PAGE: output.text(
                page(result.verdicts, items, drawn, (beside, numbers), loaded.runs, loaded.scores, made, loaded.left_out)
            )
        }

    written = output.write(
        result.out,
        writers,
        {name: item.draw for name, item in pictures.items()},
        last,
        {"command": made.command, "commit": made.commit, "left_out": loaded.left_out},
        ("svg",) if small else drawing.KINDS,
    )
    result.paths, result.skipped = written.paths, written.skipped
    return result


def _load(roots: Sequence[Path], keep: bool) -> frame.Frames:
    """The frames of the runs that count."""
    loaded = frame.current_of(frame.load_all(roots, keep), roots)
    return replace(loaded, scores=mark_collapse(loaded.scores, loaded.metrics))


def _frame_writers(loaded: frame.Frames) -> dict[str, Callable[[Path], object]]:
    scores, runs = loaded.scores[[*frame.SCORE_COLUMNS, "collapsed"]], loaded.runs.drop(columns=["path", "alike"])
    return {
        "frame.parquet": lambda path: scores.to_parquet(path, index=False),
        "frame.csv": lambda path: scores.to_csv(path, index=False),
        "runs.csv": lambda path: runs.to_csv(path, index=False),
    }


def _claim_writers(verdicts: Sequence[judging.Verdict], made: Made) -> dict[str, Callable[[Path], object]]:
    content = {"format": REPORT_FORMAT, "command": made.command, "commit": made.commit, "verdicts": [v.record() for v in verdicts]}
    return {
        "claims.md": output.text(rendering.markdown(verdicts)),
        "claims.json": output.text(json.dumps(content, indent=1) + "\n"),
    }


def show(result: Report, console: rich.console.Console | None = None, asked: Collection[str] = ()) -> None:
    """Print the main table, the verdicts in short, what was skipped and where the files are.

    The table is without the rows that have no score, unless they are of a cell that was ``asked`` for.
    """
    console = console or rich.console.Console()
    for table in result.tables[:1]:
        rows = tuple(row for row in table.rows if any(row.scores) or not set(row.cells).isdisjoint(asked))
        console.print(render.terminal(replace(table, rows=rows), console.width))
        if left := len(table.rows) - len(rows):
            without = f"{counted(left, 'row')} without scores {'is' if left == 1 else 'are'} not shown; all rows: "
            console.print(f"{without}{result.paths[f'{table.name}.md']}", markup=False, highlight=False, soft_wrap=True)
    if not result.tables:
        console.print("no scores yet: no run has a result.json")
    counts = {kind: sum(verdict.verdict == kind for verdict in result.verdicts) for kind in rendering.STYLES}
    claims = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    console.print(
        f"claims: {claims} (claims.md; python results/claims shows them)" if claims else "claims: none",
        markup=False,
        highlight=False,
    )
    for line in result.left_out:
        console.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
    for name, reason in result.skipped.items():
        console.print(f"skipped {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"in {result.out}:", markup=False, highlight=False, soft_wrap=True)
    for stem, names in _by_stem(result.paths).items():
        console.print(f"  {stem}: {', '.join(names)}", markup=False, highlight=False, soft_wrap=True)


def _default_out(places: Sequence[Path], roots: Sequence[Path]) -> Path:
    """The report directory of the grid that the runs are of; where there are several, of the first directory or file given."""
    if places[0] != roots[0]:  # a file
        return places[0].parent / "report"
    parents = {path.parent for root in roots for path in frame.run_directories(root) if path != root}
    return (parents.pop() if len(parents) == 1 else roots[0]) / "report"


def _by_stem(paths: dict[str, Path]) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = {}
    for name in paths:
        stem, _, suffix = name.rpartition(".")
        stems.setdefault(stem, []).append(suffix)
    return stems


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    own = Parser("results/report.py", description="Write tables, pictures, verdicts on the paper's claims, and a page of runs.")
    own.add_argument(
        "--runs",
        type=place,
        required=True,
        nargs="+",
        metavar="DIR",
        help="directories of grids, or above them, or a file that --publish made",
    )
    own.add_argument("--out", type=place, metavar="DIR", help="where to write (default: DIR/report)")
    own.add_argument("--intervals", action="store_true", help="95 %% intervals in Markdown and LaTeX too")
    own.add_argument("--small", action="store_true", help="pictures as SVG only, and only of each data set's best protocol")
    own.add_argument(
        "--grids",
        type=place,
        nargs="+",
        default=[],
        metavar="FILE",
        help="grid files, or a directory of them, whose claims count too: for runs without a grid.json",
    )
    own.add_argument(
        "--publish",
        type=place,
        metavar="FILE",
        help="write no report, but all that it reads of these runs to one Parquet file, from which --runs FILE makes it",
    )
    own.add_argument("--no-keep", action="store_true", help="do not keep what was read in DIR/.frame for the next time")
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and say what is in it. Raises :class:`UserError`."""
    arguments = parser().parse_args(argv)
    if arguments.publish is not None:
        if arguments.publish.suffix != archive.SUFFIX:
            raise UserError(
                f"--publish {arguments.publish} is no name of a Parquet file; set for example --publish records.parquet"
            )
        with archive.opened(arguments.runs) as roots:
            count = archive.pack(roots, arguments.publish)
        print(f"{counted(count, 'run')} in {arguments.publish}, {arguments.publish.stat().st_size:,} bytes")
        return 0
    words = ["python", "results/report.py", *(sys.argv[1:] if argv is None else argv)]
    show(
        build(
            arguments.runs,
            arguments.out,
            arguments.intervals,
            not arguments.no_keep,
            portable(words),
            arguments.small,
            arguments.grids,
        )
    )
    return 0


def program() -> None:
    """The installed command."""
    cli(main, interrupted="interrupted; a report from before is as it was")


if __name__ == "__main__":
    program()
