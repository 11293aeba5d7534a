"""How important a channel of a trained network is, without labels, gradients or training.

Three measures, for train-free pruning: the norm of the filters that compute a channel (Li et al., arXiv 1608.08710), the variance
of its activations, and its leverage: how much of the leading singular directions of the activations lies in it (column subset
selection; Mahoney and Drineas, PNAS 2009).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pretrain.slimmable import Channels, SlimmableConv2d


def channel_orders(
    encoder: nn.Module,
    groups: Sequence[Channels],
    importance: str,
    batches: Iterable[Tensor],
    narrowest: float,
    after: nn.Module | None = None,
) -> list[Tensor]:
    """The channels of each group, the most important first: a list of permutations (C,), int64, units kept together.

    Args:
        importance: ``weights``, ``variance`` or ``svd`` (leverage in as many directions as width ``narrowest`` keeps channels).
        batches: images (B, 3, H, W) that the activations of the calibrated ``encoder`` are of; not read for ``weights``.
        after: what is applied to the features, where a group is read by a layer behind the encoder.
    """
    if importance == "weights":
        scores = [filter_norms(group) for group in groups]
    else:
        covariances = activation_covariances(encoder, groups, batches, after)
        scores = [
            covariance.diagonal() if importance == "variance" else leverage(covariance, group.rule(narrowest))
            for group, covariance in zip(groups, covariances, strict=True)
        ]
    return [_order(score, group.unit) for score, group in zip(scores, groups, strict=True)]


def filter_norms(channels: Channels) -> Tensor:
    """L2 norm of all weights that compute a channel, over all layers that write to it (C,), float64."""
    squares = [
        layer.weight.detach().double().flatten(1).square().sum(1).unflatten(0, (layer.parts, -1)).sum(0)
        for layer in channels.sources
    ]
    return torch.stack(squares).sum(0).sqrt()


def leverage(covariance: Tensor, directions: int) -> Tensor:
    """Share of each channel in the first ``directions`` principal directions of a covariance (C, C), float64.

    In [0, 1]; the sum over channels is ``directions``.
    """
    vectors = torch.linalg.eigh(covariance).eigenvectors[:, -directions:]  # in the order of rising eigenvalues
    return vectors.square().sum(1)


@torch.no_grad()
def activation_covariances(
    encoder: nn.Module, groups: Sequence[Channels], batches: Iterable[Tensor], after: nn.Module | None = None
) -> list[Tensor]:
    """Covariance (C, C), float64, of each group's channels over images and positions, as the layers that read them see them at
    full width in evaluation mode; the mean over these layers.
    """
    readers = [layer for group in groups for layer in group.read]
    moments = {id(layer): _Moments() for layer in readers}
    hooks = [layer.register_forward_pre_hook(partial(_collect, moments[id(layer)])) for layer in readers]
    before = encoder.training
    try:
        encoder.eval()
        for x in batches:
            features = encoder(x)
            if after is not None:
                after(features)
    finally:
        encoder.train(before)
        for hook in hooks:
            hook.remove()
    return [torch.stack([moments[id(layer)].covariance() for layer in group.read]).mean(0) for group in groups]


class _Moments:
    """Running mean and scatter of rows, joined batch by batch (Chan, Golub and LeVeque 1979): no digits lost to a large mean."""

    def __init__(self) -> None:
        self.count, self.mean, self.scatter = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor) -> None:
        """Rows (N, C), float64."""
        mean, count = rows.mean(0), len(rows)
        centred, shift, total = rows - mean, mean - self.mean, self.count + count
        self.scatter = self.scatter + centred.T @ centred + torch.outer(shift, shift) * (self.count * count / total)
        self.mean, self.count = self.mean + shift * (count / total), total

    def covariance(self) -> Tensor:
        return self.scatter / self.count


def _collect(moments: _Moments, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    x = inputs[0].movedim(1, -1) if isinstance(layer, SlimmableConv2d) else inputs[0]
    moments.add(x.reshape(-1, x.shape[-1]).double())


def _order(scores: Tensor, unit: int) -> Tensor:
    runs = torch.argsort(scores.unflatten(0, (-1, unit)).sum(1), descending=True, stable=True)
    return (runs[:, None] * unit + torch.arange(unit, device=runs.device)).flatten()
