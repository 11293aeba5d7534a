"""The setting of runs in words: what tables are headed by, and within which cells are compared."""

from __future__ import annotations

import re
from pathlib import Path

# What the words say.
SETTING_KEYS = ("data.name", "data.limit", "data.size", "model.arch", "optimizer.epochs", "optimizer.batch_size")
OWN_IMAGES = ("folder", "webdataset")  # data sets that are a user's own images, called by their folder
_FOLDER = re.compile(r"folder(?= \(| at )")
_COUNT = re.compile(r"(?<=\()\d{4,}(?= images\))")


def data_name(name: str, root: str) -> str:
    """What data are called in records and settings: a user's own images by their directory."""
    return Path(root or name).name if name in OWN_IMAGES else name


def in_words(data: str, limit: float | None, size: float, arch: str, epochs: float, batch: float) -> str:
    """``cifar10 (5,000 images) at 32 pixels, resnet18_cifar, 400 epochs, batch 512``; ``data``: of :func:`data_name`."""
    images = f" ({limit:,} images)" if limit else ""
    return f"{data}{images} at {size} pixels, {arch}, {epochs} epoch{'s' * (epochs != 1)}, batch {batch}"


def as_now(recorded: str, data: str) -> str:
    """A setting that an earlier version recorded, in the words of :func:`in_words`; ``data``: as there."""
    named = _FOLDER.sub(lambda _: data, recorded) if recorded.startswith("folder") else recorded
    return _COUNT.sub(lambda found: f"{int(found[0]):,}", named).replace(", 1 epochs,", ", 1 epoch,")
