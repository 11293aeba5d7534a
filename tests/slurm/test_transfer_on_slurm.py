"""A grid with detection and segmentation on a real Slurm, with all that happens there: the scores and tables of the inline run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
import yaml

from ablations.run import main
from slurm import status
from slurm.ledger import Ledger
from tests.slurm.test_slurm import rows, task_of, wait_until
from transfer.finetuning.scenes import SceneConfig, write_scenes

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]
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
GRID = [
    "--grid",
    "guidelines",
    "--profile",
    "digits",
    "--only",
    "mse-infonce-momentum",
    "mse-mse-online",
    "--seeds",
    "1",
    "--widths",
    "1.0",
    "0.5",
    "--transfer",
    "entries.yaml",
]
KINDS = ("pretrain", "transfer", "detection", "segmentation", "report")
ON_SLURM = [f"--slurm={kind}.{size}" for kind in KINDS for size in ("gpus=0", "cpus=4")] + [
    "--slurm=segmentation.time=3",
    "--slurm=signal_seconds=60",
]
LAUNCHER = textwrap.dedent("""
    import sys
    import ablations.jobs
    from ablations.run import main
    from tests.slurm.training import finetune
    ablations.jobs.finetune_job = finetune
    sys.exit(main(sys.argv[1:]))
""")


def scores(runs: Path) -> dict:
    """All records by run, but for the times measured."""
    found = {path.parent.name: json.loads(path.read_text())["records"] for path in runs.glob("guidelines/*/result.json")}
    return {
        name: sorted(
            json.dumps({key: value for key, value in record.items() if key != "latency_ms"}, sort_keys=True) for record in records
        )
        for name, records in found.items()
    }


def job(folder: Path, run: str, task: str, width: str) -> str:
    """The name of a fine-tuning's job."""
    return next(name for name in rows(folder) if name.startswith(f"{run}-") and f".{task}-" in name and name.endswith(f".w{width}"))


def test_whatever_happens_on_a_cluster_the_tables_are_those_of_one_process(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scenes = write_scenes(tmp_path / "scenes", SceneConfig(6, 3, 48, 16, 24, 1, 3))
    quick = {"dataset": "digits", "data_dir": str(scenes), "iterations": 6, "batch_size": 2, "pictures": 0}
    Path("entries.yaml").write_text(
        yaml.safe_dump(
            [
                {"task": "detection", **quick, "overrides": ["MODEL.FPN.OUT_CHANNELS", "8"]},
                {"task": "segmentation", **quick, "reference": False},
            ]
        )
    )
    assert main([*GRID, "--executor", "inline", "--runs", "inline", *SETTINGS]) == 0
    capsys.readouterr()
    runs, folder, meetings = Path("runs").absolute(), Path("runs/guidelines").absolute(), Path("runs/meetings").absolute()
    names = {
        path.name.partition("-s1")[0] + path.name[path.name.index("-s1") :][:5]: path.name
        for path in Path("inline/guidelines").iterdir()
        if (path / "config.yaml").exists()
    }
    events = {
        "preempted": ("mse-mse-online-s100", "detection", "1"),
        "killed": ("mse-mse-online-s100", "detection", "0.5"),
        "time limit": ("mse-infonce-momentum-s100", "segmentation", "1"),
    }
    meetings.mkdir(parents=True)
    for run, task, width in events.values():
        (meetings / f"{names[run]}.{task}.w{width}-wait").touch()

    launchers = [
        subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, *GRID, "--runs", str(runs), *ON_SLURM, *SETTINGS],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for _ in range(2)
    ]
    said = [launcher.communicate(timeout=900)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    assert all("executor slurm, because sbatch is found" in text and "10 fine-tunings" in text for text in said)
    assert sorted("submitted 0 jobs" in text for text in said) == [False, True]
    submitted = Counter(
        entry["name"] for line in Ledger(folder / "slurm").lines() if line["event"] == "submitted" for entry in line["jobs"]
    )
    assert max(submitted.values()) == 1 and len(submitted) == 3 + 2 + 10 + 1

    jobs = {event: job(folder, *what) for event, what in events.items()}
    for what in (events["preempted"], events["killed"]):
        wait_until((meetings / f"{names[what[0]]}.{what[1]}.w{what[2]}").exists, 900)
    shown = rows(folder)[jobs["preempted"]]
    assert shown.state == "running" and shown.steps == 6  # the progress of the fine-tuning itself
    subprocess.run(["scontrol", "requeue", task_of(folder, jobs["preempted"])], check=True)
    state = json.loads(Ledger(folder / "slurm").state_file(jobs["killed"]).read_text())
    os.kill(state["pid"], signal.SIGKILL)
    wait_until(lambda: rows(folder)[jobs["killed"]].state == "dead")
    assert status.main(["--runs", str(folder), "retry", jobs["killed"]]) == 0
    wait_until(lambda: {row.state for row in rows(folder).values()} == {"done"}, 900)
    logs = {event: (folder / "logs" / f"{name}.log").read_text() for event, name in jobs.items()}
    assert "received SIGTERM" in logs["preempted"] and "stopped after iteration 3 of 6" in logs["preempted"]
    assert "received SIGUSR2" in logs["time limit"] and "stopped after iteration 3 of 6; queued again" in logs["time limit"]

    assert scores(runs) == scores(Path("inline").absolute()) and len(scores(runs)) == 3
    tables = {
        path.name: path.read_bytes()
        for path in Path("inline/guidelines/report").iterdir()
        if path.name.startswith("table-") and path.suffix in (".csv", ".md", ".tex")
    }
    assert {"table-detection-digits.csv", "table-segmentation-digits.md", "table-digits-knn.tex"} <= set(tables)
    assert {name: (folder / "report" / name).read_bytes() for name in tables} == tables
    capsys.readouterr()
    assert main([*GRID, "--runs", str(runs), *ON_SLURM, *SETTINGS]) == 0
    assert "3 runs, 3 finished, 0 to do\n10 fine-tunings and evaluations of them on other data, 10 finished, 0 to do" in (
        capsys.readouterr().out
    )
