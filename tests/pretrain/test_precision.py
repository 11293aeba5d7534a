"""``train.precision=auto``: what a machine computes best, settled before the run has a name and never changed afterwards."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ablations import grid
from pretrain import config, hardware, identity, run
from pretrain.checkpoints import files
from pretrain.training import build_training
from pretrain.training.loop import _check_alike
from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.pretrain.tiny import overrides, tiny

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Make this a machine on which ``auto`` is ``precision``."""

    def choose(precision: str) -> None:
        monkeypatch.setattr(identity, "best_precision", lambda device: (precision, "the test says so"))

    return choose


@pytest.mark.parametrize(
    ("flags", "capability", "limits", "found"),
    [
        ("avx2 avx512f avx512_bf16", "AVX512", {}, ("bf16", "this processor computes it (avx512_bf16)")),
        ("avx512_bf16 amx_bf16 amx_tile", "AVX512_BF16", {}, ("bf16", "this processor computes it (amx_bf16, avx512_bf16)")),
        ("avx2 avx512f avx512bw", "AVX512", {}, ("fp32", "this processor has no arithmetic for bfloat16 (AVX-512 BF16 or AMX)")),
        ("avx512_bf16_of_others", "AVX512", {}, ("fp32", "this processor has no arithmetic for bfloat16 (AVX-512 BF16 or AMX)")),
        (
            "avx512_bf16",
            "AVX512",
            {"ONEDNN_MAX_CPU_ISA": "avx2"},
            ("fp32", "ONEDNN_MAX_CPU_ISA=avx2 leaves this processor's arithmetic for bfloat16 unused"),
        ),
        ("avx512_bf16", "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, ("bf16", "this processor computes it (avx512_bf16)")),
        (
            "avx512_bf16",
            "AVX2",
            {"ATEN_CPU_CAPABILITY": "avx2"},
            ("fp32", "ATEN_CPU_CAPABILITY=avx2 leaves this processor's arithmetic for bfloat16 unused"),
        ),
    ],
)
def test_of_a_processor(flags, capability, limits, found, monkeypatch):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hardware, "_cpuinfo", lambda: {"flags": flags})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert hardware.best_precision(CPU) == found


def test_where_linux_does_not_say_what_the_processor_can():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "_cpuinfo", dict)
        assert hardware.best_precision(CPU)[0] == "fp32"


@pytest.mark.parametrize(
    ("capability", "hip", "precision"),
    [((7, 5), None, "fp32"), ((8, 0), None, "bf16"), ((9, 0), None, "bf16"), ((7, 5), "6.2", "bf16")],
)
def test_of_a_gpu(capability, hip, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    found, why = hardware.best_precision(torch.device("cuda:0"))
    assert found == precision and why.startswith("a GPU ")


def test_it_is_said_first_and_the_run_is_one_of_the_precision_found(machine, tmp_path, capsys):
    machine("bf16")
    words = overrides("optimizer.epochs=1", "train.precision=auto")
    assert run.main(["--preset", "digits", "--out", str(tmp_path / "auto"), *words]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said == "precision bf16, because the test says so; choose another with train.precision=fp32 or bf16"
    directory = RunDirectory(tmp_path / "auto")
    assert directory.read_config()["train"]["precision"] == "bf16"
    assert ", bf16, " in directory.provenance()["kinds"]["pretraining"][0]
    weights = {}
    for precision in ("bf16", "fp32"):
        assert run.main(["--preset", "digits", "--out", str(tmp_path / precision), *words, f"train.precision={precision}"]) == 0
        weights[precision] = files.latest(tmp_path / precision)[1]["projector"]
        assert "because" not in capsys.readouterr().out
    auto = files.latest(tmp_path / "auto")[1]["projector"]
    assert all(torch.equal(auto[name], weights["bf16"][name]) for name in auto)
    assert not all(torch.equal(auto[name], weights["fp32"][name]) for name in auto)


def test_a_machine_that_would_choose_another_does_not_continue_it(machine, tmp_path):
    words = ["--preset", "digits", "--out", str(tmp_path / "run"), *overrides("optimizer.epochs=1", "train.precision=auto")]
    machine("bf16")
    run.main(words)
    machine("fp32")
    with pytest.raises(
        UserError,
        match=r"train.precision=bf16, not fp32\); set train.precision=bf16 to continue it, or choose "
        r"another --out$",
    ):
        run.main(words)
    assert run.main([*words, "train.precision=bf16"]) == 0
    with pytest.raises(UserError, match=r"seed=100, not 7; train.precision=bf16, not fp32\); choose another --out$"):
        run.main([*words, "seed=7"])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_it_has_the_name_of_the_precision_found(precision, machine, tmp_path):
    machine(precision)
    auto, own = (
        identity.own_directory(tmp_path, "x", identity.identified(tiny(f"train.precision={asked}")))
        for asked in ("auto", precision)
    )
    assert auto == own


def test_print_config_is_a_config_that_says_the_precision_found(machine, capsys):
    machine("bf16")
    assert run.main(["--preset", "digits", "--print-config", "train.precision=auto"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("format: 1") and "precision: bf16" in said


def test_a_grids_cells_have_it_and_it_is_said_once(machine, tmp_path, capsys):
    machine("bf16")
    auto, own = (
        grid.expand("guidelines", "digits", ["mse-*"], [100, 101], None, [f"train.precision={asked}"], tmp_path)
        for asked in ("auto", "bf16")
    )
    assert [one.directory for one in auto] == [one.directory for one in own]
    assert {one.cfg.train.precision for one in auto} == {"bf16"}
    assert capsys.readouterr().out.count("precision bf16, because") == 1


def test_it_cannot_be_settled_here_for_machines_that_are_elsewhere(machine, tmp_path):
    with pytest.raises(UserError, match=r"jobs go to Slurm's, which are unknown here; set train.precision=bf16 or fp32"):
        grid.expand("guidelines", "digits", [], [100], None, ["train.precision=auto"], tmp_path, elsewhere=True)
    assert grid.expand("guidelines", "digits", [], [100], None, ["train.precision=bf16"], tmp_path, elsewhere=True)


@pytest.mark.parametrize(("others", "alike"), [("bf16", True), ("fp32", False)])
def test_processes_that_train_together_must_find_the_same(others, alike):
    cfg = tiny("train.precision=bf16")
    group = SimpleNamespace(any=lambda flag: flag or others == "fp32")  # what the other process answers to each question
    if alike:
        _check_alike(cfg, group)
    else:
        with pytest.raises(UserError, match="bf16 on some of these machines and fp32 on others"):
            _check_alike(cfg, group)


def test_nothing_trains_before_it_is_settled():
    with pytest.raises(ValueError, match="settled first"):
        build_training(config.load("digits", ["train.precision=auto"]), CPU)
