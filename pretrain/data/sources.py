"""Labelled images by name: digits, the data sets that torchvision knows, or an image folder of the user's.

A source is one split. Where its images fit they are one uint8 tensor on the training device (:class:`TensorSource`);
otherwise they stay files that are decoded when asked for (:class:`FolderSource`).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pretrain.data import folder, images, listing, published
from pretrain.data.augment import crop_resize
from pretrain.data.files import read_bytes, read_part
from rundir.errors import Setting, UserError
from rundir.setting import OWN_IMAGES

if TYPE_CHECKING:
    from pretrain.config import DataConfig

NAMES = ("digits", *published.SETS, *OWN_IMAGES)
MEMORY_LIMIT = 512 * 2**20  # bytes of decoded images up to which an image folder is kept in memory
SPLIT_SEED = 0  # of the split of digits and of the order that `limit` cuts
DIGITS_VAL = 500

# Mean and standard deviation of the training pixels by RGB channel, in [0, 1].
_STATISTICS = {
    "digits": ((0.3055,) * 3, (0.3762,) * 3),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of all sets of photographs


def normalisation(data: DataConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by RGB channel, in [0, 1], that a run's images are normalised with: its data set's, or what its
    config has instead.
    """
    mean, std = _STATISTICS.get(data.name, _IMAGENET)
    return tuple(data.mean) or mean, tuple(data.std) or std


def load_for(data: DataConfig, split: str, device: torch.device | str = "cpu") -> ImageSource:
    """One split of a run's data set; see :func:`load`."""
    source = load(
        data.name, split, data.root or None, data.size, device, limit=data.limit or None, store_size=data.store_size or None
    )
    return source.normalised(data).drafted(data.draft)


@dataclass
class ImageSource:
    """Labelled images of one split.

    name: for tables; classes: K names; labels (N,) int64; mean, std: three numbers each, RGB in [0, 1]; names: of the N
    images within their data set, None where their number is their name.
    """

    name: str
    classes: list[str]
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: list[str] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> ImageSource:
        """The same source with its tensors on a device."""
        return replace(self, labels=self.labels.to(device))

    def normalised(self, data: DataConfig) -> ImageSource:
        """The same source with the mean and the standard deviation that ``data`` has instead, if any."""
        return replace(self, mean=tuple(data.mean) or self.mean, std=tuple(data.std) or self.std)

    def drafted(self, draft: bool) -> ImageSource:
        """The same source with ``draft`` (:class:`FileSource`); of images in memory nothing changes."""
        return self

    def subset(self, indices: Sequence[int]) -> ImageSource:
        """The source of the images ``indices``, in that order, with all K classes."""
        names = self.names and [self.names[i] for i in indices]
        return replace(self, labels=self.labels[torch.as_tensor(indices, device=self.labels.device)], names=names)


@dataclass
class TensorSource(ImageSource):
    """A source whose images (N, 3, H, W) uint8 are in memory, on some device."""

    images: Tensor

    def to(self, device: torch.device | str) -> TensorSource:
        return replace(self, labels=self.labels.to(device), images=self.images.to(device))

    def subset(self, indices: Sequence[int]) -> TensorSource:
        images = self.images[torch.as_tensor(indices, device=self.images.device)]
        return replace(super().subset(indices), images=images)  # type: ignore[call-arg, return-value]


@dataclass
class FileSource(ImageSource):
    """A source whose images are decoded when they are asked for; ``to`` moves the labels only.

    draft: random crops are made of JPEGs decoded at a half, a quarter or an eighth, where they still have the pixels for it.
    """

    draft: bool = field(default=False, kw_only=True)

    def drafted(self, draft: bool) -> FileSource:
        return replace(self, draft=draft)

    def content(self, index: int) -> tuple[str, bytes]:
        """Where image ``index`` is, in words, and its file. Raises UserError where it is unreadable."""
        raise NotImplementedError

    def decode(self, index: int) -> Tensor:
        """Image ``index`` as (3, H, W) uint8 on the CPU. Raises UserError where it is unreadable."""
        return images.upright(*images.decoded(*self.content(index)))


