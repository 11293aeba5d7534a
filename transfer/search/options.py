"""How a checkpoint is searched."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rundir.arguments import LARGEST, LARGEST_SEED, MOST_PIXELS, MOST_WORKERS
from rundir.errors import UserError
from rundir.fields import choice, names, number
from rundir.subnet import LETTERS
from rundir.typed import check_values
from transfer.search.scores import SCORES

UNIFORM, RANDOM, GREEDY, EVOLUTIONARY, PREDICTOR = STRATEGIES = ("uniform", "random", "greedy", "evolutionary", "predictor")
VARIED = tuple(name for name in LETTERS.values() if name != "resolution")  # images are as they are
OF_RUNNING = ("workers",)  # change nothing about what is found


@dataclass(frozen=True)
class Options:
    """What is searched for, how, and on what.

    Attributes:
        score: the label-free score that is maximised, one of :data:`transfer.search.scores.SCORES`.
        vary: what may differ from the full network: the width of each stage, and what else pretraining has trained.
        strategies: which searches are made, some of :data:`STRATEGIES`.
        evaluations: sub-networks that random and evolutionary search and the predictor score each; greedy slimming about as many.
        images: training images that scores are of, the same for every checkpoint of a data set; all where there are fewer.
        calibration: so many of them calibrate the BatchNorms; also the images per forward pass.
        neighbours: nearest images whose overlap with the full network's is measured.
        pool: sub-networks that the predictor screens.
        checked: random sub-networks whose k-NN accuracy says whether the score ranks them as labels do; 0: no labels are used.
        seed: of everything that is drawn.
        size: pixels of an image; None: the size of pretraining.
        workers: processes that decode image files; None: as in pretraining.
    """

    score: str = choice(*SCORES)
    vary: list[str] = names("width", allowed=VARIED)
    strategies: list[str] = names(*STRATEGIES, allowed=STRATEGIES)
    evaluations: int = number(100, 4, LARGEST)
    images: int = number(1024, 4, LARGEST)
    calibration: int = number(256, 2, LARGEST)
    neighbours: int = number(10, 1, LARGEST)
    pool: int = number(4000, 10, LARGEST)
    checked: int = number(100, 0, LARGEST)
    seed: int = number(0, 0, LARGEST_SEED)
    size: int | None = number(None, 1, MOST_PIXELS)
    workers: int | None = number(None, 0, MOST_WORKERS)

    def check(self) -> None:
        """Raise :class:`UserError` for a value that cannot be used."""
        check_values(self)
        if not self.strategies:
            raise UserError(f"--strategies names none; set some of {', '.join(STRATEGIES)}")
        if not self.vary:
            raise UserError(f"--vary names nothing; set some of {', '.join(VARIED)}")
        if self.neighbours >= self.images:
            raise UserError(
                f"--neighbours {self.neighbours} must be fewer than the {self.images} images; set --neighbours "
                f"{min(10, self.images - 1)}"
            )

    @property
    def choices(self) -> dict[str, Any]:
        """What a search depends on, but for the size."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in (*OF_RUNNING, "size")}
