"""BatchNorm folded into slimmable convolutions: the same features, at sub-networks of every architecture that has any."""

import random

import pytest
import torch
from torch import nn

from pretrain.models import build
from pretrain.slimmable import (
    SlimmableBatchNorm2d,
    SlimmableConv2d,
    at_width,
    calibrate,
    has_batch_norm,
    slimmable_layers,
    space_of,
)
from pretrain.slimmable.calibrate import batch_norms, norms_at
from pretrain.slimmable.folding import folded, pairs_of

ARCHS = ("resnet_small", "resnet_small_elastic", "resnet18_cifar", "mobilenetv2_cifar_elastic", "vit_tiny_cifar")


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
def test_the_features_are_those_of_the_network_as_it_is(arch):
    torch.manual_seed(3)
    model, images = build(arch).double(), torch.randn(6, 3, 32, 32).double()
    for norm in batch_norms(model).values():  # no scale of one and no shift of zero
        norm.weight.copy_(torch.rand_like(norm.weight) + 0.5)
        norm.bias.copy_(torch.randn_like(norm.bias))
    assert len(pairs_of(model)) == len(batch_norms(model)) or not has_batch_norm(model)
    space, generator = space_of(model), random.Random(3)
    for width in (1.0, 0.5, *(space.random(generator) for _ in range(3))):
        calibrate(model, [width], [images])
        with at_width(model.eval(), width):
            expected = model(images)
            with folded(model):
                found = model(images)
                assert all(norm.passes for norm in norms_at(model, width).values())
            assert torch.allclose(found, expected, atol=1e-9) and torch.equal(model(images), expected)
        assert not any(layer.reuse or layer.slices is not None for layer in slimmable_layers(model))


class Twice(nn.Module):
    """A convolution that is read a second time, behind one that is not."""

    def __init__(self, times: int):
        super().__init__()
        self.first, self.norm = SlimmableConv2d(3, 8, 3, padding=1, slice_in=False), SlimmableBatchNorm2d(8)
        self.second, self.other = SlimmableConv2d(8, 8, 3, padding=1), SlimmableBatchNorm2d(8)
        self.times = times

    def forward(self, x):
        x = self.norm(self.first(x))
        y = self.second(x)
        for _ in range(self.times):
            y = self.other(y) + y
        return y


class Branching(Twice):
    """Its way depends on numbers, which torch.fx cannot follow."""

    def forward(self, x):
        return super().forward(x) if x.mean() < 100 else x


@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "expected"),
    [(Twice(1), [("first", "norm")]), (Twice(0), [("first", "norm")]), (Twice(2), [("first", "norm")]), (Branching(1), [])],
)
def test_only_what_a_batch_norm_alone_reads_is_folded(model, expected):
    images = torch.randn(4, 3, 5, 5)
    for norm in batch_norms(model).values():
        norm.statistics[1.0] = torch.randn(8), torch.rand(8) + 0.5
    assert pairs_of(model) == expected
    with at_width(model.eval(), 1.0):
        unfolded = model(images)
        with folded(model):
            assert torch.allclose(model(images), unfolded, atol=1e-4)
