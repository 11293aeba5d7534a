"""Which images a data set of files has, by class: looked up once, then known for as long as nothing in its folders has changed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np

from pretrain.data import cache, folder, published, shards
from pretrain.data.files import Signature, names_below


@dataclass(frozen=True)
class Places:
    """Where N images are in tar shards: paths of the shards, and for each image (N,) int64 its shard, first byte and size."""

    shards: list[str]
    shard: np.ndarray
    first: np.ndarray
    size: np.ndarray


@dataclass(frozen=True)
class Listing:
    """The images of one split.

    home: the folder that ``names`` (N) are below; classes: K names; labels (N,) int64; notes: what is odd, a line each; base: the
    folder that ``seen``, what the listing depends on, is below; places: of images in shards.
    """

    home: str
    classes: list[str]
    names: list[str]
    labels: np.ndarray
    notes: list[str]
    base: str
    seen: dict[str, Signature]
    places: Places | None = None

    @property
    def paths(self) -> list[str]:
        """The files of images that are not in shards."""
        start = os.path.join(self.home, "")
        return [start + name for name in self.names]


def of(name: str, split: str, root: str) -> Listing:
    """The images of ``split`` of an image folder (``name`` "folder"), of shards ("webdataset") or of a set of photographs of
    torchvision's in ``root``.

    Raises:
        UserError: what :func:`folder.scan`, :func:`shards.scan` and :func:`published.read` raise.
    """
    base = base_of(name, root)
    home = os.path.join(root, split) if name == "folder" else base
    what = f"images of {name}/{split}"
    note = cache.recall(what, base)
    if note is None:
        began = time.time()
        note, seen = _looked_up(name, split, root, home)
        if len(note["labels"]) >= cache.WORTH:
            cache.keep(what, base, began, seen, note)
    else:
        seen = cache.seen_by(note)
    inside = [os.path.join(base, shard) for shard in cache.texts(note["shards"])]
    places = Places(inside, *(note[part].astype(np.int64) for part in ("shard", "first", "size"))) if inside else None
    names, classes, notes = (cache.texts(note[part]) for part in ("names", "classes", "notes"))
    return Listing(home, classes, names, note["labels"].astype(np.int64), notes, base, seen, places)


def base_of(name: str, root: str) -> str:
    """The folder below which all is that belongs to a data set."""
    return os.path.join(root, published.SETS[name].folder) if name in published.SETS else root


def _looked_up(name: str, split: str, root: str, home: str) -> tuple[dict[str, np.ndarray], dict[str, Signature]]:
    """The images as arrays, and what was looked at."""
    if name == "webdataset":
        found = shards.scan(root, split)
        names, numbers = found.names, {"shard": found.shard, "first": found.first, "size": found.size}
        inside = names_below(root, found.shards)
    else:
        found = folder.scan(root, split) if name == "folder" else published.read(name, split, root)  # type: ignore[assignment]
        names = names_below(home, found.paths)  # type: ignore[attr-defined]
        numbers, inside = {"shard": [], "first": [], "size": []}, []
    parts = {"names": names, "classes": found.classes, "notes": found.notes, "shards": inside}
    return {
        **{part: cache.as_array(some) for part, some in parts.items()},
        "labels": np.array(found.labels, np.int32),
        **{part: np.array(some, np.int64) for part, some in numbers.items()},
    }, found.seen
