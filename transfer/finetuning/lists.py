"""Lists of images as annotations keep them, one name per line, and the files that the names stand for.

A name is relative to its folder and has no suffix. Names that lead out of the folder are refused, whatever uses them.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath

from pretrain.data.files import read_text, some
from pretrain.data.images import is_image
from rundir.errors import UserError


def check_inside(name: str, where: str) -> None:
    """Raise :class:`UserError` if ``name``, which stands in ``where``, leads out of the folder that it is relative to."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
        raise UserError(f"{where}: {name!r} leads out of the data's folder; use a name relative to it, without ..")


class Images:
    """The image files of ``folder``, found by name without suffix; each folder is listed once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._listed: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        """The image called ``name``, with its suffix or without; None where there is none.

        Raises:
            UserError: several have the name, and none of them is a .jpg.
        """
        place, last = os.path.split(name)
        stems = self._stems(place)
        found = stems.get(last, []) or [file for file in stems.get(os.path.splitext(last)[0], []) if file == last]
        usual = [file for file in found if file.endswith(".jpg")]
        if len(found) > 1 and not usual:
            raise UserError(f"{self.folder / place} has {some(found)}: which of them is {name!r} is open; keep one")
        return self.folder / place / (usual or found)[0] if found else None

    def _stems(self, place: str) -> dict[str, list[str]]:
        if place not in self._listed:
            folder, stems = self.folder / place, {}
            for file in sorted(os.listdir(folder)) if folder.is_dir() else ():
                if is_image(file) and not file.startswith("."):
                    stems.setdefault(os.path.splitext(file)[0], []).append(file)
            self._listed[place] = stems
        return self._listed[place]


def read_names(path: Path, images: Images) -> tuple[list[str], list[str]]:
    """The names in the list ``path``, each once, and what is odd about it, a line each.

    Blank lines are passed over. Where a whole line is the name of no image, further columns are left out, as of VOC's lists by
    class ("000001 -1").

    Raises:
        UserError: there is no such file, it names no image, or a name leads out of the folder of ``images``.
    """
    names = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        whole = line.strip()
        if not whole:
            continue
        check_inside(whole, f"{path}, line {number}")
        first = whole.split()[0]
        names.append(first if first != whole and images.find(whole) is None and images.find(first) else whole)
    if not names:
        raise UserError(f"{path} names no image")
    twice = [name for name, count in Counter(names).items() if count > 1]
    note = f"{len(twice)} names stand in {path} more than once and are used once: {some(twice)}"
    return list(dict.fromkeys(names)), [note] if twice else []
