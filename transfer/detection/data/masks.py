"""Masks as COCO's files hold them, checked before pycocotools' C code sees them, which trusts whatever it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LARGEST = 2**40
GROUP = 7  # characters of one number at most: 35 bits


def fault(mask: Any, size: tuple[int, int]) -> str | None:
    """What is wrong with a ``segmentation`` of an image of ``size`` (height, width), with its key; None if nothing is.

    Right are polygons (lists of x, y, x, y, ...) not farther from the image than its own size, and run lengths, plain or
    compressed, that make up the image. They are never unfolded, so a mask is as cheap to check as it is to write down.
    """
    if isinstance(mask, list):
        faults = (_polygon_fault(polygon, size) for polygon in mask)
        return next((f"[{i}] {found}" for i, found in enumerate(faults) if found), None)
    if not isinstance(mask, dict) or "counts" not in mask:
        return "is neither a list of polygons nor run lengths (size and counts)"
    if mask.get("size") != list(size):
        return f".size is {short(mask.get('size'))}, and height and width of its image are {list(size)}"
    counts = mask["counts"]
    if isinstance(counts, str):
        counts = run_lengths(counts)
        if counts is None:
            return ".counts is not a string of compressed run lengths"
    elif not (isinstance(counts, list) and all(type(count) is int and 0 <= count < LARGEST for count in counts)):
        return ".counts has run lengths that are not whole numbers from 0"
    total = sum(map(int, counts))
    if min(counts, default=0) < 0 or total != size[0] * size[1]:
        return f".counts make up {total:,} pixels, and its image has {size[0] * size[1]:,}"
    return None


def _polygon_fault(polygon: Any, size: tuple[int, int]) -> str | None:
    if not isinstance(polygon, list):
        return "is not a list: a mask is a list of polygons, [[x, y, x, y, ...], ...]"
    if len(polygon) < 6 or len(polygon) % 2:
        return f"has {len(polygon)} numbers: a polygon has x and y of at least 3 points"
    if not all(type(value) in (int, float) and abs(value) < LARGEST for value in polygon):  # nan too
        return "has values that are not numbers"
    points = np.asarray(polygon, dtype=float).reshape(-1, 2)
    sides = np.array([size[1], size[0]])
    if (points < -sides).any() or (points > 2 * sides).any():
        return f"is far outside its image of {size[1]} x {size[0]}"
    return None


def run_lengths(text: str) -> Sequence[int] | None:
    """COCO's compressed run lengths as numbers; None where ``text`` is none.

    Each number is written in groups of 5 bits, lowest first, a character each (48 + bits, + 32 where another follows; the last
    group's highest bit is the sign), from the fourth on as the difference to the last but one: pycocotools' ``rleFrString``.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > GROUP:
        return None
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << (5 * places), starts)
    values -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values.tolist()


def short(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
