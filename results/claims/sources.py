"""Where the claims on some runs stand: in the manifests of their grids, and in grid files that are named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from results.claims.schema import Claim, read_claims
from rundir import manifest
from rundir.errors import UserError
from rundir.files import read_yaml
from rundir.schema import File


def of_places(places: Iterable[Path], files: Sequence[Path] = ()) -> tuple[list[Claim], list[str]]:
    """The claims in the manifests at these places and one level above and below, and those of grid ``files``, each once; and a line
    for each manifest that cannot be used.

    Raises:
        UserError: of a grid file.
    """
    left_out = []
    found: dict[tuple[str, str], Claim] = {}
    for folder in _grid_folders(places):
        try:
            claims = _of_manifest(folder)
        except UserError as error:
            left_out.append(str(error))
            continue
        for claim in claims:
            found.setdefault((claim.grid, claim.id), claim)
    for claim in of_files(files):
        found.setdefault((claim.grid, claim.id), claim)
    return list(found.values()), left_out


def _of_manifest(folder: Path) -> list[Claim]:
    grid = manifest.read(folder)
    named = re.search(r"--grid[= ](\S+)", grid.command)
    launch = f"python ablations/run.py --grid {named[1]}" if named else ""
    return read_claims(list(grid.claims), grid.grid, str(folder / File.MANIFEST), launch=launch)


def of_files(files: Iterable[Path]) -> list[Claim]:
    """The claims of grid files, or of all those in a directory. Raises UserError."""
    paths = [path for place in files for path in (sorted(Path(place).glob("*.yaml")) if Path(place).is_dir() else [Path(place)])]
    return [
        claim
        for path in paths
        for claim in read_claims(
            _grid(path).get("claims"), path.stem, str(path), launch=f"python ablations/run.py --grid {_asked(path)}"
        )
    ]


def _asked(path: Path) -> str:
    """What ``--grid`` is set to: the name of a grid of this project, the path of any other."""
    return path.stem if path.resolve().parent.parts[-2:] == ("ablations", "grids") else str(path)


def _grid(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"there is no grid file {path}") from None
    if not isinstance(content, dict) or "cells" not in content:
        raise UserError(f"{path} is not a grid file: it has no cells")
    return content


def _grid_folders(places: Iterable[Path]) -> list[Path]:
    candidates = []
    for place in map(Path, places):
        if (place / File.CONFIG).exists():  # a run: its grid is above it
            candidates.append(place.parent)
        candidates += [place, *(path.parent for path in sorted(place.glob(f"*/{File.MANIFEST}")))]
    return [path for path in dict.fromkeys(path.resolve() for path in candidates) if (path / File.MANIFEST).is_file()]
