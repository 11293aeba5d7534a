"""Fingerprints of data: equal for equal data wherever they are stored, different once they have changed.

What counts: names and classes, always; labels and annotation files, whole; sizes of files, up to ``SIZED`` of them; and contents of
files, all of them up to ``WHOLE_BYTES`` together, else of ``SAMPLED`` spread evenly over the sorted names. So a million images cost
seconds. Neither the root, the order of a listing nor times of change count.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pretrain.data import cache, listing, published, shards, sources
from pretrain.data.files import Signature, names_below, read_part, signature_of
from rundir.errors import Setting, UserError

DIGITS = 15  # hex digits of a fingerprint, behind an f: so YAML takes none for a number
WHOLE_BYTES = 256 * 2**20  # files that together are no larger are read whole
SIZED = 65536  # files at most whose size is asked for: of a million on a network file system that would take minutes
SAMPLED = 256  # files at most that are read where all together are too large
READERS = 8  # threads: files on a network file system are waited for
TOGETHER = 256  # files that a thread looks at in one go


def combined(**parts: object) -> str:
    """The fingerprint of ``parts``, by name: plain values (as JSON has them) and other fingerprints."""
    return _digest(json.dumps(parts, sort_keys=True).encode())


def of_array(array: np.ndarray) -> str:
    """The fingerprint of an array's shape, type and values."""
    array = np.ascontiguousarray(array)
    return _digest(f"{array.dtype.str}{array.shape}".encode(), array.data.cast("B") if array.size else b"")


def of_files(
    files: Mapping[str, str | os.PathLike],
    whole: float = WHOLE_BYTES,
    sampled: int = SAMPLED,
    seen: dict[str, Signature] | None = None,
) -> str:
    """The fingerprint of ``files``: the name of each within its data set, and where it is stored.

    Their contents are read whole up to ``whole`` bytes together, else of ``sampled`` files. ``seen`` gets the signatures of all
    that were looked at, by name, as they were before they were read.

    Raises:
        UserError: a file cannot be read.
    """
    names = sorted(files, key=_bytes)
    seen = {} if seen is None else seen
    looked_at = _spread(names, SIZED)
    with ThreadPoolExecutor(READERS) as pool:

        def looked(some: Sequence[str]) -> list[int]:
            states = [_tried(_state, files[name]) for name in some]
            seen.update((name, signature_of(state)) for name, state in zip(some, states, strict=True))
            return [state.st_size for state in states]

        parts = [looked_at[i : i + TOGETHER] for i in range(0, len(looked_at), TOGETHER)]
        sizes = [size for part in pool.map(looked, parts) for size in part]
        small = len(looked_at) == len(names) and sum(sizes) <= whole
        read = names if small or whole == float("inf") else _spread(names, sampled)
        looked([name for name in read if name not in seen])
        contents = list(pool.map(lambda name: _tried(_content, files[name]), read))
    return _digest(*(_framed(_bytes(name)) for name in names), *(f"{size}\n".encode() for size in sizes), *contents)


def of_dataset(name: str, split: str, root: str | None) -> str:
    """The fingerprint of one split, "train" or "val", of a data set of :func:`pretrain.data.load`: images, classes and labels.

    Raises:
        UserError: what :func:`pretrain.data.load` raises of a data set that is not there or damaged.
    """
    if name == "digits":
        return _of_digits(split)
    if not root:
        raise UserError(f"data set {name} needs to know where it is stored; set ", Setting("data.root", "DIR"))
    root = os.path.abspath(os.path.expanduser(root))
    if name in ("cifar10", "cifar100"):
        return _of_cifar(name, split, root)
    base = listing.base_of(name, root)
    what = f"fingerprint of {name}/{split}, {WHOLE_BYTES} {SIZED} {SAMPLED}"
    note = cache.recall(what, base)
    return cache.texts(note["fingerprint"])[0] if note is not None else _of_listed(name, split, root, what)


