"""Transfer in the grid: which jobs an entries file becomes, what they wait for, and that nothing finished is run twice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from ablations import launching, transfers
from ablations.grid import Run
from ablations.jobs import KINDS, graph, here
from ablations.run import main, parser, prepared
from ablations.transfers import finetune_job, to_plain
from pretrain import config
from rundir.directory import RunDirectory
from rundir.errors import UserError
from slurm import settings
from slurm.arrays import plan
from slurm.jobs import Left
from transfer.finetuning import Finetuning
from transfer.finetuning.scenes import SceneConfig, write_scenes

SETTINGS = [
    "optimizer.epochs=1",
    "optimizer.batch_size=64",
    "data.limit=128",
    "data.size=8",
    "model.projector_hidden=16",
    "model.projector_out=8",
    "model.predictor_hidden=16",
    "diagnostics.images=32",
    "calibration.images=64",
    "train.threads=1",
    "evaluation.protocols=[knn]",
]
WORDS = [
    "--grid",
    "guidelines",
    "--profile",
    "digits",
    "--only",
    "mse-infonce-momentum",
    "individual-mse-online-w*",
    "--widths",
    "1.0",
    "0.5",
    "--executor",
    "inline",
]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", SceneConfig(6, 3, 48, 16, 24, 1, 3))


@pytest.fixture
def folder(tmp_path, scenes, monkeypatch):
    """A working directory with an entries file: detection of all cells, segmentation of one, one share of the labels."""
    monkeypatch.chdir(tmp_path)
    quick = {"dataset": "digits", "data_dir": str(scenes), "iterations": 2, "batch_size": 2, "pictures": 0}
    Path("all.yaml").write_text(
        yaml.safe_dump(
            [
                {"task": "detection", **quick, "overrides": ["MODEL.FPN.OUT_CHANNELS", "8"]},
                {"task": "segmentation", **quick, "cells": ["mse-*"], "widths": [0.5], "reference": False},
                {
                    "task": "classification",
                    "protocol": ["knn", "finetune"],
                    "k": 3,
                    "set": ["finetune.epochs=1"],
                    "seeds": 1,
                    "cells": ["mse-*"],
                    "reference": False,
                },
            ]
        )
    )
    return tmp_path


def work_of(*more: str, first=WORDS):
    """What a launch with the words ``first`` and ``more`` has to do."""
    words, overrides = config.split_overrides(launching.joined([*first, *more, *SETTINGS]))
    arguments = parser().parse_args(words)
    launching.choose(arguments)
    arguments.folder = arguments.runs / "guidelines"
    return prepared(arguments, overrides, ("ablations/run.py",))[0]


def short(name: str) -> str:
    """A job's name without the hashes in it."""
    return re.sub(r"(?<=-s\d{3})-[0-9a-f]{8}|-[0-9a-f]{6}(?=\.|$)", "", name)


def test_a_fine_tuning_is_a_job_behind_its_training_and_the_reference_one_per_width_and_seed(folder):
    work = work_of("--seeds", "2", "--transfer", "all.yaml")
    jobs = {short(job.name): job for job in graph(work.missing, work.runs, Path("runs/guidelines"), work.transfers)}
    seeds, alone = (100, 101), "individual-mse-online-w"
    expected = {
        f"{cell}-s{seed}.detection-digits.w{width}": "detection"
        for seed in seeds
        for cell, width in (
            ("mse-infonce-momentum", "1"),
            ("mse-infonce-momentum", "0.5"),
            (f"{alone}1.0", "1"),
            (f"{alone}0.5", "0.5"),
            ("untrained", "1"),
            ("untrained", "0.5"),
        )
    }
    expected |= {f"mse-infonce-momentum-s{seed}.segmentation-digits.w0.5": "segmentation" for seed in seeds}
    expected |= {f"mse-infonce-momentum-s100.classification-own.w{width}": "finetune" for width in ("1", "0.5")}
    expected |= {"mse-infonce-momentum-s100.classification-own": "classification"}
    own = {name: job.kind for name, job in jobs.items() if job.kind not in ("pretrain", "transfer", "report")}
    assert own == expected
    for name in expected:
        assert jobs[name].after == (f"{jobs[name].directory.name}.pretrain",)
        assert short(jobs[name].after[0]) in jobs and short(jobs[name].after[0]).partition(".pretrain")[0] in name
        json.dumps(jobs[name].args)  # a ledger can hold it
    arrays = plan([*jobs.values()], {}, 1001)
    assert {array.kind for array in arrays} <= set(KINDS) and arrays[-1].last
    initial = {short(name): job.args[0]["initial"] for name, job in jobs.items() if job.kind == "detection"}
    assert all((value == "random") == name.startswith("untrained") for name, value in initial.items())


