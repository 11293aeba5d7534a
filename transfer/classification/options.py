"""Settings of the classification protocols, and the published recipes by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pretrain.data.subsets import check_fraction
from rundir.arguments import LARGEST, LARGEST_SEED, MOST_BATCH, MOST_EPOCHS, MOST_PIXELS, MOST_WORKERS
from rundir.errors import UserError, check_choice
from rundir.fields import choice, dotted_keys, number, number_list, whole_list
from rundir.overrides import read_overrides
from rundir.typed import check_keys, check_values, typed
from transfer.classification.scores import check_score

TRAINING_PROTOCOLS = ("linear", "finetune")  # by SGD on images, with a recipe
FLOWERS_MOBILENETV2 = 100.0  # learning rate of linear evaluation (METHOD section 7)


@dataclass
class Recipe:
    """Training of classifiers by SGD, or by LARS (arXiv 1708.03888), on one random crop of each image an epoch.

    With the schedule ``step`` the learning rate is multiplied by ``decay`` at each of ``milestones``, given as shares of
    ``epochs``, so that another number of epochs keeps the shape of the schedule; with ``cosine`` it falls to 0 along half a
    cosine, epoch by epoch. ``flip`` is the probability of mirroring, and is taken as 0 where flipping an image changes
    its label (digits, and the data set of pretraining if that did not flip either). ``trust`` is LARS's coefficient; ``start`` how
    the classifier begins: normal (N(0, 0.01), no bias, as MoCo's) or torch (its default). Test images are resized to ``test_scale``
    times the size, of which the centre is cut.
    """

    epochs: int = number(low=1, high=MOST_EPOCHS)
    lr: float = number(above=0)
    weight_decay: float = number()
    batch_size: int = number(low=1, high=MOST_BATCH)
    momentum: float = number(0.9, 0, 1)
    schedule: str = choice("step", "cosine")
    milestones: list[float] = number_list(0.6, 0.8, high=1, any_count=True)
    decay: float = number(0.1, 0, 1)
    crop_scale: list[float] = number_list(0.8, 1.0, high=1, ordered=True)
    flip: float = number(0.5, 0, 1)
    interpolation: str = choice("bicubic", "bilinear")
    optimizer: str = choice("sgd", "lars")
    trust: float = number(0.001, above=0)
    start: str = choice("normal", "torch")
    test_scale: float = number(8 / 7, 1, 4)  # the centre is cut of the resized image
    test_interpolation: str = choice("bilinear", "bicubic")

    def lr_at(self, epoch: int) -> float:
        """Learning rate of ``epoch``, which counts from 0."""
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.lr * self.decay ** sum(epoch >= round(share * self.epochs) for share in self.milestones)

    def check(self, name: str, smallest_batch: int) -> None:
        """Raise :class:`UserError` for a value that cannot be used; ``name``: what the recipe is called in overrides."""
        check_values(self, f"{name}.")
        if self.batch_size < smallest_batch:
            raise UserError(f"{name}.batch_size={self.batch_size} must be at least {smallest_batch}: BatchNorm needs a batch")


def linear_recipe() -> Recipe:
    """The paper's linear evaluation on CIFAR (METHOD section 6): 100 epochs, lr 30, x0.1 at epochs 60 and 80."""
    return Recipe(epochs=100, lr=30.0, weight_decay=0.0, batch_size=512)


def cifar_as_run() -> Recipe:
    """The same as the authors run it (METHOD section 7): test images of 36 pixels, bicubic, and torch's start of the layer."""
    return dataclasses.replace(linear_recipe(), test_scale=36 / 32, test_interpolation="bicubic", start="torch")


def imagenet_recipe() -> Recipe:
    """The paper's linear evaluation on ImageNet (METHOD sections 6 and 7): 60 epochs of LARS, lr 0.8, cosine, batch 2048."""
    return Recipe(
        epochs=60,
        lr=0.8,
        weight_decay=0.0,
        batch_size=2048,
        schedule="cosine",
        crop_scale=[0.08, 1.0],
        interpolation="bilinear",
        optimizer="lars",
        start="torch",
    )


def vit_recipe() -> Recipe:
    """The authors' linear evaluation of ViTs on CIFAR at 224 pixels (METHOD section 7), without a central cut."""
    return Recipe(
        epochs=90,
        lr=0.1,
        weight_decay=0.0,
        batch_size=256,
        schedule="cosine",
        crop_scale=[0.08, 1.0],
        interpolation="bilinear",
        start="torch",
        test_scale=1.0,
    )


def transfer_recipe() -> Recipe:
    """The paper's linear evaluation on Aircraft, DTD, Flowers and Pets (METHOD section 6): as CIFAR's, at batch 64.

    The paper says nothing of its crops there. They are ImageNet's, as in MoCo's linear evaluation (arXiv 1911.05722), which
    its learning rate of 30 comes from.
    """
    return Recipe(epochs=100, lr=30.0, weight_decay=0.0, batch_size=64, crop_scale=[0.08, 1.0], interpolation="bilinear")


def finetune_recipe(dataset: str = "") -> Recipe:
    """The paper's fine-tuning (METHOD sections 6 and 7): x0.1 at 60 and 80 % of the epochs, weight decay 1e-4."""
    epochs, lr = FINETUNE.get(dataset, (50, 0.01))
    return Recipe(epochs=epochs, lr=lr, weight_decay=1e-4, batch_size=64)


# Recipes of linear evaluation. The paper has none for Caltech-101 and Food-101, which resemble the other transfer sets.
LINEAR_RECIPES: dict[str, Callable[[], Recipe]] = {
    "cifar": linear_recipe,
    "cifar-as-run": cifar_as_run,
    "imagenet": imagenet_recipe,
    "transfer": transfer_recipe,
    "vit": vit_recipe,
}
# Epochs and learning rate of fine-tuning. Of Aircraft the authors have 0.001 and 0.005.
FINETUNE = {"cifar10": (50, 0.001), "aircraft": (50, 0.005), "dtd": (100, 0.1), "flowers102": (100, 0.1), "pets": (100, 0.1)}
TRANSFER_SETS = ("flowers102", "pets", "dtd", "aircraft", "caltech101", "food101")


def recipe_of(dataset: str, arch: str = "") -> str:
    """The name of the linear evaluation's recipe for a data set, named as in records: of a folder the folder's name.

    A folder whose name begins with imagenet or ilsvrc gets ``imagenet``, any other folder ``cifar``, ViTs on CIFAR ``vit``.
    """
    if arch.startswith("vit") and dataset in ("cifar10", "cifar100"):
        return "vit"
    if dataset in TRANSFER_SETS:
        return "transfer"
    return "imagenet" if dataset.lower().startswith(("imagenet", "ilsvrc")) else "cifar"


@dataclass
class Options:
    """How a checkpoint is evaluated; every default is the one of the published protocol.

    Attributes:
        size: pixels of an image; None: the size of pretraining.
        batch_size: images per forward pass while features are computed; does not change results.
        seed: of the protocols that train; None: the seed of pretraining.
        k: neighbours of k-NN; None: 20. All labelled images where there are fewer.
        temperature: of k-NN.
        C: inverse strength of the L2 penalty of linear_fast.
        limit: training images used, balanced over classes; 0: all; None: as many as pretraining used, on other data all.
        workers: processes that decode image files; None: as in pretraining.
        score: one of ``scores.SCORES``; None: the data set's convention.
        label_fractions: shares of the training labels that protocols learn from, one after the other.
        label_seeds: which images these are, each a choice of its own; of no meaning where all labels are used.
        recipe: one of ``LINEAR_RECIPES``; None: the data set's.
        linear, finetune: what is to differ from the recipe, by field of :class:`Recipe`.
    """

    size: int | None = number(None, 1, MOST_PIXELS)
    batch_size: int = number(256, 1, MOST_BATCH)
    seed: int | None = number(None, 0, LARGEST_SEED)
    k: int | None = number(None, 1, LARGEST)
    temperature: float = number(0.07, above=0)
    C: float = number(1.0, above=0)
    limit: int | None = number(None, 0, LARGEST)
    workers: int | None = number(None, 0, MOST_WORKERS)
    score: str | None = None
    label_fractions: list[float] = field(default_factory=lambda: [1.0])
    label_seeds: list[int] = whole_list(0, high=LARGEST_SEED)
    recipe: str | None = None
    linear: dict[str, Any] = field(default_factory=dict)
    finetune: dict[str, Any] = field(default_factory=dict)

    def recipe_for(self, protocol: str, dataset: str, arch: str = "") -> Recipe:
        """The recipe of ``protocol``, linear or finetune, of a network on a data set named as in records.

        Raises:
            UserError: an override that does not exist.
        """
        if protocol == "finetune":
            return _changed(finetune_recipe(dataset), self.finetune, protocol)
        recipe = LINEAR_RECIPES[self.recipe or recipe_of(dataset, arch)]()
        if self.recipe is None and dataset == "flowers102" and arch.startswith("mobilenetv2"):
            recipe.lr = FLOWERS_MOBILENETV2
        return _changed(recipe, self.linear, protocol)

    def labels(self) -> list[tuple[float, int | None]]:
        """What is learned from, one after the other: the share of the labels and its seed, None for all labels."""
        return list(
            dict.fromkeys(
                (fraction, None if fraction == 1 else seed) for fraction in self.label_fractions for seed in self.label_seeds
            )
        )

    def check(self) -> None:
        """Raise :class:`UserError` for a value that no protocol can use."""
        check_values(self)
        if self.recipe is not None:
            check_choice("--recipe", self.recipe, LINEAR_RECIPES)
        check_score(self.score)
        self._check_fractions()
        # Every recipe is usable itself, so what cannot be used is an override, whatever the data set.
        self.recipe_for("linear", "").check("linear", 1)
        self.recipe_for("finetune", "").check("finetune", 2)

    def _check_fractions(self) -> None:
        if not self.label_fractions:
            raise UserError("--label-fraction names none; set for example --label-fraction 0.01 0.1")
        if not self.label_seeds:
            raise UserError("--label-seed names none; set for example --label-seed 0 1 2")
        for fraction in self.label_fractions:
            check_fraction(fraction)
        if self.limit and self.label_fractions != [1.0]:
            raise UserError(f"--limit {self.limit} and --label-fraction both leave out labels; set one of them")


def _changed(recipe: Recipe, changes: Mapping[str, Any], name: str) -> Recipe:
    return typed(Recipe, {**dataclasses.asdict(recipe), **changes}, f"{name}.")


def parse_overrides(overrides: Sequence[str], **values: object) -> Options:
    """Options with ``values`` and the user's ``key=value`` texts, such as ``linear.epochs=20``, on top.

    Raises:
        UserError: a key or a value that does not exist or cannot be used.
    """
    changes = read_overrides(overrides, "linear.epochs=20")
    recipes = [key for protocol in TRAINING_PROTOCOLS for key in dotted_keys(Recipe, f"{protocol}.")]
    check_keys(Options, changes, every=[*dotted_keys(Options), *recipes])
    options = typed(Options, values | changes)
    options.check()
    return options
