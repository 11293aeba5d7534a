"""How features are analysed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rundir.arguments import LARGEST, MOST_BATCH, MOST_PIXELS, MOST_WORKERS
from rundir.errors import UserError
from rundir.fields import number
from rundir.typed import check_values

MOST_PAIRS = 100


@dataclass(frozen=True)
class Options:
    """What is measured on.

    Attributes:
        images: training images, the same for every checkpoint of a data set; all where there are fewer. A rank cannot be more.
        pairs: pairs of augmented views of each image, for alignment, uniformity and LiDAR.
        neighbours: nearest images whose overlap is measured.
        size: pixels of an image; None: the size of pretraining.
        batch_size: images per forward pass; does not change results but by rounding.
        workers: processes that decode image files; None: as in pretraining.
    """

    images: int = number(1024, 4, LARGEST)
    pairs: int = number(4, 1, MOST_PAIRS)
    neighbours: int = number(10, 1, LARGEST)
    size: int | None = number(None, 1, MOST_PIXELS)
    batch_size: int = number(256, 2, MOST_BATCH)
    workers: int | None = number(None, 0, MOST_WORKERS)

    def check(self) -> None:
        """Raise :class:`UserError` for a value that cannot be used."""
        check_values(self)
        if self.neighbours >= self.images:
            raise UserError(
                f"--neighbours {self.neighbours} must be fewer than the {self.images} images; set --neighbours "
                f"{min(10, self.images - 1)}"
            )

    @property
    def choices(self) -> dict[str, Any]:
        """What a measurement depends on, but for the size."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name in ("images", "pairs", "neighbours")}
