"""Our backbones in mmsegmentation's registry: a checkpoint and a width become the maps that its heads read."""

from __future__ import annotations

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from pretrain.checkpoints import open_checkpoint
from rundir.subnet import parse_width
from transfer.finetuning.trunk import Pyramid, Trunk, dense_network, set_norm
from transfer.segmentation.dilation import dilate


@MODELS.register_module()
class SlimmableTrunk(BaseModule):
    """Normalised images (B, 3, H, W) to four maps, finest first; of a ViT read as ``patches`` one map, (B, C, H/p, W/p).

    Args:
        checkpoint, branch, arch: as :func:`~pretrain.checkpoints.open_checkpoint` takes them.
        width: the width whose dense network this is; of a sub-network its string.
        initial, seed: ``pretrained``, or ``random`` weights drawn from ``seed``.
        norm: ``bn`` or ``frozen``, as :func:`~transfer.finetuning.trunk.set_norm` takes it (mmengine makes SyncBN of the former).
        reads: ``maps`` as they are, a ``pyramid`` made of a ViT's last one, or its ``patches`` after the last LayerNorm.
        output_stride: largest stride of a convolutional network's maps; 0 leaves them as they are.
        network: the dense network of ``width`` where it is loaded already, instead of reading ``checkpoint``.
    """

    def __init__(
        self,
        checkpoint: str,
        width: float | str,
        initial: str = "pretrained",
        seed: int = 0,
        norm: str = "bn",
        reads: str = "maps",
        output_stride: int = 0,
        branch: str = "student",
        arch: str | None = None,
        network: nn.Module | None = None,
    ):
        super().__init__()
        if network is None:
            network = dense_network(open_checkpoint(checkpoint, branch=branch, arch=arch), parse_width(str(width)), initial, seed)
        if output_stride:
            dilate(network, output_stride)
        trunk = Trunk(set_norm(network, norm))
        self.reads, self.last_norm = reads, None
        if reads == "patches":
            # No map depends on it, but the patches do. In a list, so that it is named once in the state.
            self.last_norm = [network.body.norm.requires_grad_(True)]
        self.trunk = Pyramid(trunk) if reads == "pyramid" else trunk
        self.patch_size = trunk.patch_size
        self.channels = tuple(self.trunk.channels.values())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = tuple(self.trunk(x).values())
        if self.reads != "patches":
            return maps
        last = self.last_norm[0](maps[-1].permute(0, 2, 3, 1))
        return (last.permute(0, 3, 1, 2).contiguous(),)
