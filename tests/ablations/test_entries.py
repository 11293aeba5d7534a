"""Entries of --transfer: what files, names and short forms become; what is wrong is said of its file, entry and key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ablations import entries as module
from ablations.entries import SHORT, FinetuningEntry, ScoringEntry, entries, evaluations
from ablations.launching import joined
from pretrain.config import load, presets, transfer_of
from rundir.errors import Setting, UserError


def read(tmp_path: Path, text: str, profile: str = "digits"):
    file = tmp_path / "entries.yaml"
    file.write_text(text)
    return entries([str(file)], profile)[0]


def test_the_issues_example_is_read(tmp_path):
    """Detection with its own widths and cells, masks, segmentation, other data sets and a share of the labels."""
    found = read(
        tmp_path,
        """
- {task: detection, dataset: voc, data_dir: VOCdevkit, model: faster_rcnn_r18_fpn, schedule: voc_24k, widths: [1.0, 0.5, 0.25],
   cells: [us3l, "individual-*"], seeds: 3}
- {task: detection, dataset: coco, data_dir: coco, model: mask_rcnn_r18_fpn, schedule: coco_1x}
- {task: segmentation, dataset: ade20k, data_dir: ade20k, model: upernet, schedule: ade20k_80k}
- {task: classification, dataset: flowers102, data_dir: data, protocol: [knn, linear], size: 224}
- {task: classification, label_fraction: [0.01, 0.1], protocol: [finetune]}
""",
    )
    first, *_, flowers, own = [placed.entry for placed in found]
    assert [type(placed.entry) for placed in found] == [FinetuningEntry] * 3 + [ScoringEntry] * 2
    assert (first.widths, first.cells, first.seeds, first.reference) == ([1.0, 0.5, 0.25], ["us3l", "individual-*"], 3, True)
    assert first.data_dir == str(Path("VOCdevkit").absolute())
    made = first.finetuning("runs/x", 0.5, "random", "scenes")
    assert (made.width, made.initial, made.schedule, made.data_dir) == (0.5, "random", "voc_24k", first.data_dir)
    assert flowers.protocols == ["knn", "linear"] and flowers.options().size == 224
    assert own.dataset == "" and own.options().label_fractions == [0.01, 0.1]
    assert [placed.matches("us3l") for placed in found[:2]] == [True, True]
    assert not found[0].matches("naive") and found[0].matches("individual-w0.5")


WRONG = {
    "": "must be a list of entries",
    "a: 1": "must be a list",
    "[3]": "entry 1 must be a mapping",
    "[{dataset: voc}]": "entry 1: task is missing; set one of detection, segmentation, classification",
    "[{task: detect}]": "entry 1: task=detect is not known",
    "[{task: analysis}, {task: detection, shedule: quick}]": "entry 2 (detection): unknown key shedule; did you mean schedule?",
    "[{task: detection, protocol: [knn]}]": "unknown key protocol; it is a key of classification: leave it out, or set task=",
    "[{task: analysis, lr: 0.1}]": "unknown key lr; it is a key of detection and segmentation: leave it out, or set task=detection",
    "[{task: detection, schedule: quik}]": "entry 1 (detection): unknown value of schedule: 'quik'; did you mean schedule quick?",
    "[{task: detection, dataset: voc}]": "entry 1 (detection): voc is not part of this project; set data_dir=DIR",
    "[{task: detection, model: fastr}]": "unknown value of model: 'fastr'",
    "[{task: detection, norm: b}]": "unknown value of norm: 'b'",
    "[{task: segmentation, size: 3}]": "entry 1 (segmentation): size is not an option of segmentation",
    "[{task: classification, protocol: [lin]}]": "unknown value of protocol: 'lin'; did you mean protocol linear?",
    "[{task: classification, set: [linear.epoch=3]}]": "unknown key linear.epoch; did you mean linear.epochs?",
    "[{task: classification, label_fraction: [2]}]": "entry 1 (classification):",
    "[{task: detection, widths: [2]}]": "widths=[2] must be widths, each in (0, 1]",
    "[{task: detection, iterations: 0}]": "iterations=0 must be in [1,",
    "[{task: detection, lr: .inf}]": "lr=inf must be finite",
    "[{task: detection, cells: us3l}]": "cells=us3l must be a list, such as [us3l]",
    "[{task: segmentation, crop: [3]}]": "crop=[3] must be two numbers",
    "[{task: detection}, {task: detection, pictures: 9}]": "entry 2 (detection) is the same as",
    "[": "is not YAML",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_one_line_that_names_file_entry_and_key(tmp_path, text):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert WRONG[text] in str(caught.value) and "entries.yaml" in str(caught.value)
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)


KEYS = st.sampled_from(["task", "dataset", "widths", "cells", "model", "lr", "size", "protocol", "set", "crop"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    ),
    st.sampled_from(["detection", "segmentation", "classification"]),
)
def test_any_value_of_any_key_is_an_entry_or_one_line(value, task):
    raw = [value | {"task": task} if isinstance(value, dict) else value]
    try:
        made = module._placed(raw, "file", True)
    except UserError as error:
        assert str(error).startswith("file") and "\n" not in str(error)
    else:
        assert made[0].entry.task == task


def test_names_and_short_forms():
    both, _ = entries(["digits-scenes", "coco=COCO"], "digits")
    assert [placed.entry.task for placed in both] == ["detection", "segmentation", "detection"]
    assert both[2].entry.data_dir == str(Path("COCO").absolute()) and both[2].entry.schedule == "coco_1x"
    for words, expected in (
        (["vok=x"], "did you mean voc?"),
        (["voc="], "set --transfer voc=DIR"),
        (["digit-scenes"], "did you mean digits-scenes?"),
        (["nothing.yaml"], "there is no such file"),
        (["coco"], "did you mean coco=DIR?"),
        (["flowers"], "did you mean flowers102=DIR?"),
    ):
        with pytest.raises(UserError, match=r"^--transfer ") as caught:
            entries(words, "digits")
        assert expected in str(caught.value)
    for name in SHORT:
        assert entries([f"{name}=DIR"], "digits")[0]


def test_what_is_wrong_with_the_data_of_a_short_form_names_what_was_typed(tmp_path):
    (short,), (long,) = (entries([f"coco={tmp_path}"], "digits")[0], module._placed([SHORT["coco"]], "mine.yaml", False))
    for placed, instead in ((short, "--transfer coco=DIR"), (long, "data_dir=DIR")):
        for setting in (Setting("data.root", "DIR"), "--data-dir"):
            with pytest.raises(UserError) as caught, placed.told():
                raise UserError("there is nothing; set ", setting, " to the folder")
            own = instead if placed is short or setting != "--data-dir" else "data_dir"
            assert str(caught.value) == f"{placed.where}: there is nothing; set {own} to the folder"


@pytest.mark.parametrize("name", ["digits-scenes", "search", "unseen-widths"])
def test_the_projects_entries_that_need_no_data_are_found_by_name(name):
    by_path, by_name = (
        [placed.entry for placed in entries([word], "digits")[0]] for word in (str(module.EVALUATIONS / f"{name}.yaml"), name)
    )
    assert by_path == by_name and by_path


@pytest.mark.parametrize("profile", ["imagenet", "imagenet_r50", "imagenet_200", "imagenet_r50_200"])
def test_the_presets_of_imagenet_carry_the_papers_evaluation(profile):
    """METHOD sections 6 and 7: detection on VOC and COCO; linear evaluation and fine-tuning on smaller sets. Data are asked for."""
    without, names = entries([], profile)
    assert without == [] and set(names) == {"voc", "coco", "flowers102", "pets", "dtd", "aircraft", "cifar10"}
    given_, _ = entries([f"{name}=DIR" for name in names], profile)
    tasks = {(placed.entry.task, placed.entry.dataset) for placed in given_}
    assert {("detection", "voc"), ("detection", "coco"), ("classification", "aircraft")} <= tasks
    [voc] = [placed.entry for placed in given_ if placed.entry.dataset == "voc"]
    assert voc.model == ("faster_rcnn_c4" if "r50" in profile else "faster_rcnn_fpn")


def test_a_users_preset_carries_its_own_and_its_config_is_as_without(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: digits\ntransfer: [{task: detection, iterations: 9}]\n")
    (tmp_path / "plain.yaml").write_text("base: digits\n")
    (tmp_path / "file.yaml").write_text("base: mine.yaml\ntransfer: other.yaml\n")
    (tmp_path / "other.yaml").write_text("[{task: segmentation}]")
    (tmp_path / "wrong.yaml").write_text("base: digits\ntransfer: 3\n")
    mine, plain = (load(str(tmp_path / f"{name}.yaml")) for name in ("mine", "plain"))
    mine.experiment.preset = plain.experiment.preset
    assert mine == plain
    assert [placed.entry.iterations for placed in entries([], str(tmp_path / "mine.yaml"))[0]] == [9]
    assert [placed.entry.task for placed in entries([], str(tmp_path / "file.yaml"))[0]] == ["segmentation"]
    with pytest.raises(UserError, match=r"wrong\.yaml: transfer must be"):
        entries([], str(tmp_path / "wrong.yaml"))
    assert all(transfer_of(name)[0] in (None, *evaluations()) for name in presets())


def test_an_entrys_name_is_of_what_scores_depend_on(tmp_path):
    def name(**more) -> str:
        return read(tmp_path, yaml.safe_dump([{"task": "detection", **more}]))[0].name

    assert name() == name(cells=["a"], widths=[0.5], seeds=2, pictures=0, workers=2, reference=False, data_dir="elsewhere")
    assert len({name(), name(iterations=3), name(lr=0.1), name(model="mask_rcnn_fpn"), name(overrides=["A", "1"])}) == 5


def test_words_behind_transfer_are_its_own_until_a_setting_of_the_cells():
    words = ["--transfer", "voc=V", "mine.yaml", "optimizer.epochs=1", "--slurm", "partition=x", "seed=3", "--transfer", "coco=C"]
    assert joined(words) == [
        "--transfer=voc=V",
        "--transfer=mine.yaml",
        "optimizer.epochs=1",
        "--slurm=partition=x",
        "seed=3",
        "--transfer=coco=C",
    ]
