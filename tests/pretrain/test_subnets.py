"""Sub-networks of every network: slicing against extraction, calibration against a slow loop, gradients, and their space."""

from __future__ import annotations

import copy
import random
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pretrain.models import build
from pretrain.slimmable import (
    SlimmableConv2d,
    Subnet,
    at_width,
    calibrate,
    calibrated_widths,
    calibration_state,
    canonical,
    channel_signature,
    channels_at,
    cost,
    extract,
    is_calibrated,
    load_calibration_state,
    slimmable_layers,
    space_of,
)
from pretrain.slimmable.calibrate import batch_norms, norms_at

ARCHS = (
    "resnet_medium",
    "resnet50_cifar",
    "resnet18",
    "resnet_small_elastic",
    "mobilenetv2_cifar",
    "mobilenetv2_cifar_elastic",
    "vit_micro",
    "vit_micro_heads",
    "vit_tiny_cifar",
    "vit_tiny_cifar_heads",
)
MADE = {}


def network(arch, seed=0):
    """A network with nothing at its initial value."""
    if (arch, seed) not in MADE:
        torch.manual_seed(seed)
        made = build(arch)
        for parameter in made.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter) * parameter.abs().mean().clamp(min=0.1)
        MADE[arch, seed] = made
    return copy.deepcopy(MADE[arch, seed])


