"""A network with frozen weights: its forward pass made as cheap as possible without changing what it computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm

CPU_BATCH = 64  # images whose feature maps a CPU's cache still holds in part: larger batches wait for memory


class Frozen(nn.Module):
    """``network`` in evaluation mode and without gradient: images (B, 3, H, W) to features (B, D), equal up to rounding.

    BatchNorms are folded into the convolutions before them, weights are channels last (the faster layout of convolutions on CPUs,
    and on GPUs with tensor cores), and a CPU takes at most ``CPU_BATCH`` images at once.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = folded(network.eval()).requires_grad_(False).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Frozen:
        """Keep evaluation mode, whatever ``mode`` says."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        if x.device.type != "cpu" or len(x) <= CPU_BATCH:
            return self.network(x)
        return torch.cat([self.network(part) for part in x.split(CPU_BATCH)])


def folded(network: nn.Module) -> nn.Module:
    """``network`` with each BatchNorm that follows a convolution folded into it; as it is where that is not possible."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not norms or any(norm.running_mean is None for norm in norms):
        return network
    try:
        return fuse(network)
    except Exception:  # fx cannot follow every forward method, and says so in many ways
        return network
