"""What is exported computes what the network does, without this project: by the loaders in docs/export.md and by onnxruntime."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain import config, export
from pretrain.calibration import calibrate_on
from pretrain.data import load
from pretrain.models import build
from pretrain.slimmable import Subnet, calibrate, calibration_state, extract
from pretrain.slimmable.base import resized
from rundir.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
LOADERS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
SIZES = {
    "resnet_medium": 16,
    "resnet_small_elastic": 16,
    "mobilenetv2_cifar_elastic": 32,
    "resnet_small": 16,
    "resnet18": 32,
    "mobilenetv2_cifar": 32,
    "mobilenetv2": 32,
    "vit_micro": 16,
    "vit_micro_heads": 16,
}


def checkpoint_of(arch, folder, widths):
    """A checkpoint of random weights that is calibrated at ``widths``, and its encoder."""
    torch.manual_seed(0)
    size = SIZES[arch]
    encoder = build(arch)
    calibrate(encoder, widths, [torch.randn(8, 3, size, size)])
    cfg = config.load("digits", [f"model.arch={arch}", f"data.size={size}"])
    payload = {
        "format": 1,
        "config": config.to_dict(cfg),
        "encoder": encoder.state_dict(),
        "epoch": 1,
        "calibration": calibration_state(encoder),
    }
    torch.save(payload, folder / "checkpoint.pt")
    return folder / "checkpoint.pt", encoder


def loaded(folder, loader):
    """The network that the documented code makes of ``folder``."""
    names = {}
    exec(LOADERS[loader], names)
    return names["load"](str(folder))


def test_the_documented_loaders_need_nothing_of_this_project():
    assert len(LOADERS) == 3
    imports = re.findall(r"^(?:import|from) (\w+)", "\n".join(LOADERS), re.MULTILINE)
    assert set(imports) == {"json", "torch", "torchvision", "timm", "safetensors"}


@pytest.mark.parametrize(
    ("arch", "width", "loader"),
    [
        ("resnet_small", 1.0, 0),
        ("resnet_small", 0.6, 0),
        ("resnet_small", 0.25, 0),
        ("resnet18", 0.55, 0),
        ("mobilenetv2_cifar", 0.4, 0),
        ("mobilenetv2", 0.25, 0),
        ("vit_micro", 1.0, 1),
        ("vit_micro_heads", 0.5, 1),
        ("vit_micro_heads", 0.25, 1),
    ],
)
@torch.no_grad()
def test_the_weights_load_without_slimmable_layers(tmp_path, arch, width, loader):
    path, encoder = checkpoint_of(arch, tmp_path, [width])
    written = export.export(path, width, tmp_path / "out", ["safetensors"])
    assert [p.name for p in written] == ["config.json", "model.safetensors"]
    x = torch.randn(3, 3, SIZES[arch], SIZES[arch])
    network = loaded(tmp_path / "out", loader)
    features = network(x)
    assert torch.allclose(features, extract(encoder, width)(x), atol=1e-5)
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (described["arch"], described["width"], described["size"]) == (arch, width, SIZES[arch])
    assert described["features"] == features.shape[1] and described["channels"] == encoder.stage_dims(width)
    assert described["mean"] == [0.3055] * 3 and described["std"] == [0.3762] * 3
    assert described["parameters"] == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("arch", "width"),
    [
        ("resnet_small", 0.5),
        *(
            pytest.param(arch, width, marks=pytest.mark.slow)
            for arch, width in (
                ("resnet_small", 1.0),
                ("resnet_small", 0.3),
                ("resnet18", 0.25),
                ("mobilenetv2_cifar", 1.0),
                ("mobilenetv2_cifar", 0.35),
                ("vit_micro", 1.0),
                ("vit_micro", 0.3),
                ("vit_micro_heads", 0.5),
            )
        ),
    ],
)
@torch.no_grad()
def test_onnx_computes_the_same(tmp_path, arch, width):
    import onnxruntime

    path, encoder = checkpoint_of(arch, tmp_path, [width])
    (_, written) = export.export(path, width, tmp_path / "out", ["onnx"])
    session = onnxruntime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
    dense = extract(encoder, width)
    for count in (1, 2, 5):
        x = torch.randn(count, 3, SIZES[arch], SIZES[arch])
        assert np.allclose(session.run(["features"], {"images": x.numpy()})[0], dense(x).numpy(), atol=1e-4)
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("arch", "text", "loader", "size"),
    [
        ("resnet_medium", "w[1,.75,.5,.5]d[2,1,2,1]", 0, 16),
        ("resnet_medium", "w0.5d[1,1,1,1]r12", 0, 12),
        ("resnet_small_elastic", "w[.5,1,.5,1]d[1,2,1,2]k[3,5,3,5]", 0, 16),
        ("mobilenetv2_cifar_elastic", "w[1,.5,.75,.5,1,.5,1]d[1,1,2,3,3,1,1]k[3,5,7,5,3,3,7]", 0, 32),
        ("vit_micro_heads", "w0.5d[1,0,1,1]m[2,2,2,2]r8", 1, 8),
        ("vit_micro_heads", "w1h[4,2,4,4]", 2, 16),
        ("vit_micro", "w0.5d[1,1,0,1]h[1,2,1,2]r12", 2, 12),
        ("vit_micro_heads", "w0.5p0.5", 2, 16),
        ("vit_micro", "w1r8p0.5", 2, 8),
    ],
)
@torch.no_grad()
def test_a_sub_network_is_an_ordinary_network(tmp_path, arch, text, loader, size):
    subnet = Subnet.parse(text)
    path, encoder = checkpoint_of(arch, tmp_path, [subnet])
    export.export(path, subnet, tmp_path / "out", ["safetensors"])
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (described["width"], described["subnet"], described["size"]) == (None, str(subnet), size)
    images = torch.randn(3, 3, SIZES[arch], SIZES[arch])
    inputs = resized(images, size)
    features = loaded(tmp_path / "out", loader)(inputs)
    assert torch.allclose(features, extract(encoder, subnet)(images), atol=1e-5)
    assert described["features"] == features.shape[1]
    if loader == 0:
        assert described["parameters"] == sum(p.numel() for p in loaded(tmp_path / "out", loader).parameters())


@pytest.mark.parametrize(
    ("arch", "text"),
    [("resnet_small_elastic", "w[1,.5,.5,1]d[1,2,1,2]k[3,5,3,3]r12"), ("vit_micro_heads", "w0.5d[1,0,1,1]r12p0.4")],
)
@torch.no_grad()
def test_a_sub_network_runs_in_onnxruntime(tmp_path, arch, text):
    import onnxruntime

    path, encoder = checkpoint_of(arch, tmp_path, [0.5])
    arguments = ["--checkpoint", str(path), "--width", text, "--out", str(tmp_path / "out"), "--format", "onnx"]
    assert export.main(arguments) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    cfg, subnet = config.load("digits", [f"model.arch={arch}", "data.size=16"]), Subnet.parse(text)
    calibrate_on(encoder, [subnet], load("digits", "train", None, 16), cfg)
    x = torch.randn(2, 3, 16, 16)
    found = session.run(["features"], {"images": resized(x, 12).numpy()})[0]
    assert np.allclose(found, extract(encoder, subnet)(x).numpy(), atol=1e-4)


@torch.no_grad()
def test_a_vit_that_no_library_has_gets_a_program(tmp_path):
    path, encoder = checkpoint_of("vit_micro", tmp_path, [])
    written = export.export(path, 0.4, tmp_path / "out", ["safetensors"])
    assert [p.name for p in written] == ["config.json", "model.safetensors", "model.pt2"]
    assert json.loads(written[0].read_text())["network"] is None
    program, dense = loaded(tmp_path / "out", 2), extract(encoder, 0.4)
    for count in (1, 4):
        x = torch.randn(count, 3, 16, 16)
        assert torch.allclose(program(x), dense(x), atol=1e-5)


@torch.no_grad()
def test_a_width_without_statistics_is_calibrated_on_the_data_of_pretraining(tmp_path, capsys):
    path, encoder = checkpoint_of("resnet_small", tmp_path, [1.0])
    export.export(path, 0.5, tmp_path / "out", ["safetensors"])
    assert "calibrating width 0.5 on digits at 16 pixels" in capsys.readouterr().out
    x = torch.randn(2, 3, 16, 16)
    features = loaded(tmp_path / "out", 0)(x)
    cfg = config.load("digits", ["model.arch=resnet_small", "data.size=16"])
    calibrate_on(encoder, [0.5], load("digits", "train", None, 16), cfg)
    assert torch.allclose(features, extract(encoder, 0.5)(x), atol=1e-5)


def test_a_program_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    path, _ = checkpoint_of("resnet_small", tmp_path, [0.5])
    monkeypatch.setattr(torch.onnx, "export", lambda network, inputs, path, **rest: Path(path).write_bytes(b"x"))
    monkeypatch.setattr(export, "_onnx_session", lambda path: lambda x: np.zeros((len(x), 64), np.float32) + 0.5)
    with pytest.raises(UserError, match=r"the ONNX program differs from the network by .*: not kept"):
        export.export(path, 0.5, tmp_path / "out", ["onnx"])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["config.json"]


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path, monkeypatch):
    path, _ = checkpoint_of("resnet_small", tmp_path, [0.5])
    (tmp_path / "vit").mkdir()
    vit, _ = checkpoint_of("vit_micro", tmp_path / "vit", [])
    for arguments, message in [
        ((path, 0.1, tmp_path / "out"), r"--width: 0\.1 is outside the trained range \[0\.25, 1\.0\]"),
        ((tmp_path / "none.pt", 0.5, tmp_path / "out"), "there is no checkpoint"),
        ((path, 0.5, path), "cannot write files to .* give another --out DIR"),
    ]:
        with pytest.raises(UserError, match=message):
            export.export(*arguments)
    with pytest.raises(UserError, match=r"size=18 is not a whole number of the 4-pixel patches of vit_micro"):
        export.export(vit, 0.5, tmp_path / "out", size=18)
    with pytest.raises(UserError, match="unknown data set 'digit'"):
        export.export(path, 0.5, tmp_path / "out", dataset="digit")
    present = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else present(name))
    with pytest.raises(UserError, match=r"writing onnx needs onnxscript, .* pip install 'us3l-bench\[export\]'"):
        export.export(path, 0.5, tmp_path / "out", ["onnx"])


def test_an_authors_file_needs_data_to_calibrate_on(tmp_path):
    torch.manual_seed(0)
    state = {f"module.encoder_q.{name}": tensor for name, tensor in build("resnet_small").state_dict().items()}
    torch.save({"epoch": 1, "arch": "us_small", "state_dict": state}, tmp_path / "c.pth.tar")
    with pytest.raises(UserError, match="has no BatchNorm statistics; set --dataset NAME"):
        export.export(tmp_path / "c.pth.tar", 0.5, tmp_path / "out", ["safetensors"])
    export.export(tmp_path / "c.pth.tar", 0.5, tmp_path / "out", ["safetensors"], dataset="digits", size=16)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["size"] == 16


@pytest.mark.slow
def test_the_command(tmp_path):
    path, _ = checkpoint_of("resnet_small", tmp_path, [0.5])
    command = [sys.executable, str(ROOT / "pretrain" / "export.py"), "--checkpoint", str(path), "--width", "0.5", "--out"]
    done = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "model.onnx", "model.safetensors"]
    assert done.stdout.count("written: ") == 3
    failed = subprocess.run([*command, str(path)], capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.startswith("error: cannot write files to") and failed.stderr.count("\n") == 1
