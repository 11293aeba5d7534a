"""Real trainings on a real Slurm: the same numbers as without it, whatever happens on the way."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ablations.run import main
from pretrain.checkpoints import files as checkpoint
from slurm import status
from slurm.jobs import Job
from tests.pretrain import tiny
from tests.pretrain.test_distributed import SAME, SHORT, losses
from tests.pretrain.test_distributed import run as train_in_float64
from tests.slurm import training
from tests.slurm.test_slurm import launch, rows, task_of, wait_until

pytestmark = pytest.mark.slurm
GRID = [
    "--grid",
    "guidelines",
    "--profile",
    "digits",
    "--only",
    "mse-infonce-momentum",
    "individual-mse-online-w0.5",
    "--widths",
    "1.0",
    "0.5",
    "optimizer.epochs=2",
    "optimizer.batch_size=64",
    "data.limit=256",
    "data.size=8",
    "model.projector_hidden=16",
    "model.projector_out=8",
    "model.predictor_hidden=16",
    "diagnostics.images=32",
    "calibration.images=64",
    "train.threads=1",
]
ON_SLURM = [
    "--executor",
    "slurm",
    "--slurm",
    "pretrain.gpus=0",
    "--slurm",
    "transfer.gpus=0",
    "--slurm",
    "pretrain.cpus=1",
    "--slurm",
    "transfer.cpus=1",
]


def preempt(folder: Path, step: int, before: int) -> None:
    """Send the signal before ``step`` (from 0), which the training still takes; ``before``: how many were sent before."""
    wait_until((folder / f"run-at-{step}").exists)
    row = rows(folder)["train"]
    assert (row.state, row.restarts) == ("running", before)
    subprocess.run(["scancel", "--signal=USR2", task_of(folder, "train")], check=True)
    wait_until(lambda: (folder / "logs" / "train.log").read_text().count("received SIGUSR2") == before + 1)
    (folder / f"run-from-{step}").touch()
    wait_until(lambda: checkpoint.load_latest(folder / "run")["step"] == step + 1)


def test_a_training_that_is_preempted_twice_ends_with_the_same_bits(cluster, tmp_path):
    """Signals at a step within an epoch and at an epoch's last step (4 steps an epoch)."""
    directory = tmp_path / "run"
    launch(
        [Job("train", training.train, (directory, (5, 11)), "work", directory=directory, stop=training.request_stop)],
        tmp_path,
        wait=False,
    )
    assert tiny.train(tmp_path / "whole") == 0
    preempt(tmp_path, 5, 0)
    preempt(tmp_path, 11, 1)
    wait_until(lambda: rows(tmp_path)["train"].state == "done")
    assert rows(tmp_path)["train"].restarts == 2
    log = (tmp_path / "logs" / "train.log").read_text()
    assert "resuming at step 6 of 16" in log and "resuming at step 12 of 16" in log
    tiny.assert_same_run(directory, tmp_path / "whole")


def test_two_nodes_with_two_processes_each_train_what_one_process_trains(cluster, tmp_path):
    more = (*SHORT, *SAME["infonce, gathered"])
    run = Job("train", training.train_in_float64, (str(tmp_path / "four"), True, *more), "work", stop=training.request_stop)
    launch([run], tmp_path, "work.nodes=2", "work.tasks=2", wait=False)
    tiny.distributed(train_in_float64, str(tmp_path / "one"), True, *more, world_size=1)
    wait_until(lambda: rows(tmp_path)["train"].state in ("done", "failed"))
    assert rows(tmp_path)["train"].state == "done", (tmp_path / "logs" / "train.log").read_text()
    one, four = losses(tmp_path / "one"), losses(tmp_path / "four")
    assert len(one) == 4 and four == pytest.approx(one, abs=1e-8)
    payloads = [checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("one", "four")]
    for part in ("encoder", "projector", "teacher"):
        for key, weight in payloads[0][part].items():
            assert payloads[1][part][key].sub(weight).abs().max() < 1e-8, (part, key)


