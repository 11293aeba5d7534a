"""The front door: a small grid end to end, what is skipped, resumed and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ablations.run import choose_profile, main
from results import report
from rundir.directory import RunDirectory
from rundir.errors import UserError
from transfer.classification import Options, evaluate

ROOT = Path(__file__).parents[2]
TINY = [
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
]
CELLS = ["--executor", "inline", "--only", "mse-infonce-momentum", "individual-mse-online-w*", "--widths", "1.0", "0.5"]


def run(runs: Path, *more: str) -> int:
    return main(["--grid", "guidelines", "--profile", "digits", "--runs", str(runs), *CELLS, *more, *TINY])


def files(runs: Path) -> dict[str, int]:
    """Every file of the run directories with its time of change; the report is written anew each time."""
    return {
        str(p.relative_to(runs)): p.stat().st_mtime_ns
        for p in runs.rglob("*")
        if p.is_file() and "report" not in p.parts and p.name != ".lock"
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    assert run(runs) == 0
    return runs


def test_a_grid_leaves_scores_tables_and_pictures(done):
    results = sorted((done / "guidelines").glob("*/result.json"))
    assert len(results) == 3
    widths = {path.parent.name.split("-s100")[0]: {r["width"] for r in json.loads(path.read_text())["records"]} for path in results}
    assert widths == {"mse-infonce-momentum": {1.0, 0.5}, "individual-mse-online-w1.0": {1.0}, "individual-mse-online-w0.5": {0.5}}
    suffixes = {path.suffix for path in (done / "guidelines" / "report").iterdir()}
    assert {".md", ".csv", ".tex", ".png", ".svg"} <= suffixes


def test_a_second_call_runs_nothing(done, capsys, monkeypatch):
    before = files(done)
    with monkeypatch.context() as patched:
        patched.setattr(report, "show", lambda made, asked: print("asked for", *sorted(asked)))
        assert run(done) == 0
    out = capsys.readouterr().out
    assert "3 finished, 0 to do" in out
    assert "asked for individual-mse-online-w0.5 individual-mse-online-w1.0 mse-infonce-momentum" in out
    assert files(done) == before


def test_another_width_is_evaluated_without_training_again(done, tmp_path):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    done = tmp_path
    checkpoints = {path: path.stat().st_mtime_ns for path in done.rglob("checkpoint.pt")}
    assert (
        main(
            [
                "--grid",
                "guidelines",
                "--profile",
                "digits",
                "--runs",
                str(done),
                "--executor",
                "inline",
                "--only",
                "mse-infonce-momentum",
                "--widths",
                "1.0",
                "0.5",
                "0.75",
                *TINY,
            ]
        )
        == 0
    )
    assert {path: path.stat().st_mtime_ns for path in checkpoints} == checkpoints
    result = next((done / "guidelines").glob("mse-infonce-momentum-*/result.json"))
    assert {r["width"] for r in json.loads(result.read_text())["records"]} == {1.0, 0.75, 0.5}


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts this process, also where the tests are a shell's background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def print_for_nobody() -> None:
    """What is printed goes to a pipe whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    sys.stdout = open(write, "w", buffering=1, closefd=False)  # noqa: SIM115 (what cannot be flushed cannot be closed either)
    sys.stdout.write("x\n")


INTERRUPTIONS = {"Ctrl-C": (press_ctrl_c, KeyboardInterrupt), "no reader": (print_for_nobody, BrokenPipeError)}


