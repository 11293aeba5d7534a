"""Errors in detection data, collected into one message; and notes on what is unusual or left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pretrain.data import images
from pretrain.data.files import NAMED
from pretrain.data.folder import alike
from rundir.errors import UserError
from transfer.finetuning.looking import look_at_all, settle_exif, trained_on_too

TOLERANCE = 1.0  # pixels that a box may leave its image by: rounding, and counting from 0 or from 1


def some(texts: Sequence[str]) -> str:
    """The first of ``texts``, and how many more there are."""
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more


@dataclass
class Faults:
    """What is found in the data in ``root``; ``clip`` cuts boxes at their image's edge.

    Attributes:
        wrong: values that cannot be right, with file and key; missing: files; unknown: boxes of no known image or class;
            outside: boxes that leave their image; shares: images whose boxes are shares of its size.
        flat: boxes without an area, which are left out.
        sizes: every image file with the (width, height) that its annotation states.
        notes: what is odd but not wrong, a line each.
    """

    root: Path
    clip: bool
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    shares: list[str] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)
    sizes: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def checked(self, box: list[float], size: tuple[int, int], name: str) -> list[float] | None:
        """The box (left, top, right, bottom), cut at the edge if that is asked for; None, and noted, if it has no area.

        One that is outside its image of ``size`` (width, height) is noted; ``name`` says which it is.
        """
        left, top, right, bottom = box
        (width, height), cut = size, [*_cut(left, top, size), *_cut(right, bottom, size)]
        if max(abs(a - b) for a, b in zip(box, cut, strict=True)) > TOLERANCE and not self.clip:
            self.outside.append(f"{name} ({width} x {height}): left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g}")
        elif cut[2] <= cut[0] or cut[3] <= cut[1]:
            self.flat.append(name)
            return None
        return cut if self.clip else box

    def stop(self) -> None:
        """Raise :class:`UserError` if training is impossible."""
        if self.wrong:
            more = f" (and {len(self.wrong) - 1} more)" if len(self.wrong) > 1 else ""
            raise UserError(f"{self.wrong[0]}{more}")
        for found, message in (
            (self.missing, "files are missing"),
            (self.unknown, "boxes of no known image or class"),
            (
                self.shares,
                "images have boxes within one pixel at their corner, as if they were shares of the image's size; "
                "multiply them by its width and height",
            ),
            (self.outside, "boxes are outside their image; correct them, or set --clip-boxes to cut them"),
        ):
            if found:
                raise UserError(f"{self.root}: {len(found)} {message}: {some(found)}")

    def look(self, exif: str | None, show: bool) -> str:
        """Read every image whole and compare its size; which pixels boxes belong to where sizes leave it open (``exif``: asked).

        Raises:
            UserError: one cannot be read, has another size, or it is open how it is turned.
        """

        def look(index: int) -> images.Header:
            path, size = self.sizes[index]
            header, pixels = images.load(path)
            images.fitted(path, header, pixels, size, images.DISPLAYED)
            return header

        headers = look_at_all(look, len(self.sizes), f"checking {self.root.name}", show)
        stated = [(path, header, size) for (path, size), header in zip(self.sizes, headers, strict=True)]
        found, notes = settle_exif(stated, exif)
        self.notes += notes
        return found

    def finish(self, classes: Sequence[str], train: Sequence[dict], test: Sequence[dict]) -> list[str]:
        """Stop if something is wrong; else everything to be told, a line each."""
        self.stop()
        notes = [f"trained on: {_summary(train)}", f"scored on: {_summary(test)}", *self.notes]
        if self.flat:
            notes.append(
                f"{len(self.flat)} boxes have no area and are not used, neither to train on nor to score on: {some(self.flat)}"
            )
        for records, what in ((train, "trained on"), (test, "scored on")):
            counts = Counter(a["category_id"] for record in records for a in record["annotations"])
            empty = [name for number, name in enumerate(classes) if not counts[number]]
            if empty:
                notes.append(f"{len(empty)} of {len(classes)} classes have no box to be {what}: {some(empty)}")
        files = [[record["file_name"] for record in records] for records in (train, test)]
        return [*notes, *trained_on_too(*files), *alike(classes)]


def _cut(x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
    return min(max(x, 0), size[0]), min(max(y, 0), size[1])


def has_box(record: dict) -> bool:
    """Whether an image has something to be trained on: a box of one object, with an area."""
    return any(not box.get("iscrowd") for box in record["annotations"])


def _summary(records: Iterable[dict]) -> str:
    records = list(records)
    boxes = [box for record in records for box in record["annotations"]]
    special = {"difficult": "difficult", "crowds": "iscrowd"}
    counts = {word: sum(bool(box.get(key)) for box in boxes) for word, key in special.items()}
    of_them = "".join(f", {count} of them {word}" for word, count in counts.items() if count)
    return f"{len(records)} images, {sum(map(has_box, records))} of them with objects; {len(boxes)} boxes{of_them}"
