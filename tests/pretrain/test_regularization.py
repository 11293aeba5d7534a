"""The regularizer against METHOD section 5: a sum over masked squares in float64 and its autograd gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pretrain.config import RegularizerConfig, from_dict
from pretrain.objective.networks import Student, Teacher
from pretrain.objective.regularization import Regularizer, alpha_at, group_index
from pretrain.slimmable import SlimmableBatchNorm1d, SlimmableBatchNorm2d, SlimmableConv2d, SlimmableLinear


def network():
    """One of each layer, with channel counts that eight does and does not divide."""
    torch.manual_seed(0)
    model = nn.Sequential(
        SlimmableConv2d(3, 13, 3, slice_in=False, bias=True),
        SlimmableBatchNorm2d(13),
        SlimmableConv2d(24, 24, 3, depthwise=True),
        SlimmableBatchNorm1d(24, slice_channels=False),
        SlimmableConv2d(5, 7, 1),
        SlimmableBatchNorm2d(1),
        SlimmableLinear(16, 9),
    ).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def slow_penalty(model, cfg, alpha):
    total = torch.zeros((), dtype=torch.float64)
    for module in model:
        for weight in module.parameters():
            for channel in range(len(weight)):
                group = 0
                while (group + 1) * len(weight) <= channel * cfg.groups:  # equal runs: group g starts at channel g * C / G
                    group += 1
                grouped = cfg.kind == "group" and not isinstance(module, SlimmableLinear)
                coefficient = cfg.coefficient * (1 - alpha * group) if grouped else cfg.coefficient
                total = total + coefficient * (weight[channel] ** 2).sum()
    return total


@pytest.mark.parametrize("kind", ["none", "l2", "group"])
@pytest.mark.parametrize("groups", [2, 8])
@pytest.mark.parametrize("alpha", [0.0, 0.017, 0.05])
def test_penalty_and_gradient(kind, groups, alpha):
    model, cfg = network(), RegularizerConfig(kind=kind, coefficient=3e-3, groups=groups)
    regularizer = Regularizer(cfg, model)
    regularizer.set_alpha(alpha if kind == "group" else 0.0)
    regularizer.add_gradient()
    if kind == "none":
        assert float(regularizer.penalty()) == 0
        assert all(p.grad.abs().max() == 0 for p in model.parameters())
        return
    expected = slow_penalty(model, cfg, alpha)
    assert float(regularizer.penalty()) == pytest.approx(float(expected.detach()), rel=1e-12)
    for parameter, gradient in zip(model.parameters(), torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-15)


def test_gradient_is_added_to_what_is_there():
    model = network()
    before = [torch.randn_like(p) for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        parameter.grad = gradient.clone()
    Regularizer(RegularizerConfig(kind="l2", coefficient=0.25), model).add_gradient()
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.grad, gradient + 0.5 * parameter.detach())


def test_plain_coefficient_is_half_of_the_weight_decay_it_replaces():
    """SGD with weight_decay 2 lambda walks the same path as SGD with the l2 regularizer of lambda."""
    ours, theirs = network(), network()
    regularizer = Regularizer(RegularizerConfig(kind="l2", coefficient=2.5e-2), ours)
    optimizers = (
        torch.optim.SGD(ours.parameters(), 0.1, momentum=0.9),
        torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9, weight_decay=5e-2),
    )
    for _ in range(5):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            sum(p.sin().sum() for p in model.parameters()).backward()
            if model is ours:
                regularizer.add_gradient()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_every_student_parameter_is_regularized_and_no_teacher_parameter():
    cfg = from_dict(
        {
            "model": {"arch": "resnet_small", "projector_hidden": 16, "projector_out": 8, "predictor_hidden": 8},
            "objective": {"teacher": "momentum"},
            "regularizer": {"kind": "group", "coefficient": 1e-2},
        }
    )
    student = Student(cfg)
    teacher = Teacher(student)
    regularizer = Regularizer(cfg.regularizer, student)
    regularizer.add_gradient()
    assert all((p.grad != 0).any() for p in student.parameters() if p.abs().sum() > 0)
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert {id(p) for p in regularizer.parameters}.isdisjoint(id(p) for p in teacher.parameters())


def test_later_channels_are_freer():
    """With everything one, the gradient of channel group i is 2 lambda (1 - alpha i), for the paper's G = 8 and alpha = 0.05."""
    model = nn.Sequential(SlimmableConv2d(3, 64, 3, slice_in=False), SlimmableBatchNorm2d(64), SlimmableLinear(64, 10))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    regularizer = Regularizer(RegularizerConfig(kind="group", coefficient=0.5), model)
    regularizer.set_epoch(10, 20)
    regularizer.add_gradient()
    expected = torch.tensor([1 - 0.05 * (channel // 8) for channel in range(64)])
    torch.testing.assert_close(model[0].weight.grad, expected[:, None, None, None].expand(64, 3, 3, 3))
    torch.testing.assert_close(model[1].weight.grad, expected)
    torch.testing.assert_close(model[2].weight.grad, torch.ones(10, 64))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 600), st.integers(2, 16))
def test_groups_are_equal_contiguous_runs(channels, groups):
    index = group_index(channels, groups).tolist()
    assert index == sorted(index) and index[0] == 0 and index[-1] < groups
    counts = [index.count(g) for g in range(groups)]
    assert max(counts) - min(counts) <= 1
    if channels % groups == 0:
        assert set(counts) == {channels // groups}


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.data())
def test_alpha_ramp(epochs, data):
    warmup = data.draw(st.integers(0, epochs // 2))
    cfg = RegularizerConfig(kind="group", alpha=0.05, warmup_epochs=warmup)
    values = [alpha_at(cfg, epoch, epochs) for epoch in range(epochs)]
    assert values == sorted(values)
    for epoch, value in enumerate(values):
        if epoch < warmup:
            assert value == 0
        elif epoch >= epochs / 2:
            assert value == 0.05
        else:  # a straight line through (warmup, 0) and (epochs / 2, alpha)
            assert value == pytest.approx(0.05 * (2 * epoch - 2 * warmup) / (epochs - 2 * warmup), abs=1e-12)


def test_alpha_follows_the_epochs_and_only_for_group():
    model = network()
    group = Regularizer(RegularizerConfig(kind="group", coefficient=1.0, warmup_epochs=2), model)
    seen = []
    for epoch in range(12):
        group.set_epoch(epoch, 12)
        seen.append(float((1 - group.coefficients[2].flatten()[-1]) / 7) if group.coefficients[2].numel() > 1 else math.nan)
    expected = [0, 0, 0, 0.0125, 0.025, 0.0375, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]
    assert seen == pytest.approx(expected, abs=1e-12)
    plain = Regularizer(RegularizerConfig(kind="l2", coefficient=1.0), model)
    plain.set_epoch(11, 12)
    assert all(float(c.max()) == float(c.min()) == 1 for c in plain.coefficients)
