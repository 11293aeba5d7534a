"""Detectors by name: detectron2's Faster and Mask R-CNN on a trunk of ours.

``DETECTOR_NECK`` (``faster_rcnn_fpn``) takes any checkpoint, ``DETECTOR_NETWORK_NECK`` (``mask_rcnn_r50_fpn``) one of that network
only. Settings are those of detectron2's own configs of these names. Our trunk stands in for its ResNet through its registries, so
that every encoder and width fits; number and stride of the maps are the trunk's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, ROI_HEADS_REGISTRY, Backbone, build_model
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import Tensor, nn

from pretrain.checkpoints import Checkpoint
from rundir.errors import UserError
from transfer.finetuning.trunk import MAPS, ChannelNorm, Pyramid, Trunk, check_trunk, set_norm
from transfer.finetuning.weights import WeightsReport, weights_report

CONFIGS = {
    ("faster_rcnn", "fpn"): "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    ("mask_rcnn", "fpn"): "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    ("faster_rcnn", "c4"): "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
    ("mask_rcnn", "c4"): "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
}
ANCHOR = 8  # side of a level's anchors, in strides: 32 pixels at stride 4
C4_ANCHORS = (2, 4, 8, 16, 32)  # likewise: 32 to 512 pixels at stride 16
SMALLEST_STRIDE = 2  # a map of stride 1 costs as much as all others together and finds nothing that they do not


@dataclass(frozen=True)
class Model:
    """``detector``: faster_rcnn or mask_rcnn; ``network``: what it must be built on, short, "" for any; ``neck``: fpn or c4."""

    detector: str
    network: str
    neck: str

    @classmethod
    def named(cls, name: str) -> Model:
        """One of :data:`transfer.detection.MODELS`."""
        return cls(*re.fullmatch(r"(faster_rcnn|mask_rcnn)_(?:(.+)_)?(fpn|c4)", name).groups(""))

    @property
    def masks(self) -> bool:
        """Whether it predicts masks besides boxes."""
        return self.detector == "mask_rcnn"

    def on(self, checkpoint: Checkpoint) -> Model:
        """This model with its network named, which is the checkpoint's.

        Raises:
            UserError: it cannot be built on this checkpoint.
        """
        network = network_name(checkpoint)
        check_trunk(checkpoint.encoder)
        if self.network and self.network != network and not (self.network == "vit" and network.startswith("vit")):
            raise UserError(
                f"--model {self} is for another network than {checkpoint.arch}; set --model {self.detector}_{self.neck}"
            )
        if self.neck == "c4" and "layer4" not in checkpoint.encoder.stage_layers:
            raise UserError(
                f"--model {self} needs a ResNet, whose last stage is its head, not {checkpoint.arch}; set --model "
                f"{self.detector}_fpn"
            )
        return Model(self.detector, network, self.neck)

    def __str__(self) -> str:
        return "_".join(part for part in (self.detector, self.network, self.neck) if part)


def network_name(checkpoint: Checkpoint) -> str:
    """Short name of the checkpoint's network: r18, small, mbv2, vit_tiny, ..."""
    arch = checkpoint.arch.removesuffix("_cifar").removesuffix("_heads").removesuffix("_cifar")
    if checkpoint.dense and arch == "resnet":
        network = checkpoint.encoder.network
        blocks = [len(network.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)]
        return f"r{2 + sum(blocks) * (3 if hasattr(network.layer1[0], 'conv3') else 2)}"
    if arch.startswith("mobilenetv2"):
        return "mbv2"
    return re.sub(r"^resnet_?(\d*)", lambda found: f"r{found[1]}" if found[1] else "", arch).lstrip("_")


# -- parts in detectron2's registries -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """What a detector is built of: ``maps``, a trunk or a pyramid; of a C4 model ``head``, the last stage with what follows it, and
    its output channels."""

    maps: Trunk | Pyramid
    head: nn.Module | None = None
    head_channels: int = 0


_PARTS: ContextVar[Parts] = ContextVar("parts of the detector that is being built")


@contextmanager
def _building(parts: Parts) -> Iterator[None]:
    token = _PARTS.set(parts)
    try:
        yield
    finally:
        _PARTS.reset(token)


class TrunkBackbone(Backbone):
    """Some maps of a trunk as detectron2 wants them: normalised images (B, 3, H, W) to ``{name: (B, C, H', W')}``."""

    def __init__(self, body: Trunk | Pyramid, names: Sequence[str]):
        super().__init__()
        self.body, self.names = body, list(names)

    @property
    def size_divisibility(self) -> int:
        return self.body.divisor

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=self.body.channels[name], stride=self.body.strides[name]) for name in self.names}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.body(x)
        return {name: maps[name] for name in self.names}


class SimplePyramid(Backbone):
    """The simple feature pyramid's levels at one number of channels (ViTDet, arXiv 2203.16527, section 3): on each a 1x1 and a 3x3
    convolution, each with LayerNorm; then one more level by max-pooling. Nothing flows between levels."""

    def __init__(self, body: Pyramid, channels: int):
        super().__init__()
        self.body, self.channels = body, channels
        self.levels = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Conv2d(body.channels[name], channels, 1, bias=False),
                    ChannelNorm(channels),
                    nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                    ChannelNorm(channels),
                )
                for name in MAPS
            }
        )
        self.strides = {level_name(stride): stride for stride in body.strides.values()}
        self.strides[level_name(2 * body.strides[MAPS[-1]])] = 2 * body.strides[MAPS[-1]]

    @property
    def size_divisibility(self) -> int:
        return self.body.divisor

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=self.channels, stride=stride) for name, stride in self.strides.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = [self.levels[name](level) for name, level in self.body(x).items()]
        maps.append(nn.functional.max_pool2d(maps[-1], 1, 2))
        return dict(zip(self.strides, maps, strict=True))


def level_name(stride: int) -> str:
    """detectron2's name of a pyramid's level: p2 at stride 4."""
    return f"p{stride.bit_length() - 1}"


@BACKBONE_REGISTRY.register()
def us3l_trunk_fpn(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """detectron2's FPN on the trunk, or a ViT's simple pyramid."""
    maps = _PARTS.get().maps
    if isinstance(maps, Pyramid):
        return SimplePyramid(maps, cfg.MODEL.FPN.OUT_CHANNELS)
    names = fpn_maps(maps)
    top = LastLevelMaxPool()
    top.in_feature = level_name(maps.strides[names[-1]])
    return FPN(
        TrunkBackbone(maps, names),
        names,
        cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def us3l_trunk_c4(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The trunk's third map."""
    return TrunkBackbone(_PARTS.get().maps, ["res4"])


