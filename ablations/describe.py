"""The ``grid.json`` next to a grid's runs: how a launch describes its grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablations.grid import base_config, setting_of
from ablations.gridfile import load
from rundir.atomic import make_folder
from rundir.errors import UserError
from rundir.files import Damaged
from rundir.manifest import GridManifest, merged, read, write
from rundir.schema import File
from rundir.subnet import Width, plain_widths

MOST_NAMED = 4  # cells in a message


def manifest(grid: str, profile: str, widths: Sequence[Width] | None, overrides: Sequence[str], command: str) -> GridManifest:
    """What the ``grid.json`` of a launch holds: all cells of the file, whichever are launched. Raises as :func:`expand`."""
    base, every = base_config(profile, widths, overrides)
    file = load(grid)
    return file.manifest(file.cells(plain_widths(every), base.optimizer.epochs), base.experiment.preset, setting_of(base), command)


def merge_into(folder: Path, new: GridManifest) -> tuple[GridManifest, str]:
    """``new`` with what earlier launches say in ``folder``, and a line if that is another version of the file. Writes nothing.

    Raises:
        UserError: the folder holds another grid, none of whose cells is in ``new``.
    """
    try:
        old = read(folder)
    except Damaged as error:
        return new, f"{str(error).partition(';')[0]}; it is written anew"
    if old is None:
        return new, ""
    gone = [cell for row in old.rows for cell, width in row.cells.items() if width is None and cell not in new.cells]
    if not set(old.cells) & set(new.cells):
        raise UserError(
            f"{folder / File.MANIFEST} is of another grid, {old.title!r} with the cells {_named(old.cells)}; rename "
            "the grid file, or set --runs to another directory"
        )
    note = (
        f"{folder / File.MANIFEST} had the cells {_named(gone)}, which are not in the grid file any more: their runs stand "
        "last in tables"
    )
    return merged(old, new), note if gone else ""


def write_into(folder: Path, manifest: GridManifest) -> None:
    """Write the ``grid.json`` of ``folder``, which is made where it is not there, if it says anything else. Raises UserError."""
    make_folder(folder, "runs", "--runs DIR")
    try:
        if read(folder) == manifest:
            return
    except Damaged:
        pass
    write(folder, manifest)


def _named(cells: Sequence[str]) -> str:
    more = f" and {len(cells) - MOST_NAMED} more" if len(cells) > MOST_NAMED else ""
    return ", ".join(cells[:MOST_NAMED]) + more
