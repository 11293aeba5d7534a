"""Two processes (gloo) against one: weights, losses, synchronized BatchNorm, gathered negatives."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from benchmarks import recorded
from pretrain import averaging, calibration, diagnostics, graphs
from pretrain.checkpoints import files as checkpoint
from pretrain.distributed import Processes, choose_device, processes
from pretrain.objective.gradients import Gradients
from pretrain.objective.losses import infonce
from pretrain.slimmable import SlimmableBatchNorm1d, SlimmableBatchNorm2d, at_width, calibrate
from pretrain.training import build
from pretrain.training import loop as training
from rundir.errors import UserError
from tests.pretrain import tiny

ROOT = Path(__file__).resolve().parents[2]


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# -- the parts, against torch on the whole batch --------------------------------------------------------------------------

SHAPES = {"1d": (SlimmableBatchNorm1d, nn.BatchNorm1d, ()), "2d": (SlimmableBatchNorm2d, nn.BatchNorm2d, (3, 5))}


def inputs(kind, channels=16):
    extent = SHAPES[kind][2]
    return randn(8, channels, *extent) * 2 + torch.linspace(-3, 500, channels, dtype=torch.float64).view(-1, *[1] * len(extent))


def parts(directory):
    """In each of two processes: its half through a synchronized BatchNorm and through InfoNCE, with gradients."""
    with processes("cpu") as group:
        out = {}
        half = slice(4 * group.rank, 4 * group.rank + 4)
        for kind, (ours, _, _) in SHAPES.items():
            for dtype in (torch.float64, torch.float32):
                layer = ours(16).to(dtype)
                with torch.no_grad():
                    layer.weight.copy_(torch.linspace(0.5, 2, 16))
                layer.synchronized = True
                x = inputs(kind, 8).to(dtype)[half].requires_grad_()
                with at_width(layer, 0.5):
                    y = layer(x)
                (y**3 * torch.linspace(-1, 1, y[0].numel(), dtype=dtype).view(y[0].shape)).sum().backward()
                out[kind, str(dtype)] = (y.detach(), x.grad, layer.weight.grad)
        s, t = (randn(8, 6, seed=i)[half].requires_grad_() for i in (1, 2))
        loss = infonce(s, t, 0.3, gather=True)
        loss.backward()
        out["infonce"] = (loss.detach(), s.grad)
        if group.first:  # work of one process alone must not wait for the other
            layer = nn.Sequential(SlimmableBatchNorm2d(16))
            layer[0].synchronized = True
            calibrate(layer, [1.0], [torch.randn(4, 16, 2, 2)])
        torch.save({"out": out}, Path(directory) / f"parts{group.rank}.pt")


def test_parts(tmp_path):
    tiny.distributed(parts, str(tmp_path))
    results = [torch.load(tmp_path / f"parts{rank}.pt", weights_only=False)["out"] for rank in (0, 1)]
    for kind, (_, theirs, _) in SHAPES.items():
        plain = theirs(8).double()
        with torch.no_grad():
            plain.weight.copy_(torch.linspace(0.5, 2, 16)[:8])
        x = inputs(kind, 8).requires_grad_()
        y = plain(x)
        (y**3 * torch.linspace(-1, 1, y[0].numel(), dtype=torch.float64).view(y[0].shape)).sum().backward()
        for dtype, tolerance in (("torch.float64", 1e-9), ("torch.float32", 2e-3)):
            got = [torch.cat([result[kind, dtype][i] for result in results]).double() for i in (0, 1)]
            torch.testing.assert_close(got[0], y.detach(), rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(got[1], x.grad, rtol=10 * tolerance, atol=10 * tolerance)
            gradient = sum(result[kind, dtype][2] for result in results).double()
            torch.testing.assert_close(gradient[:8], plain.weight.grad, rtol=10 * tolerance, atol=10 * tolerance)
            assert gradient[8:].count_nonzero() == 0
    s, t = (randn(8, 6, seed=i).requires_grad_() for i in (1, 2))
    whole = infonce(s, t, 0.3)
    whole.backward()
    for result in results:
        assert float(result["infonce"][0]) == pytest.approx(float(whole.detach()), abs=1e-12)
    # Data parallelism divides the sum of the processes' gradients by their number.
    gathered = torch.cat([result["infonce"][1] for result in results]) / 2
    torch.testing.assert_close(gathered, s.grad, rtol=1e-9, atol=1e-12)


def test_gathering_alone_is_not_gathering():
    s, t = randn(4, 3, seed=1), randn(4, 3, seed=2)
    assert float(infonce(s, t, 0.5, gather=True)) == float(infonce(s, t, 0.5))


# -- whole runs -----------------------------------------------------------------------------------------------------------


def in_float64():
    """Everything in float64, so that rounding, which training amplifies, stays far below what is compared."""
    student, step = build.Student, training.Trainer.train_step
    images, batches = diagnostics.evaluation_batches, calibration.calibration_batches
    build.Student = lambda cfg: student(cfg).double()
    training.Trainer.train_step = lambda trainer, x1, x2: step(trainer, x1.double(), x2.double())
    diagnostics.evaluation_batches = lambda *args: ((x.double(), labels) for x, labels in images(*args))
    calibration.calibration_batches = lambda *args: (x.double() for x in batches(*args))


def run(directory, double, *more, kill_at=0):
    """Train in one of several processes and leave what this one's student has become."""
    directory = Path(directory)
    if kill_at:
        tiny.die(kill_at)
    if double:
        in_float64()
    training.training_flops = lambda *args: 1.0
    finish = training.Trainer._finish

    def finishing(trainer, seconds):
        state = {}
        for name in ("student", "teacher"):
            module = getattr(trainer.training, name)
            state |= {} if module is None else {f"{name}.{k}": v for k, v in module.state_dict().items()}
        torch.save(state, directory.with_name(f"{directory.name}-rank{trainer.group.rank}.pt"))
        finish(trainer, seconds)

    training.Trainer._finish = finishing
    training.pretrain(tiny.tiny(*more), directory)


