"""Which images belong to a part of a data set: label fractions and splits that everybody can draw again.

What is drawn depends on the images' names alone, through SHA-256: not on the platform, on library versions, or on the
order in which files are found.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rundir.atomic import make_folder
from rundir.errors import UserError
from rundir.schema import LABEL_LIST_FORMAT

if TYPE_CHECKING:
    from pretrain.data.sources import ImageSource


def class_turns(names: Sequence[str], labels: Sequence[int], seed: int) -> tuple[list[int], list[int]]:
    """A shuffle of N images, and each image's place among those of its class in that shuffle.

    names: N different texts; labels: their N classes. The shuffle sorts images by SHA-256 of "<seed>/<name>".

    Returns:
        order: N indices; turns: N places from 0 on, by index.
    """
    digests = [hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest() for name in names]
    order = sorted(range(len(names)), key=digests.__getitem__)
    turns, seen = [0] * len(names), Counter()
    for index in order:
        turns[index] = seen[labels[index]]
        seen[labels[index]] += 1
    return order, turns


def labelled(source: ImageSource, fraction: float, seed: int) -> list[int]:
    """Indices, ascending, of the images of ``source`` that keep their label.

    Classes take turns until round(fraction * N) images are drawn, at least one a class. So counts of two classes differ
    by one at most, unless a class has no more images, and the images of a smaller fraction are among a larger one's.
    This is the class-balanced 1 % and 10 % of semi-supervised learning (SimCLR, arXiv 2002.05709, section 6).

    Raises:
        UserError: ``fraction`` is not in (0, 1].
    """
    check_fraction(fraction)
    labels = source.labels.tolist()
    order, turns = class_turns(image_names(source), labels, seed)
    count = max(len(set(labels)), round(fraction * len(labels)))
    return sorted(sorted(order, key=turns.__getitem__)[:count])


def check_fraction(fraction: float, option: str = "--label-fraction") -> None:
    """Raise :class:`UserError` where ``fraction`` is no share of the labels."""
    if not 0 < fraction <= 1:  # nan too
        raise UserError(
            f"{option} {fraction:g} is not a share of the labels; set a number above 0 and up to 1, for example 0.01 for 1 %"
        )


def image_names(source: ImageSource) -> list[str]:
    """The N names of the images: of files their path within the data set, otherwise their number in it."""
    return source.names or [f"{i:05d}" for i in range(len(source))]


def list_name(dataset: str, fraction: float, seed: int) -> str:
    """File name of a label list."""
    return f"{dataset}-train-{fraction:g}-seed{seed}.tsv"


def label_list(source: ImageSource, dataset: str, fraction: float, seed: int) -> str:
    """The images of :func:`labelled` as text: a header, then index, class and name of each image, tab-separated.

    The format is described in docs/formats.md.
    """
    names, chosen = image_names(source), labelled(source, fraction, seed)
    labels = source.labels.tolist()
    header = {
        "dataset": dataset,
        "split": "train",
        "fraction": f"{fraction:g}",
        "seed": seed,
        "images": f"{len(chosen)} of {len(source)}",
        "classes": len(source.classes),
    }
    lines = [
        f"# label list, format {LABEL_LIST_FORMAT}",
        *(f"# {key}: {value}" for key, value in header.items()),
        "index\tclass\tname",
    ]
    lines += [f"{i}\t{source.classes[labels[i]]}\t{names[i]}" for i in chosen]
    return "\n".join(lines) + "\n"


def write_label_lists(
    source: ImageSource, dataset: str, fractions: Sequence[float], seeds: Sequence[int], out: str | Path
) -> list[Path]:
    """Write one list for each fraction and seed into the directory ``out``; returns the files.

    Raises:
        UserError: a fraction is not in (0, 1], or ``out`` cannot be written to.
    """
    for fraction in fractions:
        check_fraction(fraction, "--fraction")
    out, written = Path(out), []
    make_folder(out, "label lists")
    for fraction in fractions:
        for seed in seeds:
            written.append(out / list_name(dataset, fraction, seed))
            written[-1].write_text(
                label_list(source, dataset, fraction, seed), encoding="utf-8", errors="surrogateescape", newline="\n"
            )  # names of files as the disk has them, whatever their encoding
    return written
