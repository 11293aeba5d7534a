"""Checkpoints from elsewhere through the front door: scores at any width, or at 1.0 for dense networks."""

import pytest
import torch
import torchvision

from pretrain.checkpoints import open_checkpoint
from pretrain.data import evaluation_batches, load
from pretrain.models import build
from pretrain.slimmable import calibrate, extract
from rundir.errors import UserError
from transfer import run
from transfer.classification import Options, evaluate
from transfer.classification.knn import knn_predict
from transfer.classification.task import Task

OPTIONS = Options(size=16, limit=100)


@pytest.fixture(scope="module")
def authors(tmp_path_factory):
    """A file in the authors' format, its student and its teacher."""
    torch.manual_seed(0)
    student, teacher = build("resnet_small"), build("resnet_small")
    state = {
        f"module.{branch}.{name}": tensor
        for branch, network in (("encoder_q", student), ("encoder_k", teacher))
        for name, tensor in network.state_dict().items()
    }
    path = tmp_path_factory.mktemp("authors") / "checkpoint.pth.tar"
    torch.save({"epoch": 400, "arch": "us_small", "state_dict": state}, path)
    return path, student, teacher


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A torchvision ResNet's weights, and the network without its classifier."""
    torch.manual_seed(0)
    network = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    path = tmp_path_factory.mktemp("dense") / "resnet.pth"
    torch.save({"state_dict": network.state_dict()}, path)
    network.fc = torch.nn.Identity()
    return path, network.eval()


def accuracy(network):
    """k-NN accuracy on digits, by hand."""
    sides = {split: load("digits", split, None, 16, limit=100) for split in ("train", "val")}
    with torch.no_grad():
        train, val = (torch.cat([network(x) for x, _ in evaluation_batches(side, 16, 100, "cpu")]) for side in sides.values())
    predicted = knn_predict(train, sides["train"].labels, val, 10, 20, 0.07)
    return float((predicted == sides["val"].labels).float().mean())


def test_the_authors_file_is_scored_at_any_width(authors, tmp_path, capsys):
    path, *networks = authors
    arguments = [
        "classification",
        "--checkpoint",
        str(path),
        "--dataset",
        "digits",
        "--size",
        "16",
        "--limit",
        "100",
        "--protocol",
        "knn",
        "--device",
        "cpu",
        "--widths",
        "0.6",
        "0.25",
    ]
    for branch, network in zip(("student", "teacher"), networks, strict=True):
        assert run.main([*arguments, "--branch", branch, "--out", str(tmp_path / branch)]) == 0
        records = evaluate(
            path, "digits", None, [0.6, 0.25], ["knn"], device="cpu", options=OPTIONS, out=tmp_path / branch, branch=branch
        )
        images = load("digits", "train", None, 16, limit=100)
        order = torch.randperm(100, generator=torch.Generator().manual_seed(100))  # the default seed
        calibrate(network, [0.6, 0.25], (x for x, _ in evaluation_batches(images, 16, 100, "cpu", order)))
        for record in records:
            assert record["value"] == pytest.approx(accuracy(extract(network, record["width"])), abs=0.005)
            assert record["parameters"] == sum(p.numel() for p in extract(network, record["width"]).parameters())
    assert "scores: " in capsys.readouterr().out


def test_a_dense_network_is_scored_with_its_own_statistics(dense, tmp_path):
    path, network = dense
    (record,) = evaluate(path, "digits", None, None, ["knn"], device="cpu", options=OPTIONS, out=tmp_path)
    assert record["width"] == 1.0
    assert record["value"] == pytest.approx(accuracy(network), abs=0.005)
    assert record["parameters"] == sum(p.numel() for p in network.parameters())


def test_a_dense_backbone_keeps_its_statistics_and_takes_one_width(dense):
    path, network = dense
    backbone = open_checkpoint(path)
    assert (backbone.dense, backbone.default_widths(), backbone.run_dir, backbone.finished) == (True, [1.0], None, True)
    Task(backbone, "digits", None, OPTIONS, torch.device("cpu")).prepare([1.0])
    assert torch.equal(backbone.at(1.0).network.bn1.running_mean, network.bn1.running_mean)
    assert backbone.fingerprint() == open_checkpoint(path).fingerprint()
    for widths in ([0.5], [1.0, 1.0]):
        with pytest.raises(UserError, match=r"is a dense resnet, not a slimmable one; set --widths 1\.0"):
            backbone.check_widths(widths)


def test_sizes_of_vits(tmp_path):
    students = {f"module.base_encoder.{name}": tensor for name, tensor in build("vit_micro").state_dict().items()}
    torch.save({"arch": "us_vit_micro", "state_dict": students}, tmp_path / "authors.pth")
    backbone = open_checkpoint(tmp_path / "authors.pth")
    backbone.check_size(24)
    with pytest.raises(UserError, match=r"data\.size=18 does not suit .*set data\.size=16, or another multiple of 4"):
        backbone.check_size(18)
    state = torchvision.models.VisionTransformer(32, 8, 4, 3, 192, 96).state_dict()
    torch.save(state, tmp_path / "vit.pth")
    backbone = open_checkpoint(tmp_path / "vit.pth")
    backbone.check_size(32)
    with pytest.raises(UserError, match=r"data\.size=64 does not suit .*set data\.size=32"):
        backbone.check_size(64)


def test_what_a_foreign_file_does_not_say_is_asked_for(authors, dense, tmp_path):
    with pytest.raises(UserError, match="does not say which data it was trained on; set --dataset NAME"):
        evaluate(authors[0], device="cpu", out=tmp_path)
    with pytest.raises(UserError, match="set --out DIR for its scores"):
        evaluate(dense[0], "digits", device="cpu")
    with pytest.raises(UserError, match=r"outside the trained range \[0\.25, 1\.0\]"):
        open_checkpoint(authors[0]).check_widths([0.1])
    with pytest.raises(UserError, match="no BatchNorm statistics for width"):
        open_checkpoint(authors[0]).at(0.5)