def images(count=4, size=32, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def drawn(model, seed, **limits):
    return space_of(model, **limits).random(random.Random(seed))


@settings(deadline=None, max_examples=20)
@given(arch=st.sampled_from(ARCHS), seed=st.integers(0, 10**6))
def test_extraction_is_slicing(arch, seed):
    model, x = network(arch), images()
    subnet = drawn(model, seed)
    calibrate(model, [subnet], [images(seed=1)])
    dense = extract(model, subnet)
    with torch.no_grad(), at_width(model.eval(), subnet):
        sliced = model(x)
        assert sliced.shape[1] == model.feature_dim(subnet)
        if not isinstance(subnet, Subnet) or subnet.patches is None:
            assert [m.shape[1] for m in model.stages(x)] == model.stage_dims(subnet)
    largest = float(sliced.abs().max().clamp(min=1))
    torch.testing.assert_close(dense(x) / largest, sliced / largest, rtol=0, atol=1e-5)
    assert not any(isinstance(module, type(layer)) for module in dense.modules() for layer in slimmable_layers(model))
    assert cost(model, subnet, 32).parameters == sum(p.numel() for p in dense.parameters())


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("width", [1.0, 0.55])
def test_whatever_is_whole_is_the_plain_width_to_the_bit(arch, width):
    model, x = network(arch), images()
    structure = space_of(model).structure
    kernels, ratios = tuple(sides[0] for sides in structure.kernels), (4,) * len(structure.mlp)
    named = Subnet(
        (width,) * structure.stages,
        depth=structure.depths or None,
        kernel=kernels or None,
        mlp=ratios or None,
        heads=structure.heads_at(width) or None,
        patches=1.0 if structure.patches else None,
    )
    assert canonical(model, named) == width == canonical(model, Subnet(width))
    calibrate(model, [width], [images(seed=1)])
    assert is_calibrated(model, named) and channel_signature(model, named) == channel_signature(model, width)
    with torch.no_grad(), at_width(model.eval(), width):
        plain = model(x)
    with torch.no_grad(), at_width(model, named):
        assert torch.equal(model(x), plain)
    assert torch.equal(extract(model, named)(x), extract(model, width)(x))


def by_hand(model, widths, depth, x):
    """A medium ResNet at ``widths`` by stage, sliced and run with torch's functions, BatchNorm by the batch."""
    F = nn.functional
    state = {name: p.detach() for name, p in model.state_dict().items()}
    kept = [channels_at(16 * 2**stage, w) for stage, w in enumerate(widths)]

    def unit(x, conv, norm, out, stride):
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight[:out, : x.shape[1]], stride=stride, padding=weight.shape[-1] // 2)
        return F.batch_norm(x, None, None, state[f"{norm}.weight"][:out], state[f"{norm}.bias"][:out], training=True)

    x = unit(x, "conv1", "bn1", kept[0], 1).relu()
    for stage, out in enumerate(kept):
        for block in range(depth[stage]):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            y = unit(x, f"{name}.conv1", f"{name}.bn1", out, stride).relu()
            y = unit(y, f"{name}.conv2", f"{name}.bn2", out, 1)
            shortcut = f"{name}.downsample.0.weight" in state
            x = (y + (unit(x, f"{name}.downsample.0", f"{name}.downsample.1", out, stride) if shortcut else x)).relu()
    return x.mean((2, 3))


@pytest.mark.parametrize(("widths", "depth"), [((1.0, 0.75, 0.5, 0.25), (2, 1, 2, 1)), ((0.25, 0.5, 1.0, 0.6), (1, 2, 1, 2))])
def test_a_width_by_stage_slices_what_it_says(widths, depth):
    model, x = network("resnet_medium").double(), images().double()
    with at_width(model, Subnet(widths, depth)):
        torch.testing.assert_close(model(x), by_hand(model, widths, depth, x))


@pytest.mark.parametrize("arch", ["resnet_medium", "resnet50_cifar", "resnet_small_elastic", "mobilenetv2_cifar_elastic"])
def test_calibration_equals_a_slow_loop(arch):
    model = network(arch)
    subnet, batches = drawn(model, 3), [images(5, seed=1), images(3, seed=2)]
    calibrate(model, [subnet], batches)
    expected, used = {}, norms_at(model, subnet)
    hooks = [
        norm.register_forward_pre_hook(
            lambda module, inputs, name=name: expected.setdefault(name, []).append(inputs[0].detach().double())
        )
        for name, norm in batch_norms(model).items()
    ]
    with torch.no_grad(), at_width(model.train(), subnet):
        for x in batches:
            model(x)
    for hook in hooks:
        hook.remove()
    assert expected.keys() == used.keys() and len(used) < len(batch_norms(model))
    for name, inputs in expected.items():
        flat = [x.transpose(0, 1).flatten(1) for x in inputs]
        mean = sum(len(x) * values.mean(1) for x, values in zip(batches, flat, strict=True)) / 8
        variance = sum(len(x) * values.var(1) for x, values in zip(batches, flat, strict=True)) / 8
        found = used[name].statistics_at(subnet)
        torch.testing.assert_close(found[0].double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[1].double(), variance, rtol=1e-4, atol=1e-5)


def test_statistics_of_sub_networks_are_stored_and_read_again():
    model, subnet = network("resnet_medium"), Subnet((1.0, 0.75, 0.5, 0.5), (2, 1, 2, 2))
    calibrate(model, [0.5, subnet, Subnet((0.25,) * 4, (2, 2, 2, 2))], [images()])
    assert calibrated_widths(model) == [subnet, 0.5, 0.25]
    state = calibration_state(model)
    assert list(state) == ["w[1,.75,.5,.5]d[2,1,2,2]", "0.5", "0.25"]
    assert not any(name.startswith("layer2.1") for name in state[str(subnet)]) and len(state["0.5"]) == len(batch_norms(model))
    other = network("resnet_medium")
    load_calibration_state(other, state)
    with torch.no_grad(), at_width(model.eval(), subnet), at_width(other.eval(), subnet):
        assert torch.equal(other(images(seed=5)), model(images(seed=5)))
    with pytest.raises(ValueError, match="3 widths and the network 4 stages"):
        load_calibration_state(other, {"w[1,.5,.5]": {}})


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_gradients_reach_exactly_what_a_sub_network_uses(seed):
    model = network("resnet_medium")
    subnet = drawn(model, seed)
    with at_width(model, subnet):
        model(images()).square().sum().backward()
    dense = dict(extract(model, subnet).named_parameters())
    for name, parameter in model.named_parameters():
        if name not in dense:
            assert parameter.grad is None
            continue
        used = torch.zeros_like(parameter)
        used[tuple(slice(size) for size in dense[name].shape)] = 1
        assert (parameter.grad[used == 0] == 0).all()
        if "conv" in name:
            assert (parameter.grad[used == 1] != 0).all()


@settings(deadline=None, max_examples=30)
@given(arch=st.sampled_from(ARCHS), seed=st.integers(0, 10**6), p=st.floats(0, 1))
def test_a_space_is_closed(arch, seed, p):
    space, draw = space_of(network(arch), low=0.3, widths=5), random.Random(seed)
    a, b = space.random(draw), space.random(draw)
    for found in (
        a,
        space.mutate(a, draw, p),
        space.crossover(a, b, draw),
        space.largest,
        space.smallest,
        *space.smaller(a),
        *space.uniform(),
    ):
        assert found in space and space.canonical(found) == found
    assert space.mutate(a, draw, 0.0) == a == space.crossover(a, a, draw)


def test_what_a_space_holds():
    model = network("resnet_medium")
    space = space_of(model, low=0.25, widths=4)
    assert space.dimensions == ("width", "depth") and len(space) == 4**4 * 2**4
    assert (space.largest, space.smallest) == (1.0, Subnet(0.25, (1, 1, 1, 1)))
    assert space.uniform() == [1.0, 0.75, 0.5, 0.25]
    assert Subnet((0.5, 0.5, 0.25, 1)) in space and 0.6 not in space and Subnet(0.5, (0, 1, 1, 1)) not in space
    assert Subnet((0.5, 1)) not in space
    assert len(space.smaller(1.0)) == 8 and space.smaller(space.smallest) == []
    assert Subnet((1, 1, 0.75, 1)) in space.smaller(1.0) and Subnet(depth=(2, 2, 2, 1)) in space.smaller(1.0)
    depth = space.along("depth")
    assert depth.dimensions == ("depth",) and len(depth) == 16 and depth.smallest == Subnet(depth=(1, 1, 1, 1))
    assert space_of(model, vary=["width"]).dimensions == ("width",)
    assert space_of(model, shortest=[2, 2, 1, 1]).smallest == Subnet(0.25, (2, 2, 1, 1))
    assert {space.random(random.Random(seed)) for seed in range(50)} > {space.random(random.Random(0))}


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"vary": ["size"]}, "no dimension"),
        ({"vary": ["kernel"]}, "no elastic kernel"),
        ({"low": 0.0}, "0 < low"),
        ({"shortest": [3, 1, 1, 1]}, "not within"),
        ({"shortest": [1]}, "not within"),
        ({"widths": 0}, "at least one"),
    ],
)
def test_impossible_spaces(limits, said):
    with pytest.raises(ValueError, match=said):
        space_of(network("resnet_medium"), **limits)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("w[1,.5]", "2 widths and the network 4 stages"),
        ("d[1,1]", "2 numbers and the network needs 4"),
        ("d[3,1,1,1]", "3 at place 1, where the network has from 1 to 2"),
        ("d[1,0,1,1]", "0 at place 2"),
        ("k[3,3,3,3]", "no elastic kernels"),
        ("h[1]", "no attention heads"),
        ("m[4]", "no MLP ratios"),
        ("p.5", "p0.5: this network has no patches; leave out p0.5"),
    ],
)
def test_sub_networks_that_a_network_has_not(text, said):
    model = network("resnet_medium")
    for use in (
        lambda subnet: extract(model, subnet),
        lambda subnet: at_width(model, subnet).__enter__(),
        lambda subnet: calibrate(model, [subnet], [images()]),
        lambda subnet: is_calibrated(model, subnet),
    ):
        with pytest.raises(ValueError, match=said):
            use(Subnet.parse(text))


