"""A network as it is before any training: the reference that pretraining is compared with."""

from __future__ import annotations

import torch
from torch import nn


def redrawn(network: nn.Module, seed: int) -> nn.Module:
    """``network`` (a dense one, on the CPU) with weights freshly drawn from ``seed``; it is changed.

    Convolutions are drawn as this project's are (He et al., arXiv 1502.01852, fan-out) and linear layers as its ViTs' (Glorot), for
    the channels that are there, so that a narrow network starts as one that was made narrow. BatchNorms have mean 0, variance 1.
    The state of the random generators is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _redrawn(network)


def _redrawn(network: nn.Module) -> nn.Module:
    drawn: set[int] = set()
    for name, module in list(network.named_modules()):
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.track_running_stats:  # extracted without statistics
            module = nn.BatchNorm2d(module.num_features, module.eps, affine=module.affine)
            network.set_submodule(name, module)
            own = list(module.parameters(recurse=False))
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif own and hasattr(module, "reset_parameters"):
            module.reset_parameters()
        else:
            continue
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
        drawn |= {id(parameter) for parameter in own}
    for parameter in network.parameters():  # tokens and embeddings; what is fixed by design stays
        if id(parameter) not in drawn and parameter.requires_grad:
            nn.init.trunc_normal_(parameter, std=0.02)
    return network
