"""Settings of the classification protocols, and the published recipes by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.data.subsets import check_fraction
from pretrain.errors import UserError
from transfer.classification.scores import check_score


@dataclass
class Recipe:
    """Training of classifiers by SGD on one random crop of each image an epoch.

    With the schedule ``step`` the learning rate is multiplied by ``decay`` at each of ``milestones``, given as shares of
    ``epochs``, so that another number of epochs keeps the shape of the schedule; with ``cosine`` it falls to 0 along half a
    cosine, epoch by epoch. ``flip`` is the probability of mirroring, and is taken as 0 where mirrored images are other
    signs (digits, and the data set of pretraining if that did not mirror either).
    """

    epochs: int
    lr: float
    weight_decay: float
    batch_size: int
    momentum: float = 0.9
    schedule: str = "step"
    milestones: list[float] = field(default_factory=lambda: [0.6, 0.8])
    decay: float = 0.1
    crop_scale: list[float] = field(default_factory=lambda: [0.8, 1.0])
    flip: float = 0.5
    interpolation: str = "bicubic"

    def lr_at(self, epoch: int) -> float:
        """Learning rate of ``epoch``, which counts from 0."""
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.lr * self.decay ** sum(epoch >= round(share * self.epochs) for share in self.milestones)

    def check(self, name: str, smallest_batch: int) -> None:
        """:class:`UserError` for a value that cannot be used; ``name``: what the recipe is called in overrides."""
        if self.epochs < 1:
            raise UserError(f"{name}.epochs {self.epochs} must be at least 1")
        if self.batch_size < smallest_batch:
            why = ": BatchNorm needs a batch" if smallest_batch > 1 else ""
            raise UserError(f"{name}.batch_size {self.batch_size} must be at least {smallest_batch}{why}")
        if not self.lr > 0:  # nan too
            raise UserError(f"{name}.lr={self.lr} must be above 0")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise UserError(f"{name}.interpolation={self.interpolation} is not known; write bilinear or bicubic")
        if self.schedule not in ("step", "cosine"):
            raise UserError(f"{name}.schedule={self.schedule} is not known; write step or cosine")


def linear_recipe() -> Recipe:
    """The paper's linear evaluation on CIFAR (METHOD section 6): 100 epochs, lr 30, x0.1 at epochs 60 and 80."""
    return Recipe(epochs=100, lr=30.0, weight_decay=0.0, batch_size=512)


def imagenet_recipe() -> Recipe:
    """The paper's linear evaluation on ImageNet (METHOD section 6): 60 epochs, lr 0.8, cosine, batch 2048, standard crops."""
    return Recipe(epochs=60, lr=0.8, weight_decay=0.0, batch_size=2048, schedule="cosine", crop_scale=[0.08, 1.0],
                  interpolation="bilinear")


def transfer_recipe() -> Recipe:
    """The paper's linear evaluation on Aircraft, DTD, Flowers and Pets (METHOD section 6): as CIFAR's, at batch 64.

    The paper says nothing of its crops there. They are ImageNet's, as in MoCo's linear evaluation (arXiv 1911.05722), which
    its learning rate of 30 comes from.
    """
    return Recipe(epochs=100, lr=30.0, weight_decay=0.0, batch_size=64, crop_scale=[0.08, 1.0], interpolation="bilinear")


def finetune_recipe() -> Recipe:
    """The paper's fine-tuning (METHOD section 6): 50 epochs, x0.1 at epochs 30 and 40, weight decay 1e-4."""
    return Recipe(epochs=50, lr=0.01, weight_decay=1e-4, batch_size=64)


# Recipes of linear evaluation. The paper has none for Caltech-101 and Food-101, which resemble the other transfer sets.
LINEAR_RECIPES: dict[str, Callable[[], Recipe]] = {
    "cifar": linear_recipe, "imagenet": imagenet_recipe, "transfer": transfer_recipe,
}
TRANSFER_SETS = ("flowers102", "pets", "dtd", "aircraft", "caltech101", "food101")


