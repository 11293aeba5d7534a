"""Dilation: a classification backbone with finer last maps, as DeepLab has it (arXiv 1706.05587, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

PROBE_SIDE = 128  # pixels of the image with which strides are found


def dilate(network: nn.Module, output_stride: int) -> nn.Module:
    """``network``, changed so that no feature map of its ``stages`` has a larger stride than ``output_stride``.

    A convolution that reads a map of stride s beyond it strides no more and is dilated by s / ``output_stride``. The weights are
    the same, and every value that the network had before is still there: the new map has further ones between them.
    """
    for convolution, stride in _input_strides(network):
        if stride >= output_stride and max(convolution.stride) * stride > output_stride:
            factor = stride // output_stride
            convolution.stride = (1, 1)
            convolution.dilation = tuple(factor * each for each in convolution.dilation)
            convolution.padding = tuple(factor * each for each in convolution.padding)
    return network


def _input_strides(network: nn.Module) -> Iterable[tuple[nn.Conv2d, int]]:
    """Every convolution that ``stages`` runs, with the stride of the map that it reads."""
    found: list[tuple[nn.Conv2d, int]] = []

    def note(layer: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        found.append((layer, PROBE_SIDE // inputs[0].shape[-1]))

    hooks = [layer.register_forward_pre_hook(note) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    training = network.training
    try:
        device = next(network.parameters()).device
        with torch.no_grad():
            network.eval().stages(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, device=device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return found
