"""The cost table against counting each sub-network, and calibration in one pass against calibration in a pass of its own."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.models import build
from pretrain.slimmable import CostTable, Subnet, calibrate, calibrated_features, cost, extract, slimmable_layers, space_of
from pretrain.slimmable.calibrate import batch_norms, norms_at
from pretrain.slimmable.layers import moments

SIZES = {
    "resnet_small": 12,
    "resnet_medium": 16,
    "resnet50_cifar": 16,
    "resnet18": 64,
    "mobilenetv2_cifar": 32,
    "resnet_small_elastic": 12,
    "mobilenetv2_cifar_elastic": 32,
    "vit_micro": 12,
    "vit_micro_heads": 12,
}
TABLES: dict[str, tuple[nn.Module, CostTable]] = {}


def table_of(arch):
    if arch not in TABLES:
        torch.manual_seed(0)
        model = build(arch)
        TABLES[arch] = model, CostTable(model, SIZES[arch])
    return TABLES[arch]


def drawn(model, seed):
    return space_of(model, resolutions=(16, 12) if seed % 3 == 0 and not model.is_vit else ()).random(random.Random(seed))


@settings(deadline=None, max_examples=40)
@given(arch=st.sampled_from(sorted(SIZES)), seed=st.integers(0, 10**6))
def test_the_table_equals_counting(arch, seed):
    model, table = table_of(arch)
    width = drawn(model, seed)
    counted, load = cost(model, width, SIZES[arch]), table.load(width)
    assert (load.flops, load.parameters) == (counted.flops, counted.parameters)


@pytest.mark.parametrize("arch", sorted(SIZES))
def test_no_network_needs_to_be_counted_each_time(arch):
    assert table_of(arch)[1].complete


def peak_by_hooks(network, size):
    """The most numbers that a convolution or linear layer reads and writes, seen from outside."""
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda layer, inputs, output: found.append(inputs[0].numel() + output.numel()))
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    return max(found)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("arch", ["resnet_small", "resnet50_cifar", "mobilenetv2_cifar_elastic"])
def test_memory_is_weights_and_the_largest_layer(arch, seed):
    model, table = table_of(arch)
    width = drawn(model, 3 * seed + 1)
    calibrate(model, [width], [torch.randn(4, 3, SIZES[arch], SIZES[arch])])
    network = extract(model, width)
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert table.load(width).memory == 4 * (weights + peak_by_hooks(network, SIZES[arch]))


def test_what_the_table_does_not_know_is_counted():
    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            x = self.inner(x)
            return x @ x.T

    torch.manual_seed(0)
    model = Doubled(build("resnet_small"))
    table = CostTable(model, 12)
    assert not table.complete
    assert table.load(0.5).flops == cost(model, 0.5, 12).flops


# -- one pass -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [3, 12])  # torch's own BatchNorm, and products
def test_moments_are_those_of_float64(side):
    x = 5 + 0.01 * torch.randn(64, 7, side, side, generator=torch.Generator().manual_seed(0))
    variance, mean = torch.var_mean(x.double(), (0, 2, 3))
    for layout in (torch.contiguous_format, torch.channels_last):
        own = moments(x.contiguous(memory_format=layout))
        # float32 sums of thousands of values near 5, in an order that is the processor's
        assert torch.allclose(own[0].double(), mean, rtol=2e-5) and torch.allclose(own[1].double(), variance, rtol=2e-4)
    assert moments(x[:, :, 0, 0])[0].shape == (7,)


@torch.no_grad()
def test_features_are_those_of_the_network_with_the_collected_statistics():
    """Sequentially: each BatchNorm of the dense network gets the moments of what reaches it, and normalises by them."""
    torch.manual_seed(1)
    model, batches = build("resnet_medium").double(), [torch.randn(6, 3, 12, 12).double() for _ in range(3)]
    width = Subnet((1.0, 0.5, 0.75, 0.25), depth=(1, 2, 1, 2))
    found = calibrated_features(model, width, batches)
    network = extract(model, width)
    for norm in (module for module in network.modules() if isinstance(module, _BatchNorm)):

        def measure(norm, inputs):
            norm.running_var, norm.running_mean = torch.var_mean(inputs[0], (0, 2, 3))
            norm.track_running_stats = True

        norm.register_forward_pre_hook(measure)
    first = network(batches[0])
    for norm in (module for module in network.modules() if isinstance(module, _BatchNorm)):
        norm._forward_pre_hooks.clear()
    assert torch.allclose(found, torch.cat([first, network(batches[1]), network(batches[2])]), atol=1e-10)


@torch.no_grad()
def test_it_agrees_with_calibration_of_its_own():
    torch.manual_seed(2)
    model, batches = build("resnet_small"), [torch.randn(128, 3, 12, 12) for _ in range(2)]
    for width in (1.0, 0.25, Subnet((0.5, 1.0, 0.25, 0.75))):
        found = calibrated_features(model, width, batches)
        calibrate(model, [width], batches[:1])
        expected = torch.cat([extract(model, width)(x) for x in batches])
        assert torch.allclose(found, expected, rtol=5e-3, atol=5e-3)  # n is 512 and more


def test_nothing_is_left_behind():
    torch.manual_seed(0)
    model, images = build("resnet_small").train(), torch.randn(8, 3, 12, 12)
    calibrate(model, [0.5], [images])
    before = {name: norm.statistics[0.5][0].clone() for name, norm in batch_norms(model).items()}
    calibrated_features(model, 0.5, [images + 1])
    calibrated_features(model, Subnet((1.0, 0.5, 0.5, 0.5)), [images])
    calibrated_features(model, 0.5, [images, images])
    with pytest.raises(RuntimeError):
        calibrated_features(model, 0.5, [images, images[:, :2]])
    assert model.training and not any(norm.collecting or norm.passes for norm in batch_norms(model).values())
    assert not any(layer.reuse or layer.slices is not None for layer in slimmable_layers(model))
    assert all(
        set(norm.statistics) == {0.5} and norm.statistics[0.5][0].equal(before[name]) for name, norm in norms_at(model, 0.5).items()
    )


def test_without_images_there_is_nothing_to_calibrate_on():
    model = build("resnet_small")
    with pytest.raises(ValueError, match="at least one batch"):
        calibrated_features(model, 1.0, [])
    with pytest.raises(ValueError, match="at least two images"):
        calibrated_features(model, 1.0, [torch.randn(1, 3, 12, 12)])
    assert model.training and not any(norm.collecting for norm in batch_norms(model).values())


@settings(deadline=None, max_examples=30)
@given(arch=st.sampled_from(sorted(SIZES)), seed=st.integers(0, 10**6))
def test_two_are_one_network_where_extraction_gives_the_same_layers(arch, seed):
    model, table = table_of(arch)
    first, second = drawn(model, 3 * seed + 1), drawn(model, 3 * (seed // 7) + 1)
    layers = [
        [(name, parameter.shape) for name, parameter in extract(model, width).named_parameters()] for width in (first, second)
    ]
    assert (table.network(first) == table.network(second)) == (layers[0] == layers[1])


def test_a_list_of_widths_that_rounds_to_a_plain_one_is_the_same_network():
    _, table = table_of("resnet_small")
    assert table.network(Subnet((0.9375, 1.0, 1.0, 1.0))) == table.network(1.0) != table.network(0.5)
    assert table.network(Subnet(1.0, resolution=8)) != table.network(1.0)
