"""Where the files of each data set are stored, and its classes, as configs of mmsegmentation's own data sets.

A label image holds class indices (greyscale or palette PNG). Splits are called ``train`` and ``val``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmseg.datasets import ADE20KDataset, BaseSegDataset, CityscapesDataset, PascalVOCDataset
from mmseg.registry import DATASETS

from pretrain.data.files import some, tree
from pretrain.data.images import DISPLAYED, is_image
from rundir.errors import UserError
from transfer.finetuning.lists import Images, read_names
from transfer.finetuning.scenes import read_config

IGNORED = 255  # label of pixels without a class, after loading


@dataclass(frozen=True)
class Layout:
    """A data set: its files as configs of mmsegmentation data sets, and how large its images are trained and evaluated.

    Attributes:
        name: as in records.
        train, val: configs without pipeline, by ``mmseg.registry.DATASETS``; several are concatenated.
        scale: (width, height) that images are resized to, keeping their ratio.
        crop: (height, width) of training crops, and of the windows of slide inference.
        reduce_zero_label: whether label 0 means no class, and 1 the first class (ADE20K).
        flip: whether images may be flipped.
        ratio_range: random factor of ``scale`` in training.
        output_stride: largest stride of a dilated backbone's maps; small for small things.
        first_weight: weight of the first class in the loss, for a background that is nearly everywhere; 1 of the others.
        distortion: whether brightness, contrast, saturation and hue are changed in training.
        exif: which pixels labels belong to, ``displayed`` or ``stored``, where the sizes leave it open.
    """

    name: str
    train: Sequence[dict]
    val: Sequence[dict]
    scale: tuple[int, int]
    crop: tuple[int, int]
    reduce_zero_label: bool = False
    flip: bool = True
    ratio_range: tuple[float, float] = (0.5, 2.0)
    distortion: bool = True
    output_stride: int = 8
    first_weight: float = 1.0
    exif: str = DISPLAYED


class PairsDataset(BaseSegDataset):
    """Lists the pairs of image and label as :func:`listed_pairs` and :func:`found_pairs` do, instead of mmsegmentation.

    ``notes``: what they say, after ``load_data_list``.
    """

    notes: Sequence[str] = ()

    def load_data_list(self) -> list[dict]:
        """The pairs, in mmsegmentation's form."""
        images, labels = (Path(self.data_prefix[key]) for key in ("img_path", "seg_map_path"))
        if self.ann_file:
            pairs, self.notes = listed_pairs(Path(self.ann_file), images, labels, self.seg_map_suffix)
        else:
            pairs, self.notes = found_pairs(images, labels, self.img_suffix, self.seg_map_suffix)
        return [
            {
                "img_path": str(image),
                "seg_map_path": str(label),
                "label_map": self.label_map,
                "reduce_zero_label": self.reduce_zero_label,
                "seg_fields": [],
            }
            for image, label in pairs
        ]


def listed_pairs(names: Path, images: Path, labels: Path, label_suffix: str) -> tuple[list[tuple[Path, Path]], list[str]]:
    """The image and the label file of each name in the list ``names``, there or not, and notes; an image may have any suffix."""
    there = Images(images)
    listed, notes = read_names(names, there)
    return [(there.find(name) or images / f"{name}.jpg", labels / f"{name}{label_suffix}") for name in listed], notes


def found_pairs(images: Path, labels: Path, image_suffix: str, label_suffix: str) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Each image below ``images`` with the label file of its name, there or not, in order; and notes of what is left out.

    An image's name ends as ``image_suffix`` does before its own suffix, which may be another: ``_leftImg8bit.png``.
    """
    ending, found = Path(image_suffix).stem if not image_suffix.startswith(".") else "", tree(images)
    pairs, left = {}, list(found.litter)
    for file in found.files:
        stem = str(Path(file).with_suffix(""))
        if not (is_image(file) and stem.endswith(ending)):
            left.append(file)
            continue
        label = labels / f"{stem.removesuffix(ending)}{label_suffix}"
        if label in pairs:
            raise UserError(f"{pairs[label]} and {images / file} are images of one name, with one label image; keep one of them")
        pairs[label] = images / file
    notes = [f"left out {len(left)} of {images} that are no images: {some(left)}"] if left else []
    if found.repeated:
        notes.append(
            f"{len(found.repeated)} links in {images} lead to folders that are read already, and are not followed: "
            f"{some(found.repeated)}"
        )
    return [(image, label) for label, image in pairs.items()], notes


@DATASETS.register_module()
class VOCPairs(PairsDataset, PascalVOCDataset):
    """mmsegmentation's VOC, listed by :class:`PairsDataset`."""


@DATASETS.register_module()
class ADE20KPairs(PairsDataset, ADE20KDataset):
    """mmsegmentation's ADE20K, listed by :class:`PairsDataset`."""


@DATASETS.register_module()
class CityscapesPairs(PairsDataset, CityscapesDataset):
    """mmsegmentation's Cityscapes, listed by :class:`PairsDataset`."""


