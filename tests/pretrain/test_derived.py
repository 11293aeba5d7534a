"""Networks made without training: what their weights and statistics are, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from pretrain.calibration import calibration_images
from pretrain.checkpoints import files as checkpoint
from pretrain.checkpoints import open_checkpoint
from pretrain.config import config_hash, from_dict, load, to_dict
from pretrain.data import load as load_images
from pretrain.models import build
from pretrain.objective.networks import Student
from pretrain.slimmable import at_width, calibrate, load_calibration_state
from pretrain.training import pretrain
from rundir.directory import RunDirectory
from rundir.errors import UserError
from transfer.classification import evaluate

SIZES = [
    "model.projector_layers=2",
    "model.projector_hidden=16",
    "model.projector_out=8",
    "model.predictor_hidden=16",
    "optimizer.epochs=1",
    "optimizer.batch_size=32",
    "data.limit=64",
    "data.size=8",
    "diagnostics.images=0",
    "calibration.images=48",
    "calibration.widths=[1.0,0.5]",
    "train.device=cpu",
    "train.threads=1",
]


def made(path, *more):
    cfg = load("digits", [*SIZES, "objective.distill_loss=none", *more])
    pretrain(cfg, path)
    return checkpoint.load(path / "checkpoint.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network of width 1.0 alone."""
    path = tmp_path_factory.mktemp("runs") / "individual-s100-01234567"
    made(path, "widths.min=1.0")
    return path


def network(payload):
    encoder = build("resnet_small")
    encoder.load_state_dict(payload["encoder"])
    load_calibration_state(encoder, payload["calibration"])
    return encoder.eval()


def images():
    cfg = load("digits", SIZES)
    source = load_images("digits", "train", None, 8, limit=64)
    return source, cfg, torch.cat(list(calibration_images(source, cfg, torch.device("cpu"))))


def test_sliced_is_the_same_network_calibrated_at_narrower_widths(trained, tmp_path):
    payload = made(tmp_path / "a", "derived.network=sliced", f"derived.source={trained}")
    before = checkpoint.load(trained / "checkpoint.pt")
    for part in ("encoder", "projector"):
        assert all(torch.equal(payload[part][name], tensor) for name, tensor in before[part].items())
    assert set(payload["calibration"]) == {"1.0", "0.5", "0.25"}
    expected = network({**before, "calibration": {}})
    calibrate(expected, [0.5], [images()[2]])
    for name, moments in payload["calibration"]["0.5"].items():
        mean, variance = expected.get_submodule(name).statistics_at(0.5)
        torch.testing.assert_close(moments["mean"], mean)
        torch.testing.assert_close(moments["variance"], variance)
    assert not (tmp_path / "a" / "metrics.jsonl").exists()  # diagnostics are off
    provenance = RunDirectory(tmp_path / "a").provenance()
    assert provenance["train_flops"] == 0 and RunDirectory(tmp_path / "a").status()["trained"]


def test_without_calibration_narrow_widths_have_the_first_of_the_full_statistics(trained, tmp_path):
    payload = made(tmp_path / "a", "derived.network=sliced", f"derived.source={trained}", "derived.calibrate=false")
    for width, layers in payload["calibration"].items():
        for name, moments in layers.items():
            full = payload["calibration"]["1.0"][name]
            assert all(torch.equal(moments[key], full[key][: len(moments[key])]) for key in full), width
    # At a width that the checkpoint has no statistics of too.
    backbone = open_checkpoint(tmp_path / "a")
    backbone.calibrate([0.75], [images()[2]])
    norm = backbone.encoder.bn1
    assert torch.equal(norm.statistics_at(0.75)[0], norm.statistics_at(1.0)[0][: len(norm.statistics_at(0.75)[0])])


