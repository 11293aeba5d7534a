"""The example in one file computes what the suite computes, and learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from examples import us3l_digits as example
from pretrain.config import load
from pretrain.models import build
from pretrain.objective.losses import infonce, negative_cosine
from pretrain.objective.regularization import Regularizer, alpha_at
from pretrain.objective.width_rules.dynamic import lower_bound

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "us3l_digits.py"


def test_losses_are_those_of_the_suite():
    outputs, targets = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(example.relative(outputs, targets), infonce(outputs, targets, example.TEMPERATURE))
    torch.testing.assert_close(example.absolute(outputs, targets), negative_cosine(outputs, targets))


@pytest.mark.parametrize("epochs", [8, 16])
def test_lowest_widths_are_those_of_dynamic_sampling(epochs):
    assert [example.lowest_width(epoch, epochs) for epoch in range(epochs)] == pytest.approx(
        [lower_bound(example.LOWEST, 1.0, epoch / epochs) for epoch in range(epochs)]
    )


def test_the_penalty_is_that_of_group_regularization():
    cfg = load("digits", ["regularizer.kind=group", f"regularizer.coefficient={example.DECAY}"]).regularizer
    assert (cfg.groups, cfg.alpha) == (example.GROUPS, example.ALPHA)
    encoder = build("resnet_small")
    regularizer = Regularizer(cfg, encoder)
    for epoch in (0, 3, 12):
        regularizer.set_alpha(alpha_at(cfg, epoch, example.EPOCHS))
        alpha = example.ALPHA * min(1, 2 * epoch / example.EPOCHS)
        torch.testing.assert_close(example.penalty(encoder, alpha), regularizer.penalty())


def test_views_differ_and_keep_the_shape():
    images = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    first, second = example.random_view(images), example.random_view(images)
    assert first.shape == images.shape and first.isfinite().all() and not torch.allclose(first, second)


@pytest.mark.slow
def test_the_script_learns_at_every_width(tmp_path):
    run = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    accuracy = [float(line.split()[-2]) for line in run.stdout.splitlines() if line.startswith("width ")]
    assert len(accuracy) == len(example.WIDTHS)
    assert min(accuracy) > 90 and accuracy[0] > 95  # 98.8, 98.8, 98.6 and 96.2 % when it was written