@DATASETS.register_module()
class CamVidDataset(PairsDataset):
    """CamVid in the version of SegNet (arXiv 1511.00561): 11 classes, 11 = void, whose pixels have no class."""

    METAINFO: ClassVar[dict] = {
        "classes": (
            "Sky",
            "Building",
            "Pole",
            "Road",
            "Pavement",
            "Tree",
            "SignSymbol",
            "Fence",
            "Car",
            "Pedestrian",
            "Bicyclist",
            "Void",
        ),
        "palette": [
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
            [0, 0, 0],
        ],
    }

    def __init__(self, **kwargs):
        # Leaving a class out of `metainfo` is mmsegmentation's way to say that its pixels are ignored.
        super().__init__(img_suffix=".png", seg_map_suffix=".png", metainfo={"classes": self.METAINFO["classes"][:-1]}, **kwargs)


@DATASETS.register_module()
class DigitScenesDataset(PairsDataset):
    """Scenes of handwritten digits (``transfer/finetuning/scenes.py``): background and ten digits."""

    METAINFO: ClassVar[dict] = {
        "classes": ("background", *(f"digit {digit}" for digit in range(10))),
        "palette": [
            [40, 40, 40],
            [230, 25, 75],
            [60, 180, 75],
            [255, 225, 25],
            [0, 130, 200],
            [245, 130, 48],
            [145, 30, 180],
            [70, 240, 240],
            [240, 50, 230],
            [210, 245, 60],
            [250, 190, 212],
        ],
    }


def _within(root: Path, *places: str) -> Path:
    """``root``, or the first of the folders in it that data sets are unpacked to."""
    return next((root / place for place in places if (root / place).is_dir()), root)


def _listed(root: Path, names: str, labels: str, kind: str) -> dict:
    return {
        "type": kind,
        "data_root": str(root),
        "ann_file": f"ImageSets/{names}.txt",
        "data_prefix": {"img_path": "JPEGImages", "seg_map_path": labels},
    }


def voc(root: Path) -> Layout:
    """Pascal VOC 2012; with SBD's annotations (``SegmentationClassAug`` and aug.txt or trainaug.txt) where they are there."""
    root = _within(root, "VOCdevkit/VOC2012", "VOC2012")
    lists, augmented = root / "ImageSets/Segmentation", (root / "SegmentationClassAug").is_dir()
    train = [_listed(root, "Segmentation/train", "SegmentationClass", "VOCPairs")]
    if augmented and (lists / "trainaug.txt").is_file():  # holds VOC's own images too
        train = [_listed(root, "Segmentation/trainaug", "SegmentationClassAug", "VOCPairs")]
    elif augmented and (lists / "aug.txt").is_file():
        train.append(_listed(root, "Segmentation/aug", "SegmentationClassAug", "VOCPairs"))
    val = [_listed(root, "Segmentation/val", "SegmentationClass", "VOCPairs")]
    return Layout("voc", train, val, scale=(2048, 512), crop=(512, 512))


def ade20k(root: Path) -> Layout:
    """ADE20K's scene parsing benchmark: ``images`` and ``annotations`` with ``training`` and ``validation``; 150 classes."""
    root = _within(root, "ADEChallengeData2016", "ade/ADEChallengeData2016")

    def split(name: str) -> list[dict]:
        return [
            {
                "type": "ADE20KPairs",
                "data_root": str(root),
                "data_prefix": {"img_path": f"images/{name}", "seg_map_path": f"annotations/{name}"},
            }
        ]

    return Layout("ade20k", split("training"), split("validation"), scale=(2048, 512), crop=(512, 512), reduce_zero_label=True)


def cityscapes(root: Path) -> Layout:
    """Cityscapes: ``leftImg8bit`` and ``gtFine`` with ``train`` and ``val``, labels ``*_gtFine_labelTrainIds.png``; 19 classes."""
    root = _within(root, "cityscapes")

    def split(name: str) -> list[dict]:
        return [
            {
                "type": "CityscapesPairs",
                "data_root": str(root),
                "data_prefix": {"img_path": f"leftImg8bit/{name}", "seg_map_path": f"gtFine/{name}"},
            }
        ]

    return Layout("cityscapes", split("train"), split("val"), scale=(2048, 1024), crop=(512, 1024))


def camvid(root: Path) -> Layout:
    """CamVid: ``train``, ``trainannot``, ``val``, ``valannot``, PNG; 11 classes, 11 = void."""

    def split(name: str) -> list[dict]:
        return [
            {"type": "CamVidDataset", "data_root": str(root), "data_prefix": {"img_path": name, "seg_map_path": f"{name}annot"}}
        ]

    return Layout("camvid", split("train"), split("val"), scale=(480, 360), crop=(352, 352))


def digits(root: Path) -> Layout:
    """Scenes of handwritten digits in VOC's layout; flipping a digit changes its label, and their colours vary already."""
    made = read_config(root)
    if made is None:
        raise UserError(f"{root} holds no scenes of digits; leave out --data-dir to have them written")
    train, val = ([_listed(root, f"Segmentation/{name}", "SegmentationClass", "DigitScenesDataset")] for name in ("train", "val"))
    side = (made.size, made.size)
    return Layout(
        "digits",
        train,
        val,
        scale=side,
        crop=side,
        flip=False,
        ratio_range=(0.75, 1.5),
        distortion=False,
        output_stride=4,
        first_weight=0.1,
    )


LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    "voc": voc,
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "camvid": camvid,
    "digits": digits,
}


def layout_of(name: str, root: Path) -> Layout:
    """The layout of a data set in ``root``.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; set --data-dir to the folder that holds {name}")
    return LAYOUTS[name](root)
