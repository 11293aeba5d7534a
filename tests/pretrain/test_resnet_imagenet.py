"""Slimmable ResNets with the ImageNet stem: torchvision's networks at full width, extraction, feature maps, cost."""

import pytest
import torch
import torchvision
from torch import nn

from pretrain.models import build
from pretrain.slimmable import at_width, calibrate, cost, extract, slimmable_layers

ARCHITECTURES = ["resnet18", "resnet34", "resnet50"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_full_width_is_torchvisions_network(arch):
    torch.manual_seed(0)
    ours, theirs = build(arch).eval(), getattr(torchvision.models, arch)(num_classes=2).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert {name for name in missing if "running" not in name and "num_batches" not in name} == {"fc.weight", "fc.bias"}
    for (name, norm), (other, theirs_norm) in zip(
        ((n, m) for n, m in ours.named_modules() if hasattr(m, "statistics")),
        ((n, m) for n, m in theirs.named_modules() if isinstance(m, nn.BatchNorm2d)),
        strict=True,
    ):
        assert name == other
        moments = 0.1 * torch.randn_like(norm.weight), 0.5 + torch.rand_like(norm.weight)
        norm.statistics[1.0] = moments
        theirs_norm.running_mean, theirs_norm.running_var = moments
    theirs.fc = nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_extraction_equals_slicing_and_maps_have_the_strides_of_a_pyramid(arch):
    torch.manual_seed(0)
    model, widths, x = build(arch), [0.61, 0.25], torch.randn(2, 3, 64, 64)
    calibrate(model, widths, [torch.randn(4, 3, 64, 64)])
    model.eval()
    for width in widths:
        dense = extract(model, width)
        with at_width(model, width), torch.no_grad():
            sliced, maps = model(x), model.stages(x)
            torch.testing.assert_close(dense(x), sliced, atol=1e-5, rtol=1e-5)
        assert not list(slimmable_layers(dense))
        assert [m.shape[1:] for m in maps] == [(c, s, s) for c, s in zip(model.stage_dims(width), (16, 8, 4, 2), strict=True)]
        assert sliced.shape[1] == model.feature_dim(width) == model.stage_dims(width)[-1]


# torchvision's published parameters with 1000 classes, and multiply-adds at 224 (billions, two digits).
@pytest.mark.parametrize(
    ("arch", "features", "parameters", "giga"),
    [("resnet18", 512, 11_689_512, 1.81), ("resnet34", 512, 21_797_672, 3.66), ("resnet50", 2048, 25_557_032, 4.09)],
)
def test_published_cost(arch, features, parameters, giga):
    with torch.device("meta"):
        got = cost(build(arch), 1.0, 224)
    assert got.parameters + 1000 * features + 1000 == parameters
    assert round((got.flops / 2 + 1000 * features) / 1e9, 2) == giga