def _of_listed(name: str, split: str, root: str, what: str) -> str:
    """The fingerprint of the images of a listing, which is kept as ``what`` where they are many."""
    began, found, seen = time.time(), listing.of(name, split, root), {}
    labels = [found.classes[label] for label in found.labels]
    if found.places is None:
        own = of_images(found.home, found.classes, found.paths, labels, seen)
    else:
        own = combined(classes=found.classes, labels=_of_labels(found.names, labels), files=_of_shards(found.names, found.places))
    if len(found.names) >= cache.WORTH:
        below = "" if found.home == found.base else os.path.relpath(found.home, found.base)
        images = {os.path.join(below, name): state for name, state in seen.items()}
        cache.keep(what, found.base, began, found.seen | images, {"fingerprint": cache.as_array([own])})
    return own


def of_splits(name: str, root: str | None) -> str:
    """The fingerprint of both splits of a data set, those that it is scored by."""
    return combined(train=of_dataset(name, "train", root), val=of_dataset(name, "val", root))


def of_images(
    home: str | os.PathLike,
    classes: Sequence[str],
    paths: Sequence[str | os.PathLike],
    labels: Sequence[str],
    seen: dict[str, Signature] | None = None,
) -> str:
    """The fingerprint of image files below ``home``, the class of each by name, and all ``classes``, in order; ``seen`` as in
    :func:`of_files`.
    """
    names = names_below(home, paths)
    return combined(
        classes=list(classes), labels=_of_labels(names, labels), files=of_files(dict(zip(names, paths, strict=True)), seen=seen)
    )


def _of_labels(names: Sequence[str], labels: Sequence[str]) -> str:
    labelled = sorted((_bytes(name), _bytes(label)) for name, label in zip(names, labels, strict=True))
    return _digest(*(_framed(part) for pair in labelled for part in pair))


def _of_shards(names: Sequence[str], places: listing.Places) -> str:
    """The fingerprint of images in shards: as that of files, with all sizes."""
    order = sorted(range(len(names)), key=lambda i: _bytes(names[i]))
    read = order if places.size.sum() <= WHOLE_BYTES else _spread(order, SAMPLED)
    contents = [
        hashlib.sha256(read_part(places.shards[places.shard[i]], int(places.first[i]), int(places.size[i]))).digest() for i in read
    ]
    return _digest(*(_framed(_bytes(names[i])) for i in order), *(f"{places.size[i]}\n".encode() for i in order), *contents)


def is_there(name: str, root: str | None) -> bool:
    """Whether the data set is in ``root``, without looking into it; nothing is downloaded."""
    if name == "digits":
        return True
    if not root:
        return False
    root = os.path.expanduser(root)
    if name == "webdataset":
        return shards.are_there(root)
    return os.path.isdir(os.path.join(root, "train" if name == "folder" else published.SETS[name].folder))


@functools.cache
def _of_digits(split: str) -> str:
    images, labels = sources.digit_scans()  # not enlarged, which rounds differently on different machines
    return combined(split=split, validation=sources.DIGITS_VAL, images=of_array(images), labels=of_array(labels))


def _of_cifar(name: str, split: str, root: str) -> str:
    kind, home = published.SETS[name].make, os.path.join(root, published.SETS[name].folder)
    files = [file for file, _ in (kind.train_list if split == "train" else kind.test_list)] + [kind.meta["filename"]]
    return of_files({file: os.path.join(home, file) for file in files})


def _spread(names: Sequence, most: int) -> Sequence:
    """At most ``most`` of the names (or numbers), the first among them, at equal distances."""
    return names if len(names) <= most else [names[i * len(names) // most] for i in range(most)]


def _tried(look: Callable, path: str | os.PathLike) -> Any:
    try:
        return look(path)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); put it back, or take it out of the data set") from None


def _state(path: str | os.PathLike) -> os.stat_result:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
        raise UserError(f"{path} is not a regular file; take it out of the data set")
    return found


def _content(path: str | os.PathLike) -> bytes:
    digest, _ = hashlib.sha256(), _state(path)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(8, "little") + part


def _digest(*parts: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return f"f{digest.hexdigest()[:DIGITS]}"
