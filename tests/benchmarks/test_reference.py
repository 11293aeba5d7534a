"""The benchmarks' plain step and the project's own: the same losses and weights, cell by cell."""

import itertools
from contextlib import nullcontext

import pytest
import torch

from benchmarks.reference import Reference, kept
from pretrain.config import from_dict
from pretrain.models import ARCHITECTURES
from pretrain.models.resnet import BasicBlock, ResNet
from pretrain.objective.networks import Student, Teacher
from pretrain.objective.regularization import Regularizer
from pretrain.objective.step import Objective
from pretrain.slimmable import channels_at

ARCH = "resnet_of_the_benchmark_test"
SETTINGS = {"lr": 0.03, "momentum": 0.9, "ema": 0.7, "coefficient": 1e-2, "alpha": 0.04, "temperature": 0.3}
CELLS = list(itertools.product(["mse", "infonce"], ["mse", "infonce"], ["online", "momentum"]))


@pytest.fixture(autouse=True)
def architecture(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, ARCH, lambda: ResNet(BasicBlock, (2, 1), base_channels=16))


def config(base, distill, teacher, kind="group"):
    return from_dict(
        {
            "model": {"arch": ARCH, "projector_layers": 3, "projector_hidden": 20, "projector_out": 12, "predictor_hidden": 10},
            "objective": {"base_loss": base, "distill_loss": distill, "teacher": teacher, "temperature": SETTINGS["temperature"]},
            "regularizer": {"kind": kind, "coefficient": SETTINGS["coefficient"]},
        }
    )


class Own:
    """The project's step in a plain loop."""

    def __init__(self, cfg, dtype):
        torch.manual_seed(3)
        self.student = Student(cfg).to(dtype)
        self.teacher = Teacher(self.student) if cfg.objective.teacher == "momentum" else None
        self.optimizer = torch.optim.SGD(self.student.parameters(), SETTINGS["lr"], momentum=SETTINGS["momentum"])
        self.regularizer = Regularizer(cfg.regularizer, self.student)
        self.regularizer.set_alpha(SETTINGS["alpha"] if cfg.regularizer.kind == "group" else 0.0)
        self.objective = Objective(cfg.objective, self.student, self.student, self.teacher, 1.0, nullcontext)

    def update(self, width):
        self.regularizer.add_gradient()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self, x1, x2, widths):
        return self.objective.step(x1, x2, widths, SETTINGS["ema"], lambda loss: loss.backward(), self.update)


def compare(cfg, steps, dtype=torch.float64, atol=1e-9):
    own = Own(cfg, dtype)
    settings = SETTINGS if cfg.regularizer.kind == "group" else {**SETTINGS, "coefficient": 0.0}
    reference = Reference(own.student, own.teacher, base=cfg.objective.base_loss, distill=cfg.objective.distill_loss, **settings)
    for index, widths in enumerate(steps):
        x1, x2 = torch.randn(2, 6, 3, 8, 8, generator=torch.Generator().manual_seed(index), dtype=torch.float64).to(dtype)
        got, expected = own.step(x1, x2, widths), reference.step(x1, x2, widths)
        assert [float(v) for v in got] == pytest.approx([float(v) for v in expected], abs=atol)
    pairs = [(own.student, reference.student)] + ([(own.teacher, reference.teacher)] if own.teacher else [])
    for ours, theirs in pairs:
        other = theirs.state_dict()
        assert set(ours.state_dict()) == set(other)
        for name, weight in ours.state_dict().items():
            if name.startswith("predictor.") and not settings["coefficient"]:
                continue  # no gradient at narrower widths: the momentum goes on in the project, and rests in the plain loop
            torch.testing.assert_close(weight, other[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("base", "distill", "teacher"), CELLS)
def test_two_steps_of_every_cell_with_group_regularization(base, distill, teacher):
    compare(config(base, distill, teacher), [[1.0, 0.6, 0.25], [1.0, 0.83, 0.25]])


# One step only: in the second the distillation head, too, would differ by what the predictor is left out for.
@pytest.mark.parametrize(("base", "distill", "teacher"), CELLS)
def test_a_step_of_every_cell_without_regularization(base, distill, teacher):
    compare(config(base, distill, teacher, "none"), [[1.0, 0.6, 0.25]])


def test_float32_agrees_within_its_rounding():
    compare(config("infonce", "mse", "momentum"), [[1.0, 0.6, 0.25]], torch.float32, 2e-4)


def test_kept_channels_are_the_projects():
    for channels in (8, 16, 24, 64, 96, 512):
        for percent in range(20, 101):
            assert kept(channels, percent / 100) == channels_at(channels, percent / 100)
