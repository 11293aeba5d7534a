"""The frozen network computes what the dense one does, with less to do."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.models import build
from pretrain.slimmable import calibrate, extract
from transfer.classification.frozen import CPU_BATCH, Frozen, folded


def dense(arch, width, size):
    torch.manual_seed(0)
    encoder = build(arch).double()
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    for parameter in encoder.parameters():  # no BatchNorm is the identity
        parameter.data += 0.1 * torch.randn_like(parameter)
    calibrate(encoder, [width], [images])
    return extract(encoder, width), images


@pytest.mark.parametrize(
    ("arch", "size"), [("resnet_small", 12), ("resnet50_cifar", 8), ("mobilenetv2_cifar", 16), ("vit_micro", 16)]
)
@pytest.mark.parametrize("width", [1.0, 0.25])
def test_it_computes_the_same(arch, size, width):
    network, images = dense(arch, width, size)
    with torch.no_grad():
        expected = network(images)
    frozen = Frozen(network)
    torch.testing.assert_close(frozen(images), expected, rtol=1e-9, atol=1e-9)
    norms = [m for m in frozen.modules() if isinstance(m, _BatchNorm)]
    assert not norms, "a BatchNorm was not folded"


def test_large_batches_are_cut_and_put_together():
    network, _ = dense("resnet_small", 0.5, 12)
    images = torch.randn(2 * CPU_BATCH + 3, 3, 12, 12, dtype=torch.float64)
    sizes = []
    frozen = Frozen(network)
    frozen.network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    with torch.no_grad():
        torch.testing.assert_close(frozen(images), network(images), rtol=1e-9, atol=1e-9)
    assert sizes == [CPU_BATCH, CPU_BATCH, 3]


def test_it_has_no_gradient_and_stays_in_evaluation_mode():
    network, images = dense("resnet_small", 0.5, 12)
    frozen = Frozen(network).train()
    assert not any(m.training for m in frozen.modules())
    assert not frozen(images).requires_grad and not any(p.requires_grad for p in frozen.parameters())


class Branching(nn.Sequential):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def test_what_cannot_be_traced_or_has_no_statistics_stays_as_it_is():
    network = Branching(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    assert folded(network) is network
    without = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert folded(without) is without
