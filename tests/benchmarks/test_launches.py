"""What a step asks of a GPU, on the meta device: no waits, and as many operators in an update whatever the number of parameters."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks.launches import GPU, Launches, as_a_gpu, count_step, count_update, count_views, training

SMALL = ["model.arch=resnet_small", "model.projector_hidden=32", "model.projector_out=16", "model.predictor_hidden=16"]
VIT = ["model.arch=vit_micro", "data.size=16", "optimizer.name=adamw", "model.projector_hidden=32"]
CELLS = [
    [f"objective.base_loss={base}", f"objective.distill_loss={distill}", f"objective.teacher={teacher}"]
    for base, distill, teacher in itertools.product(["mse", "infonce"], ["mse", "infonce"], ["online", "momentum"])
]


@pytest.fixture(autouse=True)
def gpu():
    with as_a_gpu():
        yield


def test_what_waits_is_counted_or_fails():
    values = torch.ones(3, device=GPU)
    with Launches() as counted:
        torch.ones(3).to(GPU)
        torch.ones(3).to(GPU, non_blocking=True)
        values.view(3, 1).add(1)
        torch._foreach_add_([values, values], 1)
        torch._foreach_add_([values, torch.ones(2, device=GPU)], [values, torch.ones((), device=GPU)])
    assert (counted.copies, counted.waits) == (2, 1)
    assert counted.operators["add"] == 1 and counted.operators["_foreach_add_"] == 1 + 2
    for wait in (values.sum().item, values.nonzero, values.cpu):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()


@pytest.mark.parametrize(
    "more", [*CELLS, [*VIT, "objective.teacher=momentum"]], ids=lambda more: "-".join(word.split("=")[1] for word in more)
)
@pytest.mark.parametrize("kind", ["group", "none"])
def test_a_step_and_its_views_wait_for_nothing(more, kind):
    cfg, made = training("digits", [*SMALL, f"regularizer.kind={kind}", *more])
    step = count_step(cfg, made)
    assert step.waits == step.copies == 0 and step.total > 100
    assert count_views(cfg).waits == 0


@pytest.mark.parametrize(
    "more",
    [
        ["regularizer.kind=group"],
        ["regularizer.kind=none"],
        ["regularizer.kind=group", "regularizer.decoupled=true", "optimizer.name=adamw"],
        ["regularizer.kind=l2", "optimizer.clip_norm=1.0"],
    ],
    ids=lambda more: "-".join(more),
)
def test_an_update_does_not_grow_with_the_parameters(more):
    counts = {}
    for arch in ("resnet_small", "resnet18_cifar"):
        cfg, made = training("digits", [*SMALL, *more, f"model.arch={arch}"])
        count_step(cfg, made)
        for parameter in made.student.parameters():
            parameter.grad = torch.zeros_like(parameter)
        counts[len(made.regularizer.parameters)] = count_update(made).total
    few, many = sorted(counts)
    assert many > few + 20 and counts[many] == counts[few] <= 12
