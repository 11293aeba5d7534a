"""From a real checkpoint to records of its features, and the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from pretrain import config
from pretrain.checkpoints import open_checkpoint
from pretrain.objective.sampling import sample_widths
from pretrain.slimmable import at_width
from pretrain.training import pretrain
from pretrain.updates import channel_updates
from rundir.errors import UserError
from tests.transfer.conftest import TINY
from transfer.analysis import Options, analyse, evaluation, measures
from transfer.analysis.evaluation import Subject
from transfer.run import main

QUICK = Options(images=48, pairs=2, neighbours=5)
WORDS = ["analysis", "--images", "48", "--pairs", "2", "--neighbours", "5"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A network trained for width 0.5 alone."""
    directory = tmp_path_factory.mktemp("pretrained") / "alone"
    pretrain(
        config.load(
            "digits",
            [
                *TINY,
                "widths.min=0.5",
                "widths.max=0.5",
                "objective.distill_loss=none",
                "evaluation.widths=[0.5]",
                "calibration.widths=[0.5]",
            ],
        ),
        directory,
    )
    return directory


def values(records):
    return {(record["metric"], record["width"]): record["value"] for record in records}


def test_records_of_every_measure_and_width(run_directory):
    records = analyse(run_directory, widths=[1.0, 0.5], options=QUICK)
    assert json.loads((run_directory / "result.json").read_text())["records"] == records
    found = values(records)
    alike = ("alignment", "uniformity", "rankme", "lidar", "updates")
    assert set(found) == {(name, width) for name in alike for width in (1.0, 0.5)} | {
        (name, 0.5) for name in ("cka_full", "overlap_full", "order_first")
    }
    for record in records:
        assert {name: record[name] for name in ("task", "dataset", "count", "seed", "changed")} == {
            "task": "analysis",
            "dataset": "digits",
            "count": 48,
            "seed": 100,
            "changed": {"images": 48, "pairs": 2, "neighbours": 5},
        }
    assert 1 < found["rankme", 0.5] < found["rankme", 1.0] < 48
    assert (found["updates", 1.0], found["updates", 0.5]) == (2, 4)  # two steps, each of 1.0, of one above 0.5, and of 0.25


def test_values_are_those_of_the_network_itself(run_directory):
    found = values(analyse(run_directory, widths=[1.0, 0.5], options=QUICK))
    checkpoint = open_checkpoint(run_directory)
    subject = Subject(checkpoint, None, None, QUICK, torch.device("cpu"))
    images = torch.cat([x for x, _ in subject.task.batches(subject.task.train, subject.indices)])
    encoder = checkpoint.encoder.eval()
    with torch.no_grad():
        features = {}
        for width in (1.0, 0.5):
            with at_width(encoder, width):
                features[width] = encoder(images)
    assert found["rankme", 0.5] == pytest.approx(measures.rankme(features[0.5]), rel=1e-4)
    assert found["cka_full", 0.5] == pytest.approx(measures.linear_cka(features[0.5], features[1.0]), rel=1e-4)
    first = features[1.0][:, : features[0.5].shape[1]]
    assert found["order_first", 0.5] == pytest.approx(measures.order_agreement(first, features[1.0]), abs=1e-4)


def test_views_are_of_the_same_images_in_the_same_order(run_directory):
    """Without augmentation two views are the image itself, so that they have its own features."""
    checkpoint = open_checkpoint(run_directory)
    augment = checkpoint.config.augment
    augment.crop_scale, augment.crop_ratio, augment.jitter_p, augment.grayscale_p = [1.0, 1.0], [1.0, 1.0], 0.0, 0.0
    subject = Subject(checkpoint, None, None, Options(images=49, batch_size=16), torch.device("cpu"))
    assert subject.count == 48  # a last batch of one image has no views
    plain, views = subject.plain([1.0])[1.0], subject.views([1.0])[1.0]
    assert views.shape == (48, 8, plain.shape[1])
    assert torch.allclose(views, views[:, :1].expand_as(views), atol=1e-4)
    nearest = torch.cdist(views[:, 0].double(), plain.double()).argmin(1)  # the test crop differs a little
    assert (nearest == torch.arange(48)).double().mean() > 0.9


