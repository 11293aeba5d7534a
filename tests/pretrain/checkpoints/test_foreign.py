"""Files that others wrote, made here from random weights: the authors' at any width, torchvision's and timm's at 1.0."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import nn

from pretrain import config
from pretrain.checkpoints import open_checkpoint
from pretrain.models import build
from pretrain.objective.networks import Student, Teacher
from pretrain.slimmable import at_width, calibrate, cost, extract
from rundir.errors import UserError

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PROJECTOR = {"0.weight": (16, 8), "0.bias": (16,), "1.weight": (16,), "1.bias": (16,), "1.running_mean": (16,), "6.weight": (8, 16)}


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def authors_file(path, arch, student, teacher, behind="fc", names=("encoder_q", "encoder_k")):
    """A file as the authors' code saves it (main.py ssl)."""
    torch.manual_seed(1)
    heads = {f"{behind}.{name}": torch.randn(shape) for name, shape in PROJECTOR.items()}
    state = {}
    for name, network in zip(names, (student, teacher), strict=True):
        state |= prefixed(f"module.{name}.", {**network.state_dict(), **heads})
    for name in ("predictor", "predictor_new"):
        state |= prefixed(f"module.{name}.", {"0.weight": torch.randn(8, 8), "1.running_mean": torch.randn(8)})
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save({"epoch": 400, "arch": arch, "state_dict": state, "optimizer": optimizer}, path)
    return path


def random_network(arch, seed):
    """An encoder none of whose parameters, those of BatchNorm included, has its plain starting value."""
    torch.manual_seed(seed)
    network = build(arch)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, *((0.5, 1.5) if name.endswith("weight") else (-0.2, 0.2)))
    return network


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    student, teacher = random_network("resnet_small", 2), random_network("resnet_small", 3)
    path = tmp_path_factory.mktemp("authors") / "checkpoint.pth.tar"
    return authors_file(path, "us_small", student, teacher), student, teacher


def keep(channels, width):
    """The nearest multiple of eight to width * channels that is not under 90 % of it, by search."""
    exact = width * channels
    return min((c for c in range(8, channels + 8, 8) if c >= 0.9 * exact), key=lambda c: (abs(c - exact), -c))


