"""Schedules against closed forms and torch's own schedulers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.config import ObjectiveConfig, OptimizerConfig
from pretrain.schedule import ema_momentum, learning_rate


@pytest.mark.parametrize("epochs", [1, 2, 7, 400])
def test_cosine_is_torchs(epochs):
    cfg = OptimizerConfig(lr=0.05, epochs=epochs)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        assert learning_rate(cfg, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.data())
def test_rate_rises_to_its_base_then_falls_towards_zero(epochs, data):
    warmup = data.draw(st.integers(0, epochs - 1))
    rates = [learning_rate(OptimizerConfig(lr=0.3, epochs=epochs, warmup_epochs=warmup), e) for e in range(epochs)]
    assert rates[warmup] == pytest.approx(0.3) and max(rates) == pytest.approx(0.3) and min(rates) > 0
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1]) and rates[warmup:] == sorted(rates[warmup:], reverse=True)
    steps = [b - a for a, b in zip([0, *rates[:warmup]], rates[: warmup + 1], strict=True)]
    assert steps == pytest.approx([0.3 / (warmup + 1)] * (warmup + 1))
    assert all(
        rates[e] == pytest.approx(0.15 * (1 + math.cos(math.pi * (e - warmup) / (epochs - warmup)))) for e in range(warmup, epochs)
    )


def test_teacher_momentum():
    constant, cosine = ObjectiveConfig(ema_momentum=0.99), ObjectiveConfig(ema_momentum=0.99, ema_schedule="cosine")
    assert [ema_momentum(constant, s, 100) for s in (0, 57, 99)] == [0.99] * 3
    values = [ema_momentum(cosine, s, 1000) for s in range(1001)]
    assert values[0] == pytest.approx(0.99) and values[500] == pytest.approx(0.995) and values[1000] == pytest.approx(1.0)
    assert values[250] == pytest.approx(1 - 0.01 * (1 + math.sqrt(0.5)) / 2)
    assert values == sorted(values) and values[999] < 1
