"""Analysis in the grid and of any checkpoints: which jobs there are, what they wait for, and that nothing finished is run twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from ablations.jobs import graph
from ablations.run import main
from ablations.transfers import analysis_job
from pretrain import config
from pretrain.models import build
from rundir.errors import UserError
from slurm.arrays import plan
from tests.ablations.test_transfers import SETTINGS, short, work_of
from transfer import run

WORDS = [
    "--grid",
    "guidelines",
    "--profile",
    "digits",
    "--only",
    "mse-infonce-online",
    "individual-mse-online-w*",
    "--widths",
    "1.0",
    "0.5",
    "--executor",
    "inline",
    "--transfer",
    "all.yaml",
]
ENTRY = {"task": "analysis", "images": 32, "pairs": 1, "neighbours": 3, "reference": False}
SLIM, ALONE = "mse-infonce-online-s100", "individual-mse-online-w"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("all.yaml").write_text(yaml.safe_dump([ENTRY]))
    return tmp_path


def test_an_analysis_waits_for_its_training_and_for_the_networks_of_one_width_of_its_seed(folder):
    work = work_of("--seeds", "2", first=WORDS)
    jobs = graph(work.missing, work.runs, Path("runs/guidelines"), work.transfers)
    after = {short(job.name): [short(name) for name in job.after] for job in jobs if job.kind == "analysis"}
    against = {"mse-infonce-online": [f"{ALONE}1.0", f"{ALONE}0.5"], f"{ALONE}1.0": [], f"{ALONE}0.5": []}
    assert after == {
        f"{cell}-s{seed}.analysis-own": [f"{each}-s{seed}.pretrain" for each in (cell, *others)]
        for cell, others in against.items()
        for seed in (100, 101)
    }
    arrays = plan(jobs, {}, 1001)
    assert {job.name for array in arrays for job in array.jobs.values()} == {job.name for job in jobs}
    for job in jobs:
        json.dumps(job.args)  # a ledger can hold it


def test_a_grid_with_analysis_is_finished_once(folder, capsys):
    assert main([*WORDS, *SETTINGS]) == 0
    assert "3 fine-tunings and evaluations of them on other data, 0 finished, 3 to do" in capsys.readouterr().out
    [path] = Path("runs").glob(f"guidelines/{SLIM}-*/result.json")
    found = {(r["metric"], r["width"]): r["value"] for r in json.loads(path.read_text())["records"] if r["task"] == "analysis"}
    assert 0 <= found["cka_individual", 0.5] <= 1 and 0 <= found["cka_individual", 1.0] <= 1 and 0 <= found["cka_full", 0.5] <= 1
    assert [one.finished for one in work_of(first=WORDS).transfers] == [True] * 3
    Path("all.yaml").write_text(yaml.safe_dump([ENTRY | {"pairs": 2}]))
    assert [one.finished for one in work_of(first=WORDS).transfers] == [False] * 3  # other views, other numbers


def test_checkpoints_from_anywhere_are_analysed_as_jobs(folder, capsys):
    torch.manual_seed(0)
    content = config.to_dict(config.load("digits", ["data.size=8"]))
    torch.save({"format": 1, "config": content, "encoder": build("resnet_small").state_dict()}, "ours.pt")
    others = {f"module.encoder_q.{name}": tensor for name, tensor in build("resnet_small").state_dict().items()}
    torch.save({"epoch": 1, "arch": "us_small", "state_dict": others}, "theirs.pth")
    ask = [
        "analysis",
        "--checkpoint",
        "ours.pt",
        "theirs.pth",
        "--executor",
        "inline",
        "--dataset",
        "digits",
        "--size",
        "8",
        "--widths",
        "1.0",
        "0.5",
        "--out",
        "others",
        "--images",
        "32",
        "--pairs",
        "1",
        "--neighbours",
        "3",
    ]
    assert run.main(ask) == 0
    assert "2 checkpoints, 2 jobs, 0 finished, 2 to do" in capsys.readouterr().out
    for name in ("ours", "theirs"):
        found = {r["metric"] for r in json.loads(Path(f"others/{name}/result.json").read_text())["records"]}
        assert found >= {"alignment", "uniformity", "rankme", "lidar", "cka_full", "order_first"} and "updates" not in found
    assert run.main(ask) == 0
    assert "2 finished, 0 to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="--against is not for evaluation as jobs"):
        run.main([*ask, "--against", "ours.pt"])


def test_mistakes_name_entry_and_key(folder):
    for wrong, message in (
        ({"neighbours": 50}, "neighbours 50 must be fewer than the 32"),
        ({"pairs": 0}, "pairs=0 must be"),
        ({"protocol": ["knn"]}, "protocol"),
    ):
        Path("all.yaml").write_text(yaml.safe_dump([ENTRY | wrong]))
        with pytest.raises(UserError, match=rf"all\.yaml, entry 1 \(analysis\): .*{message}"):
            work_of(first=WORDS)
    with pytest.raises(UserError, match="another version of the project wrote this job"):
        analysis_job({"task": "analysis"})