@pytest.mark.parametrize("importance", ["weights", "variance", "svd"])
def test_pruned_computes_the_same_at_full_width_and_something_else_below(trained, tmp_path, importance):
    sliced = network(made(tmp_path / "a", "derived.network=sliced", f"derived.source={trained}"))
    payload = made(tmp_path / "b", "derived.network=pruned", f"derived.source={trained}", f"derived.importance={importance}")
    pruned, x = network(payload), images()[2]
    projector = Student(from_dict(payload["config"])).projector
    with torch.no_grad():
        projector.load_state_dict(checkpoint.load(trained / "checkpoint.pt")["projector"])
        before = projector(sliced(x))
        projector.load_state_dict(payload["projector"])
        torch.testing.assert_close(projector(pruned(x)), before, rtol=1e-5, atol=1e-5)
        with at_width(pruned, 0.5), at_width(sliced, 0.5):
            assert not torch.allclose(pruned(x), sliced(x), atol=1e-3)


def test_the_widest_filters_come_first(trained, tmp_path):
    weights = made(tmp_path / "a", "derived.network=pruned", f"derived.source={trained}")["encoder"]
    norms = weights["layer2.0.conv1.weight"].flatten(1).norm(dim=1)
    assert (norms.diff() <= 1e-6).all() and norms[0] > norms[-1]


def test_untrained_is_what_training_with_this_seed_begins_with(tmp_path):
    payload = made(tmp_path / "a", "derived.network=untrained", "seed=7", "diagnostics.images=32", "diagnostics.widths=[1.0,0.5]")
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    found = {(line["name"], line["width"]): line["value"] for line in lines}
    assert {(name, width) for name in ("feature_std", "effective_rank") for width in (1.0, 0.5)} <= set(found)
    assert all(line["step"] == line["epoch"] == 0 for line in lines) and found["effective_rank", 1.0] > 1
    torch.manual_seed(7)
    expected = Student(from_dict(payload["config"])).encoder.state_dict()
    assert all(torch.equal(payload["encoder"][name], tensor) for name, tensor in expected.items())


def test_they_are_evaluated_like_any_run_and_their_scores_are_kept(trained, tmp_path):
    made(tmp_path / "a", "derived.network=sliced", f"derived.source={trained}")
    records = evaluate(tmp_path / "a", widths=[1.0, 0.5], protocols=["knn"], device="cpu")
    assert [record["width"] for record in records] == [1.0, 0.5]
    assert len(json.loads((tmp_path / "a" / "result.json").read_text())["records"]) == 2
    same = evaluate(trained, widths=[1.0], protocols=["knn"], device="cpu")
    assert records[0]["value"] == same[0]["value"]


def test_the_other_run_counts_by_name_and_old_configs_keep_their_hash(trained):
    def named(path):
        return config_hash(load("digits", ["derived.network=sliced", f"derived.source={path}"]))

    assert named("runs/a/x-s100-0") == named("elsewhere/x-s100-0") == named("runs/a/x-s100-0/checkpoint.pt") != named("runs/a/y")
    plain = load("digits", [])
    old = to_dict(plain)
    old.pop("derived")
    assert config_hash(from_dict(old)) == config_hash(plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["derived.network=sliced"], "set derived.source=RUN_DIRECTORY"),
        (["derived.source=x"], "set derived.network=sliced or pruned"),
        (["derived.network=untrained", "derived.source=x"], "set derived.network=sliced or pruned"),
        (["derived.network=sliced", "derived.source=x", "derived.calibrate=false", "model.arch=vit_micro"], "has no BatchNorm"),
        (["derived.network=untrained", "derived.calibrate=maybe"], "derived.calibrate"),
        (["derived.network=chopped"], "set one of none, untrained, sliced, pruned"),
        (
            ["derived.network=pruned", "derived.source=x", "model.switchable_bn=true", "widths.sampling=fixed"],
            "switchable_bn=false",
        ),
    ],
)
def test_settings_that_make_no_network_are_refused(settings, message):
    with pytest.raises(UserError, match=message) as error:
        load("digits", settings)
    assert "\n" not in str(error.value)


def test_what_it_cannot_be_made_from_is_refused_and_nothing_is_left(trained, tmp_path):
    cases = {
        "derived.source=nowhere": "there is no checkpoint",
        "model.projector_hidden=24": "set model.projector_hidden=16",
        "widths.max=0.5": "is not the full width of",
    }
    for text, message in cases.items():
        with pytest.raises(UserError, match=message):
            made(tmp_path / "a", "derived.network=sliced", f"derived.source={trained}", text)
        assert not (tmp_path / "a").exists()