def test_the_same_graph_on_this_machine_has_a_job_per_run(folder):
    work = work_of("--transfer", "all.yaml")
    jobs = here(work.missing, work.transfers)
    names = [job.name for job in jobs]
    assert names[:4] == [run.directory.name for run in work.runs] and len(names) == len(set(names)) == 4 + 6 + 1 + 3
    assert all(job.after == (job.directory.name,) for job in jobs[4:])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"task": "detection", "cells": ["us4l"]}, "entry 1 (detection): cells: us4l matches no cell; the cells are"),
        ({"task": "detection", "widths": [0.7, 0.3]}, "entry 1 (detection): widths=[0.7, 0.3]: no network of this launch has 0.3"),
        ({"task": "detection", "dataset": "voc", "data_dir": "none"}, "entry 1 (detection): "),
        ({"task": "segmentation", "dataset": "camvid", "data_dir": "none"}, "entry 1 (segmentation): "),
        ({"task": "classification", "dataset": "folder", "data_dir": "none"}, "entry 1 (classification): "),
        ({"task": "detection", "model": "faster_rcnn_r50_fpn"}, "entry 1 (detection): model faster_rcnn_r50_fpn"),
        ({"task": "segmentation", "model": "segmenter"}, "entry 1 (segmentation): "),
        ({"task": "detection", "overrides": ["NO.SUCH", "1"]}, "entry 1 (detection): "),
    ],
)
def test_what_cannot_be_is_said_of_the_entry_before_anything_is_written(folder, entry, message):
    Path("wrong.yaml").write_text(yaml.safe_dump([entry]))
    with pytest.raises(UserError) as caught:
        main([*WORDS, "--transfer", "wrong.yaml", "widths.min=0.5", *SETTINGS])
    assert str(caught.value).startswith("wrong.yaml, ") and message in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("runs").exists()


def test_the_data_of_a_batch_are_shared_by_the_processes_of_its_kind(folder):
    work = settings.load(None, ["detection.gpus=2", "detection.nodes=2"], KINDS)
    assert work.kinds["detection"].processes == 4
    words, overrides = config.split_overrides(launching.joined([*WORDS, "--transfer", "all.yaml", *SETTINGS]))
    arguments = parser().parse_args(words)
    arguments.executor, arguments.folder = "slurm", Path("runs/guidelines")
    with pytest.raises(UserError, match=r"all\.yaml, entry 1 \(detection\): batch_size 2 cannot be shared by 4 processes"):
        prepared(arguments, overrides, ("x",), work)


def records(runs: Path) -> dict:
    return {
        path.parent.name: sorted(
            json.dumps({**record, "latency_ms": 0}, sort_keys=True) for record in json.loads(path.read_text())["records"]
        )
        for path in runs.glob("guidelines/*/result.json")
    }


@pytest.mark.slow
def test_a_grid_with_transfer_is_finished_once(folder, capsys):
    ask = [*WORDS, "--transfer", "all.yaml", *SETTINGS]
    assert main(ask) == 0
    shown = capsys.readouterr().out
    assert "10 fine-tunings and evaluations of them on other data, 0 finished, 10 to do" in shown
    found = {name.partition("-s100")[0]: [json.loads(text) for text in own] for name, own in records(Path("runs")).items()}
    have = {(cell, r["task"], r["metric"], r["width"]) for cell, own in found.items() for r in own}
    for cell, width in (
        ("mse-infonce-momentum", 1.0),
        ("mse-infonce-momentum", 0.5),
        ("individual-mse-online-w0.5", 0.5),
        ("untrained", 1.0),
        ("untrained", 0.5),
    ):
        assert (cell, "detection", "box_AP", width) in have
    assert {initial for record in found["untrained"] if (initial := record["initial"])} == {"random"}
    assert ("mse-infonce-momentum", "classification", "finetune", 0.5) in have and not any(
        cell == "individual-mse-online-w0.5" and metric == "finetune" for cell, _, metric, _ in have
    )
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*") if path.is_file() and "report" not in path.parts}
    assert main(ask) == 0
    assert "4 runs, 4 finished, 0 to do\n10 fine-tunings and evaluations of them on other data, 10 finished, 0 to do" in (
        capsys.readouterr().out
    )
    assert {path: path.stat().st_mtime_ns for path in before} == before
    Path("all.yaml").write_text(Path("all.yaml").read_text().replace("iterations: 2", "iterations: 3"))
    assert [one.finished for one in work_of("--transfer", "all.yaml").transfers].count(False) == 7  # another length, other work


def test_a_job_leaves_what_another_process_holds_and_says_what_it_needs(folder, scenes, monkeypatch):
    work = work_of("--transfer", "all.yaml")
    first = next(one for one in work.transfers if one.kind == "detection")
    with pytest.raises(UserError, match=r"it needs .* which is not trained"):
        finetune_job(to_plain(first.work))
    with pytest.raises(UserError, match="another version of the project wrote this job"):
        finetune_job({"task": "detection", "wings": 2})

    def busy(finetuning: Finetuning, wait: float) -> None:
        with RunDirectory(folder / "held").lock(), RunDirectory(folder / "held").lock(wait):
            pass

    monkeypatch.setattr(transfers, "check_trained", lambda path: None)
    monkeypatch.setattr(transfers.finetuning, "run", busy)
    with pytest.raises(Left, match="held is in use by another process"):
        finetune_job(to_plain(first.work))


def test_what_needs_a_training_that_fails_does_not_start(folder, monkeypatch, capsys):
    def fail(run: Run) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("ablations.jobs.execute", fail)
    assert main([*WORDS, "--transfer", "all.yaml", *SETTINGS]) == 1
    said = capsys.readouterr()
    assert said.out.count("FAILED: RuntimeError: no such luck") == 4
    assert said.out.count("FAILED: blocked: needs ") == 10 and "start individual" in said.out
    assert "10 jobs that need these did not start" in said.err and "Traceback" not in said.err
    assert not list(Path("runs").rglob("transfer"))
