"""A checkpoint on a data set: what every protocol needs, each made once."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.checkpoints import Checkpoint, Cost
from pretrain.data import ImageSource, calibration_batches, evaluation_batches, fingerprint, load, subsets
from rundir.errors import UserError
from rundir.schema import File
from rundir.setting import OWN_IMAGES
from rundir.subnet import Subnet, Width
from transfer.classification.features import extract_features
from transfer.classification.frozen import Frozen
from transfer.classification.options import Options, Recipe
from transfer.classification.rows import Rows, Storage
from transfer.classification.scores import chance, score_of
from transfer.classification.sgd import Classifier
from transfer.latency import SECONDS, latency_ms

TIMING = 4.0  # seconds, about, that measuring the latency of all widths may take
AUTHORS_STD = (0.2023, 0.1994, 0.2010)  # METHOD section 7


@dataclass(frozen=True)
class Features:
    """For each width training features (N, D) and validation features (M, D), float32; labels (N,) and (M,) int64."""

    train: dict[Width, Rows]
    train_labels: Tensor
    val: dict[Width, Rows]
    val_labels: Tensor


class Task:
    """``backbone`` on data set ``name`` in ``root`` (None: those of pretraining), by ``options``."""

    def __init__(self, backbone: Checkpoint, name: str | None, root: str | None, options: Options, device: torch.device):
        data = backbone.config.data
        self.backbone, self.options, self.device = backbone, options, device
        self.name = name or data.name
        self._by_name = name is not None
        self.root = root if root is not None or name not in (None, data.name) else data.root or None
        self.size = options.size or data.size
        self.seed = backbone.seed if options.seed is None else options.seed
        self.workers = data.workers if options.workers is None else options.workers
        self.fraction = 1.0
        self.label_seed: int | None = None
        self.stands: dict[Width, Width] = {}
        self._widths: list[Width] = []
        self.storage = Storage()  # of features
        self._costs: dict[Width, Cost] = {}
        self._frozen: dict[Width, Frozen] = {}
        self._latencies: dict[Width, float] = {}
        self._features: list[Features] = []  # none before they are asked for; shared by the copies of with_labels

    @property
    def dataset(self) -> str:
        """What the data set is called in records: its name, of a folder that of the folder."""
        return dataset_name(self.name, self.root)

    def stands_for(self, width: Width) -> float | None:
        """The plain width that a sub-network is scored for; None where it was asked for itself."""
        like = self.stands.get(width)
        return None if isinstance(like, Subnet) else like

    @property
    def as_pretrained(self) -> bool:
        """Whether the images are those of pretraining at its size, so that stored BatchNorm statistics are right."""
        return self._same_data and self.size == self.backbone.config.data.size and self._unchanged is not False

    @property
    def _same_data(self) -> bool:
        data = self.backbone.config.data
        same_place = self.name not in OWN_IMAGES or _resolved(self.root) == _resolved(data.root)
        return self.name == data.name and (same_place or self._unchanged is True)

    @cached_property
    def _unchanged(self) -> bool | None:
        """Whether a folder's training images are those of pretraining, wherever they are stored; None where that is not known."""
        known = self.backbone.config.data.fingerprint
        if not known or self.name not in OWN_IMAGES or not fingerprint.is_there(self.name, self.root):
            return None
        return fingerprint.of_dataset(self.name, "train", self.root) == known

    def is_namesake(self) -> bool:
        """Whether other images than those of pretraining were asked for that records call the same: a folder, or shards, of its
        name while its own are still there; or a folder with the name of one of the other data sets, or the reverse.

        Without a data set's name the root says where the images of pretraining are now.
        """
        own = self.backbone.config.data
        if not self._by_name or not own.name or self.dataset != dataset_name(own.name, own.root):
            return False
        if not {self.name, own.name} <= set(OWN_IMAGES):
            return self.name != own.name
        elsewhere = self.name != own.name or _resolved(self.root) != _resolved(own.root)
        return elsewhere and fingerprint.is_there(own.name, own.root) and fingerprint.of_splits(own.name, own.root) != self.data

    @property
    def data(self) -> str | None:
        """The fingerprint of the images and labels of both splits; None where they are not there."""
        return fingerprint.of_splits(self.name, self.root) if fingerprint.is_there(self.name, self.root) else None

    @property
    def limit(self) -> int:
        """Number of training images used, 0 for all: what was asked for, or on the images of pretraining as many as that used."""
        if self.options.limit is not None:
            return self.options.limit
        return self.backbone.config.data.limit if self._same_data and self.options.label_fractions == [1.0] else 0

    @cached_property
    def train(self) -> ImageSource:
        """Training images."""
        return self._load("train")

    @cached_property
    def val(self) -> ImageSource:
        """The images that scores are of."""
        return self._load("val")

    def _load(self, split: str) -> ImageSource:
        data = self.backbone.config.data
        store_size = data.store_size if self.name == data.name and self.size == data.size else 0
        source = load(self.name, split, self.root, self.size, self.device, limit=self.limit or None, store_size=store_size or None)
        pixels: dict[str, Any] = {name: tuple(values) for name, values in self.pixels.items()}
        return replace(source, **pixels)

    @property
    def pixels(self) -> dict[str, list[float]]:
        """The mean and the standard deviation of pixels that are not the data set's own: pretraining's on its data, on CIFAR
        that of US3L's authors for their networks.
        """
        data = self.backbone.config.data
        if self.backbone.foreign and not self.backbone.dense and self.name in ("cifar10", "cifar100"):
            return {"std": list(AUTHORS_STD)}
        own = {"mean": list(data.mean), "std": list(data.std)} if self._same_data else {}
        return {name: values for name, values in own.items() if values}

    @cached_property
    def weights(self) -> str:
        """Names the weights that are scored: their fingerprint."""
        return self.backbone.fingerprint()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.val.classes)

    @property
    def score(self) -> str:
        """What is scored, one of ``scores.SCORES``: what was asked for, or the data set's convention."""
        return self.options.score or score_of(self.dataset)

    @property
    def chance(self) -> float:
        """The score of always naming the most frequent class of the validation images."""
        return chance(self.score, self.val.labels)

    def with_labels(self, fraction: float, seed: int | None) -> Task:
        """This task with a ``fraction`` of the labels, chosen by ``seed``, on the same networks and images; see ``labelled``."""
        other = copy.copy(self)
        other.fraction, other.label_seed = fraction, seed
        return other

    def as_a_grid_does(self) -> Task:
        """This task with the settings that a grid evaluates a run with, whatever the options say."""
        other = copy.copy(self)
        other.options = Options(label_fractions=self.options.label_fractions, label_seeds=self.options.label_seeds)
        other.size, other.seed = self.backbone.config.data.size, self.backbone.seed
        return other

    @property
    def labelled(self) -> ImageSource:
        """The training images whose labels may be used: all, or the published part of them."""
        return self.train if self.fraction == 1 else self.train.subset(self.labelled_indices.tolist())

    @property
    def labelled_indices(self) -> Tensor:
        """Which of the training images these are, ascending, int64."""
        if self.fraction == 1:
            return torch.arange(len(self.train))
        return torch.tensor(subsets.labelled(self.train, self.fraction, self.label_seed))

    @property
    def share(self) -> str:
        """The part of the labels in words, with a comma before; nothing for all."""
        return "" if self.fraction == 1 else f", {100 * self.fraction:g} % of the labels"

    def recipe(self, protocol: str) -> Recipe:
        """The recipe of ``protocol``, linear or finetune, without mirroring where flipping an image changes its label."""
        recipe = self.options.recipe_for(protocol, self.dataset, self.backbone.arch)
        pretraining = self.backbone.config
        signs = self.name == "digits" or (self.name == pretraining.data.name and not pretraining.augment.flip)
        return dataclasses.replace(recipe, flip=0.0) if signs else recipe

    def cost(self, width: Width) -> Cost:
        """FLOPs of one image and parameters of the encoder at ``width``."""
        if width not in self._costs:
            self._costs[width] = self.backbone.cost(width, self.size)
        return self._costs[width]

    def latency(self, width: Width) -> float:
        """Milliseconds of one image through the network of ``width``; weights make no difference to it."""
        if width not in self._latencies:
            network = self._frozen.get(width) or Frozen(self.backbone.random_at(width, 0))
            self._latencies[width] = latency_ms(network, self.size, seconds=min(SECONDS, TIMING / max(1, len(self._widths))))
        return self._latencies[width]

    def frozen(self, width: Width) -> Frozen:
        """The network of ``width`` as it is served, for which ``prepare`` has been called."""
        if width not in self._frozen:
            self._frozen[width] = Frozen(self.backbone.at(width))
        return self._frozen[width]

    def test_batches(self, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
        """The images that scores are of, as ``recipe`` resizes them, and labels."""
        return evaluation_batches(
            self.val,
            self.size,
            self.options.batch_size,
            self.device,
            None,
            self.workers,
            recipe.test_scale,
            recipe.test_interpolation,
        )

    def batches(self, source: ImageSource, indices: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images without augmentation, and labels."""
        return evaluation_batches(source, self.size, self.options.batch_size, self.device, indices, workers=self.workers)

    def prepare(self, widths: list[Width]) -> None:
        """Make the networks of ``widths`` ready.

        On the images of pretraining the BatchNorm statistics in the checkpoint are used, and only widths without are
        calibrated; on any other data set, or at another size, all are, on its own training images.
        """
        missing = [w for w in widths if not (self.as_pretrained and self.backbone.is_calibrated(w))]
        if self._same_data and self._unchanged is False:
            print(
                f"{self.dataset}: its training images have changed since pretraining; BatchNorm statistics are of them as they "
                "are now",
                flush=True,
            )
        if missing:
            self.backbone.calibrate(missing, self._calibration_images)
        self._widths = widths

    def _calibration_images(self) -> Iterator[Tensor]:
        # As pretraining does for its own calibration: a width added later gets what it would have got then.
        cfg = self.backbone.config
        return calibration_batches(
            self.train.drafted(cfg.data.draft),
            cfg.calibration,
            cfg.augment,
            self.size,
            self.backbone.seed,
            self.device,
            self.workers,
        )

    def classifier(self, width: Width, frozen: bool, start: str) -> Classifier:
        """A fresh classifier on the dense network of ``width``, for which ``prepare`` has been called."""
        encoder = self.frozen(width) if frozen else self.backbone.at(width).to(memory_format=torch.channels_last)
        return Classifier(encoder, self.backbone.feature_dim(width), self.classes, self.seed, frozen, start)

    @property
    def features(self) -> Features:
        """Features of both splits at all prepared widths, with all labels."""
        if not self._features:
            self._features.append(self._extract())
        return self._features[0]

    def _extract(self) -> Features:
        networks = {width: self.frozen(width) for width in self._widths}
        train, train_labels = extract_features(networks, self.batches(self.train), len(self.train), self.storage)
        val, val_labels = extract_features(networks, self.batches(self.val), len(self.val), self.storage)
        return Features(train, train_labels, val, val_labels)


def dataset_name(name: str, root: str | None) -> str:
    """What a data set of ``pretrain.data`` is called in records: its name, of a folder that of the folder."""
    return os.path.basename(os.path.abspath(os.path.expanduser(root))) if name in OWN_IMAGES and root else name


def check_namesake(task: Task, where: Path | None = None) -> None:
    """Raise :class:`UserError` where records in ``where`` (None: a run directory) would pass for those of the run's own data."""
    if (where is None or (where / File.CONFIG).exists()) and task.is_namesake():
        own = task.backbone.config.data
        differs = "holds other images" if task.name == own.name else "is another data set"
        raise UserError(
            f"{_place(task.name, task.root)} {differs} than {_place(own.name, own.root)}, which the scores of this run are of, "
            "but has its name; set --out DIR or rename it to keep both, or set --force to replace those scores"
        )


def _place(name: str, root: str | None) -> str:
    return str(root) if name in OWN_IMAGES else f"the data set {name}"


def _resolved(root: str | None) -> str:
    return os.path.realpath(os.path.expanduser(root or ""))


def check_data(task: Task) -> None:
    """Raise :class:`UserError` where nothing can be learnt from the data, before anything is computed."""
    if task.classes < 2:
        raise UserError(f"{task.dataset} has a single class; classification needs at least two")
    if len(task.train) < 2:
        raise UserError(f"{task.dataset} has {len(task.train)} training image; set --limit 2 or more, or 0 for all")
    k = task.options.k
    if k is not None and k > len(task.train):
        raise UserError(
            f"--k {k} is larger than the {len(task.train)} training images of {task.dataset}; set --k {len(task.train)} or less"
        )
