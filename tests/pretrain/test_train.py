"""Training: killed and resumed to the same bits, damaged checkpoints, a full disk, precision, and bad command lines."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pretrain import config, run
from pretrain.checkpoints import files as checkpoint
from pretrain.data import evaluation_batches, load
from pretrain.objective.networks import Student
from pretrain.schedule import learning_rate
from pretrain.slimmable import at_width, load_calibration_state
from pretrain.training import loop as training
from pretrain.training import make_optimizer, pretrain
from rundir.cli import cli
from rundir.directory import Busy, RunDirectory
from rundir.errors import UserError
from tests.pretrain import tiny

EPOCHS, PER_EPOCH = 4, 4
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run from start to end, in a process of its own like all those it is compared with."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert tiny.train(directory) == 0
    return directory


@pytest.fixture(autouse=True)
def uncounted(monkeypatch):
    """The cost of a run is provenance only, and most of the time of so small a run."""
    monkeypatch.setattr(training, "training_flops", lambda *args: 1.0)


# -- what a run leaves ----------------------------------------------------------------------------------------------------


def test_what_a_run_writes(uninterrupted):
    assert sorted(os.listdir(uninterrupted)) == sorted(
        [
            ".lock",
            ".result.lock",
            "config.yaml",
            "status.json",
            "metrics.jsonl",
            "checkpoint.pt",
            "checkpoint.previous.pt",
            "provenance.json",
        ]
    )
    there = RunDirectory(uninterrupted)
    assert config.from_dict(there.read_config()) == tiny.tiny()
    status = there.status()
    assert (status["state"], status["epoch"], status["epochs"], status["step"]) == ("done", EPOCHS, EPOCHS, EPOCHS * PER_EPOCH)
    provenance = there.provenance()
    assert provenance["train_seconds"] > 0 and provenance["finished"] >= provenance["started"]


def test_metrics_of_a_run(uninterrupted):
    rows = tiny.metrics(uninterrupted)
    assert all(set(row) == {"step", "epoch", "name", "width", "value"} for row in rows)
    keys = [(r["epoch"], r["name"], r["width"]) for r in rows]
    assert len(keys) == len(set(keys)) and {r["step"] for r in rows} == {4, 8, 12, 16}
    assert all(r["step"] == PER_EPOCH * r["epoch"] for r in rows)
    values = {(r["epoch"], r["name"], r["width"]): r["value"] for r in rows}
    cfg = tiny.tiny()
    for epoch in range(1, EPOCHS + 1):
        names = {n for e, n, _ in values if e == epoch}
        expected = {
            "loss/base",
            "penalty",
            "lr",
            "ema_momentum",
            "widths_per_step",
            "feature_std",
            "effective_rank",
            "projection_std",
            "projection_rank",
        }
        expected |= {"loss/distill"} if epoch > 1 else set()  # stage 1 of dynamic sampling trains the widest only
        expected |= {"drift/absolute", "drift/relative", "drift/cka"} if epoch > 1 else set()
        assert names - {"gradient_norm"} == expected
        assert values[epoch, "widths_per_step", None] == (1 if epoch == 1 else 3)
        assert values[epoch, "lr", None] == pytest.approx(learning_rate(cfg.optimizer, epoch - 1), rel=1e-6)
        last_step = 4 * epoch - 1
        assert values[epoch, "ema_momentum", None] == pytest.approx(1 - 0.05 * (1 + math.cos(math.pi * last_step / 16)), rel=1e-6)
        assert -1 <= values[epoch, "loss/base", 1.0] <= 1
        assert {w for e, n, w in values if e == epoch and n == "effective_rank"} == {1.0, 0.25}
        assert {w for e, n, w in values if e == epoch and n.startswith("drift")} == ({1.0} if epoch > 1 else set())
    assert all(math.isfinite(v) for v in values.values())


def test_a_checkpoint_has_all_that_is_needed_to_use_it(uninterrupted):
    payload = checkpoint.load(uninterrupted / "checkpoint.pt")
    assert payload["format"] == 1 and (payload["step"], payload["epoch"]) == (16, 4)
    cfg = config.from_dict(payload["config"])
    student = Student(cfg)
    student.encoder.load_state_dict(payload["encoder"])
    student.projector.load_state_dict(payload["projector"])
    student.predictor.load_state_dict(payload["predictor"])
    student.distill_head.load_state_dict(payload["distill_head"])
    assert {k.split(".")[0] for k in payload["teacher"]} == {"encoder", "projector"}
    assert set(payload["calibration"]) == {"1.0", "0.25"}
    # The statistics are those of the trained weights on un-augmented training images: computed once more, slowly.
    load_calibration_state(student.encoder, payload["calibration"])
    encoder = student.encoder
    source = load("digits", "train", root=None, size=8, limit=64)
    chosen = torch.randperm(64, generator=torch.Generator().manual_seed(cfg.seed))[:40]
    images = torch.cat([x for x, _ in evaluation_batches(source, 8, 40, "cpu", chosen)])
    with at_width(encoder, 0.25), torch.no_grad():
        mean, variance = encoder.bn1.statistics_at(0.25)
        maps = encoder.conv1(images).double()
    torch.testing.assert_close(mean.double(), maps.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance.double(), maps.var((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_training_reduces_the_losses(tmp_path):
    assert (
        tiny.train(
            tmp_path, "optimizer.epochs=8", "widths.sampling=sandwich", "diagnostics.images=0", "objective.base_loss=infonce"
        )
        == 0
    )
    values = {(r["epoch"], r["name"]): r["value"] for r in tiny.metrics(tmp_path)}
    assert values[8, "loss/base"] < values[1, "loss/base"] - 0.1
    assert values[8, "loss/distill"] < values[1, "loss/distill"] - 0.1


def test_a_finished_run_is_left_alone(uninterrupted):
    def state():
        return {f.name: (f.stat().st_mtime_ns, f.stat().st_size) for f in uninterrupted.iterdir() if f.name != ".lock"}

    before = state()
    pretrain(tiny.tiny(), uninterrupted)
    pretrain(tiny.tiny("experiment.cell=relabelled", "train.checkpoint_minutes=3"), uninterrupted)
    assert state() == before


def test_another_experiment_is_refused(uninterrupted):
    with pytest.raises(UserError, match="holds another experiment"):
        pretrain(tiny.tiny("optimizer.lr=0.01"), uninterrupted)
    assert RunDirectory(uninterrupted).status()["state"] == "done"


def test_a_directory_in_use_is_refused(tmp_path):
    with RunDirectory(tmp_path).lock(), pytest.raises(Busy):
        pretrain(tiny.tiny(), tmp_path)
    assert os.listdir(tmp_path) == [".lock"]


def test_seeds_differ_and_a_seed_repeats(uninterrupted, tmp_path):
    assert tiny.train(tmp_path / "same") == 0
    tiny.assert_same_run(uninterrupted, tmp_path / "same")
    assert tiny.train(tmp_path / "other", "seed=101", "optimizer.epochs=1") == 0
    assert tiny.metrics(tmp_path / "other")[0]["value"] != tiny.metrics(uninterrupted)[0]["value"]


# -- killed and resumed ---------------------------------------------------------------------------------------------------


def restart_until_done(directory, kills, *more):
    """Train with one kill after the other, then to the end. Returns how many kills happened."""
    happened = 0
    for kill in kills:
        code = tiny.train(directory, *more, kill_at=kill)
        assert code in (0, -signal.SIGKILL)
        happened += code != 0
    assert tiny.train(directory, *more) == 0
    return happened


def test_killed_at_its_writes_and_resumed(uninterrupted, tmp_path):
    assert restart_until_done(tmp_path / "run", [3, 16, 22, 31]) == 4
    tiny.assert_same_run(uninterrupted, tmp_path / "run")


def test_killed_within_epochs_and_resumed(uninterrupted, tmp_path):
    """A checkpoint after every step, and a kill at every kind of moment around one."""
    assert restart_until_done(tmp_path / "run", [17, 24, 45], "train.checkpoint_minutes=0") == 3
    tiny.assert_same_run(uninterrupted, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [0, 10])
def test_killed_at_any_write(uninterrupted, tmp_path, minutes):
    """Every event of the first forty, each in a run of its own."""
    for kill in range(1, 41, 2):
        assert restart_until_done(tmp_path / str(kill), [kill], f"train.checkpoint_minutes={minutes}") == 1
        tiny.assert_same_run(uninterrupted, tmp_path / str(kill))


@pytest.mark.slow
def test_killed_at_random_moments(uninterrupted, tmp_path):
    random.seed(time.time_ns())
    kills = 0
    for attempt in range(4):
        directory = tmp_path / str(attempt)
        for _ in range(4):
            process = tiny.start(directory, "train.checkpoint_minutes=0")
            time.sleep(random.uniform(0.2, 2.5))
            process.kill()
            kills += tiny.finished(process) != 0
        assert tiny.train(directory, "train.checkpoint_minutes=0") == 0
        tiny.assert_same_run(uninterrupted, directory)
    assert kills >= 4


def test_an_epoch_is_logged_before_it_counts(uninterrupted, tmp_path, monkeypatch):
    """Killed between an epoch's last step and its metrics, with checkpoints after every step."""

    class Killed(BaseException):
        pass

    def killed(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_log_epoch", killed)
        with pytest.raises(Killed):
            pretrain(tiny.tiny("train.checkpoint_minutes=0"), tmp_path)
    assert checkpoint.load(tmp_path / "checkpoint.pt")["step"] == PER_EPOCH - 1
    assert tiny.train(tmp_path) == 0
    tiny.assert_same_run(uninterrupted, tmp_path)


def test_killed_before_the_last_words(uninterrupted, tmp_path):
    """All is trained and saved, but the status does not say so yet: nothing is trained again, nothing changes."""
    shutil.copytree(uninterrupted, tmp_path / "run")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    del status["trained"]
    (tmp_path / "run" / "status.json").write_text(json.dumps(status | {"state": "running"}))
    assert tiny.train(tmp_path / "run") == 0
    tiny.assert_same_run(uninterrupted, tmp_path / "run")


# -- damaged checkpoints --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that was killed after its second epoch, with two checkpoints."""
    directory = tmp_path_factory.mktemp("interrupted") / "run"
    assert tiny.train(directory, kill_at="saved 2") == -signal.SIGKILL
    return directory


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def garbage(path):
    path.write_bytes(os.urandom(5000))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, garbage, empty])