def recipe_of(dataset: str) -> str:
    """The name of the linear evaluation's recipe for a data set, named as in records: of a folder the folder's name.

    A folder whose name begins with imagenet or ilsvrc gets ``imagenet``, any other folder ``cifar``.
    """
    if dataset in TRANSFER_SETS:
        return "transfer"
    return "imagenet" if dataset.lower().startswith(("imagenet", "ilsvrc")) else "cifar"


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
        limit: training images used, balanced over classes; 0: all; None: as many as pretraining used, on other data all.
        workers: processes that decode image files; None: as in pretraining.
        score: one of ``scores.SCORES``; None: the one that is the data set's custom.
        label_fractions: shares of the training labels that linear and finetune train on, one after the other.
        label_seed: which images these are.
        recipe: one of ``LINEAR_RECIPES``; None: the data set's.
        linear, finetune: what is to differ from the recipe, by field of :class:`Recipe`.
    """

    size: int | None = None
    batch_size: int = 256
    seed: int | None = None
    k: int | None = None
    temperature: float = 0.07
    C: float = 1.0
    limit: int | None = None
    workers: int | None = None
    score: str | None = None
    label_fractions: list[float] = field(default_factory=lambda: [1.0])
    label_seed: int = 0
    recipe: str | None = None
    linear: dict[str, Any] = field(default_factory=dict)
    finetune: dict[str, Any] = field(default_factory=dict)

    def recipe_for(self, protocol: str, dataset: str) -> Recipe:
        """The recipe of ``protocol``, linear or finetune, on a data set named as in records.

        Raises:
            UserError: an override that does not exist.
        """
        if protocol == "finetune":
            return _changed(finetune_recipe(), self.finetune, protocol)
        return _changed(LINEAR_RECIPES[self.recipe or recipe_of(dataset)](), self.linear, protocol)

    def check(self) -> None:
        """:class:`UserError` for a value that no protocol can use."""
        for name, value in {"--size": self.size, "--k": self.k, "--batch-size": self.batch_size}.items():
            if value is not None and value < 1:
                raise UserError(f"{name} {value} must be at least 1")
        for name, value in {"C": self.C, "temperature": self.temperature}.items():
            if not value > 0:  # nan too
                raise UserError(f"{name}={value} must be above 0")
        if self.limit is not None and self.limit < 0:
            raise UserError(f"--limit {self.limit} must be 0 (all images) or more")
        if self.recipe is not None and self.recipe not in LINEAR_RECIPES:
            raise UserError(f"unknown recipe {self.recipe!r}; write --recipe with one of {', '.join(LINEAR_RECIPES)}")
        check_score(self.score)
        self._check_fractions()
        # Every recipe is usable itself, so what cannot be used is an override, whatever the data set.
        self.recipe_for("linear", "").check("linear", 1)
        self.recipe_for("finetune", "").check("finetune", 2)

    def _check_fractions(self) -> None:
        if not self.label_fractions:
            raise UserError("--label-fraction names none; write for example --label-fraction 0.01 0.1")
        for fraction in self.label_fractions:
            check_fraction(fraction)
        if self.limit and self.label_fractions != [1.0]:
            raise UserError(f"--limit {self.limit} and --label-fraction both leave out labels; write one of them")


def _changed(recipe: Recipe, changes: Mapping[str, Any], name: str) -> Recipe:
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(recipe), dict(changes)))
    except OmegaConfBaseException as error:
        known = ", ".join(f.name for f in dataclasses.fields(Recipe))
        raise UserError(f"{name}.{getattr(error, 'full_key', '')}: {str(error).splitlines()[0]}; known here: {known}") from None


def parse_overrides(overrides: Sequence[str], **values: object) -> Options:
    """Options with ``values`` and the user's ``key=value`` texts, such as ``linear.epochs=20``, on top.

    Raises:
        UserError: a key or a value that does not exist or cannot be used.
    """
    for text in overrides:
        if "=" not in text:
            raise UserError(f"override {text!r} is not of the form key=value, for example linear.epochs=20")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Options), values, OmegaConf.from_dotlist(list(overrides)))
        options = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "options"
        known = ", ".join(f.name for f in dataclasses.fields(Options))
        raise UserError(f"{key}: {str(error).splitlines()[0]}; known here: {known}") from None
    options.check()
    return options