@dataclass
class FolderSource(FileSource):
    """A source whose images are files."""

    paths: list[str]

    def subset(self, indices: Sequence[int]) -> FolderSource:
        return replace(super().subset(indices), paths=[self.paths[i] for i in indices])  # type: ignore[call-arg, return-value]

    def content(self, index: int) -> tuple[str, bytes]:
        return self.paths[index], read_bytes(self.paths[index])


@dataclass
class ShardSource(FileSource):
    """A source whose images are in tar shards, at ``places``."""

    places: listing.Places

    def subset(self, indices: Sequence[int]) -> ShardSource:
        chosen, places = np.asarray(indices, np.int64), self.places
        own = replace(places, shard=places.shard[chosen], first=places.first[chosen], size=places.size[chosen])
        return replace(super().subset(indices), places=own)  # type: ignore[call-arg, return-value]

    def content(self, index: int) -> tuple[str, bytes]:
        places = self.places
        shard, name = places.shards[places.shard[index]], self.names[index].partition("/")[2]
        return f"{name} in {shard}", read_part(shard, int(places.first[index]), int(places.size[index]))


def load(
    name: str,
    split: str,
    root: str | None,
    size: int,
    device: torch.device | str = "cpu",
    *,
    limit: int | None = None,
    store_size: int | None = None,
) -> ImageSource:
    """Load one split, "train" or "val", of a data set.

    name: "digits" (scikit-learn's scans, enlarged to ``size`` pixels), one of ``published.SETS`` such as "cifar10" or
    "flowers102" (``root`` holds torchvision's files, downloaded if they are missing), "folder"
    (``root``/train/<class>/*, ``root``/val/<class>/*) or "webdataset" (:mod:`pretrain.data.shards`).
    limit: at most that many training images, the first of a fixed shuffle that is balanced over the classes (so a smaller
    limit's images are among a larger one's); the val split is never cut. store_size:
    keep each image at that many pixels (shorter side resized, anti-aliased bilinear, then the central square). None or 0
    turn either off.

    Images of one's own are decoded once into memory where ``store_size`` is given, or where they are all of one size and
    take at most 512 MiB; then they keep that size, so training crops lose nothing. Any other folder is read as
    training goes on, and so are the photographs of torchvision's sets without ``store_size``. Raises UserError: unknown
    name, no or unusable ``root``, unreadable or missing files, a negative limit.
    """
    if split not in folder.SPLITS:
        raise ValueError(f"split must be train or val, not {split!r}")
    if name not in NAMES:
        raise UserError(f"unknown data set {name!r}; set ", Setting("data.name", "NAME"), f", one of {', '.join(NAMES)}")
    if min(limit or 0, store_size or 0) < 0:
        raise UserError(
            "neither ",
            Setting("data.limit", limit),
            " nor ",
            Setting("data.store_size", store_size),
            " can be negative; set 0 for all images as they are",
        )
    limit = limit if split == "train" else None
    if name == "digits":
        return _on_device(_digits(split, store_size or size, limit), device)
    if not root:
        raise UserError(f"data set {name} needs to know where it is stored; set ", Setting("data.root", "DIR"))
    root = os.path.abspath(os.path.expanduser(root))
    if name in OWN_IMAGES:
        return _on_device(_own(name, root, split, limit, store_size), device)
    if name in ("cifar10", "cifar100"):
        return _on_device(_cifar(name, split, root, limit, store_size), device)
    return _on_device(_photographs(name, split, root, limit, store_size), device)


def _on_device(source: ImageSource, device: torch.device | str) -> ImageSource:
    """Move a source, unless its images would take more than a quarter of a GPU's free memory."""
    device = torch.device(device)
    large = (
        device.type == "cuda" and isinstance(source, TensorSource) and source.images.nbytes > torch.cuda.mem_get_info(device)[0] / 4
    )
    return replace(source, labels=source.labels.to(device)) if large else source.to(device)


def balanced_order(labels: Sequence[int], seed: int) -> np.ndarray:
    """A shuffle (N,) of the indices in which classes take turns, so every beginning of it is balanced as far as
    possible."""
    labels = np.asarray(labels)
    random = np.random.RandomState(seed)  # its streams are frozen, so the order is the same with every numpy
    shuffled = random.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members))
    return shuffled[np.argsort(turn[shuffled], kind="stable")]


