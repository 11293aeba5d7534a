"""Networks of others: loaded exactly (features as their own library's to 1e-5), or refused by what they are; two in a file."""

import argparse
import collections
import re

import pytest
import timm
import torch
import torchvision
from torch import nn

from pretrain.checkpoints import open_checkpoint
from pretrain.slimmable import extract
from rundir.errors import UserError

GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.randn(2, 3, 32, 32, generator=GENERATOR)


def used(network):
    """``network`` with statistics, tokens and scales as after training."""
    generator = torch.Generator().manual_seed(4)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith(("weight", "gamma"))):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point() and (tensor.ndim == 1 or "token" in name or "pos_embed" in name):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return network.eval()


def small_resnet(block="BasicBlock", **options):
    torch.manual_seed(0)
    return used(torchvision.models.ResNet(getattr(torchvision.models.resnet, block), [1, 1, 1, 1], **options))


def cifar(network, padding=1, max_pool=False):
    network.conv1 = nn.Conv2d(3, 64, 3, 1, padding, bias=False)
    network.maxpool = network.maxpool if max_pool else nn.Identity()
    return network


def small_vit(**options):
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 2, "num_heads": 3, "num_classes": 5}
    return used(timm.models.VisionTransformer(**settings | options))


def features(network):
    """What stands before the classifier, by the network's own forward pass."""
    if isinstance(network, timm.models.VisionTransformer):
        return network.forward_head(network.forward_features(IMAGES), pre_logits=True)
    network.fc = nn.Identity()
    return network(IMAGES)


@torch.no_grad()
def assert_same(path, network, arch=None, branch="student"):
    found = open_checkpoint(path, branch=branch, arch=arch)
    expected = features(network)
    assert torch.allclose(extract(found.encoder, 1.0)(IMAGES), expected, atol=1e-5, rtol=1e-5)
    return found


# -- ViTs ---------------------------------------------------------------------------------------------------------------------

VITS = {
    "plain": {},
    "registers": {"reg_tokens": 4},
    "registers without positions": {"reg_tokens": 4, "no_embed_class": True},
    "positions of patches": {"no_embed_class": True},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "mean of patches": {"global_pool": "avg"},
    "LayerScale": {"init_values": 0.1},
    "no bias of q, k, v": {"qkv_bias": False},
    "no class token, last norm": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "LayerScale and positions of patches": {"init_values": 0.1, "no_embed_class": True},
    "registers, no class token": {"class_token": False, "global_pool": "avg", "reg_tokens": 3},
}


@pytest.mark.parametrize("kind", VITS)
@torch.no_grad()
def test_vits(tmp_path, kind):
    network = small_vit(**VITS[kind])
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    found = assert_same(tmp_path / "vit.pth", network)
    assert found.config.data.size == 32
    # Maps are of the patches: the last one, normed and read as timm reads it, is timm's.
    maps = extract(found.encoder, 1.0).stages(IMAGES)
    assert all(tuple(m.shape) == (2, 192, 4, 4) for m in maps)
    patches = network.forward_intermediates(IMAGES, indices=1, norm=False, intermediates_only=True)
    assert torch.allclose(maps[-1], patches[-1], atol=1e-5)


