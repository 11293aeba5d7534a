"""Features of a data set at every width, in one pass over its images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def extract_features(networks: Mapping[float, nn.Module], batches: Iterable[tuple[Tensor, Tensor]]
                     ) -> tuple[dict[float, Tensor], Tensor]:
    """Features of ``batches`` of (images (B, 3, H, W), labels (B,)) under each network, put in evaluation mode.

    An image is decoded and prepared once for all widths.

    Returns:
        For each width features (N, D(width)) float32 on the device of the images, and the labels (N,) int64.
    """
    found: dict[float, list[Tensor]] = {width: [] for width in networks}
    labels = []
    for network in networks.values():
        network.eval()
    for x, y in batches:
        labels.append(y)
        for width, network in networks.items():
            found[width].append(network(x).float())
    return {width: torch.cat(parts) for width, parts in found.items()}, torch.cat(labels)
