"""One call from a checkpoint to records, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from pretrain import config
from pretrain.checkpoints import files as checkpoint
from pretrain.checkpoints import open_checkpoint
from pretrain.data import load
from pretrain.training import pretrain
from rundir.errors import UserError
from tests.transfer.conftest import TINY
from transfer.classification import Options, evaluate, evaluation
from transfer.classification.options import parse_overrides
from transfer.run import main

ROOT = Path(__file__).resolve().parents[2]
QUICK = Options(limit=200)


def result(directory):
    return json.loads((directory / "result.json").read_text())


def without_latency(record):
    return {name: value for name, value in record.items() if not name.startswith("latency")}


@pytest.fixture
def asked(monkeypatch):
    """The (protocol, widths) that are computed, as they are computed."""
    calls = []

    def recording(name, protocol):
        def run(task, widths):
            calls.append((name, widths))
            return protocol(task, widths)

        return run

    for name, protocol in evaluation.PROTOCOLS.items():
        monkeypatch.setitem(evaluation.PROTOCOLS, name, recording(name, protocol))
    return calls


@pytest.fixture
def folder(tmp_path):
    """A small image folder of real scans: three classes, 30 x 20 pixels, unbalanced."""
    for split, counts in (("train", (12, 9, 8)), ("val", (6, 3, 3))):
        source = load("digits", split, None, 20)
        for digit, count in enumerate(counts):
            place = tmp_path / "scans" / split / str(digit)
            place.mkdir(parents=True)
            for i, image in enumerate(source.images[source.labels == digit][:count]):
                pixels = torch.cat([image, image[:, :10]], 1).permute(1, 2, 0)
                Image.fromarray(pixels.numpy()).save(place / f"{i}.png")
    return tmp_path / "scans"


def test_records(run_directory):
    records = evaluate(run_directory, widths=[1.0, 0.6], options=QUICK)
    assert result(run_directory) == {"format": 1, "records": records}
    assert [(r["metric"], r["width"]) for r in records] == [("knn", 1.0), ("knn", 0.6), ("linear_fast", 1.0), ("linear_fast", 0.6)]
    for record in records:
        assert {k: record[k] for k in ("task", "dataset", "seed", "count")} == {
            "task": "classification",
            "dataset": "digits",
            "seed": 100,
            "count": 500,
        }
        val = load("digits", "val", None, 16)
        assert record["chance"] == max(torch.bincount(val.labels).tolist()) / 500
        assert 0.2 < record["value"] <= 1  # far from chance: the features are real
        assert record["value"] * 500 == pytest.approx(round(record["value"] * 500))
    wide, narrow = records[:2]
    assert wide["flops"] > narrow["flops"] > 0
    assert wide["parameters"] > narrow["parameters"] > 0


def test_only_what_is_missing_is_computed(run_directory, asked):
    first = evaluate(run_directory, widths=[1.0], protocols=["knn"], options=QUICK)
    both = evaluate(run_directory, widths=[1.0, 0.25], protocols=["knn", "linear_fast"], options=QUICK)
    assert asked == [("knn", [1.0]), ("knn", [0.25]), ("linear_fast", [1.0, 0.25])]
    assert both[0] == first[0]
    assert evaluate(run_directory, widths=[1.0, 0.25], options=QUICK) == both
    assert len(asked) == 3
    forced = evaluate(run_directory, widths=[1.0], protocols=["knn"], options=QUICK, force=True)
    assert asked[3:] == [("knn", [1.0])]
    assert [without_latency(r) for r in forced] == [without_latency(r) for r in first]  # deterministic


def test_other_settings_or_weights_are_computed_anew(run_directory, asked):
    evaluate(run_directory, widths=[0.5], protocols=["knn"], options=QUICK)
    evaluate(run_directory, widths=[0.5], protocols=["knn"], options=Options(limit=200, k=3))
    payload = checkpoint.load(run_directory / "checkpoint.pt")
    payload["encoder"]["conv1.weight"].mul_(1.1)
    torch.save(payload, run_directory / "checkpoint.pt")
    evaluate(run_directory, widths=[0.5], protocols=["knn"], options=Options(limit=200, k=3))
    assert len(asked) == 3
    first, other, last = result(run_directory)["records"]
    assert first["changed"] == {"limit": 200} and other["changed"] == last["changed"] == {"limit": 200, "k": 3}
    assert other["settings"]["weights"] != last["settings"]["weights"]


def test_an_evaluation_by_hand_stands_beside_the_grids_own(run_directory, asked):
    def own_scores():
        own = evaluation.own_record(open_checkpoint(run_directory), "linear_fast")
        return [r for r in result(run_directory)["records"] if evaluation.is_own(r, own)]

    [grid] = evaluate(run_directory, widths=[0.5], protocols=["linear_fast"])
    by_hand = [
        ({"C": 1e-6}, {"C": 1e-6}),
        ({"limit": 20}, {"limit": 20}),
        ({"size": 10}, {"size": 10}),
        ({"seed": 3}, {"seed": 3}),
        ({"C": 1.0, "limit": 256, "size": 16}, {}),
    ]
    for changes, named in by_hand:
        [record] = evaluate(run_directory, widths=[0.5], protocols=["linear_fast"], options=Options(**changes))
        assert record["changed"] == named
        assert own_scores() == [grid]
    assert len(result(run_directory)["records"]) == 5 and len(asked) == 5  # the last was the grid's own again
    assert result(run_directory)["records"][-1] == grid  # the last evaluation stands last


def test_a_teachers_scores_are_not_its_students(tmp_path):
    directory = tmp_path / "run"
    pretrain(config.load("digits", [*TINY, "objective.teacher=momentum"]), directory)
    student, teacher = (
        evaluate(directory, widths=[0.5], protocols=["knn"], branch=branch, out=directory)[0] for branch in ("student", "teacher")
    )
    assert (student["changed"], teacher["changed"]) == ({}, {"branch": "teacher"})
    assert result(directory)["records"] == [student, teacher]


def test_a_record_of_an_older_version_is_known_again(run_directory, asked):
    [record] = evaluate(run_directory, widths=[0.5], protocols=["linear"], options=QUICK)
    old = {name: entry for name, entry in record.items() if name not in ("changed", "score", "label_fraction", "label_seed")}
    old["settings"] = {name: entry for name, entry in record["settings"].items() if name not in ("branch", "schedule")}
    (run_directory / "result.json").write_text(json.dumps({"format": 1, "records": [old]}))
    assert evaluation.is_own(old, evaluation.own_record(open_checkpoint(run_directory), "linear")) == (not record["changed"])
    asked.clear()
    evaluate(run_directory, widths=[0.5], protocols=["linear"], options=QUICK)
    assert not asked and len(result(run_directory)["records"]) == 1


def test_scores_do_not_go_to_another_runs_directory(run_directory, tmp_path):
    other = tmp_path / "other"
    pretrain(config.load("digits", [*TINY, "seed=7"]), other)
    with pytest.raises(UserError, match="is the directory of another run"):
        evaluate(run_directory, widths=[0.5], protocols=["knn"], out=other)
    assert not (other / "result.json").exists()


def test_an_interruption_loses_nothing_finished(run_directory, monkeypatch):
    def interrupted(task, widths):
        raise KeyboardInterrupt

    monkeypatch.setitem(evaluation.PROTOCOLS, "linear", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run_directory, widths=[0.5], protocols=["knn", "linear"], options=QUICK)
    assert [r["metric"] for r in result(run_directory)["records"]] == ["knn"]


def test_training_protocols(run_directory):
    options = parse_overrides(["linear.epochs=6", "linear.lr=3", "linear.batch_size=64", "finetune.epochs=1"], limit=200)
    linear, tuned = evaluate(run_directory, widths=[0.25], protocols=["linear", "finetune"], options=options)
    assert 0 <= tuned["value"] <= 1
    assert linear["value"] > 0.2
    assert linear["settings"]["flip"] == 0  # pretraining did not mirror


def test_divergence_is_recorded_as_undefined(run_directory):
    options = parse_overrides(["finetune.epochs=1", "finetune.lr=1e30"], limit=200)
    assert evaluate(run_directory, widths=[0.25], protocols=["finetune"], options=options)[0]["value"] is None
    assert result(run_directory)["records"][0]["value"] is None


def test_another_data_set_calibrates_every_width_on_its_images(run_directory, folder, monkeypatch):
    calibrated = []
    original = evaluation.Task.prepare

    def prepare(task, widths):
        task.backbone.calibrate = lambda widths, batches: calibrated.append((widths, sum(len(x) for x in batches())))
        original(task, widths)

    monkeypatch.setattr(evaluation.Task, "prepare", prepare)
    records = evaluate(run_directory, "folder", str(folder), [1.0, 0.25], ["knn"])
    assert calibrated == [([1.0, 0.25], 29)]
    evaluate(run_directory, widths=[1.0, 0.25], protocols=["knn"])
    assert len(calibrated) == 1  # digits were pretrained on: the stored statistics are right
    evaluate(run_directory, widths=[1.0, 0.25], protocols=["knn"], options=Options(size=24))
    assert len(calibrated) == 2  # but not at another size
    assert {(r["dataset"], r["count"], r["chance"]) for r in records} == {("scans", 12, 0.5)}


def test_k_is_capped_by_the_training_images_unless_asked_for(run_directory):
    assert evaluate(run_directory, widths=[0.5], protocols=["knn"], options=Options(limit=12))
    with pytest.raises(UserError, match="--k 13 is larger than the 12 training images"):
        evaluate(run_directory, widths=[0.5], protocols=["knn"], options=Options(limit=12, k=13))


def test_another_file_beside_the_runs_checkpoint_is_scored_elsewhere_only(run_directory, tmp_path):
    edited = run_directory / "averaged.pt"
    edited.write_bytes((run_directory / "checkpoint.pt").read_bytes())
    with pytest.raises(UserError, match=r"averaged\.pt is not the checkpoint\.pt of the run directory .* set --out DIR"):
        evaluate(edited, widths=[0.5], protocols=["knn"], options=QUICK)
    assert evaluate(edited, widths=[0.5], protocols=["knn"], options=QUICK, out=tmp_path / "scores")
    assert not (run_directory / "result.json").exists()


def test_an_unfinished_checkpoint_is_scored_elsewhere_only(run_directory, tmp_path):
    payload = checkpoint.load(run_directory / "checkpoint.pt")
    torch.save(payload | {"epoch": 0, "calibration": {}}, run_directory / "checkpoint.pt")
    with pytest.raises(UserError, match=r"has not finished \(epoch 0 of 1\)"):
        evaluate(run_directory, options=QUICK)
    with pytest.raises(UserError, match=r"of epoch 0 of 1; give a directory of its own"):  # where the finished run's scores go
        evaluate(run_directory, widths=[0.5], protocols=["knn"], options=QUICK, out=run_directory)
    assert evaluate(run_directory, widths=[0.5], protocols=["knn"], options=QUICK, out=tmp_path / "scores")
    assert (tmp_path / "scores" / "result.json").exists()
    assert not (run_directory / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digitz"], "did you mean --dataset digits"),
        (["--protocol", "svm"], "unknown value of --protocol: 'svm'; set --protocol to one of knn, linear_fast, linear, finetune"),
        (["--widths", "0.1"], r"--widths: 0.1 is below the trained range \[0.25, 1.0\]"),
        (["--widths", "0.5", "0.5"], "same channels"),
        (["--dataset", "cifar10"], "--data-dir DIR"),
        (["--dataset", "folder", "--data-dir", "/nowhere/at/all"], "no folder /nowhere/at/all/train; set --data-dir DIR"),
        (["--k", "0"], "argument --k: .0. is not a whole number from 1 on"),
        (["--size", "0"], "argument --size: .0. is not a whole number from 1 to 4096"),
        (["--k", "5000"], "--k 5000 is larger than the 256 training images of digits"),
        (["--device", "gpu9"], "--device gpu9 is not a device"),
        (["--set", "linear.epoch=3"], "linear.epoch"),
        (["--set", "linear.epochs=many"], "linear.epochs"),
        (["--set", "epochs"], "not of the form key=value"),
        (["--set", "C=0"], "C=0.0 must be above 0"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(trained, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        main(["classification", "--checkpoint", str(trained), "--out", str(tmp_path / "out"), *arguments])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file(trained, tmp_path):
    (tmp_path / "out").write_text("something")
    with pytest.raises(UserError, match="cannot write scores to"):
        main(["classification", "--checkpoint", str(trained), "--out", str(tmp_path / "out")])


def test_main_prints_the_table_and_the_file(run_directory, capsys):
    code = main(["classification", "--checkpoint", str(run_directory), "--widths", "1.0", "0.25", "--limit", "200"])
    assert code == 0
    printed = capsys.readouterr().out
    assert f"scores: {run_directory / 'result.json'}" in printed.replace("\n", "") or "result.json" in printed
    for word in ("knn", "linear_fast", "0.25", "20,888"):
        assert word in printed


def test_command_line_exits_with_2_and_one_line(tmp_path):
    (tmp_path / "foreign.pt").write_bytes(b"not a checkpoint")
    command = [sys.executable, str(ROOT / "transfer" / "run.py"), "classification", "--checkpoint", "foreign.pt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: foreign.pt (16 bytes) is not a torch file")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_as_many_images_are_used_as_in_pretraining_unless_asked(run_directory):
    """conftest's run was trained on 256 images: what a grid records is what a hand-made call records."""
    asked = {None: 256, 0: 0, 100: 100}
    for limit, used in asked.items():
        [record] = evaluate(run_directory, widths=[0.5], protocols=["knn"], options=Options(limit=limit))
        assert record["settings"]["limit"] == used
    [other] = evaluate(
        run_directory, widths=[0.5], protocols=["finetune"], options=parse_overrides(["finetune.epochs=1"], label_fractions=[0.1])
    )
    assert other["settings"]["limit"] == 0