@torch.no_grad()
def test_dinov2_with_registers(tmp_path):
    """Its own names; the class token has a position, the registers have none."""
    network = small_vit(reg_tokens=4, no_embed_class=True, init_values=0.1)
    state = network.state_dict()
    position = torch.randn(1, 1, 192, generator=torch.Generator().manual_seed(5))
    own = {name: tensor for name, tensor in state.items() if not name.startswith("head")}
    own["register_tokens"] = own.pop("reg_token")
    own["cls_token"] = state["cls_token"] - position
    own["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    own["mask_token"] = torch.zeros(1, 192)
    torch.save(own, tmp_path / "dinov2.pth")
    assert_same(tmp_path / "dinov2.pth", network)
    chunks = {re.sub(r"^blocks\.(\d+)", r"blocks.0.\1", name): tensor for name, tensor in own.items()}
    torch.save({"teacher": {f"backbone.{name}": tensor for name, tensor in chunks.items()}}, tmp_path / "training.pth")
    assert_same(tmp_path / "training.pth", network, branch="teacher")


@torch.no_grad()
def test_deit3_by_its_own_names(tmp_path):
    network = small_vit(no_embed_class=True, init_values=0.1)
    state = {re.sub(r"\.ls(\d)\.gamma", r".gamma_\1", name): tensor for name, tensor in network.state_dict().items()}
    torch.save({"model": state}, tmp_path / "deit3.pth")
    assert_same(tmp_path / "deit3.pth", network)


@torch.no_grad()
def test_mae_with_its_decoder_and_ibot_with_its_mask(tmp_path):
    network = small_vit()
    names = ("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.weight", "masked_embed")
    more = {name: torch.zeros(8) for name in names}
    args = argparse.Namespace(model="mae_vit_base_patch16")
    torch.save({"model": network.state_dict() | more, "args": args}, tmp_path / "mae.pth")
    found = assert_same(tmp_path / "mae.pth", network)
    assert set(more) <= set(found.behind)


@torch.no_grad()
def test_heads_by_the_file_or_by_the_user(tmp_path, capsys):
    network = small_vit(num_heads=6)
    torch.save({"model": network.state_dict()}, tmp_path / "vit.pth")
    assert_same(tmp_path / "vit.pth", network, arch="vit,heads=6")
    assert "heads" not in capsys.readouterr().out
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "vit.pth", network)
    assert "3 attention heads; where it is otherwise set --arch vit,heads=N" in capsys.readouterr().out
    plain, told = (open_checkpoint(tmp_path / "vit.pth", arch=arch).fingerprint() for arch in (None, "vit,heads=6"))
    assert plain != told  # another network of the same weights
    named = timm.create_model("test_vit", num_classes=5, img_size=32, patch_size=8).eval()  # two heads in 64 channels
    torch.save({"model": named.state_dict(), "args": argparse.Namespace(model="test_vit")}, tmp_path / "named.pth")
    assert_same(tmp_path / "named.pth", named)


# -- ResNets ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("padding", "max_pool"), [(1, False), (2, False), (1, True)])
@torch.no_grad()
def test_stems_that_shapes_do_not_tell(tmp_path, padding, max_pool, capsys):
    network = cifar(small_resnet(), padding, max_pool)
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "solo.ckpt")
    arch = f"resnet,padding={padding},max_pool={'yes' if max_pool else 'no'}"
    assert_same(tmp_path / "solo.ckpt", network, arch)
    assert "padding" not in capsys.readouterr().out
    open_checkpoint(tmp_path / "solo.ckpt")
    said = capsys.readouterr().out
    assert "padding 1 in its 3x3 stem" in said and "set --arch resnet,padding=2 or --arch resnet,max_pool=yes" in said
    assert len(said.splitlines()) == 1
    same = open_checkpoint(tmp_path / "solo.ckpt").fingerprint() == open_checkpoint(tmp_path / "solo.ckpt", arch=arch).fingerprint()
    assert same == ((padding, max_pool) == (1, False))


@torch.no_grad()
def test_bottlenecks_of_both_versions(tmp_path, capsys):
    network = small_resnet("Bottleneck")
    torch.save(network.state_dict(), tmp_path / "r.pth")
    assert_same(tmp_path / "r.pth", network)
    assert "strides in the 3x3 convolutions" in capsys.readouterr().out
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    assert_same(tmp_path / "r.pth", network, "resnet,stride=1")


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet,padding=9", "padding to one of 0, 1, 2"),
        ("resnet,padding", "set padding to one of"),
        ("resnet,heads=3", "leave out heads"),
        ("resnet,stem=2", "unknown setting in --arch 'stem'"),
        ("resnet,stride=1", "leave out stride"),
        ("vit,heads=3", "set --arch resnet,heads=3"),
    ],
)
def test_settings_that_cannot_be(tmp_path, arch, message):
    torch.save(cifar(small_resnet()).state_dict(), tmp_path / "r.pth")
    with pytest.raises(UserError, match=message):
        open_checkpoint(tmp_path / "r.pth", arch=arch)


def blurred():
    """As antialiased-cnns writes it: its filters are buffers."""
    state = {name.replace("layer2.0.conv2.", "layer2.0.conv2.1."): tensor for name, tensor in small_resnet().state_dict().items()}
    return state | {"layer2.0.conv2.0.filt": torch.ones(128, 1, 3, 3), "maxpool.1.filt": torch.ones(64, 1, 3, 3)}


