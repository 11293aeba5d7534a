"""The door: what comes out of a checkpoint, and what is refused."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrain import config
from pretrain.checkpoints import files as checkpoint
from pretrain.checkpoints import open_checkpoint
from pretrain.models import build
from pretrain.slimmable import at_width
from rundir.errors import UserError
from transfer.classification import Options
from transfer.classification.sgd import Classifier
from transfer.classification.task import Task

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def rewritten(run_directory, change):
    """The run directory with ``change`` made to the payload of its checkpoint."""
    payload = checkpoint.load(run_directory / "checkpoint.pt")
    change(payload)
    torch.save(payload, run_directory / "checkpoint.pt")
    return run_directory / "checkpoint.pt"


@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_dense_network_equals_the_slimmable_one(trained, width):
    backbone = open_checkpoint(trained)
    dense = backbone.at(width)
    with torch.no_grad(), at_width(backbone.encoder.eval(), width):
        expected = backbone.encoder(IMAGES)
        assert torch.allclose(dense(IMAGES), expected, atol=1e-5)
    assert expected.shape[1] == backbone.feature_dim(width)
    assert sum(p.numel() for p in dense.parameters()) == backbone.cost(width).parameters
    assert not dense.training


def test_dense_network_is_a_copy(trained):
    backbone = open_checkpoint(trained)
    before = backbone.fingerprint()
    with torch.no_grad():
        for parameter in backbone.at(0.5).parameters():
            parameter.zero_()
    assert backbone.fingerprint() == before


def test_what_is_known_about_a_checkpoint(trained):
    backbone = open_checkpoint(trained / "checkpoint.pt")
    assert (backbone.arch, backbone.seed, backbone.low, backbone.high) == ("resnet_small", 100, 0.25, 1.0)
    assert backbone.calibrated == backbone.default_widths() == [1.0, 0.75, 0.5, 0.25]
    assert backbone.run_dir == trained
    assert backbone.finished
    assert open_checkpoint(trained).run_dir == trained
    assert open_checkpoint(trained).fingerprint() == backbone.fingerprint()


def test_statistics_computed_later_are_those_of_pretraining(run_directory, trained):
    path = rewritten(run_directory, lambda payload: payload.update(calibration={}))
    backbone = open_checkpoint(path)
    assert backbone.calibrated == []
    assert backbone.default_widths() == [1.0, 0.75, 0.5, 0.25]
    Task(backbone, None, None, Options(limit=256), torch.device("cpu")).prepare([1.0, 0.5])  # its pretraining had 256 too
    stored = open_checkpoint(trained)
    for width in (1.0, 0.5):  # pretraining computes with another memory layout, hence with other rounding
        assert torch.allclose(backbone.at(width)(IMAGES), stored.at(width)(IMAGES), atol=1e-3)


def test_another_width_is_calibrated_on_what_is_given(trained):
    backbone = open_checkpoint(trained)
    with pytest.raises(UserError, match=r"no BatchNorm statistics for width 0\.6"):
        backbone.at(0.6)
    from_iterable = backbone.at(0.6, [IMAGES])
    from_callable = open_checkpoint(trained).at(0.6, lambda: iter([IMAGES]))
    assert torch.equal(from_iterable(IMAGES), from_callable(IMAGES))
    # Calibrated on one batch: the first BatchNorm has that batch's mean.
    first = torch.nn.functional.conv2d(IMAGES, from_iterable.conv1.weight, padding=1)
    assert torch.allclose(from_iterable.bn1.running_mean, first.mean((0, 2, 3)), atol=1e-5)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([], "names no width"),
        ([1.5], "outside the trained range"),
        ([0.2], "outside the trained range"),
        ([float("nan")], "outside the trained range"),
        ([0.5, 0.5], "same channels"),
        ([0.5, 0.501], "same channels"),
    ],
)
def test_widths_that_cannot_be_used(trained, widths, message):
    with pytest.raises(UserError, match=message):
        open_checkpoint(trained).check_widths(widths)


def test_a_size_without_whole_patches(tmp_path):
    cfg = config.load("digits", ["model.arch=vit_micro", "data.size=16"])
    torch.save({"format": 1, "config": config.to_dict(cfg), "encoder": build("vit_micro").state_dict()}, tmp_path / "vit.pt")
    backbone = open_checkpoint(tmp_path / "vit.pt")
    backbone.check_size(24)
    with pytest.raises(UserError, match=r"data\.size=18 is not a whole number"):
        backbone.check_size(18)
    assert backbone.is_calibrated(0.3)  # there is no BatchNorm
    assert backbone.at(0.5)(IMAGES).shape == (6, backbone.feature_dim(0.5))
    tuned = Classifier(backbone.at(0.5), backbone.feature_dim(0.5), 10, seed=1, frozen=False)
    assert not tuned.encoder.pos_embed.requires_grad


def test_truncated_checkpoint_falls_back_to_the_one_before(run_directory):
    path = run_directory / "checkpoint.pt"
    shutil.copy(path, run_directory / "checkpoint.previous.pt")
    path.write_bytes(path.read_bytes()[:1000])
    assert open_checkpoint(run_directory).arch == "resnet_small"
    with pytest.raises(UserError, match="truncated or not a torch file"):
        open_checkpoint(path)


def test_a_checkpoint_outside_its_run_directory_belongs_to_none(run_directory, tmp_path):
    shutil.copy(run_directory / "checkpoint.pt", tmp_path / "copy.pt")
    assert open_checkpoint(tmp_path / "copy.pt").run_dir is None
    written = yaml.safe_load((run_directory / "config.yaml").read_text())
    (run_directory / "config.yaml").write_text(yaml.safe_dump(written | {"seed": 7}))  # now another run's directory
    assert open_checkpoint(run_directory).run_dir is None


def test_foreign_files(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        open_checkpoint(tmp_path / "nowhere.pt")
    with pytest.raises(UserError, match="there is no checkpoint in"):
        open_checkpoint(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        open_checkpoint(tmp_path / "foreign.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(UserError, match=r"its first tensor is weight"):
        open_checkpoint(tmp_path / "module.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["encoder"].update({"layer1.0.conv1.weight": torch.zeros(1)}), r"layer1\.0\.conv1\.weight has shape \(1,\), "),
        (lambda p: p["encoder"].pop("bn1.bias"), r"bn1\.bias is missing"),
        (lambda p: p["encoder"].update(extra=torch.zeros(1)), "extra is not one of its parameters"),
        (lambda p: p["calibration"]["0.5"].update(unknown={}), "BatchNorm statistics"),
        (lambda p: p.pop("config"), "holds no config"),
        (lambda p: p["config"]["model"].update(arch="vgg"), "vgg"),
    ],
)
def test_what_does_not_fit_is_named(run_directory, change, message):
    path = rewritten(run_directory, change)
    with pytest.raises(UserError, match=message):
        open_checkpoint(path)


ODD = [
    None,
    -1,
    1e400,
    float("nan"),
    "x",
    "a\nb",
    [],
    {},
    [1, 2],
    {"a": 1},
    torch.ones(2),
    True,
    2**80,
    b"a",
    (1,),
    {1: 2},
    {"0.5": 3},
]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_checkpoint_with_anything_changed_opens_or_ends_in_one_line(trained, tmp_path, data):
    payload = checkpoint.load(trained / "checkpoint.pt")
    part, key = payload, data.draw(st.sampled_from(sorted(payload)))
    while isinstance(part[key], dict) and part[key] and data.draw(st.booleans()):
        part[key] = dict(part[key])
        part, key = part[key], data.draw(st.sampled_from(sorted(part[key], key=str)))
    part[key] = data.draw(st.sampled_from(ODD))
    torch.save(payload, tmp_path / "odd.pt")
    for branch in ("student", "teacher"):
        try:
            found = open_checkpoint(tmp_path / "odd.pt", branch=branch)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
        else:
            assert found.default_widths() and found.fingerprint()


def test_opening_leaves_the_random_state_as_it_was(trained):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    open_checkpoint(trained)
    assert torch.equal(torch.rand(3), expected)


def test_statistics_that_cannot_be_used(run_directory):
    for change, message in (
        (
            lambda c: c["0.5"]["bn1"].update(mean=torch.full_like(c["0.5"]["bn1"]["mean"], float("nan"))),
            r"the mean of bn1 at width 0\.5 holds NaN",
        ),
        (lambda c: c["0.5"]["bn1"].update(mean=torch.zeros(3)), r"bn1 at width 0\.5 has \d+ channels"),
    ):
        path = rewritten(run_directory, lambda payload, change=change: change(payload["calibration"]))
        with pytest.raises(UserError, match=message):
            open_checkpoint(path)


def test_a_directory_that_holds_a_file_of_others(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"give a run directory that holds a checkpoint\.pt, or .*model\.safetensors"):
        open_checkpoint(tmp_path)
