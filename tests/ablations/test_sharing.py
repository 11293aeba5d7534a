"""Several runs on one GPU: how many processes there are, which GPU each sees, and whether the memory is enough. GPUs are mocked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ablations import grid, launching, sharing
from pretrain import config
from pretrain.training import build_training
from rundir.errors import UserError
from slurm.local import LocalLaunch
from tests.ablations.test_launching import machine, options
from tests.pretrain.tiny import overrides

__all__ = ["machine"]
GIB = sharing.GIB


@pytest.fixture
def runs(tmp_path):
    return grid.expand("guidelines", "digits", ["mse-mse-*"], [100], None, [], tmp_path)


@pytest.fixture
def gpus(monkeypatch):
    """Makes GPUs with so many GiB free."""

    def there(*free: float) -> None:
        monkeypatch.setattr(sharing, "free_bytes", lambda: [int(gib * GIB) for gib in free])

    return there


def test_processes_take_the_gpus_in_turn(machine, monkeypatch):
    machine(gpus=2)
    arguments = options("--per-gpu", "3")
    launching.choose(arguments)
    assert (arguments.executor, arguments.parallel) == ("local", 6)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    launch = LocalLaunch([], None, arguments.parallel, 2, print)
    assert [launch._visible_gpus(slot) for slot in range(6)] == ["4", "7"] * 3


@pytest.mark.parametrize(
    ("here", "words", "said"),
    [
        ({"gpus": 0}, ("--per-gpu", "2"), r"--per-gpu 2: there is no GPU here; set --parallel N"),
        ({"gpus": 1}, ("--per-gpu", "2", "--parallel", "3"), r"--per-gpu 2 and --parallel 3 both say how many"),
        ({"gpus": 1}, ("--per-gpu", "2", "--executor", "inline"), r"--per-gpu is for --executor local; set that, or leave it out$"),
        ({"sbatch": True}, ("--per-gpu", "2", "--executor", "slurm"), r"--per-gpu is for --executor local"),
    ],
)
def test_what_cannot_be_shared_is_refused(machine, here, words, said):
    machine(**here)
    with pytest.raises(UserError, match=said):
        launching.choose(options(*words))


def test_memory_is_enough_or_how_many_it_is_enough_for_is_said(runs, gpus, monkeypatch, tmp_path):
    needed = max(sharing.training_bytes(run.cfg, 1297) for run in runs) / GIB
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    gpus(4.1 * needed, 9 * needed)
    assert sharing.check_memory(runs, 1297, 4) == (
        f"4 runs share each GPU, about {needed:.1f} GiB each of {4.1 * needed:.1f} GiB free; they take turns, since MPS does not "
        "run (nvidia-cuda-mps-control -d starts it)"
    )
    (tmp_path / "control").touch()
    assert sharing.check_memory(runs, 1297, 4).endswith("MPS runs, so their kernels run side by side")
    gpus(9 * needed, 3.9 * needed)
    with pytest.raises(
        UserError,
        match=rf"--per-gpu 4: a run takes about {needed:.1f} GiB, and GPU 1 has {3.9 * needed:.1f} GiB "
        r"free; set --per-gpu 3$",
    ):
        sharing.check_memory(runs, 1297, 4)
    gpus(0.5)
    with pytest.raises(UserError, match=r"set a smaller optimizer.batch_size, or leave --per-gpu out$"):
        sharing.check_memory(runs, 1297, 1)


def test_a_launch_asks_before_anything_starts(runs, gpus, monkeypatch, tmp_path):
    gpus(0.5)
    monkeypatch.setattr(launching, "run_all", lambda *rest, **more: pytest.fail("it started"))
    work = SimpleNamespace(missing=runs, transfers=[], images=1297)
    with pytest.raises(UserError, match="--per-gpu 2: a run takes"):
        launching.launch(work, SimpleNamespace(per_gpu=2, folder=tmp_path, executor="local", parallel=2))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_a_run_takes_is_what_its_tensors_take(name):
    """Against a real step's tensors: weights, gradients, optimizer, teacher, and what the widest pass keeps for its backward."""
    cfg = config.load("digits", overrides(f"optimizer.name={name}", "optimizer.batch_size=32"))
    training = build_training(cfg, torch.device("cpu"))
    images = [torch.randn(32, 3, 8, 8) for _ in range(2)]
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        seen = training.student(images, False)
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del seen
    training.step(*images, [1.0], 0.1, 0.9)
    student = [p.numel() * 4 for p in training.student.parameters()]
    moments = [v.numel() * v.element_size() for state in training.optimizer.state.values() for v in state.values() if v.dim()]
    teacher = [p.numel() * 4 for p in training.teacher.parameters()]
    found = (sharing.training_bytes(cfg, 64) - sharing.CONTEXT - 64 * 3 * 8 * 8) / sharing.SPARE
    assert found >= activations + 2 * sum(student) + sum(moments) + sum(teacher)
    assert found <= 1.2 * (activations + 2 * sum(student) + sum(moments) + sum(teacher))


def test_free_memory_is_asked_of_torch_in_another_process(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("class cuda:\n    device_count = lambda: 2\n    mem_get_info = lambda i: (7 + i, 99)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert sharing.free_bytes() == [7, 8]
    (tmp_path / "torch.py").write_text("raise OSError('no driver')\n")
    with pytest.raises(RuntimeError, match=r"free memory of the GPUs is unknown: OSError: no driver$"):
        sharing.free_bytes()
