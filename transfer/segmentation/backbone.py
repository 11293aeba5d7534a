"""Our backbones in mmsegmentation's registry: a checkpoint and a width become the maps that its heads read."""

from __future__ import annotations

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from transfer.backbone import Batches, load_backbone
from transfer.dense.trunk import Pyramid, Trunk, dense_network, set_norm
from transfer.segmentation.dilation import dilate


@MODELS.register_module()
class SlimmableTrunk(BaseModule):
    """Normalised images (B, 3, H, W) to four maps, finest first; of a ViT read as ``patches`` one map, (B, C, H/p, W/p).

    Args:
        checkpoint, branch, arch: as :func:`~transfer.backbone.load_backbone` takes them.
        width: the width whose dense network this is.
        initial, seed: ``pretrained``, or ``random`` weights drawn from ``seed``.
        norm: ``auto``, ``bn``, ``syncbn`` or ``frozen`` BatchNorms.
        reads: ``maps`` as they are, a ``pyramid`` made of a ViT's last one, or its ``patches`` after the last LayerNorm.
        output_stride: largest stride of a convolutional network's maps; 0 leaves them as they are.
        batches: images for the BatchNorm statistics of a width that the checkpoint has none for.
    """

    def __init__(self, checkpoint: str, width: float, initial: str = "pretrained", seed: int = 0, norm: str = "auto",
                 reads: str = "maps", output_stride: int = 0, branch: str = "student", arch: str | None = None,
                 batches: Batches | None = None):
        super().__init__()
        backbone = load_backbone(checkpoint, branch=branch, arch=arch)
        network = dense_network(backbone, width, initial, seed, batches)
        if output_stride:
            dilate(network, output_stride)
        self.reads, self.norm_name = reads, norm
        trunk = Trunk(set_norm(network, "frozen") if norm == "frozen" else network)
        if reads == "patches":
            trunk.network.norm.requires_grad_(True)  # no map depends on it, but the patches do
        self.trunk = Pyramid(trunk) if reads == "pyramid" else trunk
        self.patch_size = trunk.patch_size
        self.channels = tuple(self.trunk.channels.values())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = tuple(self.trunk(x).values())
        if self.reads != "patches":
            return maps
        last = self.trunk.network.norm(maps[-1].permute(0, 2, 3, 1))
        return (last.permute(0, 3, 1, 2).contiguous(),)
