"""Trunks: the maps of the extracted network, their channels and strides; norms, random starts, and what of the weights arrived."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from pretrain.checkpoints import open_checkpoint
from pretrain.slimmable import at_width
from rundir.errors import UserError
from rundir.subnet import Subnet
from tests.transfer.finetuning.networks import checkpoint, foreign_resnet
from transfer.finetuning.trunk import MAPS, Pyramid, Trunk, check_subnets, check_trunk, dense_network, set_norm
from transfer.finetuning.weights import weights_report

STRIDES = {
    "resnet_small": (1, 2, 4, 8),
    "resnet_tiny_of_tests": (4, 8, 16, 32),
    "mobilenetv2": (4, 8, 16, 32),
    "mobilenetv2_cifar": (1, 2, 4, 8),
    "vit_micro": (4, 4, 4, 4),
    "vit_micro_heads": (4, 4, 4, 4),
}


@pytest.mark.parametrize("arch", STRIDES)
@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_maps_are_those_of_the_slimmable_network(arch, width, tmp_path):
    backbone = checkpoint(tmp_path, arch)
    trunk = Trunk(backbone.at(width)).eval()
    x = torch.randn(2, 3, 32, 64)
    with torch.no_grad(), at_width(backbone.encoder.eval(), width):
        expected, maps = backbone.encoder.stages(x), trunk(x)
    assert list(maps) == list(MAPS)
    for name, tensor, stride, reference in zip(MAPS, maps.values(), STRIDES[arch], expected, strict=True):
        torch.testing.assert_close(tensor, reference, atol=1e-4, rtol=1e-4)
        assert trunk.strides[name] == stride and tensor.shape == (2, trunk.channels[name], 32 // stride, 64 // stride)
    assert trunk.divisor == (2 * 4 if "vit" in arch else STRIDES[arch][-1])


def test_parameters_that_no_map_needs_are_frozen(tmp_path):
    trunk = Trunk(checkpoint(tmp_path, "vit_micro").at(1.0))
    assert trunk.idle == ["norm.weight", "norm.bias"]
    sum(x.sum() for x in trunk(torch.randn(1, 3, 16, 16)).values()).backward()
    trained = {name for name, p in trunk.network.named_parameters() if p.requires_grad}
    assert {name for name, p in trunk.network.named_parameters() if p.grad is not None} == trained
    assert Trunk(checkpoint(tmp_path, "resnet_small").at(1.0)).idle == []


def test_a_pyramid_on_a_vit(tmp_path):
    trunk = Trunk(checkpoint(tmp_path, "vit_micro").at(0.5))
    pyramid = Pyramid(trunk)
    maps = pyramid(torch.randn(2, 3, 16, 32))
    assert {name: tuple(x.shape[1:]) for name, x in maps.items()} == {
        "res2": (16, 16, 32),
        "res3": (32, 8, 16),
        "res4": (64, 4, 8),
        "res5": (64, 2, 4),
    }
    assert pyramid.strides == {"res2": 1, "res3": 2, "res4": 4, "res5": 8} and pyramid.channels["res2"] == 16
    sum(x.square().sum() for x in maps.values()).backward()
    assert all(p.grad is not None for p in pyramid.parameters() if p.requires_grad)


def test_a_foreign_resnet_is_a_trunk(tmp_path):
    backbone = foreign_resnet(tmp_path)
    trunk = Trunk(backbone.at(1.0))
    assert (trunk.channels, trunk.strides) == (
        dict(zip(MAPS, (64, 128, 256, 512), strict=True)),
        dict(zip(MAPS, (4, 8, 16, 32), strict=True)),
    )


def test_a_random_start_has_the_network_but_not_the_weights(tmp_path):
    for backbone in (checkpoint(tmp_path, "resnet_small"), checkpoint(tmp_path, "vit_micro"), foreign_resnet(tmp_path)):
        width = 1.0 if backbone.dense else 0.5
        trained, drawn = backbone.at(width).state_dict(), backbone.random_at(width, 7).state_dict()
        assert {k: v.shape for k, v in trained.items()} == {k: v.shape for k, v in drawn.items()}
        again, other = backbone.random_at(width, 7).state_dict(), backbone.random_at(width, 8).state_dict()
        assert all(torch.equal(drawn[k], again[k]) for k in drawn)
        weights = [k for k, v in drawn.items() if v.dim() > 1 and k != "pos_embed"]
        assert weights and not any(torch.equal(drawn[k], trained[k]) or torch.equal(drawn[k], other[k]) for k in weights)
        assert all((drawn[k] == (1 if k.endswith("running_var") else 0)).all() for k in drawn if "running_" in k)


def test_a_random_convolution_has_the_variance_of_its_own_width(tmp_path):
    weight = checkpoint(tmp_path, "resnet_small").random_at(0.5, 0).layer4[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (weight.shape[0] * 9)) ** 0.5, rel=0.05)


def test_a_random_start_needs_no_statistics_and_draws_from_its_own_seed(tmp_path):
    backbone = checkpoint(tmp_path, "resnet_small")
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    network = dense_network(backbone, 0.75, "random", 0)  # 0.75 is not calibrated
    assert torch.equal(torch.rand(1), expected)
    network.eval()(torch.randn(1, 3, 16, 16))


def test_an_uncalibrated_width_is_calibrated_on_the_data_at_hand(tmp_path):
    backbone = checkpoint(tmp_path, "resnet_small")
    with pytest.raises(UserError, match="no BatchNorm statistics"):
        dense_network(backbone, 0.75, "pretrained", 0)
    images = [torch.randn(4, 3, 16, 16)]
    assert dense_network(backbone, 0.75, "pretrained", 0, lambda: images).bn1.running_mean.abs().sum() > 0


def test_norms(tmp_path):
    backbone, x = checkpoint(tmp_path, "resnet_small"), torch.randn(2, 3, 16, 16)
    reference = backbone.at(0.5)
    frozen = set_norm(backbone.at(0.5), "frozen").train()
    torch.testing.assert_close(frozen(x), reference(x))
    assert not [name for name, _ in frozen.named_parameters() if "bn" in name]
    assert set(frozen.state_dict()) == {k for k in reference.state_dict() if "num_batches" not in k}
    tuned = set_norm(backbone.at(0.5), "auto").train()
    before = tuned.bn1.running_mean.clone()
    tuned(x)
    assert isinstance(tuned.bn1, nn.BatchNorm2d) and not torch.equal(tuned.bn1.running_mean, before)
    for norm, message in (("syncbn", "needs GPUs"), ("batch", "unknown value of --norm")):
        with pytest.raises(UserError, match=message):
            set_norm(backbone.at(0.5), norm)


def test_what_of_the_weights_arrived_is_named():
    source = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model = nn.ModuleDict({"trunk": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "head": nn.Linear(2, 1)})
    model["trunk"].load_state_dict(source.state_dict())
    report = weights_report(source.state_dict(), model, {"trunk.": ""})
    assert (len(report.matched), report.missing, report.unexpected, report.new) == (6, [], [], ["head.weight", "head.bias"])
    assert "6 tensors from the checkpoint, 0 missing" in str(report)
    with torch.no_grad():
        model["trunk"][0].bias += 1
    state = {**source.state_dict(), "fc.weight": torch.zeros(1)}
    del state["1.weight"]
    report = weights_report(state, model, {"trunk.": ""})
    assert report.missing == ["trunk.0.bias", "trunk.1.weight"] and report.unexpected == ["fc.weight"]
    assert "trunk.0.bias" in str(report)


def test_a_stem_that_shifts_its_maps_is_no_trunk(tmp_path):
    network = torchvision.models.resnet18()
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 2, bias=False)
    torch.save(network.state_dict(), tmp_path / "solo.pth")
    check_trunk(open_checkpoint(tmp_path / "solo.pth").encoder)
    with pytest.raises(UserError, match=r"another padding than 1 .* use classification"):
        check_trunk(open_checkpoint(tmp_path / "solo.pth", arch="resnet,padding=2").encoder)


def test_sub_networks_that_have_no_maps_of_whole_images(tmp_path):
    check_subnets([0.5, Subnet((1, 0.5, 0.5, 0.5))])
    with pytest.raises(UserError, match=r"w0\.5p0\.5 leaves patches out, and feature maps here are .*; leave out p0\.5"):
        check_subnets([1.0, Subnet(0.5, patches=0.5)])
    with pytest.raises(ValueError, match=r"feature maps need all patches"):
        Trunk(checkpoint(tmp_path, "vit_micro").at(Subnet(0.5, patches=0.5)))