def records(runs: Path) -> dict:
    found = {path.parent.name: json.loads(path.read_text())["records"] for path in runs.glob("guidelines/*/result.json")}
    return {name: sorted((r["metric"], r["width"], r["value"], r["count"]) for r in of_run) for name, of_run in found.items()}


def test_a_grid_on_slurm_gives_the_scores_and_tables_of_the_same_grid_without(cluster, tmp_path, capsys):
    runs = tmp_path / "slurm"
    assert main([*GRID, "--runs", str(runs), *ON_SLURM, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "5 jobs in 3 arrays" in shown and "the same task of array 0" in shown and "--signal=USR2@120" in shown
    assert "GPU-hours" in shown and not runs.exists()
    assert main([*GRID, "--runs", str(runs), *ON_SLURM]) == 0
    assert "submitted 5 jobs" in capsys.readouterr().out
    assert main([*GRID, "--runs", str(runs), *ON_SLURM]) == 0
    assert "submitted 0 jobs; 5 were in the queue already" in capsys.readouterr().out
    assert main([*GRID, "--runs", str(tmp_path / "inline"), "--executor", "inline"]) == 0
    folder = runs / "guidelines"
    wait_until(lambda: {row.state for row in rows(folder).values()} == {"done"}, 900)
    assert records(runs) == records(tmp_path / "inline") and len(records(runs)) == 2
    for name in ("table-digits-knn.csv", "table-digits-linear_fast.md"):
        assert (folder / "report" / name).read_text() == (tmp_path / "inline" / "guidelines" / "report" / name).read_text()
    capsys.readouterr()
    result = next(folder.glob("mse-infonce-momentum-*")) / "result.json"
    scores = sorted(json.loads(result.read_text())["records"], key=str)
    result.unlink()
    state = folder / "slurm" / "state" / f"{result.parent.name}.knn+linear_fast.json"
    state.write_text(state.read_text().replace('"done"', '"failed"'))
    assert status.main(["--runs", str(folder), "retry", "mse-infonce-momentum"]) == 0  # by what the ledger says of the call
    assert "submitted 2 jobs again" in capsys.readouterr().out
    wait_until(lambda: {row.state for row in rows(folder).values()} == {"done"}, 900)
    again = sorted(json.loads(result.read_text())["records"], key=str)
    assert [{**r, "latency_ms": 0} for r in again] == [{**r, "latency_ms": 0} for r in scores]
    assert main([*GRID, "--runs", str(runs), *ON_SLURM]) == 0
    assert "2 finished, 0 to do" in capsys.readouterr().out


GRID_OF_TWO = """
title: Trained against untrained
cells:
  - {name: trained}
  - {name: untrained, set: {optimizer.lr: 1.0e-9}}
claims:
  - {id: training-helps, statement: Training helps., measure: score, better: [trained], than: [untrained], at: all}
  - {id: training-hurts, statement: Training hurts., measure: score, better: [untrained], than: [trained], at: all}
"""


def test_rounds_on_slurm_run_seed_by_seed_and_judge_what_they_ran(cluster, tmp_path, capsys):
    (tmp_path / "two.yaml").write_text(GRID_OF_TWO)
    words = [
        "--grid",
        str(tmp_path / "two.yaml"),
        "--profile",
        "digits",
        *GRID[GRID.index("--widths") :],
        "--runs",
        str(tmp_path / "runs"),
        *ON_SLURM,
        "--wait",
        "--until",
        "decided",
        "--most-seeds",
        "4",
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    folder = tmp_path / "runs" / "two"
    seeds = [int(path.name.split("-s")[1][:3]) for path in folder.glob("trained-s*")]
    assert sorted(seeds) in ([100, 101, 102], [100, 101, 102, 103]) and f"{len(seeds)} seeds: " in shown
    verdicts = json.loads((folder / "report" / "claims.json").read_text())["verdicts"]
    counted = {verdict["claim"]: verdict["n"] for verdict in verdicts}
    assert counted == dict.fromkeys(("training-helps", "training-hurts"), len(seeds))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*-s*/checkpoint.pt")}
    assert main(words) == 0 and "submitted" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 2 * len(seeds)
