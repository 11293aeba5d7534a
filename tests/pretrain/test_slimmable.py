"""Slimmable layers, width context, calibration and extraction against torch.nn modules built by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from pretrain.models import build
from pretrain.slimmable import (
    NotCalibrated,
    SlimmableBatchNorm1d,
    SlimmableBatchNorm2d,
    SlimmableConv2d,
    SlimmableLinear,
    at_width,
    calibrate,
    calibrated_widths,
    calibration_state,
    channel_signature,
    channels_at,
    extract,
    load_calibration_state,
    make_divisible,
    slimmable_layers,
)
from pretrain.slimmable.calibrate import local_statistics
from tests.pretrain.slow_reference import keep

WIDTHS = st.floats(0.01, 1.0)
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# -- widths and channels --------------------------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(st.floats(1e-6, 1e6))
@example(8.0)
@example(12.0)
@example(8.888)
@example(17.7)
def test_make_divisible(value):
    channels = make_divisible(value)
    assert isinstance(channels, int) and channels % 8 == 0 and channels >= 8
    assert channels >= 0.9 * value
    assert channels - value <= 8 if value >= 8 else channels == 8  # never a needless group more
    if value >= 8 and abs(channels - value) > 4:  # not the nearest multiple, so the nearest was too small
        assert channels > value and channels - 8 < 0.9 * value


@settings(max_examples=300, deadline=None)
@given(st.floats(1e-3, 5e3), st.floats(0, 100))
def test_make_divisible_is_monotone(value, more):
    assert make_divisible(value + more) >= make_divisible(value)


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 2048), WIDTHS)
@example(13, 0.9)
@example(7, 0.25)
@example(64, 0.3)
def test_channels_at(channels, width):
    kept = channels_at(channels, width)
    assert kept == keep(channels, width)
    assert 1 <= kept <= channels
    assert kept % 8 == 0 or kept == channels
    assert kept >= min(8, channels) and kept >= 0.9 * width * channels - 1e-9
    assert channels_at(channels, 1.0) == channels


def test_channels_of_the_paper_networks():
    assert [channels_at(64, w) for w in (1.0, 0.75, 0.5, 0.25)] == [64, 48, 32, 16]
    assert [channels_at(512, w) for w in (1.0, 0.75, 0.5, 0.25)] == [512, 384, 256, 128]
    assert [channels_at(16, w) for w in (1.0, 0.75, 0.5, 0.25)] == [16, 16, 8, 8]


def widths_of(model):
    return [layer.width for layer in slimmable_layers(model)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6), st.integers(0, 6))
def test_at_width_nests_and_restores_whatever_happens(widths, fails_at):
    model = nn.Sequential(SlimmableConv2d(3, 16, 3), nn.Sequential(SlimmableBatchNorm2d(16), SlimmableLinear(16, 4)))

    def enter(depth):
        if depth == len(widths) or depth == fails_at:
            raise ZeroDivisionError
        outside = widths_of(model)
        try:
            with at_width(model, widths[depth]):
                assert widths_of(model) == [widths[depth]] * 3
                enter(depth + 1)
        finally:
            assert widths_of(model) == outside

    with pytest.raises(ZeroDivisionError):
        enter(0)
    assert widths_of(model) == [1.0] * 3


def test_at_width_restores_different_widths_of_parts():
    model = nn.Sequential(SlimmableLinear(16, 16), SlimmableLinear(16, 16))
    with at_width(model[0], 0.5), pytest.raises(ZeroDivisionError), at_width(model, 0.25):
        raise ZeroDivisionError
    assert widths_of(model) == [1.0, 1.0]


@pytest.mark.parametrize("width", [0.0, -0.5, 1.0001, math.nan, math.inf])
def test_impossible_widths(width):
    model = nn.Sequential(SlimmableLinear(16, 16))
    with pytest.raises(ValueError, match="is not in"), at_width(model, width):
        pass
    assert widths_of(model) == [1.0]


# -- layers against torch.nn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1.0, 0.77, 0.5, 0.25, 0.01])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "padding", "bias", "slice_in", "slice_out"),
    [
        (3, 64, 3, 1, 1, False, False, True),
        (3, 64, 7, 2, 3, True, False, True),
        (64, 24, 3, 2, 1, True, True, True),
        (13, 7, 1, 1, 0, False, True, True),
        (7, 13, 3, 1, 2, True, True, False),
        (1, 1, 5, 3, 0, True, True, True),
    ],
)
def test_convolution(dtype, width, inputs, outputs, kernel, stride, padding, bias, slice_in, slice_out):
    torch.manual_seed(0)
    layer = SlimmableConv2d(inputs, outputs, kernel, stride, padding, bias=bias, slice_in=slice_in, slice_out=slice_out).to(dtype)
    if bias:
        nn.init.normal_(layer.bias)
    cin, cout = keep(inputs, width) if slice_in else inputs, keep(outputs, width) if slice_out else outputs
    plain = nn.Conv2d(cin, cout, kernel, stride, padding, bias=bias).to(dtype)
    with torch.no_grad():
        plain.weight.copy_(layer.weight[:cout, :cin])
        if bias:
            plain.bias.copy_(layer.bias[:cout])
    x = randn(2, cin, 9, 11, dtype=dtype)
    with at_width(layer, width):
        y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, plain(x))
    torch.testing.assert_close(extract(layer, width)(x), plain(x))
    y.sum().backward()
    plain(x).sum().backward()
    expected = torch.zeros_like(layer.weight)
    expected[:cout, :cin] = plain.weight.grad
    torch.testing.assert_close(layer.weight.grad, expected)
    assert layer.weight.grad[cout:].count_nonzero() == 0 and layer.weight.grad[:, cin:].count_nonzero() == 0


@pytest.mark.parametrize("width", [1.0, 0.6, 0.25])
@pytest.mark.parametrize(("channels", "expansion"), [(64, 1), (13, 1), (6 * 24, 6), (6 * 7, 6), (1, 1)])
def test_depthwise_convolution(width, channels, expansion):
    layer = SlimmableConv2d(
        channels, channels, 3, 2, 1, depthwise=True, bias=True, expansion_in=expansion, expansion_out=expansion
    ).double()
    nn.init.normal_(layer.bias)
    kept = keep(channels // expansion, width) * expansion
    x = randn(2, kept, 7, 7)
    # Channel by channel, as a sum of shifted products.
    padded, expected = F.pad(x, (1, 1, 1, 1)), torch.zeros(2, kept, 4, 4, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            expected += padded[:, :, i : i + 7 : 2, j : j + 7 : 2] * layer.weight[:kept, 0, i, j].view(1, -1, 1, 1).detach()
    expected += layer.bias[:kept].detach().view(1, -1, 1, 1)
    with at_width(layer, width):
        y = layer(x)
    torch.testing.assert_close(y, expected)
    dense = extract(layer, width)
    assert dense.groups == dense.in_channels == kept
    torch.testing.assert_close(dense(x), expected)
    y.sum().backward()
    assert layer.weight.grad[kept:].count_nonzero() == 0 and layer.weight.grad[:kept].any((1, 2, 3)).all()


def test_the_unexpanded_count_is_what_is_rounded():
    """MobileNetV2: 6 x 24 channels at 0.6 keep 6 x make_divisible(14.4) = 96, not make_divisible(86.4) = 88."""
    layer = SlimmableConv2d(24, 144, 1, expansion_out=6)
    with at_width(layer, 0.6):
        assert layer(torch.zeros(1, 16, 2, 2)).shape[1] == 96
    with pytest.raises(ValueError, match="multiple of the expansion"):
        SlimmableConv2d(24, 145, 1, expansion_out=6)
    with pytest.raises(ValueError, match="depthwise"):
        SlimmableConv2d(24, 48, 3, depthwise=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
@pytest.mark.parametrize(
    ("inputs", "outputs", "slice_in", "slice_out", "bias"),
    [(64, 40, True, True, True), (64, 40, True, False, False), (13, 7, True, True, True), (10, 32, False, True, True)],
)
def test_linear(dtype, width, inputs, outputs, slice_in, slice_out, bias):
    layer = SlimmableLinear(inputs, outputs, slice_in=slice_in, slice_out=slice_out, bias=bias).to(dtype)
    cin, cout = keep(inputs, width) if slice_in else inputs, keep(outputs, width) if slice_out else outputs
    plain = nn.Linear(cin, cout, bias=bias).to(dtype)
    with torch.no_grad():
        plain.weight.copy_(layer.weight[:cout, :cin])
        if bias:
            plain.bias.copy_(layer.bias[:cout])
    x = randn(2, 5, cin, dtype=dtype)
    with at_width(layer, width):
        y = layer(x)
    torch.testing.assert_close(y, plain(x))
    torch.testing.assert_close(extract(layer, width)(x), plain(x))
    y.square().sum().backward()
    assert layer.weight.grad[cout:].count_nonzero() == 0 and layer.weight.grad[:, cin:].count_nonzero() == 0


NORMS = [(SlimmableBatchNorm2d, nn.BatchNorm2d, (4, 5)), (SlimmableBatchNorm1d, nn.BatchNorm1d, ())]


@pytest.mark.parametrize(("ours", "theirs", "extent"), NORMS)
@pytest.mark.parametrize(("channels", "width"), [(32, 1.0), (32, 0.5), (13, 0.25), (7, 0.25), (1, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm_trains_on_the_batch(ours, theirs, extent, channels, width, dtype):
    layer, kept = ours(channels).to(dtype), keep(channels, width)
    plain = theirs(kept).to(dtype)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    plain.load_state_dict({"weight": layer.weight[:kept], "bias": layer.bias[:kept]}, strict=False)
    x = randn(6, kept, *extent, dtype=dtype) * 3 + 5
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    with at_width(layer, width):
        y = layer(a)
    expected = plain(b)
    torch.testing.assert_close(y, expected)
    (y**3).sum().backward()
    (expected**3).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(layer.weight.grad[:kept], plain.weight.grad)
    assert layer.weight.grad[kept:].count_nonzero() == 0 and layer.bias.grad[kept:].count_nonzero() == 0
    assert set(layer.state_dict()) == {"weight", "bias"} and not layer.statistics  # nothing is tracked


def test_batch_norm_without_statistics_says_what_to_do():
    layer = SlimmableBatchNorm2d(16).eval()
    with pytest.raises(NotCalibrated, match=r"width 0\.5 .*calibrate"), at_width(layer, 0.5):
        layer(torch.zeros(2, 8, 2, 2))


# -- calibration ----------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """One of every layer: a stem, a depthwise bottleneck with expansion, a head of fixed outputs."""

    def __init__(self):
        super().__init__()
        self.stem = SlimmableConv2d(3, 24, 3, 1, 1, slice_in=False)
        self.bn0 = SlimmableBatchNorm2d(24)
        self.expand = SlimmableConv2d(24, 96, 1, expansion_out=4)
        self.bn1 = SlimmableBatchNorm2d(96, expansion=4)
        self.depthwise = SlimmableConv2d(96, 96, 3, 2, 1, depthwise=True, expansion_in=4, expansion_out=4)
        self.bn2 = SlimmableBatchNorm2d(96, expansion=4)
        self.project = SlimmableConv2d(96, 13, 1, expansion_in=4, bias=True)
        self.bn3 = SlimmableBatchNorm2d(13)
        self.head = nn.Sequential(
            SlimmableLinear(13, 20, slice_out=False),
            SlimmableBatchNorm1d(20, slice_channels=False),
            nn.ReLU(),
            SlimmableLinear(20, 6, slice_in=False, slice_out=False),
        )
        self.plain = nn.Linear(6, 5)  # not slimmable at all
        self.register_buffer("offset", torch.arange(5.0))

    def forward(self, x):
        x = F.relu6(self.bn0(self.stem(x)))
        x = F.relu6(self.bn2(self.depthwise(F.relu6(self.bn1(self.expand(x))))))
        return self.plain(self.head(self.bn3(self.project(x)).mean((2, 3)))) + self.offset


def mixed(seed=0):
    torch.manual_seed(seed)
    model = Mixed()
    for name, parameter in model.named_parameters():
        if "bn" in name or "head.1" in name:
            nn.init.uniform_(parameter, 0.3, 1.5)
    return model


def images(batch, seed, size=9):
    return randn(batch, 3, size, size, seed=seed, dtype=torch.float32) * 2 + 0.5


@pytest.mark.parametrize("width", [1.0, 0.66, 0.25])
@pytest.mark.parametrize("training", [True, False])
def test_calibration_is_the_cumulative_average_of_torch(width, training):
    """BatchNorm2d(momentum=None) of the dense network, run over the same batches in training mode."""
    model = mixed().train(training)
    dense = extract(model, width)
    norms = {n: m for n, m in dense.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    for norm in norms.values():
        norm.track_running_stats, norm.momentum = True, None
        norm.register_buffer("running_mean", torch.zeros(norm.num_features))
        norm.register_buffer("running_var", torch.ones(norm.num_features))
        norm.register_buffer("num_batches_tracked", torch.tensor(0))
    batches = [images(8, seed) for seed in range(5)]
    calibrate(model, [width, 0.5], iter(batches))
    dense.train()
    with torch.no_grad():
        for batch in batches:
            dense(batch)
    assert len(norms) == 5
    for name, norm in norms.items():
        mean, variance = model.get_submodule(name).statistics_at(width)
        torch.testing.assert_close(mean, norm.running_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(variance, norm.running_var, rtol=1e-5, atol=1e-6)
    model.eval()
    dense.eval()
    with at_width(model, width), torch.no_grad():
        torch.testing.assert_close(model(images(3, 9)), dense(images(3, 9)), rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.sampled_from([torch.float32, torch.float64]))
def test_unequal_batches_are_weighted_by_their_images(sizes, dtype):
    layer = nn.Sequential(SlimmableBatchNorm1d(7)).to(dtype)
    batches = [randn(n, 7, seed=i, dtype=dtype) + i for i, n in enumerate(sizes)]
    calibrate(layer, [1.0], batches)
    mean = sum(n * b.double().mean(0) for n, b in zip(sizes, batches, strict=True)) / sum(sizes)
    variance = sum(n * b.double().var(0) for n, b in zip(sizes, batches, strict=True)) / sum(sizes)
    torch.testing.assert_close(layer[0].statistics[1.0][0].double(), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer[0].statistics[1.0][1].double(), variance, rtol=1e-5, atol=1e-5)
    layer.eval()
    assert layer(batches[0]).dtype == dtype


def test_all_widths_of_one_pass_are_those_of_separate_passes():
    batches = [images(6, 1), images(4, 2)]
    together = mixed()
    calibrate(together, [1.0, 0.5, 0.3], batches)
    for width in (1.0, 0.5, 0.3):
        alone = mixed()
        calibrate(alone, [width], batches)
        for key, (mean, variance) in ((k, m.statistics_at(width)) for k, m in alone.named_modules() if hasattr(m, "statistics")):
            torch.testing.assert_close(together.get_submodule(key).statistics_at(width), (mean, variance), rtol=0, atol=0)
    assert calibrated_widths(together) == [1.0, 0.5, 0.3]


def test_calibration_changes_no_weight_and_no_mode_and_needs_images():
    model = mixed().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    calibrate(model, [0.5], [images(4, 0)])
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(mixed(), [0.5], [])


def test_an_error_in_calibration_leaves_the_network_usable():
    model = mixed()
    with pytest.raises(RuntimeError):
        calibrate(model, [0.5], [images(4, 0), torch.zeros(4, 5, 9, 9)])
    assert widths_of(model) == [1.0] * len(widths_of(model)) and calibrated_widths(model) == []


def test_calibration_state_round_trip():
    model = mixed()
    calibrate(model, [1.0, 0.1 + 0.2], [images(4, 0)])
    other = mixed()
    load_calibration_state(other, calibration_state(model))
    assert calibrated_widths(other) == [1.0, 0.3]
    with at_width(model, 0.3), at_width(other, 0.3), torch.no_grad():
        assert torch.equal(model.eval()(images(2, 3)), other.eval()(images(2, 3)))
    assert other.double().bn0.statistics_at(0.3)[0].dtype == torch.float64  # statistics follow the network


def test_local_statistics_is_undone():
    model = mixed()
    model.bn0.synchronized = True
    with pytest.raises(ZeroDivisionError), local_statistics(model):
        assert not model.bn0.synchronized
        raise ZeroDivisionError
    assert model.bn0.synchronized and not model.bn1.synchronized


# -- extraction -----------------------------------------------------------------------------------------------------------

CALIBRATED = [1.0, 0.81, 0.5, 0.25]


@pytest.fixture(scope="module")
def calibrated():
    model = mixed(4)
    calibrate(model, CALIBRATED, [images(8, 1), images(8, 2)])
    return model.eval()


@settings(max_examples=40, deadline=None)
@given(st.one_of(WIDTHS, st.sampled_from(CALIBRATED)), st.integers(0, 100))
def test_extraction_agrees_with_slicing_at_any_width(calibrated, width, seed):
    dense, x = extract(calibrated, width), images(5, seed)
    assert not any(isinstance(m, tuple(type(s) for s in slimmable_layers(calibrated))) for m in dense.modules())
    with at_width(calibrated, width), torch.no_grad():
        calibrated.train(round(width, 6) not in CALIBRATED)  # without statistics both use those of the batch
        torch.testing.assert_close(dense(x), calibrated(x), rtol=1e-5, atol=1e-5)
    assert not dense.training


@settings(max_examples=8, deadline=None)
@given(st.floats(0.25, 1.0))
def test_extraction_of_a_whole_encoder(width):
    torch.manual_seed(1)
    encoder = build("resnet_small")
    calibrate(encoder, [width], [images(6, 0, 16), images(6, 1, 16)])
    encoder.eval()
    dense, x = extract(encoder, width), images(4, 5, 16)
    with at_width(encoder, width), torch.no_grad():
        expected = encoder(x)
    torch.testing.assert_close(dense(x), expected, rtol=1e-5, atol=1e-5)
    assert expected.shape == (4, encoder.feature_dim(width)) == (4, keep(128, width))


def test_extraction_shares_nothing(calibrated):
    dense = extract(calibrated, 1.0)
    ours = {t.untyped_storage().data_ptr() for t in calibrated.state_dict().values()}
    ours |= {t.untyped_storage().data_ptr() for m in calibrated.modules() for s in getattr(m, "statistics", {}).values() for t in s}
    assert ours.isdisjoint(t.untyped_storage().data_ptr() for t in dense.state_dict().values())
    x = images(2, 0)
    calibrated.eval()
    with torch.no_grad():
        before = calibrated(x)
        for tensor in dense.state_dict().values():
            tensor.zero_()
        assert torch.equal(calibrated(x), before)
    dense.register_forward_hook(lambda module, args, y: y * 0)
    dense.head.register_forward_hook(lambda module, args, y: y * 0)
    assert torch.equal(calibrated(x), before)


def test_extraction_is_of_a_plain_size():
    dense = extract(mixed(), 0.25)
    assert sum(p.numel() for p in dense.parameters()) == sum(
        (8 * 3 * 9, 2 * 8, 32 * 8, 2 * 32, 32 * 9, 2 * 32, 8 * 32 + 8, 2 * 8, 20 * 8 + 20, 2 * 20, 6 * 20 + 6, 5 * 6 + 5)
    )
    for tensor in dense.parameters():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * 4  # a slice was copied, not the whole weight


def test_a_layer_used_twice_stays_one_layer():
    layer = SlimmableLinear(16, 16)
    dense = extract(nn.Sequential(layer, layer), 0.5)
    assert dense[0] is dense[1]


def test_signature_tells_networks_apart():
    model = nn.Sequential(SlimmableConv2d(3, 16, 3, slice_in=False), SlimmableConv2d(16, 32, 3))
    signatures = {w: channel_signature(model, w) for w in (1.0, 0.9, 0.75, 0.5, 0.3, 0.25, 0.01)}
    assert signatures[0.25] == signatures[0.01] != signatures[0.3]
    assert len({signatures[w] for w in (1.0, 0.75, 0.5, 0.25)}) == 4
