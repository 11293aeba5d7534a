"""Sub-networks scored one after the other: images are decoded once, and each sub-network costs about its forward passes."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.checkpoints import Checkpoint
from pretrain.data import ImageSource, TwoViewBatches
from rundir.subnet import Width
from transfer.classification.frozen import Frozen
from transfer.classification.knn import K, knn_predict
from transfer.classification.options import Options as TaskOptions
from transfer.classification.scores import measured
from transfer.classification.task import Task
from transfer.image_arguments import check_neighbours
from transfer.latency import latency_ms
from transfer.search.options import Options
from transfer.search.scores import SCORES, Features, Reference, score

VIEWS = "views"
MOST_QUERIES = 1024  # validation images of the check


class Scorer:
    """Scores of sub-networks of ``checkpoint`` on training images of a data set, held in memory.

    The BatchNorms of a sub-network are calibrated on the first batch of the very images that it is scored on, in the same pass
    (:func:`pretrain.slimmable.calibrated_features`).
    """

    def __init__(self, checkpoint: Checkpoint, dataset: str | None, root: str | None, options: Options, device: torch.device):
        self.checkpoint, self.options, self.device = checkpoint, options, device
        plain = TaskOptions(size=options.size, batch_size=options.calibration, workers=options.workers)
        self.task = Task(checkpoint, dataset, root, plain, device)

    @property
    def count(self) -> int:
        """Number of images."""
        return min(self.options.images, len(self.task.train))

    @property
    def changed(self) -> dict:
        """The choices that are not the defaults, and dimensions that training did not vary."""
        usual = Options().choices | {"size": self.checkpoint.config.data.size, "branch": "student"}
        chosen = self.options.choices | {"size": self.task.size, "branch": self.checkpoint.branch}
        untrained = self.checkpoint.untrained(self.options.vary)
        return {name: value for name, value in chosen.items() if usual[name] != value} | (
            {"untrained": untrained} if untrained else {}
        )

    def check(self) -> None:
        """Raise :class:`UserError` where there are too few images."""
        check_neighbours(self.task, self.count, self.options.neighbours)

    @property
    def labelled(self) -> bool:
        """Whether the check by k-NN can be made."""
        return self.options.checked > 0 and self.task.classes > 1

    @cached_property
    def source(self) -> ImageSource:
        """The images: the same for all checkpoints of a data set."""
        chosen = torch.randperm(len(self.task.train), generator=torch.Generator().manual_seed(0))[: self.count]
        return self.task.train.subset(chosen)

    @cached_property
    def images(self) -> list[Tensor]:
        """The images in batches (b, 3, H, W), the first of which calibrates."""
        return self._held(x for x, _ in self.task.batches(self.source))

    @cached_property
    def views(self) -> tuple[list[Tensor], list[Tensor]]:
        """Two augmented views of the images, drawn from a fixed seed as pretraining draws them, in batches."""
        batch = min(self.options.calibration, self.count)
        batches = TwoViewBatches(
            self.source,
            self.checkpoint.config.augment,
            self.task.size,
            batch,
            0,
            self.device,
            workers=self.task.workers,
            drop_last=False,
        )
        pairs = [views for _, *views in batches.epoch(0)]
        return self._held(first for first, _ in pairs), self._held(second for _, second in pairs)

    @cached_property
    def queries(self) -> tuple[list[Tensor], Tensor]:
        """Validation images in batches, and their labels (M,): a fixed choice of them."""
        chosen = torch.randperm(len(self.task.val), generator=torch.Generator().manual_seed(0))[:MOST_QUERIES]
        batches = list(self.task.batches(self.task.val.subset(chosen)))
        return self._held(x for x, _ in batches), torch.cat([labels for _, labels in batches])

    @cached_property
    def reference(self) -> Reference:
        """The full network on the images."""
        return Reference(self._features(self.checkpoint.high, self.images)[0], self.options.neighbours)

    def score(self, width: Width) -> float | None:
        """The score of ``width``; None where it is undefined."""
        return score(self.options.score, self._of(width, self.options.score == VIEWS), self.reference)

    def all_scores(self, width: Width) -> dict[str, float | None]:
        """Every score of ``width`` by name."""
        own = self._of(width, True)
        return {name: score(name, own, self.reference) for name in SCORES}

    def accuracy(self, width: Width) -> float | None:
        """The check, with labels: k-NN accuracy of ``width`` in [0, 1], the images being the neighbours of validation images; None
        where features are not finite.
        """
        (images, labels), own = self.queries, self.source
        index, asked = self._features(width, self.images, images)
        if not (bool(index.isfinite().all()) and bool(asked.isfinite().all())):
            return None
        known = own.labels.to(index.device)
        predicted = knn_predict(index, known, asked, self.task.classes, min(K, len(known)))
        return measured(self.task.score, predicted, labels)["value"]

    def latency(self, width: Width, seconds: float) -> float:
        """Milliseconds of one image through the network of ``width`` as it is served, BatchNorms folded; measured for so long.

        Weights and statistics make no difference to it.
        """
        network = self.checkpoint.random_at(width, 0)
        for norm in (module for module in network.modules() if isinstance(module, _BatchNorm) and module.running_mean is None):
            norm.track_running_stats = True
            norm.running_mean = torch.zeros(norm.num_features, device=self.device)
            norm.running_var = torch.ones(norm.num_features, device=self.device)
        return latency_ms(Frozen(network), self.task.size, seconds=seconds)

    def _of(self, width: Width, with_views: bool) -> Features:
        return Features(*self._features(width, self.images, *(self.views if with_views else ())))

    def _features(self, width: Width, *parts: list[Tensor]) -> list[Tensor]:
        """Features of each of ``parts``, lists of batches, calibrated on the first batch of the first."""
        batches = [batch for part in parts for batch in part]
        found = self.checkpoint.calibrated_features(width, batches).float()
        return list(found.split([sum(map(len, part)) for part in parts]))

    def _held(self, batches) -> list[Tensor]:
        return [x.contiguous(memory_format=torch.channels_last) for x in batches]
