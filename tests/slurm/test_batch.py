"""The little of submitit that is not public and is used all the same, held against the installed version."""

from __future__ import annotations

import inspect
import os
import stat
from pathlib import Path

import pytest
import submitit

from rundir.errors import UserError
from slurm import batch, entry
from slurm.settings import load


@pytest.fixture
def executor(tmp_path, monkeypatch):
    (tmp_path / "srun").touch()
    (tmp_path / "srun").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cluster = load(None, ["extra.nice=100", "extra.hold=true", "setup=[module load x]"], {"work": {}})
    return batch.ArrayExecutor(cluster, "work", "grid", tmp_path / "calls")


def test_submitit_is_a_version_whose_inside_was_looked_at():
    """A newer one: look at the two tests below, then add it to slurm/batch.py's TESTED."""
    assert ".".join(submitit.__version__.split(".")[:2]) in batch.TESTED


def test_the_private_method_and_its_parameter_are_there():
    assert list(inspect.signature(submitit.SlurmExecutor._make_submission_file_text).parameters) == ["self", "command", "uid"]
    assert "map_count" in inspect.signature(inspect.getmodule(submitit.SlurmExecutor)._make_sbatch_string).parameters


def test_the_script_is_what_sbatch_gets(executor):
    text = executor.script({"array": "3,7%2", "comment": "token"}, 2)
    given = batch.options(text)
    for option in (
        "--array=3,7%2",
        "--comment=token",
        "--nice=100",
        "--hold",
        "--job-name=grid.work",
        "--requeue",
        "--time=60",
        "--signal=USR2@120",
        f"--output={executor.folder}/%A_%a_0_log.out",
    ):
        assert option in given
    assert not any(option.startswith(("--wckey", "--error")) for option in given)
    run = text.partition("# command\n")[2]
    assert "srun" in run and "--export=ALL" in run and f"-m slurm.entry {executor.folder}" in run
    assert text.index("module load x") < text.index("export PYTHONPATH=")
    assert executor.script() == executor.script()  # options of one array do not stay for the next


@pytest.mark.parametrize("mode", [0o775, 0o777])
def test_a_folder_of_calls_is_closed_to_others(mode, tmp_path):
    folder = tmp_path / "calls"
    folder.mkdir()
    folder.chmod(mode)
    batch.private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_calls_of_somebody_else_is_refused(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(UserError, match=r"belongs to user 65534.*set --slurm scratch"):
        batch.private_folder(tmp_path)


def start(folder: Path, monkeypatch) -> str:
    """What a job's process says that is to run its call in ``folder``."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    for name, value in (("JOB_ID", "7"), ("ARRAY_JOB_ID", "7"), ("ARRAY_TASK_ID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr("sys.argv", ["entry", str(folder)])
    ran = []
    monkeypatch.setattr(entry, "submitit_main", lambda: ran.append(1))
    monkeypatch.setattr(entry, "SECONDS", 0)
    try:
        entry.main()
    except SystemExit as said:
        assert not ran
        return str(said)
    assert ran
    return ""


def test_a_job_runs_its_users_own_call_only(tmp_path, monkeypatch):
    assert "left no call" in start(tmp_path, monkeypatch)
    call = tmp_path / "7_0_submitted.pkl"
    call.touch()
    call.chmod(0o644)
    tmp_path.chmod(0o755)
    assert start(tmp_path, monkeypatch) == ""
    call.chmod(0o664)
    assert "may be written by others" in start(tmp_path, monkeypatch)
    call.chmod(0o644)
    tmp_path.chmod(0o777)
    assert "may be written by others" in start(tmp_path, monkeypatch)
