"""The order of channels: reordering leaves the full width's function alone, importances are what they say."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pretrain.importance import _Moments, activation_covariances, channel_orders, filter_norms, leverage
from pretrain.models import build
from pretrain.models.mobilenetv2 import MobileNetV2
from pretrain.models.resnet import BasicBlock, Bottleneck, ResNet
from pretrain.slimmable import SlimmableLinear, at_width, calibrate, channels_at, cut_statistics, extract, reorder
from pretrain.slimmable.calibrate import batch_norms

NETWORKS = {
    "basic": lambda: ResNet(BasicBlock, (1, 2), base_channels=16),  # the stem's stream goes through the first stage
    "bottleneck": lambda: ResNet(Bottleneck, (2, 1), base_channels=8, stem="imagenet"),
    "mobilenet": lambda: MobileNetV2(cifar=True),
    "vit": lambda: build("vit_micro"),
    "vit_heads": lambda: build("vit_micro_heads"),
}


def drawn(name, seed):
    """A network with nothing at its initial value, its first projector layer, and images."""
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter) * parameter.abs().mean().clamp(min=0.1)
    after = SlimmableLinear(network.feature_rule, 12, slice_out=False)
    images = torch.randn(6, 3, 16, 16)
    calibrate(network, [1.0, 0.5], [images])
    return network.eval(), after, images


def shuffled(channels, generator):
    runs = torch.randperm(channels.rule.channels // channels.unit, generator=generator)
    return (runs[:, None] * channels.unit + torch.arange(channels.unit)).flatten()


@settings(deadline=None, max_examples=12)
@given(name=st.sampled_from(sorted(NETWORKS)), seed=st.integers(0, 99))
def test_any_reordering_keeps_the_function_of_the_full_width(name, seed):
    network, after, images = drawn(name, seed)
    network, after, images = network.double(), after.double(), images.double()
    with torch.no_grad():
        before, dense = after(network(images)), after(extract(network, 1.0)(images))
        torch.testing.assert_close(before, dense)
        groups, generator = network.channel_groups([after]), torch.Generator().manual_seed(seed)
        orders = [shuffled(group, generator) for group in groups]
        for group, order in zip(groups, orders, strict=True):
            reorder(group, order)
        torch.testing.assert_close(after(network(images)), before, rtol=1e-9, atol=1e-9)
        assert all(
            list(norm.statistics) == [1.0]
            for norm in batch_norms(network).values()
            if norm.channels_out(0.5) < norm.channels_out(1.0)
        )
        for group, order in zip(groups, orders, strict=True):
            reorder(group, torch.argsort(order))
        torch.testing.assert_close(after(network(images)), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_channel_that_a_width_cuts_is_in_a_group(name):
    """Of CNNs all of them but the image and the features that no width cuts; of ViTs those inside of the blocks."""
    network, after, _ = drawn(name, 0)
    groups = network.channel_groups([after])
    written = {id(layer) for group in groups for layer in group.written}
    read = {id(layer) for group in groups for layer in group.read}
    left_out = [
        name
        for name, layer in network.named_modules()
        if getattr(layer, "channels_out", None) and layer.channels_out(0.5) < layer.channels_out(1.0) and id(layer) not in written
    ]
    if "vit" in name:
        assert all(part.endswith(("proj", "norm1", "norm2", "norm", "fc2")) for part in left_out)
        return
    assert left_out == []
    unread = [
        name
        for name, layer in network.named_modules()
        if getattr(layer, "channels_in", None)
        and layer.channels_in(0.5) < layer.channels_in(1.0)
        and not layer.depthwise
        and id(layer) not in read
    ]
    assert unread == [] and (id(after) in read) == (name != "mobilenet")


def test_what_is_no_permutation_is_refused():
    network, after, _ = drawn("vit", 0)
    heads, hidden = network.channel_groups([after])[:2]
    with pytest.raises(ValueError, match="each of them once"):
        reorder(hidden, torch.zeros(256, dtype=torch.int64))
    with pytest.raises(ValueError, match="runs of 16 channels must stay together"):
        reorder(heads, torch.arange(64).flip(0))


@pytest.mark.parametrize("name", ["basic", "mobilenet", "vit"])
def test_activation_moments_are_those_of_all_rows_at_once(name):
    network, after, images = drawn(name, 3)
    groups = network.channel_groups([after])
    seen = {}

    def keep(layer, inputs):
        x = inputs[0].detach().numpy()
        last = np.moveaxis(x, 1, -1) if x.ndim == 4 else x
        seen.setdefault(id(layer), []).append(last.reshape(-1, last.shape[-1]))

    hooks = [layer.register_forward_pre_hook(keep) for group in groups for layer in group.read]
    with torch.no_grad():
        after(network(images))
    for hook in hooks:
        hook.remove()
    found = activation_covariances(network, groups, images.split(4), after)
    for group, covariance in zip(groups, found, strict=True):
        expected = np.mean(
            [np.cov(np.concatenate(seen[id(layer)]).astype(np.float64), rowvar=False, bias=True) for layer in group.read], axis=0
        )
        np.testing.assert_allclose(covariance.numpy(), expected, atol=1e-6 * abs(expected).max())


def test_moments_lose_nothing_to_a_large_mean():
    rows = torch.randn(500, 3, dtype=torch.float64) + 1e7
    moments = _Moments()
    for part in rows.split([1, 99, 400]):
        moments.add(part)
    torch.testing.assert_close(moments.covariance(), torch.cov(rows.T, correction=0), rtol=1e-6, atol=1e-9)


def test_leverage_is_that_of_the_singular_vectors():
    activations = torch.randn(40, 7, dtype=torch.float64) * torch.tensor([9.0, 5, 3, 2, 1, 0.5, 0.1], dtype=torch.float64)
    centred = activations - activations.mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:3]
    found = leverage(torch.cov(activations.T), 3)
    torch.testing.assert_close(found, directions.square().sum(0))
    assert found.sum() == pytest.approx(3)


def test_filter_norms_by_hand():
    network, after, _ = drawn("basic", 1)
    stream = network.channel_groups([after])[0]
    writers = [network.conv1, network.layer1[0].conv2]
    weights = [layer.weight.detach().double() for layer in writers]
    expected = [sum(float(weight[channel].square().sum()) for weight in weights) ** 0.5 for channel in range(16)]
    assert filter_norms(stream).tolist() == pytest.approx(expected)
    vit, after, _ = drawn("vit", 1)
    heads = vit.channel_groups([after])[0]
    qkv = vit.blocks[0].attn.qkv.weight.detach().double()
    assert filter_norms(heads).tolist() == pytest.approx([float(qkv[[c, 64 + c, 128 + c]].norm()) for c in range(64)])


@pytest.mark.parametrize("importance", ["weights", "variance", "svd"])
def test_a_channel_that_does_nothing_comes_last_and_a_lone_strong_one_first(importance):
    network, after, images = drawn("basic", 5)
    groups = network.channel_groups([after])
    inner = next(group for group in groups if group.written[0] is network.layer2[1].conv1)
    with torch.no_grad():
        conv, norm = inner.written
        conv.weight[3], norm.weight[3], norm.bias[3] = 0, 0, -1
        conv.weight[7] *= 50
        norm.weight[7], norm.bias[7] = 50, 0
    calibrate(network, [1.0], [images])
    order = channel_orders(network, groups, importance, [images], 0.25, after)[groups.index(inner)]
    assert sorted(order.tolist()) == list(range(32)) and order[-1] == 3 and order[0] == 7


def test_heads_are_sorted_as_wholes():
    network, after, _ = drawn("vit", 2)
    with torch.no_grad():
        network.blocks[0].attn.qkv.weight.view(3, 4, 16, 64)[:, 2] *= 10
    order = channel_orders(network, network.channel_groups([after]), "weights", [], 0.25)[0]
    assert order[:16].tolist() == list(range(32, 48)) and (order.view(4, 16).diff(dim=1) == 1).all()


def test_statistics_that_are_cut_are_the_first_of_the_full_widths():
    network, _, images = drawn("basic", 4)
    full = {name: norm.statistics_at(1.0) for name, norm in batch_norms(network).items()}
    fresh = copy.deepcopy(network)
    cut_statistics(batch_norms(network).values(), [0.5], 1.0)
    for name, norm in batch_norms(network).items():
        kept = channels_at(norm.channels_out.channels, 0.5)
        assert all(torch.equal(now, before[:kept]) for now, before in zip(norm.statistics_at(0.5), full[name], strict=True))
    with torch.no_grad(), at_width(network, 0.5), at_width(fresh, 0.5):
        assert not torch.allclose(network(images), fresh(images))  # which were calibrated
    assert isinstance(network.bn1, nn.Module) and network.bn1.statistics_at(1.0)[0] is full["bn1"][0]