def test_a_damaged_checkpoint_costs_an_epoch_but_no_bit(uninterrupted, interrupted, tmp_path, damage):
    shutil.copytree(interrupted, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoint.pt")
    assert tiny.train(tmp_path / "run") == 0
    tiny.assert_same_run(uninterrupted, tmp_path / "run")


def test_two_damaged_checkpoints_are_one_line(interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path / "run")
    truncate(tmp_path / "run" / "checkpoint.pt")
    garbage(tmp_path / "run" / "checkpoint.previous.pt")
    with pytest.raises(UserError, match=r"no checkpoint of .* can be read") as caught:
        pretrain(tiny.tiny(), tmp_path / "run")
    assert "\n" not in str(caught.value)
    status = RunDirectory(tmp_path / "run").status()
    assert status["state"] == "failed" and "no checkpoint of" in status["why"]


# -- a full disk ----------------------------------------------------------------------------------------------------------


def assert_full_disk_is_told(directory, code, errors):
    assert code == 2, errors
    assert len(errors.strip().splitlines()) == 1 and errors.startswith("error: ") and "checkpoint.pt" in errors
    assert [f for f in os.listdir(directory) if f.endswith(".tmp")] == []


def test_a_file_size_limit_while_saving(uninterrupted, interrupted, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(interrupted, directory)
    before = {name: (directory / name).read_bytes() for name in ("checkpoint.pt", "checkpoint.previous.pt")}
    code, errors = tiny.command(["--out", str(directory), *tiny.overrides()], tmp_path / "err", file_size=200_000)
    assert_full_disk_is_told(directory, code, errors)
    assert before == {name: (directory / name).read_bytes() for name in before}
    assert RunDirectory(directory).status()["state"] == "failed"
    assert tiny.train(directory) == 0  # with space again
    tiny.assert_same_run(uninterrupted, directory)


@pytest.fixture
def small_disk(tmp_path):
    directory = tmp_path / "disk"
    directory.mkdir()
    size = 8 * 2**20
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system of a given size can only be mounted by root")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def test_a_full_disk(uninterrupted, interrupted, small_disk, tmp_path):
    """ENOSPC itself, with TensorBoard writing to the same disk."""
    directory = small_disk / "run"
    shutil.copytree(interrupted, directory)
    free = os.statvfs(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 100_000)))
    before = {name: (directory / name).read_bytes() for name in ("checkpoint.pt", "checkpoint.previous.pt")}
    argv = ["--out", str(directory), *tiny.overrides("train.tensorboard=true")]
    code, errors = tiny.command(argv, tmp_path / "err")
    assert_full_disk_is_told(directory, code, errors)
    assert "No space left" in errors and "resumes" in errors
    assert before == {name: (directory / name).read_bytes() for name in before}
    filler.unlink()
    shutil.copytree(directory, tmp_path / "run")
    assert tiny.train(tmp_path / "run") == 0
    tiny.assert_same_run(uninterrupted, tmp_path / "run")


