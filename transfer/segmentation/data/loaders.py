"""Data loaders as configs of mmengine; a training image's randomness is a function of the seed and its place in training."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.registry import DATA_SAMPLERS
from mmseg.registry import DATASETS
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pretrain.data.images import DISPLAYED
from transfer.finetuning.pictures import chosen_images
from transfer.segmentation.data.labels import read_image
from transfer.segmentation.data.layouts import Layout
from transfer.segmentation.data.sets import Split

CALIBRATION_IMAGES, CALIBRATION_BATCH = 64, 8


@DATA_SAMPLERS.register_module()
class PlacedSampler(InfiniteSampler):
    """mmengine's endless sampler, giving each index together with its place in training: ``place * N + index``.

    An interrupted training that resumes asks mmengine to pass over what was seen already, and gets the same places.
    """

    def __init__(self, dataset: Dataset, shuffle: bool = True, seed: int | None = None):
        super().__init__(dataset, shuffle, seed)
        self.passed = 0

    def __iter__(self) -> Iterator[int]:
        for place, index in enumerate(self.indices, start=self.passed):
            yield (place * self.world_size + self.rank) * self.size + index

    def skip(self, num_samples: int) -> None:
        """Pass over the first ``num_samples`` of this process; asked for by mmengine where it can be."""
        super().skip(num_samples)
        self.passed = num_samples


@DATASETS.register_module()
class PlacedDataset(Dataset):
    """A data set whose random transforms depend on ``seed`` and the place only, read from what :class:`PlacedSampler` gives.

    So batches depend neither on the number of workers nor on having been interrupted.
    """

    def __init__(self, dataset: dict, seed: int):
        self.dataset, self.seed = DATASETS.build(dataset), seed
        self.metainfo = self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, placed: int) -> dict:
        place, index = divmod(placed, len(self))
        drawn = np.random.SeedSequence([self.seed, place]).generate_state(2)
        np.random.seed(drawn[0])  # what mmcv's and mmsegmentation's transforms draw from
        random.seed(int(drawn[1]))
        return self.dataset[index]


def _read(layout: Layout) -> dict:
    return {"type": "ReadImage", **({} if layout.exif == DISPLAYED else {"exif": layout.exif})}


def train_pipeline(layout: Layout) -> list[dict]:
    """mmsegmentation's usual training pipeline at the layout's scale and crop."""
    steps = [
        _read(layout),
        {"type": "ReadLabels"},
        {"type": "RandomResize", "scale": layout.scale, "ratio_range": layout.ratio_range, "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": layout.crop, "cat_max_ratio": 0.75},
    ]
    if layout.flip:
        steps.append({"type": "RandomFlip", "prob": 0.5})
    if layout.distortion:
        steps.append({"type": "PhotoMetricDistortion"})
    return [*steps, {"type": "PackSegInputs"}]


def test_pipeline(layout: Layout) -> list[dict]:
    """Images at the layout's scale; labels as they are, because predictions are brought to their size."""
    return [
        _read(layout),
        {"type": "Resize", "scale": layout.scale, "keep_ratio": True},
        {"type": "ReadLabels"},
        {"type": "PackSegInputs"},
    ]


def train_loader(layout: Layout, batch_size: int, workers: int, seed: int) -> dict:
    """Config of the training loader; ``batch_size`` is of one process."""
    pipeline = train_pipeline(layout)
    parts = [{**config, "pipeline": pipeline} for config in layout.train]
    joined = parts[0] if len(parts) == 1 else {"type": "ConcatDataset", "datasets": parts}
    return {
        "batch_size": batch_size,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "sampler": {"type": "PlacedSampler", "shuffle": True, "seed": seed},
        "dataset": {"type": "PlacedDataset", "dataset": joined, "seed": seed},
    }


def test_loader(layout: Layout, workers: int) -> dict:
    """Config of the evaluation loader: one image at a time, since their sizes differ."""
    return {
        "batch_size": 1,
        "num_workers": workers,
        "persistent_workers": False,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": {**layout.val[0], "pipeline": test_pipeline(layout), "test_mode": True},
    }


def calibration_batches(layout: Layout, split: Split, mean: Sequence[float], std: Sequence[float]) -> Iterator[Tensor]:
    """Images of ``split``, evenly chosen, brought to the crop's size and normalised: batches (B, 3, H, W) of at least two."""
    chosen = chosen_images(len(split.images), CALIBRATION_IMAGES)
    height, width = layout.crop
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    for start in range(0, len(chosen), CALIBRATION_BATCH):
        images = []
        for index in chosen[start : start + CALIBRATION_BATCH]:
            image = Image.fromarray(read_image(split.images[index], split.labels[index], layout.exif).permute(1, 2, 0).numpy())
            pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
            images.append((torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255 - shift) / scale)
        if len(images) > 1:
            yield torch.stack(images)
