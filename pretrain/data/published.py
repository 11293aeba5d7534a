"""Data sets that torchvision knows: where their files are stored below the root, and which split is the convention.

``train`` is everything the convention trains on (for Flowers, DTD and Aircraft the published train and val lists
together), ``val`` the published test images: table 1 of *Do Better ImageNet Models Transfer Better?* (Kornblith et al.
2019, arXiv 1805.08974), which SimCLR (arXiv 2002.05709, appendix B.8) follows.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pretrain.data.files import Signature, signature, tree
from pretrain.data.images import is_image
from pretrain.data.subsets import class_turns
from pretrain.lazy import Lazy
from rundir.errors import Setting, UserError, first_line

datasets = Lazy("torchvision.datasets")

CALTECH_TRAIN = 30  # training images per class
CALTECH_SEED = 0


@dataclass(frozen=True)
class Listing:
    """The images of one split: K class names, N class numbers, N files; what is odd, a line each, and the signatures, by name below
    the data set's folder, of what was listed and of the lists that were read.
    """

    classes: list[str]
    labels: list[int]
    paths: list[str]
    notes: list[str] = field(default_factory=list)
    seen: dict[str, Signature] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedSet:
    """A data set as it is stored in a root folder.

    folder: what a download makes in the root; page: the project's page; files: what to download there; unpacked: where
    in the root they are to be unpacked; torchvision: the name of its class; read: (root, split) to what the split holds.
    """

    folder: str
    page: str
    files: str
    unpacked: str
    torchvision: str
    read: Callable[[str, str], Any]

    @property
    def make(self) -> type[Any]:
        """torchvision's class."""
        return getattr(datasets, self.torchvision)


def read(name: str, split: str, root: str) -> Any:
    """One split, "train" or "val", of ``SETS[name]`` in ``root``, downloaded first where its folder is missing.

    Returns:
        A :class:`Listing`; of CIFAR, torchvision's own data set, whose images are in memory.

    Raises:
        UserError: it is not there and cannot be downloaded, or files are missing or damaged.
    """
    source = SETS[name]
    expected = os.path.join(root, source.folder)
    if not os.path.isdir(expected):
        _download(source, root, expected)
    below = tree(expected)  # no pipe or device is waited for
    lists = {name: signature(os.path.join(expected, name)) for name in below.files if not is_image(name)}
    try:
        found = source.read(root, split)
        if isinstance(found, Listing):
            _check_files(found.paths)
            return replace(found, seen=below.seen | lists)
        return found
    except Exception as error:  # readers of lists, JSON, pickles and MATLAB files each stumble in their own way
        raise UserError(
            f"the {name} files in {expected} are incomplete or damaged; remove that folder and run again to "
            f"download them, or {_by_hand(source, root)} ({_reason(error)})"
        ) from error


def _by_hand(source: PublishedSet, root: str) -> str:
    return f"unpack {source.files} from {source.page} in {os.path.normpath(os.path.join(root, source.unpacked))}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}" if isinstance(error, KeyError) else first_line(error)


