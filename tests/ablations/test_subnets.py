"""Sub-networks where a grid, its entries files and evaluations as jobs have widths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ablations import jobs
from ablations.grid import expand, from_plain, to_plain
from ablations.run import main
from ablations.transfers import analysis_job, finetune_job, scoring_job
from ablations.transfers import to_plain as plain_work
from pretrain import config
from rundir.directory import RunDirectory
from rundir.errors import UserError
from rundir.records import asked_of
from rundir.subnet import Subnet, as_text, as_widths
from tests.ablations.test_transfers import SETTINGS, WORDS, scenes, work_of  # noqa: F401  # a fixture
from transfer import run

SUBNET = "w[1,.5,.5,.5]"
ASK = [*WORDS[: WORDS.index("--widths")], "--widths", "1.0", "0.5", SUBNET, "--executor", "inline"]
CELLS = ("mse-infonce-momentum", "individual-mse-online-w1.0", "individual-mse-online-w0.5")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expanded(*overrides, widths=None):
    only = ["mse-infonce-momentum", "individual-mse-online-w*"]
    return expand("guidelines", "digits", only, [100], widths, overrides, Path("runs"))


def test_a_config_holds_them_as_text():
    plain = config.load("digits", ["evaluation.widths=[1.0,0.5]"])
    cfg = config.load("digits", [f'evaluation.widths=[1,0.5,"{SUBNET}","w0.5","w1 d[1,1,1,1]",w.5r8]'])
    assert cfg.evaluation.widths == [1.0, 0.5, SUBNET, 0.5, "w1d[1,1,1,1]", "w0.5r8"]
    assert [type(width) for width in cfg.evaluation.widths] == [float, float, str, float, str, str]
    assert config.config_hash(cfg) == config.config_hash(plain)
    assert config.from_dict(yaml.safe_load(config.to_yaml(cfg))) == cfg
    found = as_widths(cfg.evaluation.widths)
    assert found[2] == Subnet((1.0, 0.5, 0.5, 0.5)) and as_widths(json.loads(as_text(found))) == found


def test_each_cell_has_those_within_what_it_is_trained_for():
    runs = {run.cell: run for run in expanded(widths=[1.0, 0.5, Subnet((1.0, 0.5, 0.5, 0.5)), Subnet(0.5, resolution=8)])}
    assert tuple(runs) == CELLS  # and none of a sub-network alone
    assert list(map(str, runs[CELLS[0]].widths)) == ["1.0", SUBNET, "0.5", "w0.5r8"]
    assert list(map(str, runs[CELLS[2]].widths)) == ["0.5", "w0.5r8"] and runs[CELLS[1]].widths == [1.0]
    assert {tuple(run.cfg.calibration.widths) for run in runs.values()} == {(1.0, 0.5)}
    by_key = expanded(f'evaluation.widths=[1.0,0.5,"{SUBNET}",w0.5r8]')
    assert [(run.directory, run.widths) for run in by_key] == [(run.directory, run.widths) for run in runs.values()]
    again = from_plain(json.loads(json.dumps(to_plain(runs[CELLS[0]]))))
    assert again.widths == runs[CELLS[0]].widths


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--widths", "1.0", "w[1,.5"], "not understood from 'w[1,.5' on"),
        (["--widths", SUBNET], "--widths names sub-networks alone, and tables are by width; add a width, such as 1"),
        (["--widths", "1.0", "w[1,.5]"], "w has 2 widths and the network 4 stages"),
        (["--widths", "1.0", "p0.5"], "this network has no patches; leave out p0.5"),
        (["--widths", "0.5", "w[.5,.5,.5,.5]"], "give the same channels"),
        (["evaluation.widths=[1.0,w[1,.5,.5,.5]]"], "put text with brackets in quotes of its own, as in '[1.0,\"w[1,.5,.5,.5]\"]'"),
        (['evaluation.widths=[1.0,"w[1,.5"]'], "is not a list of widths: sub-network 'w[1,.5' is not understood"),
        (["evaluation.widths=[1.0,true]"], "must be widths, each in (0, 1], or sub-networks such as 'w[1,.75,.5,.5]'"),
        (["evaluation.widths=[1.0,1.5]"], "must be widths, each in (0, 1]"),
        (["evaluation.widths=w0.5"], "must be a list"),
        (['widths.fixed=[1.0,"w0.5d[1]"]'], "must be a number"),
    ],
)
def test_mistakes_are_one_line(folder, words, said):
    with pytest.raises(UserError) as caught:
        main([*WORDS[: WORDS.index("--widths")], "--dry-run", *words])
    assert said in str(caught.value) and "\n" not in str(caught.value) and not list(folder.iterdir())


def test_a_sub_network_that_would_stand_for_two_widths_is_said_before_training(folder):
    with pytest.raises(UserError) as caught:
        main(["--grid", "dimensions", "--profile", "digits", "--only", "depth", "--dry-run", "evaluation.widths=[1.0,0.55,0.5]"])
    assert "cell depth: evaluation.widths: w1d[1,1,1,1] is the sub-network of equal FLOPs for 0.55 and 0.5" in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"task": "classification", "widths": ["w[1,.5"]}, "widths=['w[1,.5'] is not a list of widths"),
        ({"task": "detection", "widths": ["w0.5r8"]}, "widths w0.5r8 names a resolution"),
        ({"task": "classification", "widths": ["d[1,1,1,1]"]}, "this network has no blocks that can be skipped"),
        ({"task": "classification", "widths": ["w[1,1,1,.1]"]}, "is outside the trained range"),
    ],
)
def test_mistakes_in_an_entry_name_it(folder, entry, said):
    Path("all.yaml").write_text(yaml.safe_dump([entry]))
    with pytest.raises(UserError) as caught:
        main([*ASK, "--dry-run", "--transfer", "all.yaml"])
    assert str(caught.value).startswith("all.yaml, entry 1") and said in str(caught.value) and "\n" not in str(caught.value)


def test_a_grid_with_sub_networks_is_finished_once_and_reported(folder, capsys):
    Path("all.yaml").write_text(
        yaml.safe_dump(
            [
                {
                    "task": "classification",
                    "dataset": "digits",
                    "protocol": ["knn"],
                    "k": 3,
                    "widths": ["w[.5,1,1,.5]"],
                    "reference": False,
                },
                {"task": "analysis", "images": 32, "pairs": 1, "neighbours": 3, "cells": ["mse-*"], "reference": False},
            ]
        )
    )
    ask = [*ASK, "--transfer", "all.yaml", *SETTINGS]
    assert main(ask) == 0
    assert "2 fine-tunings and evaluations of them on other data, 0 finished, 2 to do" in capsys.readouterr().out
    [path] = Path("runs/guidelines").glob(f"{CELLS[0]}-*/result.json")
    records = RunDirectory(path.parent).records()
    have = {(record["task"], record["metric"], str(asked_of(record))) for record in records}
    assert {("classification", "knn", width) for width in ("1.0", "0.5", SUBNET, "w[.5,1,1,.5]")} < have
    assert ("analysis", "rankme", SUBNET) in have
    assert main(ask) == 0
    said = capsys.readouterr().out
    assert "3 runs, 3 finished, 0 to do\n2 fine-tunings and evaluations of them on other data, 2 finished, 0 to do" in said
    table = Path("runs/guidelines/report/table-subnets-classification-digits.md").read_text()
    assert "k-NN (%) | k-NN with 1 % of the labels (%)" in table and r"w\[1,.5,.5,.5\]" in table
    assert r"w\[1,.5,.5,.5\]" in Path("runs/guidelines/report/table-analysis-digits.md").read_text()
    assert r"w\[1" not in Path("runs/guidelines/report/table-digits-knn.md").read_text()


def test_jobs_are_json_and_read_again(folder, scenes, monkeypatch):  # noqa: F811
    one = {"dataset": "digits", "widths": [SUBNET], "cells": ["mse-*"], "reference": False}
    Path("all.yaml").write_text(
        yaml.safe_dump(
            [
                {"task": "detection", "data_dir": str(scenes), "iterations": 2} | one,
                {"task": "classification"} | one,
                {"task": "analysis", "images": 32} | one,
            ]
        )
    )
    work = work_of("--transfer", "all.yaml", first=ASK)
    seen = []
    monkeypatch.setattr("ablations.transfers._check_ready", lambda place: None)
    monkeypatch.setattr("ablations.transfers.finetuning.run", lambda described, wait: seen.append(described.width))
    monkeypatch.setattr("ablations.transfers.evaluation.evaluate", lambda *arguments, **more: seen.extend(arguments[3]))
    monkeypatch.setattr("ablations.transfers.analysis.analyse", lambda *arguments, **more: seen.extend(arguments[3]))
    for transfer, job in zip(work.transfers, (finetune_job, scoring_job, analysis_job), strict=True):
        job(json.loads(json.dumps(plain_work(transfer.work))))
    assert seen == [Subnet((1.0, 0.5, 0.5, 0.5))] * 3
    assert len({job.name for job in jobs.graph(work.missing, work.runs, folder, work.transfers)}) == 3 * 2 + 3 + 1


def test_checkpoints_are_evaluated_at_them_as_jobs(folder, capsys):
    assert main([*WORDS[:5], CELLS[0], "--widths", "1.0", "0.5", "--executor", "inline", *SETTINGS]) == 0
    [found] = Path("runs/guidelines").glob(f"{CELLS[0]}-*")
    Path("all.yaml").write_text(yaml.safe_dump([{"task": "classification", "protocol": ["knn"], "widths": [SUBNET]}]))
    ask = [
        "all",
        "--checkpoint",
        str(found),
        str(found / "checkpoint.pt"),
        "--name",
        "A",
        "B",
        "--transfer",
        "all.yaml",
        "--executor",
        "inline",
        "--out",
        "others",
    ]
    capsys.readouterr()
    assert run.main(ask) == 0
    assert "2 checkpoints, 2 jobs, 0 finished, 2 to do" in capsys.readouterr().out
    assert Path("others/report/table-subnets-classification-digits.md").read_text().count(r"w\[1,.5,.5,.5\]") == 2
    assert run.main(ask) == 0
    assert "2 finished, 0 to do" in capsys.readouterr().out
