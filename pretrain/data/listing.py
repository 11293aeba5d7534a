"""Which images a data set of files has, by class: looked up once, then known for as long as nothing in its folders has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.data import cache, folder, published
from pretrain.data.files import Signature, names_below


@dataclass(frozen=True)
class Listing:
    """The images of one split.

    home: the folder that ``names`` (N) are below; classes: K names; labels (N,) int64; notes: what is odd, a line each; base: the
    folder that ``seen``, what the listing depends on, is below.
    """

    home: str
    classes: list[str]
    names: list[str]
    labels: np.ndarray
    notes: list[str]
    base: str
    seen: dict[str, Signature]

    @property
    def paths(self) -> list[str]:
        """Where the images are."""
        start = os.path.join(self.home, "")
        return [start + name for name in self.names]


def of(name: str, split: str, root: str) -> Listing:
    """The images of ``split`` of an image folder (``name`` "folder") or of a set of photographs of torchvision's in ``root``.

    Raises:
        UserError: what :func:`folder.scan` and :func:`published.read` raise.
    """
    own = name == "folder"
    base = root if own else os.path.join(root, published.SETS[name].folder)
    home = os.path.join(root, split) if own else base
    what = f"images of {name}/{split}"
    note = cache.recall(what, base)
    if note is not None:
        names, labels = cache.texts(note["names"]), note["labels"].astype(np.int64)
        return Listing(home, cache.texts(note["classes"]), names, labels, cache.texts(note["notes"]), base, cache.seen_by(note))
    began = time.time()
    found = folder.scan(root, split) if own else published.read(name, split, root)
    names, labels = names_below(home, found.paths), np.array(found.labels, np.int64)
    listing = Listing(home, list(found.classes), names, labels, found.notes, base, found.seen)
    if len(names) >= cache.WORTH:
        _keep(what, began, listing)
    return listing


def _keep(what: str, began: float, listing: Listing) -> None:
    parts: dict[str, Sequence[str]] = {"names": listing.names, "classes": listing.classes, "notes": listing.notes}
    cache.keep(what, listing.base, began, listing.seen, {
        **{name: cache.as_array(part) for name, part in parts.items()}, "labels": listing.labels.astype(np.int32)})