def authors_resnet(state, x, width):
    """The authors' CIFAR ResNet of basic blocks at ``width``, written out from their file; a batch is normalised by itself."""

    def layer(x, conv, norm, stride=1):
        weight = state[f"{conv}.weight"]
        inputs = x.shape[1]
        x = F.conv2d(x, weight[: keep(weight.shape[0], width), :inputs], stride=stride, padding=weight.shape[-1] // 2)
        variance, mean = torch.var_mean(x, (0, 2, 3), unbiased=False, keepdim=True)
        scale, shift = (state[f"{norm}.{name}"][: x.shape[1]].view(1, -1, 1, 1) for name in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    x = layer(x, "conv1", "bn1").relu()
    for stage in (1, 2, 3, 4):
        for block in range(len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")})):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = layer(layer(x, f"{name}.conv1", f"{name}.bn1", stride).relu(), f"{name}.conv2", f"{name}.bn2")
            x = (y + (layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride) if stride == 2 else x)).relu()
    return x.mean((2, 3))


@pytest.mark.parametrize(("width", "branch"), [(1.0, "student"), (0.6, "student"), (0.25, "student"), (0.5, "teacher")])
@torch.no_grad()
def test_the_authors_resnet_at_any_width(resnet_file, width, branch):
    path, *sources = resnet_file
    found = open_checkpoint(path, branch=branch)
    assert (found.arch, found.epoch, found.foreign, found.dense) == ("resnet_small", 400, True, False)
    prefix = {"student": "module.encoder_q.", "teacher": "module.encoder_k."}[branch]
    written = torch.load(path)["state_dict"]
    state = {name.removeprefix(prefix): tensor for name, tensor in written.items() if name.startswith(prefix)}
    with at_width(found.encoder.train(), width):
        assert torch.allclose(found.encoder(IMAGES), authors_resnet(state, IMAGES, width), atol=1e-5, rtol=1e-5)
    source = sources[branch == "teacher"]
    for encoder in (source, found.encoder):
        calibrate(encoder, [width], [IMAGES])
    with at_width(source.eval(), width):
        assert torch.allclose(extract(found.encoder.eval(), width)(IMAGES), source(IMAGES), atol=1e-5)
    assert {name.split(".")[0] for name in found.behind} == {"fc"} and len(found.behind) == len(PROJECTOR)


@pytest.mark.parametrize(
    ("arch", "named"),
    [
        ("resnet50_cifar", "us_cifar_resnet50"),
        ("resnet18", "us_resnet18"),
        ("resnet18_cifar", None),
        ("mobilenetv2_cifar", "us_cifar_mobilenetv2"),
        ("mobilenetv2", "us_mobilenetv2"),
    ],
)
def test_the_authors_names_and_shapes_tell_the_architecture(tmp_path, arch, named):
    network = build(arch)
    path = authors_file(tmp_path / "c.pth.tar", named, network, network)
    if named is None:
        torch.save({"state_dict": torch.load(path)["state_dict"]}, path)
    found = open_checkpoint(path)
    assert found.arch == arch
    assert found.config.data.size == (224 if arch in ("resnet18", "mobilenetv2") else 32)
    assert all(torch.equal(a, b) for a, b in zip(found.encoder.parameters(), network.parameters(), strict=True))


@torch.no_grad()
def test_the_authors_mobilenet(tmp_path):
    width = 0.3
    network = random_network("mobilenetv2_cifar", 4)
    path = authors_file(tmp_path / "c.pth.tar", "us_cifar_mobilenetv2", network, network)
    payload = torch.load(path)
    # Their last BatchNorm is an ordinary one and tracks a mixture over widths.
    payload["state_dict"] |= prefixed(
        "module.encoder_q.features.18.1.",
        {"running_mean": torch.randn(1280), "running_var": torch.rand(1280), "num_batches_tracked": torch.tensor(9)},
    )
    torch.save(payload, path)
    found = open_checkpoint(path)
    for encoder in (network, found.encoder):
        calibrate(encoder, [width], [IMAGES])
    with at_width(network.eval(), width):
        assert torch.allclose(extract(found.encoder, width)(IMAGES), network(IMAGES), atol=1e-5)


@torch.no_grad()
def test_the_authors_vit(tmp_path):
    """Written out at a width: each linear layer reads the first features, everything else is a plain ViT with 6 heads."""
    student, teacher = (build("vit_tiny") for _ in range(2))
    path = authors_file(tmp_path / "c.pth.tar", "us_vit_tiny", student, teacher, "head", ("base_encoder", "momentum_encoder"))
    found, width = open_checkpoint(path), 0.3
    assert (found.arch, found.config.data.size, found.low) == ("vit_tiny", 224, 0.25)
    assert torch.equal(open_checkpoint(path, branch="teacher").encoder.blocks[3].mlp.fc1.weight, teacher.blocks[3].mlp.fc1.weight)
    source, x = student.state_dict(), torch.randn(1, 3, 224, 224)

    def linear(x, name):
        weight = source[f"{name}.weight"]
        kept = keep(weight.shape[1], width)
        return F.linear(x[..., :kept], weight[:, :kept], source[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (192,), source[f"{name}.weight"], source[f"{name}.bias"], 1e-6)

    y = F.conv2d(x, source["patch_embed.proj.weight"], source["patch_embed.proj.bias"], 16).flatten(2).transpose(1, 2)
    y = torch.cat([source["cls_token"], y], 1) + source["pos_embed"]
    for i in range(12):
        q, k, v = linear(norm(y, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").reshape(1, 197, 3, 6, 32).permute(2, 0, 3, 1, 4)
        attended = ((q @ k.transpose(-2, -1)) / 32**0.5).softmax(-1) @ v
        y = y + linear(attended.transpose(1, 2).reshape(1, 197, 192), f"blocks.{i}.attn.proj")
        y = y + linear(F.gelu(linear(norm(y, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
    assert torch.allclose(extract(found.encoder, width)(x), norm(y, "norm")[:, 0], atol=1e-5)


def used(network):
    """``network`` with running statistics and scales as after training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.uniform_(-0.3, 0.3)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    return network.eval()


def torchvision_features(network):
    """Its features: the input of the classifier."""
    seen = {}
    last = network.fc if hasattr(network, "fc") else network.classifier[-1] if hasattr(network, "classifier") else network.heads[-1]
    last.register_forward_pre_hook(lambda layer, inputs: seen.update(features=inputs[0]))

    def features(x):
        network(x)
        return seen["features"]

    return features


def timm_features(network):
    return lambda x: network.forward_head(network.forward_features(x), pre_logits=True)


def small_vit(library):
    if library == "timm":
        return timm.models.VisionTransformer(32, 8, embed_dim=192, depth=4, num_heads=3, num_classes=10, init_values=0.5)
    network = torchvision.models.VisionTransformer(32, 8, 4, 3, 192, 768, num_classes=10)
    nn.init.normal_(network.class_token)
    nn.init.normal_(network.heads.head.weight)
    return network


def grouped_resnet():
    """A small ResNeXt."""
    return torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=8)


DENSE = {
    "torchvision resnet18": (lambda: torchvision.models.resnet18(), torchvision_features, ("", None), "resnet", 32),
    "torchvision bottlenecks": (lambda: grouped_resnet(), torchvision_features, ("module.", "state_dict"), "resnet", 32),
    "torchvision mobilenet": (
        lambda: torchvision.models.mobilenet_v2(),
        torchvision_features,
        ("backbone.", None),
        "mobilenetv2_torchvision",
        32,
    ),
    "torchvision vit": (lambda: small_vit("torchvision"), torchvision_features, ("", "model"), "vit_torchvision", 32),
    "timm resnet18": (lambda: timm.create_model("resnet18"), timm_features, ("encoder.", "state_dict"), "resnet", 32),
    "timm mobilenet": (lambda: timm.create_model("mobilenetv2_100"), timm_features, ("", "model"), "mobilenetv2_timm", 32),
    "timm vit": (lambda: small_vit("timm"), timm_features, ("module.backbone.", "teacher"), "vit", 32),
}


@pytest.mark.parametrize("case", DENSE)
@torch.no_grad()
def test_dense_networks_of_torchvision_and_timm(tmp_path, case):
    make, features, (prefix, key), arch, size = DENSE[case]
    torch.manual_seed(5)
    source = used(make())
    state = prefixed(prefix, source.state_dict())
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "dense.pth")
    found = open_checkpoint(tmp_path / "dense.pth", branch="teacher" if key == "teacher" else "student")
    assert (found.arch, found.low, found.high, found.dense) == (arch, 1.0, 1.0, True)
    assert found.config.data.size == (32 if "vit" in case else 224)
    x = torch.randn(2, 3, size, size)
    expected = features(source)(x)
    dense = extract(found.encoder, 1.0)
    assert torch.allclose(dense(x), expected, atol=1e-5)
    maps = dense.stages(x)
    assert [m.shape[1] for m in maps] == found.encoder.stage_dims(1.0) and all(m.ndim == 4 for m in maps)
    if "vit" not in case:
        assert torch.allclose(maps[-1].mean((2, 3)), expected, atol=1e-5)
        assert [size // m.shape[-1] for m in maps] == [4, 8, 16, 32]
    measured = cost(found.encoder, 1.0, size)
    own = [p for name, p in source.named_parameters() if not name.startswith(("fc.", "head", "classifier."))]
    assert expected.shape[1] == found.encoder.feature_dim(1.0)
    assert measured.parameters == sum(p.numel() for p in own) and measured.flops > 0


@torch.no_grad()
def test_real_timm_sizes_get_timms_heads(tmp_path):
    for name, heads in (("vit_tiny_patch16_224", 3), ("vit_small_patch16_224", 6)):
        with torch.device("meta"):
            source = timm.create_model(name)
        state = {key: torch.zeros(tensor.shape) for key, tensor in source.state_dict().items()}
        torch.save(state, tmp_path / "vit.pth")
        network = open_checkpoint(tmp_path / "vit.pth").encoder.network
        assert network.blocks[0].attn.num_heads == heads == source.blocks[0].attn.num_heads
    # MoCo v3's own small ViT has 12.
    torch.save({"arch": "vit_small", "state_dict": prefixed("module.base_encoder.", state)}, tmp_path / "moco.pth")
    assert open_checkpoint(tmp_path / "moco.pth").encoder.network.blocks[0].attn.num_heads == 12


def test_a_network_is_taken_for_the_authors_by_its_prefix_alone_not_silently(tmp_path, capsys):
    """A ViT of MoCo v3 without its heads and its name looks the same, and is not slimmable."""
    path, state = tmp_path / "vit.pth", prefixed("module.base_encoder.", build("vit_micro").state_dict())
    torch.save({"state_dict": state}, path)
    assert open_checkpoint(path).low == 0.25
    note = capsys.readouterr().out
    assert (
        note.count("\n") == 1 and "slimmable vit_micro of US3L's authors" in note and str(path) in note and "--arch vit\n" in note
    )
    assert open_checkpoint(path, arch="vit").dense
    torch.save({"arch": "us_vit_micro", "state_dict": state}, path)
    capsys.readouterr()
    assert not open_checkpoint(path).dense and not capsys.readouterr().out


@torch.no_grad()
def test_others_files_of_both_kinds(tmp_path):
    """MoCo's ResNet has the authors' prefixes but running statistics; a 3x3 stem is CIFAR's; safetensors and half precision."""
    source = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    source = used(source)
    source.conv1, source.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    state = {name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name}
    save_file(prefixed("module.encoder_q.", state), tmp_path / "moco.safetensors")
    found = open_checkpoint(tmp_path / "moco.safetensors")
    assert found.dense and found.config.data.size == 32
    source.fc = nn.Identity()
    assert torch.allclose(extract(found.encoder, 1.0)(IMAGES), source(IMAGES), atol=1e-5)
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.safetensors")
    half = open_checkpoint(tmp_path / "half.safetensors").encoder
    assert half(IMAGES).dtype == torch.float32
    assert torch.allclose(half(IMAGES), source(IMAGES), atol=0.02)


def test_the_teacher_of_ones_own_checkpoint(tmp_path):
    cfg = config.load(
        "digits",
        [
            "model.arch=resnet_small",
            "objective.teacher=momentum",
            "model.projector_hidden=16",
            "model.projector_out=16",
            "model.predictor_hidden=16",
        ],
    )
    student, teacher = Student(cfg), Teacher(Student(cfg))
    payload = {
        "format": 1,
        "config": config.to_dict(cfg),
        "encoder": student.encoder.state_dict(),
        "epoch": 1,
        "teacher": teacher.state_dict(),
        "projector": student.projector.state_dict(),
    }
    torch.save(payload, tmp_path / "own.pt")
    for branch, source in (("student", student), ("teacher", teacher)):
        found = open_checkpoint(tmp_path / "own.pt", branch=branch)
        assert torch.equal(found.encoder.conv1.weight, source.encoder.conv1.weight)
        assert torch.equal(found.behind["0.weight"], source.projector[0].weight)
    torch.save(payload | {"teacher": None}, tmp_path / "own.pt")
    with pytest.raises(UserError, match=r"holds no teacher .* set --branch student"):
        open_checkpoint(tmp_path / "own.pt", branch="teacher")
    with pytest.raises(UserError, match="leave out --arch"):
        open_checkpoint(tmp_path / "own.pt", arch="resnet18")


def resnet18_state():
    with torch.device("meta"):
        state = torchvision.models.resnet18().state_dict()
    return {name: torch.zeros(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"layer2.0.conv1.weight": torch.zeros(5, 5)}),
            r"does not fit a dense resnet: layer2\.0\.conv1\.weight has shape \(5, 5\), expected \(128, 64, 3, 3\)",
        ),
        (lambda s: s.pop("bn1.running_mean"), r"bn1\.running_mean is missing"),
        (lambda s: s.update({"layer1.0.extra": torch.zeros(1)}), r"layer1\.0\.extra is not one of its parameters"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("layer1.")], r"first tensor is conv1\.weight"),
        (lambda s: s.clear(), "it holds no tensors"),
        (lambda s: s.update({f"other.{name}": tensor + 1 for name, tensor in s.items()}), r"networks \(\., other\); set --branch"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path, change, message):
    state = resnet18_state()
    change(state)
    torch.save(state, tmp_path / "f.pth")
    with pytest.raises(UserError, match=message) as error:
        open_checkpoint(tmp_path / "f.pth")
    assert "\n" not in str(error.value)


def test_authors_files_that_cannot_be_used(tmp_path, resnet_file):
    payload = torch.load(resnet_file[0])
    path = tmp_path / "c.pth.tar"
    torch.save(payload | {"arch": "us_cifar_resnet18"}, path)
    with pytest.raises(UserError, match=r"\(resnet18_cifar\): conv1\.weight has shape \(16, 3, 3, 3\), expected \(64, "):
        open_checkpoint(path)
    students = {name: tensor for name, tensor in payload["state_dict"].items() if "encoder_k" not in name}
    torch.save(payload | {"state_dict": students}, path)
    with pytest.raises(UserError, match="holds no teacher; set --branch student"):
        open_checkpoint(path, branch="teacher")
    with pytest.raises(UserError, match="unknown branch 'both'"):
        open_checkpoint(path, branch="both")
    with pytest.raises(UserError, match="unknown architecture 'us_cifar_resnet999'"):
        open_checkpoint(path, arch="us_cifar_resnet999")
    mobile = build("mobilenetv2")
    authors_file(path, "", mobile, mobile)
    with pytest.raises(UserError, match="which MobileNetV2 it is; set --arch mobilenetv2 or --arch mobilenetv2_cifar"):
        open_checkpoint(path)
    assert open_checkpoint(path, arch="us_cifar_mobilenetv2").arch == "mobilenetv2_cifar"


def test_broken_files(tmp_path):
    (tmp_path / "f.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all")
    with pytest.raises(UserError, match="not a safetensors file"):
        open_checkpoint(tmp_path / "f.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        open_checkpoint(tmp_path / "list.pt")
    torch.save(torchvision.models.resnet18, tmp_path / "code.pt")
    with pytest.raises(UserError, match=r"it holds no tensors but a torchvision\.models\.resnet\.resnet18; .*save"):
        open_checkpoint(tmp_path / "code.pt")