def test_a_network_trained_for_one_width_is_compared_with_that_width(run_directory, alone):
    records = analyse(run_directory, widths=[1.0, 0.5], options=QUICK, against=[alone])
    found = values(records)
    assert 0 < found["cka_individual", 0.5] < 1 and ("cka_individual", 1.0) not in found
    assert values(analyse(alone, options=QUICK, against=[alone]))["cka_individual", 0.5] == pytest.approx(1)
    with pytest.raises(UserError, match=r"works at widths 0.25 to 1; give networks trained for one width each"):
        analyse(run_directory, widths=[1.0], options=QUICK, against=[run_directory])
    with pytest.raises(UserError, match=r"are both of width 0.5; give one of them"):
        analyse(run_directory, widths=[0.5], options=QUICK, against=[alone, alone])


def test_what_is_there_is_not_measured_again(run_directory, alone, tmp_path, monkeypatch):
    first = analyse(run_directory, widths=[1.0, 0.5], options=QUICK, against=[alone])
    calls = []
    monkeypatch.setattr(evaluation, "measured", lambda *arguments: calls.append(arguments) or {})
    assert analyse(run_directory, widths=[1.0, 0.5], options=QUICK, against=[alone]) == first
    assert values(analyse(run_directory, widths=[0.5], options=QUICK)) == {
        key: value for key, value in values(first).items() if key[1] == 0.5 and key[0] not in evaluation.TO_INDIVIDUAL
    }
    assert calls == []
    other = Path(shutil.copytree(alone, tmp_path / "other"))
    payload = torch.load(other / "checkpoint.pt", weights_only=True)
    payload["encoder"] = {name: weight * 2 if weight.is_floating_point() else weight for name, weight in payload["encoder"].items()}
    torch.save(payload, other / "checkpoint.pt")
    for options, more in ((Options(images=40, pairs=2, neighbours=5), {}), (QUICK, {"force": True}), (QUICK, {"against": [other]})):
        with pytest.raises(KeyError):  # nothing was measured by the stub
            analyse(run_directory, widths=[0.5], options=options, **more)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "5", "--neighbours", "5"], "--neighbours 5 must be fewer than the 5 images; set --neighbours 4"),
        (["--neighbours", "900"], "digits has 256 training images, too few for --neighbours 900; set --neighbours 255"),
        (["--dataset", "digit"], "did you mean --dataset digits"),
        (["--widths", "0.1"], "0.1"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(run_directory, words, message):
    before = sorted(run_directory.iterdir())
    with pytest.raises(UserError, match=message) as error:
        main(["analysis", "--checkpoint", str(run_directory), *words])
    assert "\n" not in str(error.value) and sorted(run_directory.iterdir()) == before


def test_command_line(run_directory, alone, tmp_path, capsys):
    assert (
        main(
            [
                *WORDS,
                "--checkpoint",
                str(run_directory),
                "--widths",
                "1.0",
                "0.5",
                "--against",
                str(alone),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "digits: features of 48 training images, no labels" in shown and "cka_individual" in shown
    records = json.loads((tmp_path / "out" / "result.json").read_text())["records"]
    assert len(records) == len(values(records)) == 5 * 2 + 5


def slow_updates(cfg, steps, width):
    count = 0
    for step in range(steps):
        passes = sum(drawn >= width for drawn in sample_widths(cfg.widths, cfg.seed, step, steps, cfg.optimizer.epochs))
        count += passes if cfg.objective.update == "per_width" else min(1, passes)
    return count


@pytest.mark.parametrize(
    "settings",
    [[], ["widths.sampling=dynamic"], ["objective.update=accumulate"], ["widths.sampling=uniform", "objective.update=accumulate"]],
)
def test_updates_are_counted_over_the_widths_that_were_drawn(settings):
    cfg = config.load("digits", settings)
    found = channel_updates(cfg, 40, [1.0, 0.75, 0.5, 0.25])
    assert found == {width: slow_updates(cfg, 40, width) for width in found}
    assert found[1.0] <= found[0.75] <= found[0.5] <= found[0.25]


def test_one_update_of_several_steps_counts_once():
    cfg = config.load("digits", ["objective.update=accumulate", "optimizer.accumulate_steps=3"])
    assert channel_updates(cfg, 40, [1.0, 0.25]) == {1.0: 14, 0.25: 14}
