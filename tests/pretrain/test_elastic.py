"""The elastic student in the way of POA: which widths a step draws, what they learn from, and updates from several steps."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from pretrain.config import from_dict, load
from pretrain.distributed import processes
from pretrain.models import ARCHITECTURES
from pretrain.models.resnet import BasicBlock, ResNet
from pretrain.objective.networks import Student, Teacher
from pretrain.objective.sampling import sample_widths
from pretrain.objective.step import Objective
from pretrain.slimmable import at_width
from pretrain.training import Trainer
from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.pretrain import tiny

ELASTIC = [
    "widths.sampling=elastic",
    "widths.per_step=2",
    "objective.update=accumulate",
    "objective.same_view_weight=0.7",
    "optimizer.accumulate_steps=3",
]


def test_a_step_draws_the_widest_and_one_anew():
    cfg = from_dict({"widths": {"sampling": "elastic", "per_step": 2}}).widths
    drawn = [sample_widths(cfg, 100, step, 4000) for step in range(4000)]
    assert all(len(widths) == 2 and widths[0] == 1.0 and 0.25 <= widths[1] < 1 for widths in drawn)
    narrow = torch.tensor([widths[1] for widths in drawn])
    assert float(narrow.mean()) == pytest.approx(0.625, abs=0.01) and len(set(narrow.tolist())) > 3900
    assert drawn[7] == sample_widths(cfg, 100, 7, 4000) != sample_widths(cfg, 101, 7, 4000)


def cosine(a, b):
    """Minus the mean cosine of rows, one by one."""
    return -sum((x @ y) / (x.norm() * y.norm()) for x, y in zip(a, b, strict=True)) / len(a)


def test_the_sub_network_learns_from_the_teachers_other_view_and_the_intact_students_same_view(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet_of_the_elastic_test", lambda: ResNet(BasicBlock, (1, 1), base_channels=16))
    cfg = from_dict(
        {
            "model": {"arch": "resnet_of_the_elastic_test", "projector_hidden": 12, "projector_out": 6, "predictor_hidden": 8},
            "objective": {
                "base_loss": "infonce",
                "distill_loss": "mse",
                "teacher": "momentum",
                "update": "accumulate",
                "same_view_weight": 0.7,
                "distill_weight": 0.4,
            },
        }
    )
    torch.manual_seed(1)
    student = Student(cfg).double()
    teacher = Teacher(student)
    with torch.no_grad():  # so that the intact student and its average differ
        for parameter in teacher.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    x1, x2 = (torch.randn(5, 3, 8, 8, dtype=torch.float64) for _ in range(2))
    updates = []
    Objective(cfg.objective, student, student, teacher, 1.0, nullcontext).step(
        x1, x2, [1.0, 0.5], 1.0, lambda loss: loss.backward(), updates.append
    )
    found = {name: parameter.grad for name, parameter in student.named_parameters()}
    student.zero_grad(set_to_none=True)

    views = (x1, x2)
    targets = [teacher(x).detach() for x in views]
    intact = [student.project(x) for x in views]
    with at_width(student, 0.5):
        elastic = [student.distill_head(student.project(x)) for x in views]
    cross = (cosine(elastic[0], targets[1]) + cosine(elastic[1], targets[0])) / 2
    same = (cosine(elastic[0], intact[0].detach()) + cosine(elastic[1], intact[1].detach())) / 2
    (0.4 * (cross + 0.7 * same)).backward()
    for a, b in ((0, 1), (1, 0)):  # InfoNCE over the rows of both, by its definition
        rows = torch.cat([intact[a], targets[b]])
        rows = rows / rows.norm(dim=1, keepdim=True)
        logits = (rows @ rows.T / 0.5).masked_fill(torch.eye(10, dtype=torch.bool), float("-inf"))
        loss = -sum(logits[i, (i + 5) % 10] - logits[i].logsumexp(0) for i in range(10)) / 10
        (loss / 2).backward(retain_graph=True)
    assert updates == [0.5]  # one for both
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-8, atol=1e-10)


def gradients_at_updates(directory, monkeypatch, *more):
    """The gradients that each optimizer step of the first six training steps was taken with."""
    seen = []
    step = torch.optim.SGD.step

    def spied(self, *args, **kwargs):
        seen.append([p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", spied)
    cfg = tiny.tiny(
        "objective.update=accumulate",
        "regularizer.kind=none",
        "optimizer.lr=1e-30",
        "widths.sampling=elastic",
        "widths.per_step=2",
        "objective.ema_schedule=constant",
        "train.channels_last=false",
        *more,
    )
    with processes("cpu") as group:
        trainer = Trainer(cfg, RunDirectory(directory), group)
        batches = [views for epoch in range(2) for _, *views in trainer.batches.epoch(epoch)][:6]
        for x1, x2 in batches:
            trainer.train_step(x1, x2)
    return seen


def test_an_update_has_the_mean_gradient_of_its_steps(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        single = gradients_at_updates(tmp_path / "a", patch)
    with monkeypatch.context() as patch:
        joint = gradients_at_updates(tmp_path / "b", patch, "optimizer.accumulate_steps=3")
    assert (len(single), len(joint)) == (6, 2)
    for place, found in enumerate(joint):
        expected = [torch.stack(parts).mean(0) for parts in zip(*single[3 * place : 3 * place + 3], strict=True)]
        for mine, mean in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, mean, rtol=1e-4, atol=1e-6 + 1e-5 * float(mean.abs().max()))


def test_a_run_that_dies_between_two_updates_resumes_to_the_same_numbers(tmp_path):
    settings = [*ELASTIC, "train.checkpoint_minutes=0", "optimizer.epochs=2"]
    assert tiny.train(tmp_path / "whole", *settings) == 0
    assert tiny.train(tmp_path / "torn", *settings, kill_at="saved 2") == -9  # after the second step of three
    assert tiny.train(tmp_path / "torn", *settings) == 0
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "torn")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optimizer.accumulate_steps=2"], "set objective.update=accumulate"),
        (["objective.same_view_weight=1", "objective.distill_loss=none"], "set objective.distill_loss=mse or infonce"),
        (["widths.sampling=elastic", "widths.per_step=1"], "at least the widest and another one"),
        (["optimizer.accumulate_steps=0"], "optimizer.accumulate_steps=0"),
    ],
)
def test_impossible_combinations_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        load("digits", settings)


def test_the_recipe_is_poas_scheme():
    cfg = load("digits", ["experiment.recipe=elastic-student"])
    assert (cfg.widths.sampling, cfg.widths.per_step, cfg.objective.update) == ("elastic", 2, "accumulate")
    assert cfg.objective.teacher == "momentum" and cfg.objective.same_view_weight == 1 and cfg.optimizer.accumulate_steps == 2
    assert isinstance(Student(cfg).distill_head, nn.Module)