def losses(directory):
    return {(r["epoch"], r["name"]): r["value"] for r in tiny.metrics(directory) if r["name"].startswith("loss")}


def alike_on_both_ranks(directory):
    first, second = (torch.load(directory.with_name(f"{directory.name}-rank{rank}.pt")) for rank in (0, 1))
    assert first.keys() == second.keys() and len(first) > 20
    return all(torch.equal(first[k], second[k]) for k in first)


SHORT = ("optimizer.epochs=2", "optimizer.lr=0.01", "widths.sampling=sandwich", "train.channels_last=false")
SAME = {  # where the mathematics says that two processes train what one trains
    "infonce, gathered": ("objective.base_loss=infonce", "train.synchronized_bn=true", "objective.gather_negatives=true"),
    "mse": ("objective.base_loss=mse", "objective.distill_loss=mse", "train.synchronized_bn=true"),
    "mse, online, accumulated, shared head": (
        "objective.base_loss=mse",
        "objective.distill_loss=mse",
        "objective.teacher=online",
        "objective.update=accumulate",
        "objective.head=shared",
        "train.synchronized_bn=true",
    ),
    "naive infonce": (
        "objective.base_loss=infonce",
        "objective.distill_loss=none",
        "train.synchronized_bn=true",
        "objective.gather_negatives=true",
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_two_processes_train_what_one_trains(name, tmp_path):
    tiny.distributed(run, str(tmp_path / "two"), True, *SHORT, *SAME[name])
    tiny.distributed(run, str(tmp_path / "one"), True, *SHORT, *SAME[name], world_size=1)
    assert alike_on_both_ranks(tmp_path / "two")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 4 and two == pytest.approx(one, abs=1e-8)
    payloads = [checkpoint.load(tmp_path / d / "checkpoint.pt") for d in ("one", "two")]
    for part in ("encoder", "projector", "teacher"):
        for key, weight in (payloads[0][part] or {}).items():
            torch.testing.assert_close(payloads[1][part][key], weight, rtol=0, atol=1e-8)
    one, two = (tiny.flattened(payload["calibration"]) for payload in payloads)
    assert one.keys() == two.keys() and all(torch.allclose(one[k], two[k], atol=1e-8) for k in one)
    rows = [[(r["epoch"], r["name"], r["width"]) for r in tiny.metrics(tmp_path / d)] for d in ("one", "two")]
    assert rows[0] == rows[1]


def test_local_statistics_and_negatives_differ_from_one_process_but_not_between_ranks(tmp_path):
    """The authors' setting: the weights agree on all ranks, while each normalises and contrasts its own half."""
    more = (*SHORT, "objective.base_loss=infonce")
    tiny.distributed(run, str(tmp_path / "two"), False, *more)
    assert tiny.train(tmp_path / "one", *more) == 0
    assert alike_on_both_ranks(tmp_path / "two")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    # Eight instead of sixteen images to tell apart: log(15) instead of log(31) for a collapsed network.
    assert two[1, "loss/base"] < one[1, "loss/base"] - 0.3


def test_a_distributed_run_resumes_and_knows_when_it_is_done(tmp_path):
    """The first epoch in one process, which is killed; the second in two."""
    directory = tmp_path / "run"
    more = (*SHORT, "train.synchronized_bn=true", "objective.gather_negatives=true")
    tiny.distributed(run, str(directory), True, *more)
    assert alike_on_both_ranks(directory)
    whole, before = losses(directory), torch.load(tmp_path / "run-rank0.pt")
    shutil.rmtree(directory)
    one = tiny.CONTEXT.Process(target=run, args=(str(directory), True, *more), kwargs={"kill_at": "saved 1"})
    one.start()
    assert tiny.finished(one) == -signal.SIGKILL
    assert checkpoint.load(directory / "checkpoint.pt")["step"] == 4
    tiny.distributed(run, str(directory), True, *more)
    assert losses(directory) == pytest.approx(whole, abs=1e-8)
    after = torch.load(tmp_path / "run-rank0.pt")
    assert alike_on_both_ranks(directory) and all(torch.allclose(before[k], after[k], atol=1e-8) for k in before)
    stamp = (directory / "checkpoint.pt").stat().st_mtime_ns
    tiny.distributed(run, str(directory), True, *more)
    assert (directory / "checkpoint.pt").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_torchrun(tmp_path):
    """The launcher itself, from a shell."""
    argv = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        str(ROOT / "pretrain" / "run.py"),
        "--out",
        "run",
    ]
    more = tiny.overrides("optimizer.epochs=1", "model.arch=resnet_small", "train.synchronized_bn=true")
    done = subprocess.run([*argv, *more], cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert tiny.metrics(tmp_path / "run") and checkpoint.load(tmp_path / "run" / "checkpoint.pt")["step"] == 4


# -- the environment ------------------------------------------------------------------------------------------------------


def test_alone_without_an_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with processes("cpu") as group:
        assert group == Processes(0, 1, torch.device("cpu")) and group.first and not dist.is_initialized()


@pytest.mark.parametrize("name", ["gpu", "cpu:x", "cuda:-1", "mps", "meta", "cuda:99", ""])
def test_devices_that_are_not_there(name):
    with pytest.raises(UserError, match=r"train\.device=.*(write|set) ") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


def test_devices_that_are():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


# -- averaging ------------------------------------------------------------------------------------------------------------


def averaged(place, early, part_bytes):
    """Three passes over different parameters, one of which no pass reaches, and the gradients after all reductions."""
    averaging.PART_BYTES = part_bytes
    with processes("cpu") as group:
        torch.manual_seed(0)
        layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))
        gradients = Gradients(list(layers.parameters()))
        mean = averaging.Averaging(gradients, early)
        for number, used in enumerate(([0, 1], [0, 2], [1])):
            x = torch.full((2, 5), float(group.rank + 1) * (number + 1))
            for index in used:
                x = layers[index](x)
            x.square().sum().backward()
            if early:
                mean.finish()
        mean.finish()
        torch.save(gradients.flat, f"{place}-{early}-{part_bytes}-rank{group.rank}.pt")


