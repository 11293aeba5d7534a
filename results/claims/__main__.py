"""``python results/claims --runs DIR``: which claims of their grids these runs support. ``--grids FILE`` alone lists its claims."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: make the other rooms importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import rich.console

from results import archive, frame
from results.claims import judging, rendering, sources
from rundir.arguments import Parser, place
from rundir.cli import cli
from rundir.errors import UserError


def of_runs(runs: Sequence[Path], files: Sequence[Path] = (), keep: bool = True) -> tuple[list[judging.Verdict], tuple[str, ...]]:
    """The verdicts of the runs below these directories on the claims of their manifests and of grid ``files``, and a line for each
    run that cannot be read. Raises :class:`rundir.errors.UserError`."""
    with archive.opened(runs) as roots:
        claims, unread = sources.of_places(roots, files)
        loaded = frame.current_of(frame.load_all(roots, keep), roots)
    return judging.judge(claims, loaded.scores, loaded.runs, loaded.metrics), (*loaded.left_out, *unread)


def main(argv: Sequence[str] | None = None) -> int:
    """Show the verdicts. Raises :class:`rundir.errors.UserError`."""
    parser = Parser(prog="results/claims", description="Say which of the claims of their grids the runs support.")
    parser.add_argument(
        "--runs", type=place, nargs="+", default=[], metavar="DIR", help="directories of grids, or above them, or a file of runs"
    )
    parser.add_argument(
        "--grids",
        type=place,
        nargs="+",
        default=[],
        metavar="FILE",
        help="grid files, or a directory of them, whose claims count too; without --runs they are listed",
    )
    parser.add_argument("--show-runs", action="store_true", help="name the runs each verdict used")
    arguments = parser.parse_args(argv)
    console = rich.console.Console(width=None if sys.stdout.isatty() else 160)
    if not arguments.runs:
        if not arguments.grids:
            raise UserError("there is nothing to judge; set --runs DIR, or --grids ablations/grids to list the suite's claims")
        for claim in sources.of_files(arguments.grids):
            console.print(
                f"{claim.grid}: {claim.id}: {claim.statement}",
                f"  {claim.command.format(profile='PROFILE')}",
                sep="\n",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        return 0
    verdicts, left_out = of_runs(arguments.runs, arguments.grids)
    rendering.show(verdicts, console, arguments.show_runs)
    for line in left_out:
        console.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    cli(main, interrupted="interrupted")