def of_timm(name, **more):
    return lambda: timm.create_model(name, pretrained=False, **more).state_dict()


OTHERS = {
    "anti-aliased": (blurred, "anti-aliased"),
    "SE": (of_timm("seresnet18"), "channel attention"),
    "ECA": (of_timm("ecaresnet50t"), "channel attention|several convolutions"),
    "D": (of_timm("resnet18d"), "several convolutions"),
    "GroupNorm": (of_timm("resnet50_gn"), "GroupNorm"),
    "preact": (of_timm("resnetv2_50"), "not a checkpoint of"),
    "half as wide": (
        lambda: nn.Sequential(collections.OrderedDict(timm.create_model("test_resnet").named_children())).state_dict(),
        "does not fit|several convolutions",
    ),
    "distilled": (of_timm("deit_tiny_distilled_patch16_224"), "distillation token"),
    "BEiT": (of_timm("beit_base_patch16_224", depth=1), "relative positions|registers|BEiT"),
    "Swin": (of_timm("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)), "relative positions|Swin"),
    "SwiGLU": (of_timm("vit_giant_patch14_dinov2", depth=1, embed_dim=192, num_heads=3, img_size=28), "SwiGLU|fc2"),
    "qk-norm": (lambda: small_vit(qk_norm=True).state_dict(), "normalises queries"),
    "CLIP": (lambda: small_vit(pre_norm=True).state_dict(), "norm before its blocks"),
    "hybrid": (of_timm("vit_tiny_r_s16_p8_224", depth=1), "hybrid"),
    "LoRA": (lambda: small_vit().state_dict() | {"blocks.0.attn.qkv.lora_A": torch.zeros(4, 192)}, "LoRA"),
    "pruned": (
        lambda: {
            name.replace("layer2.0.conv1.weight", "layer2.0.conv1.weight_orig"): t
            for name, t in small_resnet().state_dict().items()
        },
        "pruned",
    ),
    "normalises its images": (lambda: small_resnet().state_dict() | {"mean": torch.zeros(3)}, "mean is not one of its parameters"),
    "another norm": (lambda: small_resnet().state_dict() | {"layer1.0.bn3.weight": torch.ones(64)}, "bn3"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_networks_are_refused_by_what_they_are(tmp_path, kind):
    make, message = OTHERS[kind]
    torch.save(make(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=message) as error:
        open_checkpoint(tmp_path / "other.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "said",
    [
        lambda name: {"arch": name},
        lambda name: {"args": argparse.Namespace(model=name)},
        lambda name: {"hyper_parameters": {"cfg": {"backbone": name}}},
    ],
)
def test_a_network_that_shapes_do_not_tell_but_the_file_says(tmp_path, said):
    """timm's anti-aliased ResNets have the parameters of plain ones."""
    state = timm.create_model("resnet18").state_dict()
    torch.save({"state_dict": state} | said("resnetblur18"), tmp_path / "r.pth")
    with pytest.raises(UserError, match=r"says that it is a resnetblur18, which is not a plain resnet \(BlurPool2d\) and not"):
        open_checkpoint(tmp_path / "r.pth")
    for plain in ("resnet18", "resnet18.a1_in1k", "mine", "resnetblur50"):  # the last has other weights, so it is another one
        torch.save({"state_dict": state} | said(plain), tmp_path / "r.pth")
        assert open_checkpoint(tmp_path / "r.pth").dense


# -- two networks in a file ---------------------------------------------------------------------------------------------------

PAIRS = {
    "solo-learn": ("backbone.", "momentum_backbone.", ("projector.0.weight", "momentum_projector.0.weight", "classifier.weight")),
    "lightly": ("backbone.", "backbone_momentum.", ("projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight")),
    "lightly, DINO": ("student_backbone.", "teacher_backbone.", ("student_head.layers.0.weight", "teacher_head.last_layer.weight")),
    "byol-pytorch": ("online_encoder.net.", "target_encoder.net.", ("online_encoder.projector.weight", "online_predictor.weight")),
    "mmselfsup": ("online_net.0.", "target_net.0.", ("online_net.1.fc0.weight",)),
    "DINO": ("student.module.backbone.", "teacher.backbone.", ("student.module.head.mlp.0.weight", "teacher.head.weight")),
    "MoCo": ("module.encoder_q.", "module.encoder_k.", ("module.queue", "module.encoder_q.fc.0.weight")),
    "MoCo v3": ("module.base_encoder.", "module.momentum_encoder.", ("module.predictor.0.weight",)),
    "torchvision": ("model.", "model_ema.module.", ("model_ema.n_averaged",)),
    "timm": ("state_dict.", "state_dict_ema.", ()),
    "I-JEPA": ("encoder.module.", "target_encoder.module.", ("predictor.module.mask_token",)),
    "mean teacher": ("net.", "net_ema.", ()),
    "a root and its copy": ("", "momentum_encoder.", ("projector.weight",)),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("whose", PAIRS)
@torch.no_grad()
def test_student_and_teacher(tmp_path, whose, nested):
    one, two, more = PAIRS[whose]
    networks = [cifar(small_resnet()), cifar(small_resnet())]
    nn.init.normal_(networks[1].layer1[0].conv1.weight)
    state = {name: torch.zeros(2) for name in more}
    for prefix, network in zip((one, two), networks, strict=True):
        state |= {prefix + name: t for name, t in network.state_dict().items() if not name.startswith("fc.")}
    torch.save({"state_dict": state} if nested else state, tmp_path / "c.pth")
    for branch, network in zip(("student", "teacher"), networks, strict=True):
        assert_same(tmp_path / "c.pth", network, branch=branch)


@torch.no_grad()
def test_any_of_several_networks_by_its_name(tmp_path):
    networks = {name: cifar(small_resnet()) for name in ("left", "right", "copy")}
    nn.init.normal_(networks["right"].layer1[0].conv1.weight)
    torch.save({name: network.state_dict() for name, network in networks.items()}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"holds several networks \(left, right\); set --branch to one of these names"):
        open_checkpoint(tmp_path / "c.pth")  # the copy is the left one
    for name in ("left", "right"):
        assert_same(tmp_path / "c.pth", networks[name], branch=name)
    with pytest.raises(UserError, match=r"unknown branch 'both' of .*set --branch to student, teacher or one of left, right, copy"):
        open_checkpoint(tmp_path / "c.pth", branch="both")
    with pytest.raises(UserError, match="holds no teacher; set --branch student"):
        open_checkpoint(tmp_path / "c.pth", branch="teacher")


@pytest.mark.parametrize(
    "more",
    [
        {"projection_head.0.weight": (4, 4), "projection_head.1.running_mean": (4,), "prototypes.weight": (4, 4)},  # SwAV
        {"head.mlp.0.weight": (4, 4), "head.last_layer.weight_g": (4, 1)},
        {"queue": (4, 4), "queue_ptr": (1,)},
        {"layer1.0.conv1.total_ops": (1,), "total_params": (1,)},  # thop
    ],
)
@torch.no_grad()
def test_heads_stand_aside(tmp_path, more):
    network = cifar(small_resnet())
    state = {name: t for name, t in network.state_dict().items() if not name.startswith("fc.")}
    state |= {name: torch.zeros(shape) for name, shape in more.items()}
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "c.pth")
    assert_same(tmp_path / "c.pth", network)


# -- weights that are none ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.fill_(float("nan")), r"layer2\.0\.conv1\.weight holds NaN or infinity \(73,728 of 73,728 values\)"),
        (
            lambda t: t.index_fill_(0, torch.tensor(3), float("inf")),
            r"infinity \(576 of 73,728 values\).*take an earlier checkpoint",
        ),
        (lambda t: t.to(torch.int8), "is torch.int8, expected torch.float32"),
        (lambda t: t.to_sparse(), "is sparse"),
        (lambda t: t.to("meta"), "without values"),
        (lambda t: t.to(torch.complex64), "is torch.complex64"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is torch.qint8"),
        (lambda t: t[:, :, 0], "has shape"),
    ],
)
@pytest.mark.parametrize("name", ["c.pth"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_weights_that_cannot_be_used(tmp_path, change, message, name):
    state = small_resnet().state_dict()
    state["layer2.0.conv1.weight"] = change(state["layer2.0.conv1.weight"].clone())
    torch.save(state, tmp_path / name)
    with pytest.raises(UserError, match=message):
        open_checkpoint(tmp_path / name)