# -- variants -------------------------------------------------------------------------------------------------------------

VARIANTS = {
    "bf16": ["train.precision=bf16"],
    "bf16 naive infonce": ["train.precision=bf16", "objective.distill_loss=none", "objective.base_loss=infonce"],
    "adamw, accumulated, clipped": [
        "optimizer.name=adamw",
        "optimizer.lr=1e-3",
        "objective.update=accumulate",
        "optimizer.clip_norm=1",
    ],
    "individual": ["widths.min=0.25", "widths.max=0.25", "objective.distill_loss=none"],
    "fixed list, online": ["widths.sampling=fixed", "objective.teacher=online", "optimizer.warmup_epochs=1"],
    "uniform, shared head": ["widths.sampling=uniform", "objective.head=shared"],
    "no regularizer, no diagnostics": ["regularizer.kind=none", "diagnostics.images=0"],
    "tensorboard": ["train.tensorboard=true"],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_train(name, tmp_path):
    pretrain(tiny.tiny("optimizer.epochs=2", "data.limit=32", *VARIANTS[name]), tmp_path)
    rows = tiny.metrics(tmp_path)
    assert all(math.isfinite(r["value"]) for r in rows if r["value"] is not None)
    assert {r["epoch"] for r in rows if r["name"] == "loss/base"} == {1, 2}
    payload = checkpoint.load(tmp_path / "checkpoint.pt")
    assert all(v.dtype == torch.float32 for v in payload["encoder"].values())
    assert (name == "tensorboard") == (tmp_path / "tensorboard").exists()


def test_bf16_is_near_fp32(tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        pretrain(tiny.tiny("optimizer.epochs=1", f"train.precision={precision}", "widths.sampling=sandwich"), tmp_path / precision)
        losses.append([r["value"] for r in tiny.metrics(tmp_path / precision) if r["name"].startswith("loss")])
    assert losses[0] == pytest.approx(losses[1], abs=0.05) and losses[0] != losses[1]


def test_memory_layout_changes_rounding_only(tmp_path):
    losses = []  # of one step: what rounding does to the weights grows from step to step
    for layout in ("true", "false"):
        pretrain(
            tiny.tiny(
                "optimizer.epochs=1",
                "data.limit=16",
                f"train.channels_last={layout}",
                "objective.update=accumulate",
                "widths.sampling=sandwich",
            ),
            tmp_path / layout,
        )
        losses.append([r["value"] for r in tiny.metrics(tmp_path / layout) if r["name"].startswith("loss")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_divergence_is_one_line_and_spares_the_last_good_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"diverged.*lower optimizer.lr") as caught:
        pretrain(tiny.tiny("optimizer.lr=1e30", "regularizer.coefficient=1"), tmp_path)
    assert "\n" not in str(caught.value)
    assert RunDirectory(tmp_path).status()["state"] == "failed"
    kept = checkpoint.load_latest(tmp_path)
    assert kept is None or all(v.isfinite().all() for v in kept["encoder"].values())


def test_a_fault_of_ours_keeps_its_traceback_and_is_recorded(tmp_path, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("our fault\nsecond line")

    monkeypatch.setattr(training.Trainer, "train_step", broken)
    with pytest.raises(ZeroDivisionError):
        pretrain(tiny.tiny(), tmp_path)
    status = RunDirectory(tmp_path).status()
    assert (status["state"], status["why"]) == ("failed", "ZeroDivisionError: our fault")


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizers_against_their_formulas(name):
    """Three steps of SGD with momentum and of AdamW without decay, written out in float64."""
    cfg = tiny.tiny(f"optimizer.name={name}", "optimizer.lr=0.01", "optimizer.momentum=0.8")
    student = Student(cfg).double()
    optimizer = make_optimizer(cfg, student)
    expected = {k: p.detach().clone() for k, p in student.named_parameters()}
    first = {k: torch.zeros_like(p) for k, p in expected.items()}
    second = {k: torch.zeros_like(p) for k, p in expected.items()}
    for step in range(1, 4):
        for key, parameter in student.named_parameters():
            gradient = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
            parameter.grad = gradient
            if name == "sgd":
                first[key] = 0.8 * first[key] + gradient
                expected[key] = expected[key] - 0.01 * first[key]
            else:
                first[key] = 0.9 * first[key] + 0.1 * gradient
                second[key] = 0.999 * second[key] + 0.001 * gradient**2
                change = first[key] / (1 - 0.9**step) / ((second[key] / (1 - 0.999**step)).sqrt() + 1e-8)
                expected[key] = expected[key] - 0.01 * change
        optimizer.step()
    for key, parameter in student.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[key], rtol=1e-9, atol=1e-12)


# -- the command line -----------------------------------------------------------------------------------------------------


def run_command(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        cli(run.main, argv)
    return ended.value.code, capsys.readouterr()


BAD_COMMANDS = {
    "unknown key": (["optimizer.lrr=1"], "did you mean optimizer.lr"),
    "batch larger than the data": (["optimizer.batch_size=128"], "optimizer.batch_size=64"),
    "batch larger than all digits": (["data.limit=0", "optimizer.batch_size=4096"], "1297 training images"),
    "missing data directory": (["data.name=folder", "data.root=/nowhere/at/all"], "/nowhere/at/all"),
    "no data directory": (["data.name=folder"], "data.root=DIR"),
    "widths of the same channels": (["widths.min=0.99"], "same channels"),
    "width out of range": (["widths.min=0"], "in (0, 1]"),
    "unknown device": (["train.device=gpu"], "auto, cpu, cuda or cuda:N"),
    "device of another kind": (["train.device=mps"], "auto, cpu, cuda or cuda:N"),
    "no such GPU": (["train.device=cuda:99"], "train.device=cpu"),
    "not a number": (["optimizer.lr=fast"], "optimizer.lr"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_bad_input_is_one_line_and_exit_code_2(name, tmp_path, capsys):
    more, expected = BAD_COMMANDS[name]
    code, output = run_command(["--out", str(tmp_path / "run"), *tiny.overrides(*more)], capsys)
    assert code == 2 and output.out == ""
    assert len(output.err.splitlines()) == 1 and output.err.startswith("error: ") and expected in output.err
    assert not (tmp_path / "run").exists()  # nothing was begun, nothing is left


def test_bad_presets_and_directories(tmp_path, capsys, uninterrupted):
    (tmp_path / "file").write_text("")
    for argv, expected in (
        (["--preset", "digit"], "did you mean digits"),
        (["--preset", "x/y.yaml"], "unknown preset"),
        (["--out", str(tmp_path / "file"), *tiny.overrides()], "cannot make the run directory"),
        (["--out", str(uninterrupted), *tiny.overrides("seed=3")], "another experiment"),
    ):
        code, output = run_command(argv, capsys)
        assert code == 2 and len(output.err.splitlines()) == 1 and expected in output.err


def test_printed_config_is_the_config(capsys, tmp_path):
    code, output = run_command(["--print-config", "--seed", "7", "--data-dir", "/x", "optimizer.lr=2"], capsys)
    assert code == 0
    (tmp_path / "printed.yaml").write_text(output.out)
    cfg = config.load(str(tmp_path / "printed.yaml"))
    assert (cfg.seed, cfg.data.root, cfg.optimizer.lr) == (7, "/x", 2.0)


def test_versions_say_what_a_report_needs(capsys):
    code, output = run_command(["--versions"], capsys)
    said = dict(line.split(": ", 1) for line in output.out.splitlines())
    assert code == 0 and said["torch"] == torch.__version__.split("+")[0] and said["python"] in sys.version
    assert {"us3l-bench", "torchvision", "detectron2", "onedl-mmsegmentation", "submitit", "pandas", "GPU"} <= set(said)
    assert all(said.values())


def test_the_script_itself(tmp_path):
    """As a user starts it, from another directory: trains and says where the result is."""
    script = [sys.executable, str(ROOT / "pretrain" / "run.py")]
    argv = [*script, "--out", "run", *tiny.overrides("optimizer.epochs=1", "model.arch=resnet_small")]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "checkpoint: run/checkpoint.pt" and done.stderr == ""
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    assert RunDirectory(tmp_path / "run").provenance()["train_flops"] > 1e8


def test_interruption_by_hand(tmp_path, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Trainer, "train_step", interrupted)
    code, output = run_command(["--out", str(tmp_path / "run"), *tiny.overrides()], capsys)
    assert code == 130 and output.err == "interrupted; run the same command again to resume\n"


# -- on a GPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cuda_trains_like_the_cpu(tmp_path, precision):
    losses = []
    for device in ("cpu", "cuda"):
        chosen = precision if device == "cuda" else "fp32"
        pretrain(
            tiny.tiny(f"train.device={device}", f"train.precision={chosen}", "widths.sampling=sandwich", *tiny.COMPARABLE),
            tmp_path / device,
        )
        losses.append([r["value"] for r in tiny.metrics(tmp_path / device) if r["name"].startswith("loss") and r["epoch"] == 1])
        payload = checkpoint.load(tmp_path / device / "checkpoint.pt")
        assert all(v.isfinite().all() for v in payload["encoder"].values())
    assert losses[0] == pytest.approx(losses[1], abs=2e-3 if precision == "fp32" else 0.05)
