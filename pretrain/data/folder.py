"""Reading an image folder, ROOT/train/<class>/* and ROOT/val/<class>/*: which files there are, and their pixels."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pretrain.data import images
from pretrain.data.files import Signature, entries, is_folder, is_litter, signature, some, tree
from pretrain.lazy import Lazy
from rundir.errors import Setting, UserError
from rundir.machine import cores

transforms = Lazy("torchvision.transforms.v2.functional")

SPLITS = ("train", "val")
CHUNK = 1024  # files between two looks at the clock
PROGRESS_SECONDS = 5.0


@dataclass
class Found:
    """One split of an image folder: K class names (sorted), N paths by class, N class numbers, what is odd, a line each, and the
    signatures, by name below the root, of what was listed.
    """

    classes: list[str]
    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seen: dict[str, Signature] = field(default_factory=dict)


def scan(root: str, split: str) -> Found:
    """The images of one split: all files below a class's folder whose suffix is one of ``images.SUFFIXES``.

    Raises UserError: a split's folder is missing or has no classes, the two splits have different classes, a class of
    this split has no image, something is neither a file nor a folder.
    """
    seen: dict[str, Signature] = {}
    classes = {name: _class_names(root, name, seen) for name in SPLITS}
    if classes["train"] != classes["val"]:
        only = sorted(set(classes["train"]) ^ set(classes["val"]))
        raise UserError(
            f"train/ and val/ of {root} have different classes: only one of them has {some(only)}; give both the same class folders"
        )
    found = Found(classes[split], seen=seen)
    home = os.path.join(root, split)
    left = sorted(entry.name for entry in entries(home) if entry.name not in found.classes)
    repeated = []
    for label, name in enumerate(found.classes):
        folder = os.path.join(home, name)
        below = tree(folder)
        kept, others = [], below.litter
        for file in below.files:
            (kept if images.is_image(file) else others).append(file)
        if not kept:
            raise UserError(
                f"no image in {folder}; put {', '.join(images.SUFFIXES)} files there, or remove the class from both train/ and val/"
            )
        found.paths += [os.path.join(folder, file) for file in kept]
        found.labels += [label] * len(kept)
        seen |= {os.path.join(split, name, place): state for place, state in below.seen.items()}
        left += [os.path.join(name, file) for file in others]
        repeated += [os.path.join(name, place) for place in below.repeated]
    if left:
        found.notes.append(f"left out {len(left)} of {home} that are no images of a class: {some(left)}")
    if repeated:
        found.notes.append(
            f"{len(repeated)} links in {home} lead to folders that are read already, and are not followed: {some(repeated)}"
        )
    found.notes += alike(found.classes)
    return found


def alike(classes: Sequence[str]) -> list[str]:
    """A note for each group of class names that differ in upper and lower case or in spaces only."""
    groups = defaultdict(list)
    for name in classes:
        groups["".join(name.split()).casefold()].append(name)
    return [
        f"{', '.join(map(repr, group))} are {len(group)} classes, whose names differ in case or spaces only"
        for group in groups.values()
        if len(group) > 1
    ]


def _class_names(root: str, split: str, seen: dict[str, Signature]) -> list[str]:
    """The classes of a split; adds to ``seen`` what this depends on."""
    folder = os.path.join(root, split)
    if not os.path.isdir(folder):
        raise UserError(
            f"no folder {folder}; set ",
            Setting("data.root", "DIR"),
            ", where DIR/train/<class>/ and DIR/val/<class>/ hold the images",
        )
    seen[split] = signature(folder)
    found = [entry for entry in entries(folder) if not is_litter(entry.name)]
    seen |= {os.path.join(split, entry.name): signature(entry.path) for entry in found if entry.is_symlink()}
    names = sorted(entry.name for entry in found if is_folder(entry))
    if not names:
        raise UserError(f"no class folders in {folder}; put the images of each class in {folder}/<class>/")
    return names


def resize_square(image: Tensor, side: int, crop: int | None = None, interpolation: str = "bilinear") -> Tensor:
    """Resize (..., H, W) so that the shorter side is ``side`` (anti-aliased), then cut the central ``crop`` square."""
    resized = transforms.resize(image, [side], transforms.InterpolationMode(interpolation), antialias=True)
    return transforms.center_crop(resized, [crop or side, crop or side])


def decode_all(
    decode: Callable[[int], Tensor], count: int, store_size: int | None, most_bytes: int | None, name: str
) -> Tensor | None:
    """All ``count`` images that ``decode`` returns (3, H, W) as one uint8 tensor (N, 3, H, W), or None where they cannot be one:
    sizes differ, or over ``most_bytes``.

    With ``store_size`` every image is brought to that square (shorter side resized, centre cut), so sizes never
    differ. Decoding runs in threads (torchvision releases Python's lock); loads of some seconds print how far they
    are on stderr.
    """

    def stored(index: int) -> Tensor:
        return resize_square(decode(index), store_size) if store_size else decode(index)

    first = stored(0)
    if most_bytes is not None and first.numel() * count > most_bytes:
        return None
    pixels = torch.empty(count, *first.shape, dtype=torch.uint8)
    with ThreadPoolExecutor(min(16, cores())) as pool:
        for start in with_progress(range(0, count, CHUNK), count, name):
            chunk = list(pool.map(stored, range(start, min(start + CHUNK, count))))
            if any(image.shape != first.shape for image in chunk):
                return None
            torch.stack(chunk, out=pixels[start : start + len(chunk)])
    return pixels


def with_progress(starts: range, total: int, name: str, of: str = "images") -> Iterator[int]:
    """``starts``; where that takes some seconds, how far it is is printed on stderr."""
    last, shown = time.monotonic(), False
    for start in starts:
        if time.monotonic() - last > PROGRESS_SECONDS:
            last, shown = time.monotonic(), True
            print(f"reading {name}: {start} of {total} {of}", file=sys.stderr, flush=True)
        yield start
    if shown:
        print(f"reading {name}: done", file=sys.stderr, flush=True)
