"""A dilated network has every value of the one that strides, and further ones between them."""

from __future__ import annotations

import pytest
import torch

from pretrain.models import build
from pretrain.slimmable import extract
from transfer.segmentation.dilation import dilate

SIDES = (73, 64)  # of images: strides that leave a rest too


def network(arch: str, width: float) -> torch.nn.Module:
    torch.manual_seed(0)
    dense = extract(build(arch), width)
    for module in dense.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # extracted without statistics: those of each batch would mix all values
            module.track_running_stats = True
            module.register_buffer("running_mean", torch.randn(module.num_features) * 0.1)
            module.register_buffer("running_var", torch.rand(module.num_features) + 0.5)
    return dense.eval()


@pytest.mark.parametrize(("arch", "width"), [("resnet18", 1.0), ("resnet50", 0.25), ("mobilenetv2", 0.5), ("resnet_small", 1.0)])
@torch.no_grad()
def test_dilation_adds_values_between_the_old_ones(arch, width):
    images = torch.randn(1, 3, *SIDES)
    plain = network(arch, width).stages(images)
    dilated = dilate(network(arch, width), 8).stages(images)
    for old, new in zip(plain, dilated, strict=True):
        step = -(-new.shape[-1] // old.shape[-1])
        torch.testing.assert_close(new[..., ::step, ::step], old, atol=1e-4, rtol=1e-4)
    assert dilated[3].shape[-1] == dilated[2].shape[-1] == SIDES[1] // 8 or arch == "resnet_small"


def test_output_stride_16_keeps_the_third_map():
    images = torch.randn(1, 3, 64, 64)
    assert [m.shape[-1] for m in dilate(network("resnet18", 0.25), 16).stages(images)] == [16, 8, 4, 4]
