"""Settings of the classification protocols."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.errors import UserError


@dataclass
class Recipe:
    """Training of classifiers by SGD on one random crop of each image an epoch.

    The learning rate is multiplied by ``decay`` at each of ``milestones``, given as shares of ``epochs``, so that
    another number of epochs keeps the shape of the schedule. ``flip`` is the probability of mirroring, and is taken as
    0 where pretraining did not mirror either (a mirrored digit is another sign).
    """

    epochs: int
    lr: float
    weight_decay: float
    batch_size: int
    momentum: float = 0.9
    milestones: list[float] = field(default_factory=lambda: [0.6, 0.8])
    decay: float = 0.1
    crop_scale: list[float] = field(default_factory=lambda: [0.8, 1.0])
    flip: float = 0.5
    interpolation: str = "bicubic"

    def lr_at(self, epoch: int) -> float:
        """Learning rate of ``epoch``, which counts from 0."""
        return self.lr * self.decay ** sum(epoch >= round(share * self.epochs) for share in self.milestones)


def linear_recipe() -> Recipe:
    """The paper's linear evaluation on CIFAR (METHOD section 6): 100 epochs, lr 30, x0.1 at epochs 60 and 80."""
    return Recipe(epochs=100, lr=30.0, weight_decay=0.0, batch_size=512)


def finetune_recipe() -> Recipe:
    """The paper's fine-tuning (METHOD section 6): 50 epochs, x0.1 at epochs 30 and 40, weight decay 1e-4."""
    return Recipe(epochs=50, lr=0.01, weight_decay=1e-4, batch_size=64)


@dataclass
class Options:
    """How a checkpoint is evaluated; every default is the one of the published protocol.

    Attributes:
        size: pixels of an image; None: the size of pretraining.
        batch_size: images a forward pass while features are computed; changes no result.
        seed: of the protocols that train; None: the seed of pretraining.
        k: neighbours of k-NN; None: 20, or all training images where there are fewer.
        temperature: of k-NN.
        C: inverse strength of the L2 penalty of linear_fast.
        limit: training images used, balanced over classes; 0: all.
        workers: processes that decode image files; None: as in pretraining.
    """

    size: int | None = None
    batch_size: int = 256
    seed: int | None = None
    k: int | None = None
    temperature: float = 0.07
    C: float = 1.0
    limit: int = 0
    workers: int | None = None
    linear: Recipe = field(default_factory=linear_recipe)
    finetune: Recipe = field(default_factory=finetune_recipe)

    def check(self) -> None:
        """:class:`UserError` for a value that no protocol can use."""
        at_least_one = {"--size": self.size, "--k": self.k, "--batch-size": self.batch_size,
                        "linear.epochs": self.linear.epochs, "linear.batch_size": self.linear.batch_size,
                        "finetune.epochs": self.finetune.epochs}
        for name, value in at_least_one.items():
            if value is not None and value < 1:
                raise UserError(f"{name} {value} must be at least 1")
        above_zero = {"C": self.C, "temperature": self.temperature, "linear.lr": self.linear.lr,
                      "finetune.lr": self.finetune.lr}
        for name, value in above_zero.items():
            if not value > 0:  # nan too
                raise UserError(f"{name}={value} must be above 0")
        if self.finetune.batch_size < 2:
            raise UserError(f"finetune.batch_size {self.finetune.batch_size} must be at least 2: "
                            "BatchNorm needs a batch")
        for name, recipe in (("linear", self.linear), ("finetune", self.finetune)):
            if recipe.interpolation not in ("bilinear", "bicubic"):
                raise UserError(f"{name}.interpolation={recipe.interpolation} is not known; write bilinear or bicubic")
        if self.limit < 0:
            raise UserError(f"--limit {self.limit} must be 0 (all images) or more")


def parse_overrides(overrides: Sequence[str], **values: object) -> Options:
    """Options with ``values`` and the user's ``key=value`` texts, such as ``linear.epochs=20``, on top.

    Raises:
        UserError: a key or a value that does not exist.
    """
    for text in overrides:
        if "=" not in text:
            raise UserError(f"override {text!r} is not of the form key=value, for example linear.epochs=20")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Options), values, OmegaConf.from_dotlist(list(overrides)))
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "options"
        known = ", ".join(f.name for f in dataclasses.fields(Recipe if "." in key else Options))
        raise UserError(f"{key}: {str(error).splitlines()[0]}; known here: {known}") from None
