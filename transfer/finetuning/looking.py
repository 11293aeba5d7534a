"""Every file of a data set is checked before anything is trained; and which way pictures with an EXIF orientation are read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from pretrain.data.files import some
from pretrain.data.images import DISPLAYED, STORED, Header
from pretrain.distributed import several
from rundir.errors import UserError
from rundir.machine import cores
from rundir.progress import reporting

EXIF = (DISPLAYED, STORED)
SHOWN_EVERY = 500  # files
Found = TypeVar("Found")


def look_at_all(look: Callable[[int], Found], count: int, title: str, show: bool = True) -> list[Found]:
    """``look(i)`` for every i below ``count``, in threads and shared out among the processes; the results in order, in all of them.

    Raises:
        UserError: the first that ``look`` raised, and how many files more are at fault.
    """

    def tried(index: int) -> Found | UserError:
        try:
            return look(index)
        except UserError as error:
            return error

    rank, world = (dist.get_rank(), dist.get_world_size()) if several() else (0, 1)
    own: list[Found | UserError] = []
    indices = range(rank, count, world)
    with reporting(title, len(indices), show) as reporter, ThreadPoolExecutor(_threads()) as pool:
        for done, result in enumerate(pool.map(tried, indices), start=1):
            own.append(result)
            if done % SHOWN_EVERY == 0 or done == len(indices):
                reporter.update(done)
    shares: list[list] = [own]
    if world > 1:
        shares = [[] for _ in range(world)]
        dist.all_gather_object(shares, own)
    results = [shares[index % world][index // world] for index in range(count)]
    faults = [result for result in results if isinstance(result, UserError)]
    if faults:
        more = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}")
    return results


def _threads() -> int:
    return min(16, cores())


def settle_exif(stated: Iterable[tuple[str | Path, Header, tuple[int, int]]], asked: str | None) -> tuple[str, list[str]]:
    """Which pixels annotations belong to where their size leaves it open, ``displayed`` or ``stored``; and a note on that.

    Args:
        stated: every image with its header and the (width, height) that its annotation states, one of the header's two.
        asked: what the user says.

    Raises:
        UserError: it is left open, nothing is asked for, and the other images of the data set do not agree.
    """
    images = [(path, header.sides(size)) for path, header, size in stated if header.orientation != 1]
    sure = Counter(sides[0] for _, sides in images if len(sides) == 1)
    unsure = [str(path) for path, sides in images if len(sides) > 1]
    if unsure and not asked and len(sure) != 1:
        raise UserError(
            f"{unsure[0]} has an EXIF orientation that leaves its size as it is, so whether its annotation belongs to "
            f"the displayed or to the stored picture is open ({len(unsure)} such images); set --exif displayed or "
            "--exif stored, or remove the tag"
        )
    exif = asked or (next(iter(sure)) if len(sure) == 1 else DISPLAYED)
    sure[exif] += len(unsure)
    words = " and ".join(f"{count} annotated as {side}" for side, count in sorted(sure.items()) if count)
    note = f"{len(images)} images have an EXIF orientation, {words}: {some([str(path) for path, _ in images])}"
    return exif, [note] if images else []


def trained_on_too(train: Iterable[str | Path], test: Iterable[str | Path]) -> list[str]:
    """A note of the images in ``test`` that are also in ``train``, if there are any."""
    scored = {os.path.realpath(path) for path in test}
    both = sorted(scored & {os.path.realpath(path) for path in train})
    return [f"{len(both)} of the {len(scored)} images scored on are trained on, too: {some(both)}"] if both else []
