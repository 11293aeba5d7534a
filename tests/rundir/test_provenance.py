"""Where numbers come from: what decides them is recorded, by stretches of work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from pretrain.hardware import hardware
from rundir import provenance
from rundir.commit import ROOT
from rundir.directory import RunDirectory
from tests.pretrain import tiny

CPU = {"device": "cpu", "precision": "fp32", "memory_format": "channels_last"}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_without_git_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    run = RunDirectory(tmp_path / "run")
    run.add_provenance()
    assert run.provenance()["git_commit"] is None and run.provenance()["packages"]["torch"]


def test_a_package_of_another_name_is_no_reason_to_stop():
    assert provenance.version("us3l-package-that-nobody-has") is None and provenance.version("torch")


@pytest.mark.parametrize(("variable", "value"), [("ATEN_CPU_CAPABILITY", "default"), ("ONEDNN_MAX_CPU_ISA", "SSE41")])
def test_the_instruction_set_and_what_limits_it_are_recorded(variable, value):
    code = (
        "import json; from pretrain.hardware import hardware; from rundir import provenance as p; machine = hardware(); "
        "print(json.dumps([machine, p.kind(machine, {'device': 'cpu'})]))"
    )
    found = []
    for more in ({}, {variable: value}):
        free = {name: text for name, text in os.environ.items() if name not in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=free | more, capture_output=True, text=True)
        found.append(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found[0] != found[1] and f'"{variable}": "{value}"' in found[1] and f"{variable}={value}" in found[1]
    if variable == "ATEN_CPU_CAPABILITY":
        assert '"capability": "DEFAULT"' in found[1]


def test_a_machine_is_of_one_kind_whatever_was_imported_before(monkeypatch):
    """scikit-learn sets these when it is imported: records of an evaluation by hand and of a grid's worker had two kinds."""
    for name in ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"):
        monkeypatch.delenv(name, raising=False)
    before = hardware()
    monkeypatch.setenv("KMP_DUPLICATE_LIB_OK", "True")
    monkeypatch.setenv("KMP_INIT_AT_FORK", "FALSE")
    assert hardware() == before


def test_the_effective_number_of_threads_is_recorded(threads):
    torch.set_num_threads(3)
    machine = hardware()
    assert machine["threads"] == 3 and "3 threads" in provenance.kind(machine, CPU)
    torch.set_num_threads(1)
    assert "1 thread," in provenance.kind(hardware(), CPU)


def test_the_kind_names_what_numbers_depend_on_and_nothing_else():
    machine = hardware() | {
        "cpu": "Some CPU (6/85/7)",
        "capability": "AVX512",
        "threads": 2,
        "gpus": [],
        "cuda": None,
        "limits": {"OMP_NUM_THREADS": "2"},
    }
    assert provenance.kind(machine, CPU) == "Some CPU (6/85/7) AVX512, 2 threads, fp32, channels_last"
    several = provenance.kind(machine, CPU | {"processes": 4, "compile": True, "memory_format": "contiguous"})
    assert several == "Some CPU (6/85/7) AVX512, 2 threads, 4 processes, fp32, contiguous, compiled"
    card = machine | {"gpus": ["NVIDIA H100", "NVIDIA H100"], "cuda": "12.8"}
    on_card = {"device": "cuda:1", "precision": "bf16"}
    assert provenance.kind(card, on_card) == "NVIDIA H100, CUDA 12.8, bf16"
    assert provenance.kind(card | {"threads": 9}, on_card) == provenance.kind(card, on_card)


def test_stretches_of_work_are_noted_where_something_changes(tmp_path, threads):
    run = RunDirectory(tmp_path / "run")
    torch.set_num_threads(1)
    first = run.add_stretch("pretraining", CPU, [hardware()], step=0)
    assert run.add_stretch("pretraining", CPU, [hardware()], step=5) == first and len(run.provenance()["stretches"]) == 1
    torch.set_num_threads(2)
    second = run.add_stretch("pretraining", CPU, [hardware()], step=9)
    run.add_stretch("evaluation", CPU, [hardware()])
    torch.set_num_threads(1)
    run.add_stretch("pretraining", CPU, [hardware()], step=12)
    there = run.provenance()
    expected = [("pretraining", 0), ("pretraining", 9), ("evaluation", None), ("pretraining", 12)]
    assert [(stretch["work"], stretch.get("step")) for stretch in there["stretches"]] == expected
    assert there["kinds"] == {"pretraining": [first, second], "evaluation": [second]} and first != second
    assert there["format"] == 1 and there["hardware"]["threads"] == 1  # as it began


def test_machines_of_several_processes_are_told_apart(tmp_path):
    run = RunDirectory(tmp_path / "run")
    here = hardware()
    other = here | {"cpu": "Another CPU"}
    found = run.add_stretch("pretraining", CPU | {"processes": 3}, [here, other, here])
    assert len(run.provenance()["stretches"][0]["machines"]) == 2
    assert " and Another CPU" in found and found.count("3 processes") == 2


def test_a_run_records_what_it_was_trained_on(tmp_path, threads, monkeypatch):
    monkeypatch.setattr("pretrain.training.loop.training_flops", lambda *args: 1.0)
    tiny.pretrain(tiny.tiny("train.threads=2", "optimizer.epochs=1", "data.limit=16"), tmp_path / "run")
    there = RunDirectory(tmp_path / "run").provenance()
    (stretch,) = there["stretches"]
    assert stretch["machines"][0]["threads"] == 2 and stretch["step"] == 0 and there["hardware"]["threads"] == 2
    assert stretch["execution"] == {
        "device": "cpu",
        "processes": 1,
        "precision": "fp32",
        "memory_format": "channels_last",
        "compile": False,
    }
    assert there["kinds"]["pretraining"] == [stretch["kind"]] and "2 threads" in stretch["kind"]
