"""Slimmable ViTs: timm's network at full width, both slimmings written out literally, extraction, cost, groups, a step."""

import math
from contextlib import nullcontext
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pretrain.config import RegularizerConfig, from_dict
from pretrain.models import build
from pretrain.models.vit import VisionTransformer, position_embedding
from pretrain.objective.networks import Student, Teacher
from pretrain.objective.regularization import Regularizer
from pretrain.objective.step import Objective
from pretrain.slimmable import (
    PrefixLinear,
    SlimmableLinear,
    at_width,
    calibrate,
    calibrated_widths,
    calibration_state,
    channel_signature,
    cost,
    dense_cost,
    extract,
    is_calibrated,
    slimmable_layers,
)
from rundir.errors import UserError

BOTH = pytest.mark.parametrize("slimming", ["input", "heads"])
WIDTHS = st.floats(0.02, 1.0)
SUFFIX = {"input": "", "heads": "_heads"}


def micro(slimming, seed=0):
    """A small ViT whose features depend on the image: its own start is too near to zero for a sharp comparison."""
    torch.manual_seed(seed)
    model = VisionTransformer(16, 4, dim=48, depth=4, heads=3, slimming=slimming).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "pos_embed":
                parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model


def images(batch=3, height=16, width=16):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(5))


def keep(channels, width):
    """The nearest multiple of eight to width * channels that is not under 90 % of it, by search."""
    exact = width * channels
    return min(channels, min((c for c in range(8, channels + 8, 8) if c >= 0.9 * exact), key=lambda c: (abs(c - exact), -c)))


def kept_heads(heads, width):
    """The nearest count to width * heads, by search; the larger of two."""
    return min(range(1, heads + 1), key=lambda h: (abs(h - width * heads), -h))