@pytest.mark.parametrize("how", INTERRUPTIONS)
def test_an_interruption_within_a_checkpoint_stops_the_grid_and_the_next_call_goes_on(tmp_path, monkeypatch, interruptible, how):
    """It is no failure of the run: that is pending, and the runs behind it are not started."""
    happens, expected = INTERRUPTIONS[how]
    save, calls = torch.save, []

    class Interrupting:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            happens()
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    def interrupted(content, file):
        calls.append(1)
        save(content, Interrupting(file) if len(calls) == 1 else file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted)
        patch.setattr(sys, "stdout", sys.stdout)  # comes back
        with pytest.raises(expected):
            run(tmp_path)
    states = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.rglob("status.json")}
    assert [(status["state"], status["why"]) for status in states.values()] == [("pending", "interrupted, to be continued")]
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("*.log"))
    assert run(tmp_path) == 0
    assert {json.loads(path.read_text())["state"] for path in tmp_path.rglob("status.json")} == {"done"}


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path, capsys):
    assert run(tmp_path / "runs", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "3 to do" in shown and "individual-mse-online-w0.5" in shown and "FLOPs" in shown
    assert not (tmp_path / "runs").exists()


def test_local_executor_gives_the_same_weights_and_scores(done, tmp_path, capsys):
    assert run(tmp_path, "--executor", "local", "--parallel", "2") == 0

    def scores(runs: Path) -> dict:
        return {
            path.parent.name: sorted(
                (r["metric"], r["width"], r["value"]) for r in json.loads(path.read_text())["records"] if r["width"] in (1.0, 0.5)
            )
            for path in runs.rglob("result.json")
        }

    assert scores(tmp_path) == scores(done)
    for path in done.rglob("checkpoint.pt"):
        one, other = (torch.load(place, weights_only=True)["encoder"] for place in (path, tmp_path / path.relative_to(done)))
        assert all(torch.equal(one[name], other[name]) for name in one)
    commands = {tuple(json.loads(path.read_text())["command"][:3]) for path in tmp_path.rglob("provenance.json")}
    assert commands == {("ablations/run.py", "--grid", "guidelines")}  # not that of the process they ran in


def test_a_failing_cell_is_named_and_stops_nothing(tmp_path, capsys):
    blocked = tmp_path / "guidelines"
    assert run(blocked.parent, "--dry-run") == 0
    name = next(word for word in capsys.readouterr().out.split() if word.startswith("individual-mse-online-w0.5-s100"))
    directory = blocked / name
    directory.mkdir(parents=True)
    (directory / "status.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        run(blocked.parent)


def test_a_finished_run_that_cannot_be_reported_is_a_failure_and_the_others_are_reported(done, tmp_path, capsys):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    directory = next((tmp_path / "guidelines").glob("individual-mse-online-w0.5-*"))
    (directory / "provenance.json").write_text('{"format": 1, "train_seconds": "long"}')
    assert run(tmp_path) == 1
    printed = capsys.readouterr()
    assert "3 finished, 0 to do" in printed.out and printed.err.count("\n") == 1
    assert printed.err.startswith(f"failed: {directory.name}: not in the report: ") and "train_seconds is 'long'" in printed.err
    assert "left out" in printed.out and "BYOL" in printed.out


def test_an_evaluation_by_hand_is_not_the_grids(done, tmp_path, capsys):
    """The grid's table, and what counts as finished, are of its own settings; scores by hand have tables of their own."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    directory, table = next((tmp_path / "guidelines").glob("mse-*")), tmp_path / "guidelines" / "report" / "table-digits-knn.csv"
    before = table.read_text()
    evaluate(directory, protocols=["knn"], options=Options(k=1, limit=20))
    assert run(tmp_path) == 0
    assert "3 finished, 0 to do" in capsys.readouterr().out and table.read_text() == before
    [own] = [path for path in table.parent.glob("table-digits-knn-*.md") if "percent" not in path.name]
    assert "k=1" in own.read_text() and "limit=20" in own.read_text()
    result = directory / "result.json"
    records = json.loads(result.read_text())["records"]
    result.write_text(json.dumps({"format": 1, "records": [r for r in records if r["metric"] != "knn" or r["changed"]]}))
    assert run(tmp_path) == 0  # the scores by hand do not stand in for the grid's own
    assert "2 finished, 1 to do" in capsys.readouterr().out and table.read_text() == before


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_a_run_that_another_launcher_holds_is_left_to_it_and_said(executor, tmp_path, capsys):
    assert run(tmp_path, "--dry-run") == 0
    name = next(word for word in capsys.readouterr().out.split() if word.startswith("individual-mse-online-w0.5-s100"))
    held = RunDirectory(tmp_path / "guidelines" / name)
    with held.lock():
        held.set_status("running")
        assert run(tmp_path, "--executor", executor) == 1
    said = capsys.readouterr()
    assert f"{name}: left to another launcher: process {os.getpid()} on {socket.gethostname()} holds" in said.out
    assert f"{name}: done" not in said.out and said.out.count(": done") == 2
    assert "left to another launcher: 1 of 3 runs; run the same command again when it has ended" in said.err
    assert run(tmp_path, "--executor", executor) == 0
    assert f"{name}: done" in capsys.readouterr().out


def test_a_line_says_the_profile_and_why(capsys, monkeypatch):
    monkeypatch.setattr("ablations.run.torch.cuda.is_available", lambda: False)
    assert choose_profile("auto", "inline") == "digits"
    assert "because jobs run here and CUDA is not" in capsys.readouterr().out
    assert choose_profile("auto", "slurm") == "cifar100"
    assert "because jobs go to Slurm" in capsys.readouterr().out
    monkeypatch.setattr("ablations.run.torch.cuda.is_available", lambda: True)
    assert choose_profile("auto", "local") == "cifar100"
    assert "because CUDA is here" in capsys.readouterr().out


def test_bad_command_lines_end_in_one_line_and_code_2(tmp_path):
    """One process for each kind of mistake; stderr holds one line and no traceback, and no run directory appears."""
    base = [sys.executable, str(ROOT / "ablations" / "run.py"), "--runs", str(tmp_path / "runs")]
    cases = {
        ("--grid", "guideline"): "did you mean guidelines",
        ("--grid", "guidelines", "--profile", "cifar10", "--data-dir", str(tmp_path / "none")): "none",
        ("--grid", "guidelines", "--profile", "digits", "optimizer.batch_size=4096"): "larger than the 1297",
    }
    started = {
        arguments: subprocess.Popen(
            [*base, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for arguments in cases
    }
    for arguments, expected in cases.items():
        _, error = started[arguments].communicate(timeout=600)
        assert started[arguments].returncode == 2, error
        assert expected in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "runs").exists()
