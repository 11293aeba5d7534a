"""Features of a data set at every width, in one pass over its images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from transfer.classification.rows import Rows, Storage, fill


@torch.no_grad()
def extract_features(
    networks: Mapping[float, nn.Module], batches: Iterable[tuple[Tensor, Tensor]], count: int, storage: Storage
) -> tuple[dict[float, Rows], Tensor]:
    """Features of ``batches`` of (images (B, 3, H, W), labels (B,)), ``count`` images in all, under each network, put in evaluation
    mode.

    An image is decoded and prepared once for all widths.

    Returns:
        For each width features (count, D(width)) float32 on the device of the images or in ``storage``, and the labels (count,)
        int64.

    Raises:
        UserError: there is no room for them.
    """
    found: dict[float, Rows] = {}
    labels, done = [], 0
    for network in networks.values():
        network.eval()
    for x, y in batches:
        labels.append(y)
        fresh = {width: network(x).float() for width, network in networks.items()}
        if not found:
            places = storage.new(count, [block.shape[1] for block in fresh.values()], x.device)
            found = dict(zip(fresh, places, strict=True))
        for width, block in fresh.items():
            fill(found[width], done, block)
        done += len(y)
    return found, torch.cat(labels)