def _limited(labels: Sequence[int], limit: int | None) -> list[int]:
    """Indices of the images that ``limit`` keeps, in the order of the data set."""
    return sorted(balanced_order(labels, SPLIT_SEED)[:limit].tolist()) if limit else list(range(len(labels)))


def _digits(split: str, size: int, limit: int | None) -> TensorSource:
    images, target = digit_scans()
    order = balanced_order(target, SPLIT_SEED)
    chosen = np.sort(order[:DIGITS_VAL] if split == "val" else order[DIGITS_VAL:])
    labels = target[chosen]
    kept = _limited(labels, limit)
    scans = torch.from_numpy(images[chosen][kept] / 16).float()[:, None].expand(-1, 3, -1, -1)
    return TensorSource(
        "digits",
        [str(digit) for digit in range(10)],
        torch.from_numpy(labels[kept]).long(),
        *_STATISTICS["digits"],
        _resized(scans, size, "bicubic"),
        names=_numbers(chosen[kept]),
    )


def digit_scans() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, (1797, 8, 8) from 0 to 16, and their labels (1797,).

    It is not imported where its file is found: that takes as long as an epoch on these images.
    """
    package = importlib.util.find_spec("sklearn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz" if package and package.origin else None
    if file is not None and file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target


def _resized(images: Tensor, size: int, interpolation: str) -> Tensor:
    """Square images (N, 3, S, S) uint8 or float at another size, as uint8."""
    side = images.shape[-1]
    box = torch.tensor([[0, 0, side, side]])
    parts = [
        crop_resize(part, box.expand(len(part), 4), size, None, interpolation).mul_(255).round_().byte()
        for part in images.split(4096)
    ]
    return torch.cat(parts)


def _cifar(name: str, split: str, root: str, limit: int | None, store_size: int | None) -> TensorSource:
    data = published.read(name, split, root)
    kept = _limited(data.targets, limit)
    images = torch.from_numpy(data.data[kept]).permute(0, 3, 1, 2).contiguous()
    if store_size and store_size != images.shape[-1]:
        images = _resized(images, store_size, "bilinear")
    return TensorSource(
        name, list(data.classes), torch.tensor(data.targets)[kept], *_STATISTICS[name], images, names=_numbers(kept)
    )


def _numbers(kept: Sequence[int]) -> list[str]:
    """Names of images that are no files: their place in the whole split."""
    return [f"{i:05d}" for i in kept]


def _photographs(name: str, split: str, root: str, limit: int | None, store_size: int | None) -> ImageSource:
    return _files(name, split, listing.of(name, split, root), limit, store_size, None)


def _own(kind: str, root: str, split: str, limit: int | None, store_size: int | None) -> ImageSource:
    found = listing.of(kind, split, root)
    if os.environ.get("RANK", "0") == "0":  # once, however many processes there are
        for note in found.notes:
            print(f"{os.path.basename(root)}: {note}", file=sys.stderr, flush=True)
    return _files(os.path.basename(root), split, found, limit, store_size, MEMORY_LIMIT)


def _files(
    name: str, split: str, found: listing.Listing, limit: int | None, store_size: int | None, most_bytes: int | None
) -> ImageSource:
    """The images of ``found`` as a source: in memory with ``store_size``, or where the images are of one size and at most
    ``most_bytes`` (None: never)."""
    about = name, found.classes, torch.from_numpy(found.labels), *_IMAGENET
    files = (
        FolderSource(*about, found.paths, names=found.names)
        if found.places is None
        else ShardSource(*about, found.places, names=found.names)
    )
    if limit:
        files = files.subset(_limited(found.labels, limit))
    pixels = None
    if store_size or most_bytes:
        pixels = folder.decode_all(files.decode, len(files), store_size, None if store_size else most_bytes, f"{name}/{split}")
    return files if pixels is None else TensorSource(name, found.classes, files.labels, *_IMAGENET, pixels, names=files.names)
