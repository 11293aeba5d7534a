"""Reading an image folder, ROOT/train/<class>/* and ROOT/val/<class>/*: which files there are, and their pixels."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image
from torch import Tensor

from pretrain.errors import UserError
from pretrain.lazy import Lazy

io, transforms = Lazy("torchvision.io"), Lazy("torchvision.transforms.v2.functional")

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
SPLITS = ("train", "val")
CHUNK = 1024  # files between two looks at the clock
PROGRESS_SECONDS = 5.0


def scan(root: str, split: str) -> tuple[list[str], list[str], list[int]]:
    """Class names (sorted), paths (by class, then name) and the class number of each path, of one split.

    Raises UserError: a split's folder is missing or has no classes, the two splits have different classes, a class of
    this split has no image.
    """
    classes = {name: _class_names(root, name) for name in SPLITS}
    if classes["train"] != classes["val"]:
        only = sorted(set(classes["train"]) ^ set(classes["val"]))
        raise UserError(f"train/ and val/ of {root} have different classes: only one of them has {_some(only)}; "
                        f"give both the same class folders")
    paths, labels = [], []
    for label, name in enumerate(classes[split]):
        folder = os.path.join(root, split, name)
        found = sorted(file for file in os.listdir(folder)
                       if file.lower().endswith(SUFFIXES) and not file.startswith("."))
        if not found:
            raise UserError(f"no image in {folder}; put {', '.join(SUFFIXES)} files there, or remove the class from "
                            f"both train/ and val/")
        paths += [os.path.join(folder, file) for file in found]
        labels += [label] * len(found)
    return classes[split], paths, labels


def _class_names(root: str, split: str) -> list[str]:
    folder = os.path.join(root, split)
    if not os.path.isdir(folder):
        raise UserError(f"no folder {folder}; write data.root=DIR, where DIR/train/<class>/ and DIR/val/<class>/ "
                        f"hold the images")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"no class folders in {folder}; put the images of each class in {folder}/<class>/")
    return names


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def decode(path: str) -> Tensor:
    """One file as a uint8 image (3, H, W), RGB; of an animation, the first frame. Raises UserError if it is
    unreadable."""
    try:
        image = io.decode_image(path, mode=io.ImageReadMode.RGB)
    except (RuntimeError, OSError, ValueError) as error:
        image = _by_pillow(path)
        if image is not None:
            return image
        raise UserError(f"cannot read the image {path} ({str(error).splitlines()[0]}); replace or remove it") from error
    image = image[0] if image.ndim == 4 else image
    return transforms.to_dtype(image, torch.uint8, scale=True)


def _by_pillow(path: str) -> Tensor | None:
    """The image where Pillow, which torchvision's data sets read with, knows more formats; None where it fails too."""
    try:
        with Image.open(path) as image:
            return transforms.pil_to_tensor(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return None


def resize_square(image: Tensor, side: int, crop: int | None = None) -> Tensor:
    """Resize (..., H, W) so that the shorter side is ``side`` (anti-aliased bilinear), then cut the central ``crop``
    square."""
    resized = transforms.resize(image, [side], transforms.InterpolationMode.BILINEAR, antialias=True)
    return transforms.center_crop(resized, [crop or side, crop or side])


def decode_all(paths: Sequence[str], store_size: int | None, most_bytes: int | None, name: str) -> Tensor | None:
    """All files as one uint8 tensor (N, 3, H, W), or None where they cannot be one: sizes differ, or over
    ``most_bytes``.

    With ``store_size`` every image is brought to that square (shorter side resized, centre cut), so sizes never
    differ. Decoding runs in threads (torchvision releases Python's lock); loads of some seconds print how far they
    are on stderr.
    """
    first = _stored(paths[0], store_size)
    if most_bytes is not None and first.numel() * len(paths) > most_bytes:
        return None
    images = torch.empty(len(paths), *first.shape, dtype=torch.uint8)
    with ThreadPoolExecutor(min(16, _cores())) as pool:
        for start in _with_progress(range(0, len(paths), CHUNK), len(paths), name):
            chunk = list(pool.map(lambda path: _stored(path, store_size), paths[start:start + CHUNK]))
            if any(image.shape != first.shape for image in chunk):
                return None
            torch.stack(chunk, out=images[start:start + len(chunk)])
    return images


def _stored(path: str, store_size: int | None) -> Tensor:
    return resize_square(decode(path), store_size) if store_size else decode(path)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _with_progress(starts: range, total: int, name: str) -> Iterator[int]:
    last, shown = time.monotonic(), False
    for start in starts:
        if time.monotonic() - last > PROGRESS_SECONDS:
            last, shown = time.monotonic(), True
            print(f"reading {name}: {start} of {total} images", file=sys.stderr, flush=True)
        yield start
    if shown:
        print(f"reading {name}: done", file=sys.stderr, flush=True)
