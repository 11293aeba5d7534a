"""ResNets with the CIFAR stem against networks put together from torchvision's blocks, at full width and narrower."""

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from pretrain.models import ARCHITECTURES, build
from pretrain.slimmable import at_width
from rundir.errors import UserError
from tests.pretrain.slow_reference import keep

NETWORKS = {
    "resnet_small": (BasicBlock, (1, 1, 1, 1), 16),
    "resnet18_cifar": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet34_cifar": (BasicBlock, (3, 4, 6, 3), 64),
    "resnet50_cifar": (Bottleneck, (3, 4, 6, 3), 64),
}


def reference(arch, width):
    """The same network from torchvision's blocks, with the channels of ``width`` and a 3x3 stem without max-pool."""
    block, depths, base = NETWORKS[arch]
    channels = keep(base, width)
    network = nn.Sequential()
    network.conv1, network.bn1 = nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
    network.relu = nn.ReLU()
    for stage, depth in enumerate(depths):
        planes, outputs = keep(base * 2**stage, width), keep(base * 2**stage * block.expansion, width)
        assert outputs == planes * block.expansion  # true of the widths tested here
        blocks = []
        for index in range(depth):
            stride, shortcut = 2 if stage and not index else 1, None
            if stride != 1 or channels != outputs:
                shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            blocks.append(block(channels, planes, stride, shortcut))
            channels = outputs
        setattr(network, f"layer{stage + 1}", nn.Sequential(*blocks))
    network.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network


@pytest.mark.parametrize("arch", NETWORKS)
@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_agrees_with_torchvisions_blocks(arch, width):
    torch.manual_seed(0)
    ours, theirs = build(arch).double(), reference(arch, width).double()
    mine = ours.state_dict()
    weights = {
        k: mine[k][tuple(slice(0, n) for n in v.shape)] if "running" not in k and "tracked" not in k else v
        for k, v in theirs.state_dict().items()
    }
    assert {k for k in weights if "running" not in k and "tracked" not in k} == set(mine)
    theirs.load_state_dict(weights)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with at_width(ours, width), torch.no_grad():
        maps, features = ours.stages(x), ours(x)
    torch.testing.assert_close(features, theirs(x), rtol=1e-9, atol=1e-9)
    y = theirs.relu(theirs.bn1(theirs.conv1(x)))
    for index, feature_map in enumerate(maps):
        y = theirs.get_submodule(f"layer{index + 1}")(y)
        torch.testing.assert_close(feature_map, y, rtol=1e-9, atol=1e-9)
    assert features.shape[1] == ours.feature_dim(width) and [m.shape[1] for m in maps] == ours.stage_dims(width)


@pytest.mark.parametrize("width", [0.3, 0.61, 0.87])
def test_any_width_runs_on_odd_images(width):
    for arch in ("resnet_small", "resnet18"):
        encoder = build(arch)
        with at_width(encoder, width), torch.no_grad():
            assert encoder(torch.randn(2, 3, 35, 41)).shape == (2, encoder.feature_dim(width))


def test_channels_last_is_the_same_network():
    torch.manual_seed(0)
    encoder, x = build("resnet_small").double(), torch.randn(4, 3, 12, 12, dtype=torch.float64)
    with torch.no_grad(), at_width(encoder, 0.5):
        expected = encoder(x)
        encoder.to(memory_format=torch.channels_last)
        torch.testing.assert_close(encoder(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-9, atol=1e-9)


def test_a_seed_is_a_network():
    first, second = (torch.manual_seed(s) and build("resnet_small").state_dict() for s in (5, 5))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_unknown_architecture():
    with pytest.raises(UserError, match="did you mean resnet18_cifar"):
        build("resnet18_cifr")
    with pytest.raises(UserError, match="choose one of resnet_small"):
        build("zzz")
    assert all(callable(make) for make in ARCHITECTURES.values())
