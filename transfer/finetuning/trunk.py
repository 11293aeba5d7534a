"""Trunks: a width's dense network as the feature maps that detectors and segmenters build on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from pretrain.checkpoints import Batches, Checkpoint
from pretrain.distributed import several
from rundir.errors import UserError, check_choice
from rundir.subnet import Subnet, Width

MAPS = ("res2", "res3", "res4", "res5")
NORMS = ("auto", "bn", "syncbn", "frozen")
INITIALS = ("pretrained", "random")
PROBE_SIDE = 64  # pixels of the image that channels and strides are read from


class Trunk(nn.Module):
    """Normalised images (B, 3, H, W), H and W multiples of ``divisor``, to ``{"res2": (B, C, H', W'), ..., "res5": ...}``.

    ``network`` is what ``Checkpoint.at`` or ``Checkpoint.random_at`` returns: its ``stages`` are the maps. A ViT's four maps all
    have its patch size as stride; :class:`Pyramid` makes levels of them.

    Attributes:
        channels, strides: by map name.
        patch_size: of a ViT; 0 of a convolutional network.
        divisor: sides of images must be multiples of it (padding is the task's business): the largest stride; of a ViT two patches.
        idle: names of parameters that no map depends on (a last LayerNorm, say); they get no gradient and are frozen.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        check_trunk(network)
        self.network, self.patch_size = network, network.patch_size
        side = 4 * self.patch_size or PROBE_SIDE
        with torch.enable_grad():
            device = next(network.parameters()).device
            maps = dict(zip(MAPS, network.eval().stages(torch.zeros(1, 3, side, side, device=device)), strict=True))
            trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
            gradients = torch.autograd.grad(sum(x.sum() for x in maps.values()), list(trained.values()), allow_unused=True)
        self.channels = {name: x.shape[1] for name, x in maps.items()}
        self.strides = {name: side // x.shape[-1] for name, x in maps.items()}
        self.divisor = 2 * self.patch_size or max(self.strides.values())
        self.idle = [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]
        for name in self.idle:
            trained[name].requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(MAPS, self.network.stages(x), strict=True))


def check_trunk(network: nn.Module) -> None:
    """Raise :class:`UserError` if an encoder cannot be a trunk, whatever the width."""
    if network.fixed_size:
        raise UserError("this ViT of torchvision takes images of one size only and cannot be a trunk; give timm's file of it")
    if not network.aligned:
        raise UserError(
            "a ResNet whose stem has another padding than 1 makes maps that are not aligned and cannot be a trunk; "
            "give another network, or use classification"
        )


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of maps (B, C, H, W), as ViTDet has it between convolutions."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class Pyramid(nn.Module):
    """ViTDet's simple feature pyramid (arXiv 2203.16527, section 3) on a ViT's :class:`Trunk`.

    All levels are made from the last map: transposed convolutions of stride 4 and 2, the map itself, and max-pooling. Output as
    :class:`Trunk`'s, with strides p/4, p/2, p, 2p of patches of p pixels and C/4, C/2, C, C channels.
    """

    def __init__(self, trunk: Trunk):
        super().__init__()
        self.trunk, self.divisor, self.patch_size = trunk, trunk.divisor, trunk.patch_size
        channels, patch = trunk.channels["res5"], trunk.patch_size
        if patch % 4:
            raise UserError(f"a pyramid needs patches of 4, 8, 16, ... pixels, not {patch}")
        half, quarter = channels // 2, channels // 4
        self.channels = dict(zip(MAPS, (quarter, half, channels, channels), strict=True))
        self.strides = dict(zip(MAPS, (patch // 4, patch // 2, patch, 2 * patch), strict=True))
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(channels, half, 2, 2), ChannelNorm(half), nn.GELU(), nn.ConvTranspose2d(half, quarter, 2, 2)
        )
        self.up2 = nn.ConvTranspose2d(channels, half, 2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        last = self.trunk(x)["res5"]
        return dict(zip(MAPS, (self.up4(last), self.up2(last), last, F.max_pool2d(last, 2, 2)), strict=True))


def dense_network(backbone: Checkpoint, width: Width, initial: str, seed: int, batches: Batches | None = None) -> nn.Module:
    """The dense network of ``width``: its pretrained weights, or (``initial`` random) freshly drawn ones as the reference.

    ``batches``: normalised images (B, 3, H, W) of the task's data, on which a pretrained width is calibrated if the checkpoint
    holds no BatchNorm statistics for it.
    """
    if initial not in INITIALS:
        raise UserError(f"unknown --initial {initial!r}; set pretrained or random")
    return backbone.random_at(width, seed) if initial == "random" else backbone.at(width, batches)


def check_subnets(widths: Sequence[Width]) -> None:
    """Raise :class:`UserError` for a sub-network with a resolution, or without some of the patches: detectors and segmenters take
    images as they come, and need maps of the whole of them.
    """
    for width in widths:
        if isinstance(width, Subnet) and width.patches is not None:
            raise UserError(
                f"--widths {width} leaves patches out, and feature maps here are of whole images; leave out p{width.patches:g}"
            )
        if isinstance(width, Subnet) and width.resolution is not None:
            raise UserError(
                f"--widths {width} names a resolution, and images here have sizes of their own; leave out r{width.resolution}"
            )


def check_norm(norm: str, device: torch.device) -> None:
    """Raise :class:`UserError` if ``norm`` is none, or not available on the ``device`` of training."""
    check_choice("--norm", norm, NORMS)
    if norm == "syncbn" and device.type != "cuda":
        raise UserError("--norm syncbn needs GPUs; set --norm bn or --norm auto")


def set_norm(module: nn.Module, norm: str) -> nn.Module:
    """``module`` with its BatchNorms frozen or tuned; names of tensors stay.

    ``frozen``: statistics, scale and shift are constant; ``bn``: tuned, with each process's own batch; ``syncbn``: tuned, with the
    batch of all processes; ``auto``: ``syncbn`` where there are several processes with GPUs, else ``bn``.
    """
    device = next(module.parameters()).device
    check_norm(norm, device)
    if norm == "frozen":
        return _frozen(module)
    if norm == "syncbn" or (norm == "auto" and device.type == "cuda" and several()):
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return module


def _frozen(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm):
        fixed = FrozenBatchNorm2d(module.num_features, module.eps)
        fixed.load_state_dict(module.state_dict())
        return fixed.to(module.running_mean.device)
    for name, child in module.named_children():
        setattr(module, name, _frozen(child))
    return module