def transformer(p, x, width, heads, depth, patch):
    """The authors' slimming, literally: every linear layer reads the first features of its input and gives all outputs."""

    def linear(name, z):
        inputs = keep(z.shape[-1], width)
        return z[..., :inputs] @ p[f"{name}.weight"][:, :inputs].T + p[f"{name}.bias"]

    def norm(name, z):
        return F.layer_norm(z, (z.shape[-1],), p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)

    z = F.conv2d(x, p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], patch).flatten(2).transpose(1, 2)
    z = torch.cat([p["cls_token"].expand(len(x), -1, -1), z], 1) + p["pos_embed"]
    dim = z.shape[-1]
    for i in range(depth):
        q, k, v = linear(f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.norm1", z)).split(dim, dim=-1)
        q, k, v = (t.view(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
        attention = (q @ k.transpose(2, 3) / math.sqrt(dim // heads)).softmax(-1)
        z = z + linear(f"blocks.{i}.attn.proj", (attention @ v).transpose(1, 2).flatten(2))
        z = z + linear(f"blocks.{i}.mlp.fc2", F.gelu(linear(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", z))))
    return norm("norm", z)[:, 0]


@pytest.mark.parametrize("width", [1.0, 0.8, 0.5, 0.37, 0.25, 0.1])
def test_input_slimming_is_the_authors_in_value_and_gradient(width):
    """Leaving out what no later layer reads changes nothing: 3 heads of 16 hold at w = 0.5 one and a half heads of inputs."""
    model, x = micro("input").double(), images().double()
    p = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.state_dict().items()}
    expected = transformer(p, x, width, heads=3, depth=4, patch=4)
    with at_width(model, width):
        got = model(x)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-10)
    got.sin().sum().backward()
    expected.sin().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, p[name].grad, atol=1e-12, rtol=1e-8)


@pytest.mark.parametrize("width", [1.0, 0.8, 0.5, 0.37, 0.25, 0.1])
def test_heads_slimming_is_a_smaller_timm_transformer(width):
    model, x = micro("heads"), images()
    heads = kept_heads(3, width)
    dim, hidden = 16 * heads, keep(192, width)
    small = timm_like(dim, 4, heads, size=16, patch=4, mlp_ratio=hidden / dim)
    state = {}
    for name, tensor in model.state_dict().items():
        if "qkv" in name:
            tensor = torch.cat([part[:dim] for part in tensor.split(48)])
        elif "fc1" in name:
            tensor = tensor[:hidden]
        elif name in ("cls_token", "pos_embed"):
            tensor = tensor[..., :dim]
        else:
            tensor = tensor[:dim]
        if tensor.ndim == 2:
            tensor = tensor[:, : hidden if "fc2" in name else dim]
        state[name] = tensor
    small.load_state_dict(state)
    with at_width(model, width), torch.no_grad():
        torch.testing.assert_close(model(x), small(x), atol=1e-5, rtol=1e-5)


def timm_like(dim, depth, heads, size, patch, mlp_ratio=4.0):
    return timm.models.vision_transformer.VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        num_classes=0,
        global_pool="token",
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()


@pytest.mark.parametrize(
    ("arch", "dim", "depth", "heads", "size", "patch"),
    [
        ("vit_micro", 64, 4, 4, 16, 4),
        ("vit_micro_heads", 64, 4, 4, 16, 4),
        ("vit_tiny_cifar", 192, 12, 6, 32, 4),
        ("vit_tiny", 192, 12, 6, 224, 16),
    ],
)
def test_full_width_is_timms_transformer(arch, dim, depth, heads, size, patch):
    torch.manual_seed(0)
    ours, theirs = build(arch).eval(), timm_like(dim, depth, heads, size, patch)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(extract(ours, 1.0)(x), expected, atol=1e-5, rtol=1e-5)


@BOTH
@settings(max_examples=12, deadline=None)
@given(width=WIDTHS)
def test_extraction_equals_slicing(slimming, width):
    model, x = micro(slimming), images(2)
    dense = extract(model, width)
    with at_width(model, width), torch.no_grad():
        torch.testing.assert_close(dense(x), model(x), atol=1e-5, rtol=1e-5)
        for got, expected in zip(dense.stages(x), model.stages(x), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        # A size that needs another position embedding.
        torch.testing.assert_close(dense(images(2, 8, 24)), model(images(2, 8, 24)), atol=1e-5, rtol=1e-5)
    assert not list(slimmable_layers(dense))
    assert all(p.data_ptr() != q.data_ptr() for p, q in zip(dense.parameters(), model.parameters(), strict=True))
    assert [n for n, p in dense.named_parameters() if not p.requires_grad] == ["pos_embed"]


@BOTH
@pytest.mark.parametrize("width", [1.0, 0.93, 0.75, 0.61, 0.5, 0.33, 0.25, 0.05])
def test_channels(slimming, width):
    with torch.device("meta"):
        dense = extract(build("vit_tiny" + SUFFIX[slimming]), width)
    read, hidden, stream, attention = keep(192, width), keep(768, width), 192, 32 * math.ceil(keep(192, width) / 32)
    if slimming == "heads":
        read = stream = attention = 32 * kept_heads(6, width)
    block = dense.blocks[3]
    shapes = {name: tuple(p.shape) for name, p in block.named_parameters() if p.ndim == 2}
    assert shapes == {
        "attn.qkv.weight": (3 * attention, read),
        "attn.proj.weight": (stream, read),
        "mlp.fc1.weight": (hidden, read),
        "mlp.fc2.weight": (stream, hidden),
    }
    assert block.norm1.weight.shape == block.norm2.bias.shape == dense.norm.weight.shape == (stream,)
    assert dense.patch_embed.proj.weight.shape == (stream, 3, 16, 16)
    assert dense.cls_token.shape == (1, 1, stream) and dense.pos_embed.shape == (1, 197, stream)
    # Only a layer whose input is wider than what it reads slices its activations.
    prefix = {name for name, m in block.named_modules() if isinstance(m, PrefixLinear)}
    assert prefix == ({"attn.qkv", "attn.proj", "mlp.fc1"} if slimming == "input" else set())


@BOTH
def test_widths_that_differ_only_in_what_layers_read_are_different_networks(slimming):
    model = micro(slimming)
    assert channel_signature(model, 0.5) != channel_signature(model, 0.25)
    assert channel_signature(model, 0.5) == channel_signature(model, 0.501)


def closed_form(slimming, width, size, patch, dim, depth, heads):
    """Multiply-adds of one image and parameters, term by term."""
    head_dim, patches = dim // heads, (size // patch) ** 2
    tokens, hidden = patches + 1, keep(4 * dim, width)
    stream, read = dim, keep(dim, width)
    if slimming == "heads":
        stream = read = head_dim * kept_heads(heads, width)
    attention = head_dim * math.ceil(read / head_dim)
    weights = 3 * attention * read + stream * read + hidden * read + stream * hidden
    operations = patches * 3 * patch**2 * stream + depth * (tokens * weights + 2 * tokens**2 * attention)
    vectors = 3 * attention + stream + hidden + stream + 4 * stream
    parameters = (3 * patch**2 + 1) * stream + (1 + tokens) * stream + depth * (weights + vectors) + 2 * stream
    return operations, parameters


@BOTH
@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("vit_micro", (16, 4, 64, 4, 4), 1.0),
        ("vit_micro", (16, 4, 64, 4, 4), 0.61),
        ("vit_micro", (16, 4, 64, 4, 4), 0.25),
        ("vit_tiny", (224, 16, 192, 12, 6), 0.25),
        ("vit_base_cifar", (32, 4, 768, 12, 12), 0.6),
    ],
)
def test_cost_by_hand(name, shape, width, slimming):
    with torch.device("meta"):
        got = cost(build(name + SUFFIX[slimming]), width, shape[0])
    operations, parameters = closed_form(slimming, width, *shape)
    assert got.flops == 2 * operations and got.parameters == parameters


@BOTH
def test_cost_is_torchs_count_on_the_extracted_network(slimming):
    """On the CPU torch counts no flash attention, so the count is made where attention is two products."""
    model = micro(slimming)
    dense = extract(model, 0.4)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        dense(images(1))
    assert cost(model, 0.4, 16).flops == dense_cost(dense, 16).flops == counter.get_total_flops()


# timm's parameters without a head, and billions of multiply-adds at 224 (DeiT, arXiv 2012.12877, table 5: 1.3, 4.6, 17.6).
@pytest.mark.parametrize(
    ("arch", "parameters", "giga"),
    [("vit_tiny_heads", 5_524_416, 1.3), ("vit_small", 21_665_664, 4.6), ("vit_base", 85_798_656, 17.6)],
)
def test_published_cost(arch, parameters, giga):
    with torch.device("meta"):
        got = cost(build(arch), 1.0, 224)
    assert got.parameters == parameters and round(got.flops / 2e9, 1) == giga


def test_head_slimming_saves_what_a_smaller_transformer_saves():
    with torch.device("meta"):
        assert cost(build("vit_base_cifar_heads"), 0.5, 32) == cost(build("vit_small_cifar"), 1.0, 32)


def slow_positions(rows, columns, dim, interleaved):
    table = []
    for r in rows:
        for c in columns:
            waves = [
                (f(x * 10000 ** -(i / (dim // 4))))
                for x, f in ((r, math.sin), (r, math.cos), (c, math.sin), (c, math.cos))
                for i in range(dim // 4)
            ]
            order = [part * (dim // 4) + i for i in range(dim // 4) for part in range(4)] if interleaved else range(dim)
            table.append([waves[i] for i in order])
    return torch.tensor([[0.0] * dim, *table])[None]


@pytest.mark.parametrize("interleaved", [False, True])
def test_position_embedding(interleaved):
    rows, columns = [0.0, 1.0, 2.0], [0.0, 0.5, 1.0, 1.5]
    got = position_embedding(torch.tensor(rows), torch.tensor(columns), 16, interleaved)
    torch.testing.assert_close(got, slow_positions(rows, columns, 16, interleaved))


@BOTH
def test_positions_of_other_sizes_span_the_range_of_the_configured_one(slimming):
    model, dim = build("vit_micro" + SUFFIX[slimming]), 64
    assert torch.equal(model.positions(4, 4, torch.device("cpu")), model.pos_embed)
    torch.testing.assert_close(model.pos_embed, slow_positions(range(4), range(4), dim, slimming == "heads"))
    # Twice as fine: two patches where there was one, half a patch apart around it.
    rows = [-0.25, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25]
    torch.testing.assert_close(
        model.positions(8, 2, torch.device("cpu")), slow_positions(rows, [0.5, 2.5], dim, slimming == "heads")
    )
    assert not model.pos_embed.requires_grad


def test_the_first_channels_tell_rows_and_columns_apart():
    """MoCo v3's order would leave only the row in the first half of the channels, so ``heads`` interleaves."""
    table = build("vit_micro_heads").pos_embed[0, 1:, :16].view(4, 4, 16)
    assert not torch.allclose(table[0, 0], table[0, 1]) and not torch.allclose(table[0, 0], table[1, 0])


def test_a_part_of_a_patch_is_an_error():
    with pytest.raises(ValueError, match="18 x 16 pixels is not a whole number of patches of 4"):
        build("vit_micro")(torch.zeros(1, 3, 18, 16))
    with pytest.raises(ValueError, match="multiple of"):
        VisionTransformer(16, 4, dim=50, depth=4, heads=4)
    with pytest.raises(ValueError, match="set input or heads"):
        VisionTransformer(16, 4, dim=64, depth=4, heads=4, slimming="both")


@BOTH
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_feature_maps_are_the_tokens_at_four_depths(slimming, width):
    torch.manual_seed(0)
    model, x = VisionTransformer(16, 4, 32, depth=8, heads=2, slimming=slimming).eval(), images(2, 8, 24)
    seen = []
    for index in (1, 3, 5, 7):
        model.blocks[index].register_forward_hook(lambda module, args, output: seen.append(output))
    with at_width(model, width), torch.no_grad():
        maps = model.stages(x)
    assert [m.shape for m in maps] == [(2, c, 2, 6) for c in model.stage_dims(width)]
    for feature_map, tokens in zip(maps, seen, strict=True):
        assert torch.equal(feature_map[:, :, 1, 4], tokens[:, 1 + 6 + 4])
    assert model.stage_dims() == [model.feature_dim()] * 4


@BOTH
def test_gradients_reach_the_active_slices_only(slimming):
    model = micro(slimming)
    with at_width(model, 1 / 3):
        model(images()).sin().sum().backward()
    block = model.blocks[2]
    stream = 48 if slimming == "input" else 16
    active = {
        "attn.qkv": (block.attn.qkv, [*range(16), *range(48, 64), *range(96, 112)], 16),
        "attn.proj": (block.attn.proj, range(stream), 16),
        "mlp.fc1": (block.mlp.fc1, range(64), 16),
        "mlp.fc2": (block.mlp.fc2, range(stream), 64),
    }
    for name, (layer, outputs, inputs) in active.items():
        mask = torch.zeros_like(layer.weight, dtype=torch.bool)
        mask[list(outputs), :inputs] = True
        assert not layer.weight.grad[~mask].any(), name
        assert (layer.weight.grad[mask] != 0).float().mean() > 0.99, name
        assert not layer.bias.grad[~mask[:, 0]].any(), name
    assert not block.norm1.weight.grad[stream:].any() and model.cls_token.grad[..., :stream].all()
    assert not model.cls_token.grad[..., stream:].any() and not model.patch_embed.proj.weight.grad[stream:].any()


def test_the_start_is_moco_v3s():
    torch.manual_seed(0)
    model = build("vit_tiny")
    bounds = {"attn.qkv": 384, "attn.proj": 384, "mlp.fc1": 960, "mlp.fc2": 960}
    for name, fans in bounds.items():
        layer = model.blocks[5].get_submodule(name)
        assert 0.99 < layer.weight.abs().max() / math.sqrt(6 / fans) <= 1 and not layer.bias.any()
    projection = model.patch_embed.proj
    assert 0.99 < projection.weight.abs().max() / math.sqrt(6 / (3 * 16 * 16 + 192)) <= 1 and not projection.bias.any()
    assert 0 < model.cls_token.abs().max() < 1e-5


@BOTH
def test_a_network_without_batch_norm_is_ready_at_every_width(slimming):
    model = micro(slimming)
    calibrate(model, [1.0, 0.5], iter(()))  # nothing to compute, so nothing is read
    assert is_calibrated(model, 0.37) and calibrated_widths(model) == [] and calibration_state(model) == {}
    resnet = build("resnet_small")
    assert not is_calibrated(resnet, 0.5)
    calibrate(resnet, [0.5], [torch.randn(4, 3, 8, 8)])
    assert is_calibrated(resnet, 0.5) and not is_calibrated(resnet, 1.0)


# -- in training --------------------------------------------------------------------------------------------------------------


def config(arch="vit_micro", base="infonce", distill="infonce", teacher="momentum"):
    return from_dict(
        {
            "model": {"arch": arch, "projector_hidden": 24, "projector_out": 12, "predictor_hidden": 16},
            "objective": {"base_loss": base, "distill_loss": distill, "teacher": teacher},
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "regularizer": {"kind": "group", "coefficient": 0.05},
        }
    )


@BOTH
def test_group_regularization_groups_the_input_features_of_a_transformers_linear_layers(slimming):
    student = Student(config("vit_micro" + SUFFIX[slimming])).double()
    student.encoder.freeze_patch_projection()
    cfg = RegularizerConfig(kind="group", coefficient=0.3, alpha=0.05, groups=8)
    regularizer = Regularizer(cfg, student)
    regularizer.set_alpha(0.04)
    expected = torch.zeros((), dtype=torch.float64)
    slow = {}
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        coefficients = torch.full_like(parameter, 0.3)
        if name.startswith("encoder.blocks") and parameter.ndim == 2:
            for feature in range(parameter.shape[1]):
                group = math.floor(8 * feature / parameter.shape[1])
                coefficients[:, feature] = 0.3 * (1 - 0.04 * group)
        slow[name] = coefficients
        expected += (coefficients * parameter.detach() ** 2).sum()
    torch.testing.assert_close(regularizer.penalty(), expected, rtol=1e-12, atol=0)
    regularizer.add_gradient()
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, 2 * slow[name] * parameter.detach(), rtol=1e-12, atol=0)
        else:
            assert parameter.grad is None and name in (
                "encoder.pos_embed",
                "encoder.patch_embed.proj.weight",
                "encoder.patch_embed.proj.bias",
            )


def test_convolutional_networks_are_grouped_as_before():
    student = Student(config("resnet_small")).double()
    regularizer = Regularizer(RegularizerConfig(kind="group", coefficient=0.3, groups=8), student)
    regularizer.set_alpha(0.04)
    by_parameter = dict(zip(regularizer.parameters, regularizer.coefficients, strict=True))
    layer = student.encoder.layer2[0]
    expected = torch.tensor([0.3 * (1 - 0.04 * (c // 4)) for c in range(32)], dtype=torch.float64)
    torch.testing.assert_close(by_parameter[layer.conv1.weight], expected.view(-1, 1, 1, 1))
    torch.testing.assert_close(by_parameter[layer.bn1.bias], expected)
    assert by_parameter[student.projector[0].weight].ndim == 0


@pytest.mark.parametrize(
    ("slimming", "base", "distill", "teacher"),
    [("input", "infonce", "infonce", "momentum"), ("heads", "mse", "infonce", "momentum"), ("heads", "mse", "mse", "online")],
)
def test_a_step_trains_every_width(slimming, base, distill, teacher):
    torch.manual_seed(0)
    cfg = config("vit_micro" + SUFFIX[slimming], base, distill, teacher)
    student = Student(cfg)
    student.encoder.freeze_patch_projection()
    momentum_teacher = Teacher(student) if teacher == "momentum" else None
    optimizer = torch.optim.AdamW(student.parameters(), 2e-3, weight_decay=0.0)
    regularizer = Regularizer(cfg.regularizer, student)
    objective = Objective(cfg.objective, student, student, momentum_teacher, 1.0, nullcontext)

    def update(width):
        regularizer.add_gradient()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    x = images(8)
    x1, x2 = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    losses = [objective.step(x1, x2, [1.0, 0.61, 0.25], 0.9, lambda loss: loss.backward(), update) for _ in range(8)]
    assert torch.tensor(losses).isfinite().all()
    assert all(last < first for first, last in zip(losses[0], losses[-1], strict=True))
    fixed = {name for name, tensor in student.state_dict().items() if torch.equal(tensor, before[name])}
    assert fixed == {"encoder.pos_embed", "encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"}


@BOTH
def test_the_projector_reads_what_the_encoder_gives(slimming):
    student = Student(config("vit_micro" + SUFFIX[slimming]))
    with at_width(student, 0.5), torch.no_grad():
        features = student.encoder(images(4))
        assert features.shape == (4, student.encoder.feature_dim(0.5)) == (4, 64 if slimming == "input" else 32)
        assert student.project(images(4)).shape == (4, 12)
    assert isinstance(student.projector[0], SlimmableLinear)


def test_a_size_of_part_patches_is_found_before_training():
    from_dict({"model": {"arch": "vit_micro"}, "data": {"size": 24}})
    with pytest.raises(UserError, match=r"30 is not a whole number of the 4-pixel patches of vit_micro; set data\.size=28 or 32"):
        from_dict({"model": {"arch": "vit_micro"}, "data": {"size": 30}})
    with pytest.raises(UserError, match=r"set data\.size=16"):
        from_dict({"model": {"arch": "vit_tiny"}, "data": {"size": 8}})
