"""The convolution for small maps and the cut of weights against torch's own, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.slimmable import SlimmableConv2d, SlimmableLinear, at_width, sliced_once, small_maps
from pretrain.slimmable.slices import cut
from pretrain.slimmable.small_maps import small_map_conv2d, suits


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([1, 2, 3, 5]),
    st.integers(1, 3),
    st.integers(0, 2),
    st.booleans(),
)
def test_gradients_are_those_of_a_convolution_in_float64(images, inputs, outputs, height, width, kernel, stride, padding, last):
    if min(height, width) + 2 * padding < kernel:
        return
    generator = torch.Generator().manual_seed(images * 100 + inputs)
    x = torch.randn(images, inputs, height, width, generator=generator)
    weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
    layout = torch.channels_last if last else torch.contiguous_format
    single = [t.clone(memory_format=layout).requires_grad_() for t in (x, weight)]
    double = [t.double().requires_grad_() for t in (x, weight)]
    y, expected = small_map_conv2d(*single, stride, padding), F.conv2d(*double, None, stride, padding)
    seed = torch.randn(expected.shape, generator=generator)
    y.backward(seed)
    expected.backward(seed.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(single, double, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("capability", "most"), [("AVX2", 64), ("DEFAULT", 16)])
def test_it_is_used_for_maps_of_so_many_pixels_only_where_a_gradient_is_wanted(monkeypatch, capability, most):
    assert small_maps.largest(capability) == most
    monkeypatch.setattr(small_maps, "LARGEST", most)
    weight = torch.randn(8, 8, 3, 3, requires_grad=True)
    side = int(most**0.5)
    small, large = torch.randn(2, 8, side, side), torch.randn(2, 8, side + 1, side)
    assert suits(small, weight, 1, 1) and not suits(large, weight, 1, 1) and suits(large, weight, 2, 1)
    assert not suits(small, weight.detach(), 1, 1) and not suits(small.double(), weight, 1, 1)
    assert not suits(small, torch.randn(8, 8, 1, 1, requires_grad=True), 1, 0)
    with torch.no_grad():
        assert not suits(small, weight, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits(small, weight, 1, 1)


def test_with_avx512_it_is_never_used(monkeypatch):
    monkeypatch.setattr(small_maps, "LARGEST", small_maps.largest("AVX512"))
    assert not suits(torch.randn(2, 8, 1, 1), torch.randn(8, 8, 3, 3, requires_grad=True), 1, 1)


def test_this_processors_own_limit_is_used():
    assert small_maps.largest(torch.backends.cpu.get_cpu_capability()) == small_maps.LARGEST


def test_a_gradient_is_asked_for_the_weight_alone_where_the_image_has_none():
    layer = SlimmableConv2d(3, 8, 3, padding=1, slice_in=False)
    layer(torch.randn(2, 3, 4, 4)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("sizes", [(3,), (3, 2), (5, 2), (5, 4), (5, 4, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_cut_is_a_slice_forwards_and_backwards(sizes, layout):
    full = torch.randn(5, 4, 3, 3).contiguous(memory_format=layout)
    ours, theirs = full.clone().requires_grad_(), full.clone().requires_grad_()
    part = cut(ours, *sizes)
    slices = tuple(map(slice, sizes))
    torch.testing.assert_close(part, theirs[slices], rtol=0, atol=0)
    seed = torch.randn(part.shape)
    (part * part * seed).sum().backward()
    (theirs[slices] * theirs[slices] * seed).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)
    assert ours.grad.stride() == ours.stride()


def test_a_whole_parameter_is_not_copied_and_without_gradients_nothing_is():
    weight = torch.nn.Parameter(torch.randn(4, 4))
    assert cut(weight, 4, 4) is weight
    with torch.no_grad():
        assert cut(weight, 2, 3).data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("autocast", [False, True])
def test_slicing_once_changes_neither_outputs_nor_gradients(autocast):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        SlimmableConv2d(3, 32, 3, 1, 1, slice_in=False),
        SlimmableConv2d(32, 32, 1, bias=True),
        torch.nn.Flatten(),
        torch.nn.Unflatten(1, (-1, 36)),
        SlimmableLinear(36, 16, slice_in=False),
    )
    views = torch.randn(2, 2, 3, 6, 6)
    found = []
    for once in (False, True):
        model.zero_grad()
        with at_width(model, 0.5), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if once:
                with sliced_once(model):
                    y = [model(x) for x in views]
            else:
                y = [model(x) for x in views]
        sum(v.float().square().mean() for v in y).backward()
        found.append([*y, *(p.grad for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, **({"rtol": 2e-2, "atol": 2e-3} if autocast else {"rtol": 1e-5, "atol": 1e-6}))


def test_slices_are_forgotten_after_the_block():
    layer = SlimmableLinear(16, 16)
    x = torch.randn(2, 8)
    with at_width(layer, 0.5):
        with sliced_once(layer):
            before = layer(x)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
        assert before.abs().sum() > 0 and layer(x).abs().sum() == 0 and layer.slices is None