def test_gradients_are_averaged_early_or_at_once_in_any_parts(tmp_path):
    """Against the mean of what each process computes alone."""
    alone = []
    for rank in range(2):
        torch.manual_seed(0)
        layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(4)).double()
        for number, used in enumerate(([0, 1], [0, 2], [1])):
            x = torch.full((2, 5), float(rank + 1) * (number + 1), dtype=torch.float64)
            for index in used:
                x = layers[index](x)
            x.square().sum().backward()
        alone.append([torch.zeros_like(p) if p.grad is None else p.grad for p in layers.parameters()])
    for early, part_bytes in itertools.product((True, False), (1, 200, 2**20)):
        tiny.distributed(averaged, str(tmp_path / "mean"), early, part_bytes)
        first, second = (torch.load(tmp_path / f"mean-{early}-{part_bytes}-rank{rank}.pt") for rank in (0, 1))
        assert torch.equal(first, second)
        layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))
        gradients = Gradients(list(layers.parameters()))
        gradients.flat.copy_(first)
        for parameter, a, b in zip(layers.parameters(), *alone, strict=True):
            torch.testing.assert_close(parameter.grad.double(), (a + b) / 2, rtol=1e-5, atol=1e-5)
        assert layers[3].weight.grad.abs().max() == 0


def recorded_run(directory, *more):
    graphs.RECORDERS["cpu"] = recorded.recorder
    run(directory, False, *more)


def test_two_processes_with_graphs_train_what_they_train_without(tmp_path):
    more = (*SHORT, "objective.base_loss=infonce", "widths.grid=4")
    tiny.distributed(run, str(tmp_path / "plain"), False, *more)
    tiny.distributed(recorded_run, str(tmp_path / "graphs"), "train.graphs=true", *more)
    assert alike_on_both_ranks(tmp_path / "graphs")
    assert losses(tmp_path / "graphs") == losses(tmp_path / "plain")
    first, second = (torch.load(tmp_path / f"{name}-rank0.pt") for name in ("plain", "graphs"))
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    "more",
    [("train.reduce_once=true", "objective.update=accumulate"), ("regularizer.variant=authors",)],
    ids=["reduced once a step", "gradients that come late"],
)
def test_ways_to_reduce_train_the_same(more, tmp_path):
    common = (*SHORT, "objective.base_loss=mse", "objective.distill_loss=mse", "train.synchronized_bn=true")
    tiny.distributed(run, str(tmp_path / "two"), True, *common, *more)
    tiny.distributed(run, str(tmp_path / "one"), True, *common, *more, world_size=1)
    assert alike_on_both_ranks(tmp_path / "two")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-8)
