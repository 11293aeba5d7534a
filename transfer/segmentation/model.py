"""Segmentation networks as configs of mmsegmentation: its own heads on our backbone, their channels following the width.

The heads are those of mmsegmentation's ResNet-50 and ResNet-18 configs: a quarter of the channels they read, the auxiliary head on
the third feature map with 0.4 of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rundir.errors import UserError, check_choice
from transfer.segmentation.data.layouts import IGNORED, Layout

HEAD_SHARE = 4  # a head has this fraction of the channels it reads
FEWEST = 32  # channels of a head on a very narrow network
HEAD_DIM = 64  # channels of an attention head of Segmenter's decoder


@dataclass(frozen=True)
class Features:
    """What a backbone gives: ``channels`` of its maps, finest first, and whether it is a ViT with patches of ``patch`` (else 0)."""

    channels: tuple[int, ...]
    patch: int = 0


def _head(kind: str, inputs: int, classes: int, **more) -> dict:
    common = {
        "type": kind,
        "in_channels": inputs,
        "channels": max(FEWEST, inputs // HEAD_SHARE),
        "num_classes": classes,
        "dropout_ratio": 0.1,
        "norm_cfg": {"type": "BN"},
        "align_corners": False,
        "ignore_index": IGNORED,
        "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 1.0},
    }
    return common | more


def _auxiliary(features: Features, classes: int) -> dict:
    return _head(
        "FCNHead",
        features.channels[2],
        classes,
        in_index=2,
        num_convs=1,
        concat_input=False,
        loss_decode={"type": "CrossEntropyLoss", "loss_weight": 0.4},
    )


def fcn(features: Features, classes: int) -> dict:
    """FCN (arXiv 1411.4038) on a dilated backbone: two 3x3 convolutions."""
    head = _head("FCNHead", features.channels[3], classes, in_index=3, num_convs=2, concat_input=True)
    return {"decode_head": head, "auxiliary_head": _auxiliary(features, classes)}


def deeplabv3(features: Features, classes: int) -> dict:
    """DeepLabV3 (arXiv 1706.05587) on a dilated backbone: atrous spatial pyramid pooling at rates 12, 24, 36."""
    head = _head("ASPPHead", features.channels[3], classes, in_index=3, dilations=(1, 12, 24, 36))
    return {"decode_head": head, "auxiliary_head": _auxiliary(features, classes)}


def upernet(features: Features, classes: int) -> dict:
    """UPerNet (arXiv 1807.10221): pyramid pooling and a feature pyramid over four resolutions."""
    head = _head(
        "UPerHead",
        features.channels[3],
        classes,
        in_channels=list(features.channels),
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
    )
    return {"decode_head": head, "auxiliary_head": _auxiliary(features, classes)}


def segmenter(features: Features, classes: int) -> dict:
    """Segmenter (arXiv 2105.05633): two transformer layers over a ViT's patches and one token per class."""
    dim = features.channels[-1]
    heads = max(count for count in range(1, max(1, dim // HEAD_DIM) + 1) if dim % count == 0)
    return {
        "decode_head": {
            "type": "SegmenterMaskTransformerHead",
            "in_channels": dim,
            "channels": dim,
            "embed_dims": dim,
            "num_layers": 2,
            "num_heads": heads,
            "num_classes": classes,
            "dropout_ratio": 0.0,
            "ignore_index": IGNORED,
            "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 1.0},
        }
    }


MODELS = {"fcn": fcn, "upernet": upernet, "deeplabv3": deeplabv3, "segmenter": segmenter}
DILATED = ("fcn", "deeplabv3")
POOLING = ("upernet", "deeplabv3")  # BatchNorm over one value per channel and image: needs two images
VIT_MODELS = ("segmenter", "upernet")


def check_model(name: str, is_vit: bool) -> None:
    """Raise :class:`UserError` if model ``name`` is not known, or not made for that kind of backbone."""
    check_choice("--model", name, MODELS)
    if is_vit and name not in VIT_MODELS:
        raise UserError(f"{name} reads a dilated convolutional backbone, and this is a ViT; set --model {' or '.join(VIT_MODELS)}")
    if not is_vit and name == "segmenter":
        raise UserError(
            "segmenter reads a ViT's patches, and this is a convolutional network; set --model fcn, upernet or deeplabv3"
        )


def inference_config(mode: str, crop: tuple[int, int]) -> dict:
    """``test_cfg``: the ``whole`` image at once, or windows of ``crop`` (height, width) that ``slide`` by two thirds of it."""
    if mode == "whole":
        return {"mode": "whole"}
    return {"mode": "slide", "crop_size": crop, "stride": tuple(max(1, side * 2 // 3) for side in crop)}


def model_config(
    name: str,
    backbone: dict,
    features: Features,
    classes: int,
    layout: Layout,
    mean: Sequence[float],
    std: Sequence[float],
    inference: str,
) -> dict:
    """The whole ``EncoderDecoder``.

    Args:
        backbone: config of the registered backbone, whose maps ``features`` describes.
        mean, std: of the pretraining images, RGB, in 0..1.
        inference: ``whole`` or ``slide``.
    """
    divisor = features.patch or 1
    preprocessor = {
        "type": "SegDataPreProcessor",
        "mean": [255 * value for value in mean],
        "std": [255 * value for value in std],
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": IGNORED,
        "size": layout.crop,
        "test_cfg": {"size_divisor": divisor},
    }
    heads = MODELS[name](features, classes)
    if layout.first_weight != 1:
        for head in heads.values():
            head["loss_decode"]["class_weight"] = [layout.first_weight, *[1.0] * (classes - 1)]
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": preprocessor,
        "backbone": backbone,
        **heads,
        "train_cfg": {},
        "test_cfg": inference_config(inference, layout.crop),
    }
