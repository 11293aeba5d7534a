"""Every recipe against METHOD section 7 written out slowly (slow_recipes) in float64, and what the recipes resolve to."""

from __future__ import annotations

import pytest
import torch

from pretrain import config
from pretrain.config import to_dict
from pretrain.models import ARCHITECTURES
from pretrain.models.resnet import BasicBlock, ResNet
from pretrain.objective.frozen import FrozenTeacher
from pretrain.objective.networks import Student, Teacher
from pretrain.objective.queue import Queue
from pretrain.objective.regularization import Regularizer
from pretrain.objective.sampling import sample_widths
from pretrain.objective.step import Objective
from tests.pretrain.slow_recipes import SlowRecipe

LR, ALPHA, MOMENTUM = 0.03, 0.04, 0.7
ARCH, LARGER = "resnet_of_the_recipe_test", "larger_resnet_of_the_recipe_test"
SMALL = [f"model.arch={ARCH}", "model.projector_hidden=20", "model.projector_out=12", "model.predictor_hidden=10",
         "optimizer.batch_size=16", "regularizer.coefficient=1e-2", "objective.ema_momentum=0.9"]
STEPS, TOTAL = (0, 6, 11), 12  # of dynamic sampling's first, third and last stage; the last two after a slow start
PROFILES = ("digits", "digits_vit", "cifar10_small", "cifar10", "cifar100", "imagenet")


@pytest.fixture(autouse=True)
def architectures(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, ARCH, lambda: ResNet(BasicBlock, (1, 1, 1), base_channels=16))
    monkeypatch.setitem(ARCHITECTURES, LARGER, lambda: ResNet(BasicBlock, (1, 1, 1), base_channels=24))


def resolved(recipe: str, profile: str = "digits", *overrides: str) -> config.Config:
    teacher = ["objective.seed_teacher=teacher"] if recipe == "seed" else []
    return config.load(profile, [f"experiment.recipe={recipe}", *teacher, *overrides])


def frozen_teacher(processes: int) -> FrozenTeacher:
    cfg = config.load("digits", [*SMALL, f"model.arch={LARGER}"])
    torch.manual_seed(9)
    student = Student(cfg)
    payload = {"config": to_dict(cfg), "encoder": student.encoder.state_dict(), "projector": student.projector.state_dict()}
    return FrozenTeacher(payload, "teacher", batch_statistics=True, chunks=processes).double()


def views(step: int, batch: int = 16):
    generator = torch.Generator().manual_seed(70 + step)
    return (torch.randn(batch, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))


def assert_same_training(cfg: config.Config, processes: int) -> list[list[float]]:
    """The project's own steps and the slow ones: losses, weights, teacher and queue. Returns the widths of each step."""
    torch.manual_seed(3)
    student = Student(cfg).double()
    student.chunks = processes
    seed = cfg.objective.base_loss == "seed"
    teacher = (frozen_teacher(processes) if seed else
               Teacher(student, cfg.objective.shuffle) if cfg.objective.teacher == "momentum" else None)
    queue = Queue(cfg.objective.queue, cfg.model.projector_out, 5, torch.float64) if cfg.objective.queue else None
    objective = Objective(cfg.objective, student, student, teacher, cfg.widths.max, torch.enable_grad, queue)
    optimizer = torch.optim.SGD(student.parameters(), LR, momentum=cfg.optimizer.momentum)
    regularizer = Regularizer(cfg.regularizer, student)
    regularizer.set_alpha(ALPHA if cfg.regularizer.kind == "group" else 0.0)
    slow = SlowRecipe(cfg, student, teacher, queue, LR, ALPHA, processes)

    def update(width: float) -> None:
        regularizer.add_gradient(width == cfg.widths.max)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    trained = []
    for step in STEPS:
        trained.append(sample_widths(cfg.widths, 1, step, TOTAL, cfg.optimizer.epochs))
        x1, x2 = views(step)
        got = [float(v) for v in objective.step(x1, x2, trained[-1], MOMENTUM, torch.Tensor.backward, update)]
        assert got == pytest.approx(slow.step(x1, x2, trained[-1], MOMENTUM), abs=1e-9)
    assert dict(student.named_parameters()).keys() == slow.p.keys()
    for name, weight in student.named_parameters():
        torch.testing.assert_close(weight, slow.p[name], rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    for name, weight in (teacher.named_parameters() if teacher is not None else ()):
        torch.testing.assert_close(weight, slow.k[name], rtol=0, atol=1e-9, msg=lambda m, n=name: f"teacher {n}: {m}")
    if queue is not None:
        rolled = queue.rows.roll(-int(queue.position), 0)
        torch.testing.assert_close(rolled, torch.stack(slow.queue), rtol=0, atol=1e-9)
    return trained


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("recipe", sorted(config.recipes()))
def test_every_recipe_is_the_method(recipe, processes):
    overrides = [*SMALL, f"optimizer.virtual_processes={processes}"]
    if resolved(recipe).objective.queue:
        overrides.append("objective.queue=40")
    assert_same_training(resolved(recipe, "digits", *overrides), processes)


@pytest.mark.parametrize(("recipe", "settings", "processes"), [
    ("individual-mocov2", ["objective.shuffle=true", "objective.queue=20"], 2),  # MoCo's shuffled BatchNorm
    ("seed", ["objective.seed_loss=mse", "objective.queue=0"], 2),  # as ResNet-50 and MobileNetV2 are trained
    ("us3l-r50", ["objective.base_loss=mse"], 1),  # feature distillation with both bases
    ("us3l-r50", ["objective.teacher=online", "objective.feature_weight=0.3"], 2),
    ("slimclr", ["objective.sub_base_weight=0.2", "objective.queue=0", "model.switchable_bn=false", "objective.pairings=mean"], 1),
    ("us3l", ["objective.pairings=sum"], 1),
    ("usnet-byol", ["objective.head=own", "regularizer.kind=group"], 1),
])
def test_variants_of_recipes(recipe, settings, processes):
    queue = ["objective.queue=20"] if recipe == "seed" else []
    overrides = [*SMALL, *queue, *settings, f"optimizer.virtual_processes={processes}"]
    assert_same_training(resolved(recipe, "digits", *overrides), processes)
