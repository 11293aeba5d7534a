"""Slimmable MobileNetV2: the published network at full width, METHOD's channel counts at others, extraction, cost."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pretrain.config import from_dict
from pretrain.models import build
from pretrain.objective.networks import Student
from pretrain.slimmable import at_width, calibrate, cost, extract, is_calibrated, slimmable_layers

TABLE = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
WIDTHS = st.floats(0.05, 1.0)


def keep(channels, width):
    """The nearest multiple of eight to width * channels that is not under 90 % of it, by search."""
    exact = width * channels
    return min((c for c in range(8, channels + 8, 8) if c >= 0.9 * exact), key=lambda c: (abs(c - exact), -c))


def expected_convolutions(width, cifar=False):
    """(inputs, outputs, kernel, stride, groups) of every convolution in order, from table 2 of the paper."""
    stem = keep(32, width)
    convolutions, inputs, narrow = [(3, stem, 3, 1 if cifar else 2, 1)], 32, stem
    for t, c, n, s in TABLE:
        for i in range(n):
            stride = s if i == 0 and not (cifar and c == 24) else 1
            hidden, outputs = keep(inputs, width) * t, keep(c, width)
            if t > 1:
                convolutions.append((narrow, hidden, 1, 1, 1))
            convolutions += [(hidden, hidden, 3, stride, hidden), (hidden, outputs, 1, 1, 1)]
            inputs, narrow = c, outputs
    return [*convolutions, (narrow, 1280, 1, 1, 1)]


def convolutions_of(network):
    return [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.groups)
        for m in network.modules()
        if isinstance(m, nn.Conv2d)
    ]


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build("mobilenetv2_cifar")


@pytest.mark.parametrize("arch", ["mobilenetv2", "mobilenetv2_cifar"])
@pytest.mark.parametrize("width", [1.0, 0.93, 0.75, 0.61, 0.5, 0.33, 0.25, 0.1])
def test_channels_follow_the_unexpanded_count(arch, width):
    with torch.device("meta"):
        network = extract(build(arch), width)
    assert convolutions_of(network) == expected_convolutions(width, cifar=arch.endswith("cifar"))
    assert not list(slimmable_layers(network))


def test_the_identity_is_where_the_full_network_has_it():
    with torch.device("meta"):
        full, narrow = build("mobilenetv2"), extract(build("mobilenetv2"), 0.1)
    residual = [layer.residual for layer in full.features[1:-1]]
    # In the narrow network 32 and 24 channels are both rounded to 8, and still no identity joins them.
    assert residual == [layer.residual for layer in narrow.features[1:-1]]
    assert [i + 1 for i, r in enumerate(residual) if r] == [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]


def torchvision_name(name):
    """features.N.body.M.weight as torchvision calls it: activations are not counted, and are part of the layer before."""
    parts = name.split(".")
    if parts[2] != "body":
        return name
    index, first = int(parts[3]), parts[1] == "1"
    layer = {True: {0: "0.0", 1: "0.1", 3: "1", 4: "2"}, False: {0: "0.0", 1: "0.1", 3: "1.0", 4: "1.1", 6: "2", 7: "3"}}[first][
        index
    ]
    return ".".join(["features", parts[1], "conv", layer, parts[4]])


def test_full_width_is_torchvisions_network():
    torch.manual_seed(1)
    ours, theirs = build("mobilenetv2").eval(), torchvision.models.mobilenet_v2(num_classes=3).eval()
    state = {torchvision_name(k): v for k, v in ours.state_dict().items()}
    assert set(theirs.state_dict()) - set(state) == {
        "classifier.1.weight",
        "classifier.1.bias",
        *(
            f"{n}.{b}"
            for n, m in theirs.named_modules()
            if isinstance(m, nn.BatchNorm2d)
            for b in ("running_mean", "running_var", "num_batches_tracked")
        ),
    }
    theirs.load_state_dict(state, strict=False)
    norms = dict(theirs.named_modules())
    for name, module in ours.named_modules():
        if hasattr(module, "statistics"):
            moments = 0.1 * torch.randn_like(module.weight), 0.5 + torch.rand_like(module.weight)
            module.statistics[1.0] = moments
            norm = norms[torchvision_name(name + ".weight").removesuffix(".weight")]
            norm.running_mean, norm.running_var = moments
    theirs.classifier = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


@settings(max_examples=6, deadline=None)
@given(width=WIDTHS)
def test_extraction_equals_slicing_before_and_after_calibration(encoder, width):
    encoder.train()
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(6, 3, 16, 16, generator=generator)
    for norm in slimmable_layers(encoder):
        if hasattr(norm, "statistics"):
            norm.statistics.clear()
    with at_width(encoder, width), torch.no_grad():
        torch.testing.assert_close(extract(encoder, width)(x), encoder(x), atol=1e-5, rtol=1e-5)
    calibrate(encoder, [width], [torch.randn(6, 3, 16, 16, generator=generator)])
    encoder.eval()
    with at_width(encoder, width), torch.no_grad():
        sliced = encoder(x)
        torch.testing.assert_close(extract(encoder, width)(x), sliced, atol=1e-5, rtol=1e-5)
    assert is_calibrated(encoder, width) and sliced.shape == (6, 1280)


def multiply_adds(width, size, cifar):
    total = 0
    for inputs, outputs, kernel, stride, groups in expected_convolutions(width, cifar):
        size = -(-size // stride)
        total += size * size * outputs * (inputs // groups) * kernel * kernel
    return total


@pytest.mark.parametrize(
    ("arch", "size", "width"), [("mobilenetv2", 224, 1.0), ("mobilenetv2", 96, 0.7), ("mobilenetv2_cifar", 32, 0.25)]
)
def test_cost(arch, size, width):
    with torch.device("meta"):
        model = build(arch)
    got = cost(model, width, size)
    convolutions = expected_convolutions(width, arch.endswith("cifar"))
    assert got.flops == 2 * multiply_adds(width, size, arch.endswith("cifar"))
    assert got.parameters == sum(o * (i // g) * k * k + 2 * o for i, o, k, _, g in convolutions)


def test_cost_is_torchs_count_on_the_extracted_network(encoder):
    dense = extract(encoder, 0.4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        dense(torch.randn(2, 3, 16, 16))
    assert cost(encoder, 0.4, 16).flops == counter.get_total_flops() // 2
    assert cost(encoder, 0.4, 16).parameters == sum(p.numel() for p in dense.parameters())


def test_published_cost():
    """Table 4 of the paper: 300 M multiply-adds and 3.4 M parameters, the classifier of 1000 classes included."""
    with torch.device("meta"):
        got = cost(build("mobilenetv2"), 1.0, 224)
    assert got.flops / 2 + 1280 * 1000 == pytest.approx(300e6, rel=0.01)
    assert got.parameters == 2_223_872
    assert (got.parameters + 1280 * 1000 + 1000) / 1e6 == pytest.approx(3.4, abs=0.11)


@pytest.mark.parametrize(("arch", "size", "sides"), [("mobilenetv2", 64, [16, 8, 4, 2]), ("mobilenetv2_cifar", 32, [32, 16, 8, 4])])
@pytest.mark.parametrize("width", [1.0, 0.3])
def test_feature_maps(arch, size, sides, width):
    model = build(arch)
    x = torch.randn(2, 3, size, size)
    with at_width(model, width), torch.no_grad():
        maps, features = model.stages(x), model(x)
    assert [m.shape[1:] for m in maps] == [(c, s, s) for c, s in zip(model.stage_dims(width), sides, strict=True)]
    assert model.stage_dims() == [24, 32, 96, 1280] and features.shape[1] == model.feature_dim(width) == 1280
    torch.testing.assert_close(maps[-1].mean((2, 3)), features)


def test_gradients_reach_the_active_slices_only(encoder):
    encoder.train().zero_grad()
    with at_width(encoder, 0.5):
        encoder(torch.randn(6, 3, 16, 16)).square().sum().backward()
    block = encoder.features[4].body  # 24 -> 144 -> 32, at half width 16 -> 96 -> 16: 12 is rounded up
    expanded, depthwise, projected = (block[i].weight.grad for i in (0, 3, 6))
    assert expanded[:96, :16].any((1, 2, 3)).all() and not expanded[96:].any() and not expanded[:, 16:].any()
    assert depthwise[:96].any((1, 2, 3)).all() and not depthwise[96:].any()
    assert projected[:16, :96].any((1, 2, 3)).all() and not projected[16:].any() and not projected[:, 96:].any()
    assert not block[4].weight.grad[96:].any() and block[4].weight.grad[:96].all()


def test_the_projector_reads_all_features_at_every_width():
    student = Student(from_dict({"model": {"arch": "mobilenetv2_cifar", "projector_hidden": 16, "projector_out": 8}}))
    with at_width(student, 0.25):
        assert student.project(torch.randn(4, 3, 16, 16)).shape == (4, 8)
