"""Variables of a user's shell: what was asked for explicitly wins, what they decide is named, and none hides a job."""

from __future__ import annotations

import os
import stat

import pytest

from rundir.errors import UserError
from slurm import environment, squeue
from slurm.batch import ArrayExecutor, fit, options, scratch
from slurm.settings import load

KINDS = {"train": {"gpus": 1, "cpus": 8, "time": "24:00:00"}, "report": {"cpus": 2}}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in list(os.environ):
        if name.startswith(environment.DROPPED):
            monkeypatch.delenv(name)


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """A machine on which submitit finds Slurm."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").touch()
    (tmp_path / "bin" / "srun").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def in_effect(monkeypatch, srun, *overrides, **variables) -> set[str]:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cluster = load(None, overrides, KINDS)
    return set(environment.in_effect(options(ArrayExecutor(cluster, "train", "grid", "/runs").script())))


@pytest.mark.parametrize(
    ("variable", "value", "override"),
    [
        ("SBATCH_PARTITION", "alt", "partition=main"),
        ("SBATCH_ACCOUNT", "a", "account=b"),
        ("SBATCH_QOS", "low", "train.qos=high"),
        ("SBATCH_CONSTRAINT", "a100", "constraint=h100"),
        ("SBATCH_MEM_PER_NODE", "1", "train.mem_gb=8"),
        ("SBATCH_MEM_PER_CPU", "1", "train.mem_gb=8"),
        ("SBATCH_RESERVATION", "course", "extra.reservation=mine"),
        ("SBATCH_WCKEY", "x", "extra.wckey=mine"),
        ("SBATCH_EXCLUSIVE", "user", "extra.exclusive=true"),
    ],
)
def test_what_was_asked_for_beats_a_variable_and_what_was_not_is_left_to_it(variable, value, override, monkeypatch, srun):
    assert in_effect(monkeypatch, srun, override, **{variable: value}) == set()
    assert in_effect(monkeypatch, srun, **{variable: value}) == {variable}


@pytest.mark.parametrize(
    "variable",
    [
        "SBATCH_TIMELIMIT",
        "SBATCH_JOB_NAME",
        "SBATCH_ARRAY_INX",
        "SBATCH_GPUS",
        "SBATCH_GRES",
        "SBATCH_GPUS_PER_NODE",
        "SBATCH_SIGNAL",
        "SBATCH_NO_REQUEUE",
        "SBATCH_OPEN_MODE",
        "SBATCH_OUTPUT",
        "SBATCH_ERROR",
        "SBATCH_WAIT",
        "SBATCH_CLUSTERS",
        "SBATCH_CPUS_PER_GPU",
    ],
)
def test_what_is_always_decided_here_no_variable_changes(variable, monkeypatch, srun):
    assert in_effect(monkeypatch, srun, **{variable: "1"}) == set()


def test_sbatch_and_the_questions_see_nothing_of_the_job_they_are_asked_from(monkeypatch):
    for name in (
        "SLURM_JOB_ID",
        "SLURM_CLUSTERS",
        "SLURM_TIME_FORMAT",
        "SQUEUE_FORMAT",
        "SQUEUE_STATES",
        "SACCT_FORMAT",
        "SCANCEL_STATE",
        "SRUN_EXPORT_ENV",
        "SUBMITIT_EXECUTOR",
        "RANK",
        "SBATCH_QOS",
    ):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/somewhere/slurm.conf")
    monkeypatch.setenv("MINE", "x")
    asked = environment.for_questions()
    assert {name for name in asked if name.startswith(environment.DROPPED)} == {"SLURM_CONF", "SLURM_BITSTR_LEN"}
    assert asked["MINE"] == "x" and "RANK" not in asked
    assert {name for name in environment.for_sbatch([]) if name.startswith(environment.DROPPED)} == {"SLURM_CONF", "SBATCH_QOS"}
    assert os.environ["SLURM_JOB_ID"] == "x"


def test_the_user_is_the_one_of_the_process_not_of_a_variable(tmp_path, monkeypatch):
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\necho '7|token'\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LOGNAME", "nobody")
    assert squeue.arrays_by_comment(["token"]) == {"token": "7"}
    asked = (tmp_path / "asked").read_text().split()
    assert asked[asked.index("-u") + 1] == str(os.getuid()) and "-a" in asked


@pytest.mark.parametrize("name", ["runs %j", "100%", "a\\b", "two\nlines", "tab\there"])
def test_a_path_that_slurm_would_expand_is_refused_unless_the_calls_go_elsewhere(name, tmp_path):
    folder = tmp_path / name / "grid" / "slurm"
    with pytest.raises(UserError, match=r"set --slurm scratch=DIR") as caught:
        fit(scratch(load(None, [], KINDS), folder))
    assert "\n" not in str(caught.value)
    places = {fit(scratch(load(None, [f"scratch={tmp_path}"], KINDS), path)) for path in (folder, tmp_path / "runs" / "slurm")}
    assert len(places) == 2 and {place.parent for place in places} == {tmp_path}


@pytest.mark.parametrize("name", ["my runs", "it's", 'say "x"', "Läufe", "実験", "$HOME;#&|<>*?[a](b){c}~!", "-n"])
def test_any_other_path_reaches_sbatch_as_it_is(name, tmp_path, srun):
    folder = fit(scratch(load(None, [], KINDS), tmp_path / name))
    text = ArrayExecutor(load(None, [], KINDS), "train", "grid", folder).script(tasks=2)
    assert f"--output={folder}/%A_%a_0_log.out" in options(text)


def test_a_long_path_gives_a_short_name(tmp_path):
    deep = tmp_path.joinpath(*["folder"] * 60)
    assert len(scratch(load(None, [f"scratch={tmp_path}"], KINDS), deep).name) < 120