def _download(source: PublishedSet, root: str, expected: str) -> None:
    """Download next to the target and rename, so that an interruption or a second process leaves no half-made folder."""
    new = not os.path.isdir(root)
    try:
        os.makedirs(root, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            source.make(scratch, download=True)
            if not os.path.isdir(expected):
                os.rename(os.path.join(scratch, source.folder), expected)
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        if os.path.isdir(expected):  # another process was faster
            return
        if new:  # a mistyped root should not be there afterwards
            with contextlib.suppress(OSError):
                os.rmdir(root)
        raise UserError(
            f"no folder {expected}, and downloading it failed ({_reason(error)}); {_by_hand(source, root)}, or set ",
            Setting("data.root", "DIR"),
            f" where {source.folder} is stored",
        ) from error


def _check_files(paths: Sequence[str]) -> None:
    """Raises ValueError naming the first of ``paths`` that is not there; looks into each folder once."""
    held: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, file = os.path.split(path)
        if folder not in held:
            held[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if file not in held[folder]:
            missing.append(path)
    if missing:
        raise ValueError(f"{len(missing)} of {len(paths)} images are missing, the first is {missing[0]}")
    if not paths:
        raise ValueError("its list of images is empty")


# --- one function a data set ----------------------------------------------------------------------------------------


def _joined(parts: Sequence[Any], classes: Sequence[str]) -> Listing:
    """The splits that a convention takes together, from torchvision's data sets."""
    if any(list(getattr(part, "classes", classes)) != list(classes) for part in parts):
        raise ValueError("its lists of images do not have the same classes")
    return Listing(
        list(classes),
        [int(label) for part in parts for label in part._labels],
        [str(path) for part in parts for path in part._image_files],
    )


def _flowers102(root: str, split: str) -> Listing:
    parts = [datasets.Flowers102(root, part) for part in (("train", "val") if split == "train" else ("test",))]
    # Older torchvision versions do not know the names of the flowers.
    return _joined(parts, getattr(datasets.Flowers102, "classes", None) or [str(i) for i in range(1, 103)])


def _pets(root: str, split: str) -> Listing:
    data = datasets.OxfordIIITPet(root, "trainval" if split == "train" else "test")
    return Listing(data.classes, data._labels, [str(path) for path in data._images])


def _dtd(root: str, split: str) -> Listing:
    parts = [datasets.DTD(root, part, partition=1) for part in (("train", "val") if split == "train" else ("test",))]
    return _joined(parts, parts[0].classes)


def _aircraft(root: str, split: str) -> Listing:
    data = datasets.FGVCAircraft(root, "trainval" if split == "train" else "test", annotation_level="variant")
    return _joined([data], data.classes)


def _food101(root: str, split: str) -> Listing:
    data = datasets.Food101(root, "train" if split == "train" else "test")
    return _joined([data], data.classes)


def _caltech101(root: str, split: str) -> Listing:
    """30 training images per class, drawn once and for all, and all others to test: the data set has no split.

    The 101 objects only: torchvision leaves out the background class, which Kornblith et al. count as the 102nd.
    """
    data = datasets.Caltech101(root)
    names = [f"{data.categories[label]}/image_{number:04d}.jpg" for label, number in zip(data.y, data.index, strict=True)]
    _, turns = class_turns(names, data.y, CALTECH_SEED)
    for label, category in enumerate(data.categories):
        if data.y.count(label) <= CALTECH_TRAIN:
            raise ValueError(f"{category} has {data.y.count(label)} images, and {CALTECH_TRAIN} a class are to train on")
    kept = [i for i, turn in enumerate(turns) if (turn < CALTECH_TRAIN) == (split == "train")]
    folder = os.path.join(data.root, "101_ObjectCategories")
    return Listing(data.categories, [data.y[i] for i in kept], [os.path.join(folder, *names[i].split("/")) for i in kept])


def _cifar(kind: str) -> Callable[[str, str], Any]:
    return lambda root, split: getattr(datasets, kind)(root, train=split == "train")


_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"

SETS: dict[str, PublishedSet] = {
    "cifar10": PublishedSet("cifar-10-batches-py", _CIFAR_PAGE, "cifar-10-python.tar.gz", ".", "CIFAR10", _cifar("CIFAR10")),
    "cifar100": PublishedSet("cifar-100-python", _CIFAR_PAGE, "cifar-100-python.tar.gz", ".", "CIFAR100", _cifar("CIFAR100")),
    "flowers102": PublishedSet(
        "flowers-102",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        "102flowers.tgz (imagelabels.mat and setid.mat next to it)",
        "flowers-102",
        "Flowers102",
        _flowers102,
    ),
    "pets": PublishedSet(
        "oxford-iiit-pet",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        "images.tar.gz and annotations.tar.gz",
        "oxford-iiit-pet",
        "OxfordIIITPet",
        _pets,
    ),
    "dtd": PublishedSet("dtd", "https://www.robots.ox.ac.uk/~vgg/data/dtd/", "dtd-r1.0.1.tar.gz", "dtd", "DTD", _dtd),
    "aircraft": PublishedSet(
        "fgvc-aircraft-2013b",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        "fgvc-aircraft-2013b.tar.gz",
        ".",
        "FGVCAircraft",
        _aircraft,
    ),
    "caltech101": PublishedSet(
        "caltech101",
        "https://data.caltech.edu/records/mzrjq-6wc02",
        "101_ObjectCategories.tar.gz (in caltech-101.zip)",
        "caltech101",
        "Caltech101",
        _caltech101,
    ),
    "food101": PublishedSet(
        "food-101", "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/", "food-101.tar.gz", ".", "Food101", _food101
    ),
}