@ROI_HEADS_REGISTRY.register()
class TrunkRes5ROIHeads(Res5ROIHeads):
    """detectron2's C4 head with the trunk's last stage."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Module, int]:
        parts = _PARTS.get()
        return parts.head, parts.head_channels


def fpn_maps(maps: Trunk | Pyramid) -> list[str]:
    """Names of the maps that detectors use: all of a ViT's pyramid, of other networks all but one of stride 1."""
    return [name for name in MAPS if isinstance(maps, Pyramid) or maps.strides[name] >= SMALLEST_STRIDE]


# -- config and model ---------------------------------------------------------------------------------------------------


def config(model: Model, classes: int, mask_format: str | None, mean: Sequence[float], std: Sequence[float]) -> CfgNode:
    """detectron2's config of ``model`` for ``classes`` classes and images of RGB ``mean`` and ``std`` (in [0, 1])."""
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(CONFIGS[model.detector, model.neck]))
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.NAME = f"us3l_trunk_{model.neck}"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    if model.neck == "c4":
        cfg.MODEL.ROI_HEADS.NAME = "TrunkRes5ROIHeads"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [255 * value for value in mean]
    cfg.MODEL.PIXEL_STD = [255 * value for value in std]
    if mask_format:
        cfg.INPUT.MASK_FORMAT = mask_format
    return cfg


def build(cfg: CfgNode, model: Model, network: nn.Module, norm: str, seed: int) -> tuple[nn.Module, WeightsReport]:
    """A detector on ``network``, a width's dense network, and what of it arrived; its own layers are drawn from ``seed``.

    ``cfg`` gets the levels' names and anchors, which follow the network's strides, and the norm of new layers: as the network's
    BatchNorms are tuned, the new layers have BatchNorms too (MoCo, arXiv 1911.05722, appendix B); frozen, they have none.

    Raises:
        UserError: the norm or the network cannot be used.
        RuntimeError: a tensor of the network did not arrive.
    """
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(seed)
    maps: Trunk | Pyramid = Trunk(network.to(cfg.MODEL.DEVICE))
    set_norm(network, norm)
    if model.neck == "fpn" and maps.patch_size:
        maps = Pyramid(maps)
    parts, places = _split(maps, norm) if model.neck == "c4" else (Parts(maps), _fpn_places(maps))
    _set_levels(cfg, model, maps)
    _set_new_norms(cfg, norm, network)
    with _building(parts):
        detector = build_model(cfg)
    return detector, weights_report(state, detector, places).complete()


def _fpn_places(maps: Trunk | Pyramid) -> dict[str, str]:
    return {"backbone.body.trunk.network.": ""} if isinstance(maps, Pyramid) else {"backbone.bottom_up.body.network.": ""}


def _split(trunk: Trunk, norm: str) -> tuple[Parts, dict[str, str]]:
    """A ResNet's trunk without its last stage, and that stage as a head, with an extra BatchNorm where they are tuned."""
    resnet = trunk.network.body
    head, channels = nn.Sequential(resnet.layer4), trunk.channels["res5"]
    if norm != "frozen":
        head.append(set_norm(nn.Sequential(nn.BatchNorm2d(channels).to(next(resnet.parameters()).device)), norm))
    inner = "" if resnet is trunk.network else "network."
    resnet.layer4 = nn.Identity()
    trunk.divisor = trunk.strides["res4"]
    return Parts(trunk, head, channels), {"backbone.body.network.": "", "roi_heads.res5.0.": f"{inner}layer4."}


def _set_levels(cfg: CfgNode, model: Model, maps: Trunk | Pyramid) -> None:
    if model.neck == "c4":
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[factor * maps.strides["res4"] for factor in C4_ANCHORS]]
        return
    strides = [maps.strides[name] for name in fpn_maps(maps)]
    names = [level_name(stride) for stride in strides]
    cfg.MODEL.ROI_HEADS.IN_FEATURES = names
    cfg.MODEL.RPN.IN_FEATURES = [*names, level_name(2 * strides[-1])]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[ANCHOR * stride] for stride in (*strides, 2 * strides[-1])]


def _set_new_norms(cfg: CfgNode, norm: str, network: nn.Module) -> None:
    has = {type(module) for module in network.modules()}
    name = "SyncBN" if nn.SyncBatchNorm in has else "BN" if nn.BatchNorm2d in has else ""
    cfg.MODEL.FPN.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = name if norm != "frozen" else ""