def test_a_resolution_resizes_the_images_first():
    model, x = network("resnet_medium"), images()
    small = nn.functional.interpolate(x, size=(16, 16), mode="bilinear", antialias=True)
    calibrate(model, [0.5], [small])
    calibrate(model, [Subnet(0.5, resolution=16)], [x])
    with torch.no_grad(), at_width(model.eval(), Subnet(0.5, resolution=16)):
        torch.testing.assert_close(model(x), extract(model, 0.5)(small))
        with pytest.raises(ValueError, match="no single resolution"):
            model(x[..., :20])
    torch.testing.assert_close(extract(model, Subnet(0.5, resolution=16))(x), extract(model, 0.5)(small))
    assert cost(model, Subnet(0.5, resolution=16), 32).flops == cost(model, 0.5, 16).flops
    space = space_of(model, vary=["resolution"], resolutions=[32, 16])
    assert (space.largest, space.smallest) == (1.0, Subnet(resolution=16)) and len(space) == 2


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("side", [7, 5, 3])
def test_a_smaller_kernel_is_the_transformed_centre(depthwise, side):
    torch.manual_seed(0)
    layer = SlimmableConv2d(16, 16, 7, 2, 3, depthwise=depthwise, kernels=(7, 5, 3), kernel_stage=1).double()
    x = torch.randn(2, 16, 11, 11, dtype=torch.float64)
    with at_width(layer, Subnet(1.0, kernel=(7, side))):
        rim = (7 - side) // 2
        centre = layer.weight[..., rim : 7 - rim, rim : 7 - rim]
        plain = nn.functional.conv2d(x, centre, stride=2, padding=side // 2, groups=16 if depthwise else 1)
        torch.testing.assert_close(layer(x), plain)  # as it starts
    for transform in layer.transforms:
        transform.data += torch.randn_like(transform)
    expected = layer.weight.detach().clone()
    for size, transform in ((5, layer.transforms[0]), (3, layer.transforms[1])):
        if size < side:
            break
        made = torch.zeros(*expected.shape[:2], size, size, dtype=torch.float64)
        for place in range(size**2):
            for other in range(size**2):
                made[..., place // size, place % size] += (
                    transform[place, other].detach() * expected[..., 1 + other // size, 1 + other % size]
                )
        expected = made
    with at_width(layer, Subnet(1.0, kernel=(7, side))):
        found = layer(x)
        torch.testing.assert_close(layer.active(layer.width)[0], expected)
        dense = layer.extract_at(layer.width)
    assert dense.kernel_size == (side, side) and found.shape == (2, 16, 6, 6)
    torch.testing.assert_close(dense(x), found)
    found.sum().backward()
    reached = [transform.grad is not None for transform in layer.transforms]
    assert reached == [side <= 5, side <= 3]
    assert bool((layer.weight.grad[..., 0, :] == 0).all()) == (side < 7)


def test_kernels_that_cannot_be():
    for kernels, padding in (((5, 7), 2), ((5, 3), 1), ((7, 3), 2)):
        with pytest.raises(ValueError, match="must go down"):
            SlimmableConv2d(8, 8, 5, 1, padding, kernels=kernels)


def test_networks_without_elastic_kernels_have_the_parameters_they_had():
    plain, elastic = network("mobilenetv2_cifar"), network("mobilenetv2_cifar_elastic")
    added = set(elastic.state_dict()) - set(plain.state_dict())
    assert set(plain.state_dict()) < set(elastic.state_dict())
    assert all(".transforms." in name for name in added) and len(added) == 2 * 17


@pytest.mark.parametrize(
    ("arch", "text", "features", "hidden", "qkv"),
    [
        ("vit_micro_heads", "w0.5h[4,2,1,3]m[4,2,1,3]", 32, (128, 64, 32, 96), (64, 32, 16, 48)),
        ("vit_micro_heads", "w1m[2,2,2,2]", 64, (128,) * 4, (64,) * 4),
        ("vit_micro", "w0.5h[4,2,1,3]m[4,2,1,3]", 64, (128, 64, 32, 96), (32, 32, 16, 32)),
    ],
)
def test_heads_and_mlp_ratios_by_block(arch, text, features, hidden, qkv):
    model, subnet = network(arch), Subnet.parse(text)
    dense = extract(model, subnet)
    assert model.feature_dim(subnet) == features
    assert tuple(block.mlp.fc1.out_features for block in dense.blocks) == hidden
    assert tuple(block.attn.qkv.out_features // 3 for block in dense.blocks) == qkv
    assert tuple(min(block.attn.proj.in_features, rows) for block, rows in zip(dense.blocks, qkv, strict=True)) == qkv


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("w[1,.5]", "all layers of this network follow one width"),
        ("d[0,1,1,1]", "0 at place 1, where the network has from 1 to 1"),
        ("h[5,1,1,1]", "5 at place 1"),
        ("m[4.5,1,1,1]", "4.5 at place 1, where the network has at most 4"),
        ("h[1]", "1 numbers"),
        ("r18", "not a whole number of patches of 4 pixels; set a multiple of 4, such as r16"),
        ("k[3]", "no elastic kernels"),
    ],
)
def test_sub_networks_that_a_vit_has_not(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        extract(network("vit_micro"), Subnet.parse(text))


def test_a_vit_recomputes_a_sub_network_in_its_backward_pass():
    model, subnet = network("vit_tiny_cifar_heads"), Subnet(0.5, (3, 1, 0, 2), heads=(3,) * 12, mlp=(2,) * 12)
    gradients = []
    for again in (False, True):
        model.recompute = again
        model.zero_grad()
        with at_width(model, subnet):
            loss = model(images()).square().sum()
        with at_width(model, 1.0):
            loss.backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert (plain is None) == (recomputed is None)
        if plain is not None:
            torch.testing.assert_close(plain, recomputed)
    with torch.no_grad(), at_width(model.eval(), subnet):
        maps = model.stages(images())
    assert torch.equal(maps[1], maps[2]) and not torch.equal(maps[2], maps[3])
