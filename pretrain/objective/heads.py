"""Projector, predictor and distillation head (METHOD section 6: BN and ReLU between the layers, none after the last).

MoCo v3's heads end with a BatchNorm without scale and shift, and have no bias (arXiv 2104.02057 and its code).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from pretrain.slimmable import ChannelRule, SlimmableBatchNorm1d, SlimmableLinear


def mlp(sizes: Sequence[Any], *, slice_input: bool, last_norm: bool = False, norm: bool = True) -> nn.Sequential:
    """MLP through ``sizes``: (B, sizes[0]) -> (B, sizes[-1]); only the first layer's input can follow the width, by the rule of
    convolutions or, where ``sizes[0]`` is a rule, by that. ``last_norm`` puts a BatchNorm without scale and shift at the end;
    without ``norm`` there is none between the layers.
    """
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        last = index == len(sizes) - 2
        # A bias in front of BatchNorm has no effect.
        layers.append(
            SlimmableLinear(
                inputs, outputs, bias=not (last_norm if last else norm), slice_in=slice_input and index == 0, slice_out=False
            )
        )
        if not last:
            layers += [*([SlimmableBatchNorm1d(outputs, slice_channels=False)] if norm else []), nn.ReLU(inplace=True)]
    if last_norm:
        layers.append(SlimmableBatchNorm1d(sizes[-1], slice_channels=False, affine=False))
    return nn.Sequential(*layers)


def projector(
    features: int | ChannelRule, hidden: int, out: int, layers: int, last_norm: bool = False, norm: bool = True
) -> nn.Sequential:
    """(B, features(w)) -> (B, out), ``features`` as the encoder has them: not all encoders' follow the width."""
    return mlp([features, *[hidden] * (layers - 1), out], slice_input=True, last_norm=last_norm, norm=norm)


def predictor(dim: int, hidden: int, last_norm: bool = False) -> nn.Sequential:
    """(B, dim) -> (B, dim), two layers; the auxiliary distillation head has the same shape."""
    return mlp([dim, hidden, dim], slice_input=False, last_norm=last_norm)
