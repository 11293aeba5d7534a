"""Any checkpoints as jobs from transfer/run.py: ours and others', named, in one report; what is wrong is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from pretrain import config
from pretrain.models import build
from rundir.errors import UserError
from transfer.finetuning.scenes import SceneConfig, write_scenes
from transfer.run import as_jobs, main

QUICK = ["--iterations", "2", "--batch-size", "2", "--pictures", "0", "--set", "MODEL.FPN.OUT_CHANNELS", "8"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A checkpoint of this project and one of the authors of US3L, and scenes."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    content = config.to_dict(config.load("digits", ["data.size=8"]))
    torch.save({"format": 1, "config": content, "encoder": build("resnet_small").state_dict()}, "ours.pt")
    others = {f"module.encoder_q.{name}": tensor for name, tensor in build("resnet_small").state_dict().items()}
    torch.save({"epoch": 1, "arch": "us_small", "state_dict": others}, "theirs.pth")
    write_scenes(tmp_path / "scenes", SceneConfig(6, 3, 48, 16, 24, 1, 3))
    return tmp_path


def test_checkpoints_of_any_kind_are_jobs_with_names_in_one_table(files, capsys):
    ask = [
        "detection",
        "--checkpoint",
        "ours.pt",
        "theirs.pth",
        "--name",
        "Ours",
        "DINO R-50",
        "--executor",
        "inline",
        "--data-dir",
        "scenes",
        "--widths",
        "1.0",
        "0.5",
        "--out",
        "others",
        *QUICK,
    ]
    assert main([*ask, "--dry-run"]) == 0 and not Path("others").exists()
    assert main(ask) == 0
    said = capsys.readouterr().out
    assert "2 checkpoints, 4 jobs, 0 finished, 4 to do" in said and "[4/4] DINO-R-50.detection-digits-" in said
    records = json.loads(Path("others/DINO-R-50/result.json").read_text())["records"]
    assert {(r["metric"], r["width"]) for r in records} >= {("box_AP", 1.0), ("box_AP", 0.5)}
    [table] = Path("others/report").glob("table-detection-digits*.md")  # one table, also of networks trained on other data
    assert "no grid.json" not in said
    assert "Ours" in table.read_text() and "DINO R-50" in table.read_text()
    before = {path: path.stat().st_mtime_ns for path in Path("others").glob("*/transfer/*/*/*")}
    assert main(ask) == 0
    assert "4 finished, 0 to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_entries_file_gives_the_reference_once_per_network(files, capsys):
    Path("e.yaml").write_text("[{task: detection, data_dir: scenes, iterations: 2, batch_size: 2}]")
    assert (
        main(
            [
                "all",
                "--checkpoint",
                "ours.pt",
                "theirs.pth",
                "--transfer",
                "e.yaml",
                "--widths",
                "0.5",
                "--dry-run",
                "--executor",
                "inline",
            ]
        )
        == 0
    )
    assert "2 checkpoints, 3 jobs, 0 finished, 3 to do" in capsys.readouterr().out


def test_spreads_and_narrower_widths_are_jobs_too_and_marked_in_the_report(files, capsys):
    ask = [
        "classification",
        "--checkpoint",
        "ours.pt",
        "ours2.pt",
        "--protocol",
        "knn",
        "--limit",
        "40",
        "--executor",
        "inline",
        "--widths",
        "0.25:1.0:4",
        "0.125",
        "--out",
        "others",
    ]
    shutil.copy("ours.pt", "ours2.pt")
    with pytest.raises(UserError, match=r"0\.125 is outside the trained range"):
        main(ask)
    assert not Path("others").exists()
    assert main([*ask, "--extrapolate"]) == 0
    records = json.loads(Path("others/ours/result.json").read_text())["records"]
    assert {r["width"]: r.get("extrapolated", False) for r in records} == {
        1.0: False,
        0.75: False,
        0.5: False,
        0.25: False,
        0.125: True,
    }
    said = capsys.readouterr().out
    assert "2 checkpoints, 2 jobs, 0 finished, 2 to do" in said and "claims: none" in said
    [table] = Path("others/report").glob("table-digits-knn*.md")
    assert table.read_text().count("\\*") == 3  # two numbers, and the caption
    assert main([*ask, "--extrapolate"]) == 0
    assert "2 finished, 0 to do" in capsys.readouterr().out


def test_an_entry_whose_cells_name_no_checkpoint_is_said_to_be_left_out(files, capsys):
    Path("e.yaml").write_text(
        "[{task: classification, protocol: [knn], limit: 40, cells: [theirs]}, {task: classification, protocol: [knn], limit: 30}]"
    )
    assert main(["all", "--checkpoint", "ours.pt", "--transfer", "e.yaml", "--dry-run", "--executor", "inline"]) == 0
    said = capsys.readouterr().out
    assert "e.yaml, entry 1 (classification) is left out: no checkpoint is called as its cells say (theirs)" in said
    assert "1 checkpoint, 1 job," in said and "entry 2" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["detection", "--checkpoint", "ours.pt", "theirs.pth", "--name", "one"], "--name names 1 of 2 checkpoints"),
        (["detection", "--checkpoint", "ours.pt", "ours.pt"], "the name 'ours' is that of another checkpoint too; set --name"),
        (["detection", "--checkpoint", "ours.pt", "--name", "!"], "--name '!' has no letter or digit; set --name"),
        (["detection", "--checkpoint", "ours.pt", "--name", "untrained-x"], "begins with untrained, as references do; set --name"),
        (["detection", "--checkpoint", "ours.pt", "none.pth"], "none.pth"),
        (["detection", "--checkpoint", "ours.pt", "--executor", "inline", "--seed", "3"], "--seed is not for evaluation as jobs"),
        (["detection", "--checkpoint", "ours.pt", "--executor", "inline", "--schedule", "quik"], "did you mean --schedule quick"),
        (["classification", "--checkpoint", "theirs.pth", "--executor", "inline"], "set --dataset NAME"),
        (["classification", "--checkpoint", "ours.pt", "--executor", "inline", "--dataset", "pets"], "stored; set --data-dir DIR"),
        (["all", "--checkpoint", "ours.pt", "--name", "x"], "set it to entries files"),
        (["scenes", "--out", "x", "--name", "y"], ""),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(files, words, message):
    words = words if "--executor" in words else [*words, "--executor", "inline"]
    with pytest.raises((UserError, SystemExit)) as caught:
        main(words)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("runs").exists()


def test_another_file_of_the_same_name_is_refused_not_shown_with_the_scores_of_the_first(files, capsys):
    """Also the same file after it was trained again; another branch of the same file is an evaluation of its own."""
    ask = ["classification", "--checkpoint", "theirs.pth", "--executor", "inline", "--dataset", "digits", "--protocol", "knn"]
    ask += ["--widths", "1.0", "--out", "others"]
    assert main(ask) == 0
    before = Path("others/theirs/result.json").read_text()
    others = {f"module.encoder_q.{name}": tensor for name, tensor in build("resnet_small").state_dict().items()}
    torch.save({"epoch": 1, "arch": "us_small", "state_dict": others}, "theirs.pth")
    with pytest.raises(
        UserError, match=r"others/theirs holds scores of other weights than .*theirs\.pth has now .*; set --name or"
    ):
        main(ask)
    assert Path("others/theirs/result.json").read_text() == before
    capsys.readouterr()
    assert main([*ask, "--name", "second"]) == 0 and "1 job, 0 finished, 1 to do" in capsys.readouterr().out
    [first], [second] = (json.loads(Path(f"others/{name}/result.json").read_text())["records"] for name in ("theirs", "second"))
    assert first["settings"]["weights"] != second["settings"]["weights"]


def test_one_checkpoint_without_these_options_stays_in_the_process():
    one = ["detection", "--checkpoint", "a", "--widths", "1.0", "0.5"]
    assert not as_jobs(one) and not as_jobs(["scenes", "--out", "x"])
    assert as_jobs([*one, "--executor=slurm"]) and as_jobs([*one, "--name", "n"])
    assert as_jobs(["detection", "--checkpoint", "a", "b"]) and not as_jobs(["detection", "--checkpoint", "a", "lr=1"])


@pytest.mark.parametrize("checkpoints", (["a"], ["a", "b"]))
def test_a_setting_is_no_checkpoint(checkpoints):
    with pytest.raises(UserError, match=r"'linear\.epochs=3' belongs to no option; did you mean --set linear\.epochs=3\?$"):
        main(["classification", "--checkpoint", *checkpoints, "linear.epochs=3"])
