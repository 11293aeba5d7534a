"""Where the jobs of a grid run: what --executor auto takes, what it says, and what is shown before anything is submitted."""

from __future__ import annotations

import argparse
import os
import pty
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ablations import grid, launching
from ablations.plan import cost_lines
from ablations.run import main
from rundir.arguments import Parser
from rundir.errors import UserError
from slurm.settings import load

ROOT = Path(__file__).parents[2]


def options(*words: str) -> argparse.Namespace:
    parser = Parser()
    launching.add_arguments(parser)
    return parser.parse_args(launching.joined(words))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets what this machine has: sbatch, GPUs, and whether this process is a Slurm job. The working directory is empty."""
    monkeypatch.chdir(tmp_path)

    def has(sbatch: bool = False, gpus: int = 0, job: str = "") -> None:
        found = tmp_path / "bin" / "sbatch"
        found.parent.mkdir(exist_ok=True)
        found.write_text("#!/bin/sh\nexit 1\n")
        found.chmod(0o755 if sbatch else 0o644)
        monkeypatch.setenv("PATH", str(found.parent))
        monkeypatch.setattr(launching.torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setenv("SLURM_JOB_ID", job)
        if not job:
            monkeypatch.delenv("SLURM_JOB_ID")

    return has


@pytest.mark.parametrize(
    ("here", "words", "executor", "said"),
    [
        ({"sbatch": True}, (), "slurm", "because sbatch is found and this is no Slurm job"),
        ({"sbatch": True, "gpus": 4}, (), "slurm", "because sbatch is found"),
        ({"sbatch": True, "job": "17"}, (), "inline", "because this is Slurm job 17, from which nothing is submitted"),
        ({"sbatch": True, "job": "17", "gpus": 2}, (), "local", "because this is Slurm job 17"),
        ({"gpus": 4}, (), "local", "because there is no sbatch here and there are 4 GPUs"),
        ({"gpus": 1}, (), "inline", "there is 1 GPU"),
        ({}, (), "inline", "because there is no sbatch here and there are no GPUs"),
        ({}, ("--parallel", "3"), "local", "because --parallel is given"),
        ({"sbatch": True}, ("--executor", "inline"), "inline", "from --executor"),
        ({"sbatch": True, "job": "17"}, ("--executor", "slurm"), "slurm", "from --executor"),
    ],
)
def test_auto_takes_what_is_there_and_says_why_and_how_to_choose(machine, capsys, here, words, executor, said):
    machine(**here)
    arguments = options(*words)
    cluster = launching.choose(arguments)
    shown = capsys.readouterr().out
    assert arguments.executor == executor and (cluster is not None) == (executor == "slurm")
    assert shown.startswith(f"executor {executor}") and said in shown.splitlines()[0]
    if "--executor" not in words:
        assert "choose another with --executor" in shown.splitlines()[0]


def test_local_takes_a_process_for_each_gpu(machine):
    machine(gpus=4)
    for words, parallel in (((), 4), (("--parallel", "3"), 3)):
        arguments = options(*words)
        launching.choose(arguments)
        assert arguments.parallel == parallel


def test_the_clusters_settings_are_those_of_the_working_directory_unless_others_are_named(machine, tmp_path, capsys):
    machine(sbatch=True)
    assert launching.choose(options()).kinds["pretrain"].partition == ""
    assert "there is no cluster.yaml here; copy" in capsys.readouterr().out
    (tmp_path / "cluster.yaml").write_text("partition: mine\n")
    (tmp_path / "other.yaml").write_text("partition: other\n")
    assert launching.choose(options()).kinds["pretrain"].partition == "mine"
    assert "cluster cluster.yaml of this folder" in capsys.readouterr().out
    assert launching.choose(options("--slurm-config", "other.yaml")).kinds["pretrain"].partition == "other"
    assert launching.choose(options("--slurm", "partition=third")).kinds["pretrain"].partition == "third"


@pytest.mark.parametrize("words", [("--slurm", "partition=x"), ("--wait",), ("--slurm-config", "c.yaml")])
def test_options_of_slurm_without_slurm_are_refused(machine, words):
    machine(job="17", sbatch=True)
    with pytest.raises(UserError, match=r"are for --executor slurm.*auto took inline, because this is Slurm job 17"):
        launching.choose(options(*words))
    with pytest.raises(UserError, match=r"or leave them out$"):
        launching.choose(options("--executor", "local", *words))


@pytest.mark.parametrize("executor", ["inline", "slurm"])
def test_processes_of_this_machine_are_for_local_jobs(machine, executor):
    machine(sbatch=True)
    with pytest.raises(UserError, match=r"^--parallel is for --executor local; set that, or leave it out$"):
        launching.choose(options("--executor", executor, "--parallel", "2"))


def answered(folder: Path, answer: str, ledger: bool = False) -> tuple[int, str]:
    """What the question before a first submission comes to in a terminal where ``answer`` is typed."""
    program = textwrap.dedent("""
        import argparse, sys
        from ablations import launching
        from ablations.plan import Work
        from slurm.jobs import Job
        launching.show_graph = lambda *rest: print("THE PLAN")
        launching.run_all = lambda *rest, **more: print("SUBMITTED")
        from pathlib import Path
        arguments = argparse.Namespace(runs=Path(sys.argv[1]), grid="guidelines", yes=False, wait=False, automatic=True)
        arguments.folder = arguments.runs / "guidelines"
        launching.graph, launching.environment_lines = (lambda *rest: [Job("a", print)]), (lambda *rest: [])
        launching.submit(Work([], [], [], 0), None, arguments, None)
    """)
    if ledger:
        (folder / "other" / "slurm").mkdir(parents=True)
        (folder / "other" / "slurm" / "ledger.jsonl").touch()
    own, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        close_fds=True,
    )
    os.close(terminal)
    os.write(own, f"{answer}\n".encode())
    said = b""
    while True:
        try:
            part = os.read(own, 65536)
        except OSError:  # the other end is closed
            break
        said += part
    return process.wait(60), re.sub(r"\s+", " ", said.decode())


def test_before_the_first_submission_a_terminal_is_asked(tmp_path):
    code, said = answered(tmp_path, "n")
    assert code and "THE PLAN" in said and "nothing was submitted; answer y or set --yes" in said and "SUBMITTED" not in said
    code, said = answered(tmp_path, "y")
    assert code == 0 and said.index("THE PLAN") < said.index("submit these jobs?") < said.index("SUBMITTED")
    code, said = answered(tmp_path, "n", ledger=True)
    assert code == 0 and "THE PLAN" not in said and "SUBMITTED" in said


def test_a_cluster_that_does_not_answer_is_one_line_and_leaves_nothing(machine, tmp_path, monkeypatch, capsys):
    """sbatch is there, but nothing behind it: no grid is trained here unasked, and the line says how to ask."""
    machine(sbatch=True)
    for name in ("squeue", "scontrol", "srun", "sacct"):
        (tmp_path / "bin" / name).symlink_to(tmp_path / "bin" / "sbatch")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(UserError, match="because sbatch is found; set --executor local or inline to run here"):
        main(["--grid", "guidelines", "--profile", "digits", "--only", "mse-mse-online"])
    assert "3 jobs in 3 arrays" in capsys.readouterr().out  # the first time from this folder
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}


def test_the_cost_of_jobs_speaks_of_training_only_where_something_is_trained(tmp_path):
    runs = grid.expand("head", "digits", ["mse-mse-online-own"], [100], [1.0], ["optimizer.epochs=1"], tmp_path)
    cluster = load(None, [], launching.KINDS)
    assert not any("training itself" in line for line in cost_lines([], [], cluster, 1297, tmp_path))
    assert "FLOPs; for hours set --slurm gpu_tflops=N" in cost_lines(runs, [], cluster, 1297, tmp_path)[-1]
