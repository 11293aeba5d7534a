"""Compiled passes and recomputed activations: the same step, to rounding."""

from __future__ import annotations

import pytest
import torch

from pretrain import compiled, config
from pretrain.distributed import processes
from pretrain.objective.networks import Student
from pretrain.slimmable import at_width
from pretrain.training import Trainer
from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.pretrain.tiny import overrides

VIT = ("model.arch=vit_micro", "data.size=16", "optimizer.name=adamw", "optimizer.lr=0.001")


def after_steps(tmp_path, name, *more, steps=2):
    """Weights of student and teacher after ``steps`` steps at three widths."""
    cfg = config.load("digits", overrides("widths.sampling=sandwich", *more))
    with processes("cpu") as group:
        trainer = Trainer(cfg, RunDirectory(tmp_path / name), group)
        for _, (_, x1, x2) in zip(range(steps), trainer.batches.epoch(0), strict=False):
            trainer.train_step(x1, x2)
    return [*trainer.training.student.parameters(), *trainer.training.teacher.parameters()]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [(), ("objective.base_loss=mse", "objective.head=shared")], ids=["infonce", "mse, shared head"])
def test_a_step_with_compiled_ends_is_the_step(tmp_path, monkeypatch, more):
    made, plain = [], torch.compile

    def traced(model, **options):  # the whole capture, without the C++ compiler at its end
        made.append(model)
        return plain(model, **{**options, "backend": "aot_eager"})

    expected = after_steps(tmp_path, "plain", *more)
    monkeypatch.setattr(torch, "compile", traced)
    monkeypatch.setattr(compiled.torch, "compile", traced)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: plain(self, **{**options, "backend": "aot_eager"}))
    assert_same(after_steps(tmp_path, "compiled", "train.compile=true", *more), expected)
    assert made


@pytest.mark.slow
def test_a_step_compiled_to_machine_code_is_the_step(tmp_path):
    assert_same(after_steps(tmp_path, "compiled", "train.compile=true", steps=1), after_steps(tmp_path, "plain", steps=1))


def test_only_the_ends_are_compiled():
    layer = compiled_at = None
    from pretrain.slimmable import SlimmableLinear

    layer, compiled_at = SlimmableLinear(16, 16), []

    def spy(graph, inputs):
        compiled_at.append(inputs[0].shape if inputs else None)
        return graph.forward

    run = compiled.compile_at(layer, layer, (0.5, 1.0), backend=spy)
    for width in (1.0, 0.5, 1.0, 0.75, 0.5):
        with at_width(layer, width):
            x = torch.randn(3, layer.channels_in(width))
            torch.testing.assert_close(run(x), layer(x))
    assert len(compiled_at) == 2


def test_recomputed_blocks_give_the_same_step_and_keep_less(tmp_path):
    assert_same(after_steps(tmp_path, "again", "train.recompute=true", *VIT), after_steps(tmp_path, "kept", *VIT))
    kept = {}
    for recompute in (False, True):
        model, saved = Student(config.load("digits", overrides(f"train.recompute={recompute}".lower(), *VIT))), []
        with (
            torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t),
            at_width(model, 0.5),
        ):
            model.encoder(torch.randn(4, 3, 16, 16))
        kept[recompute] = sum(saved)
    assert kept[True] < 0.5 * kept[False]


def test_recomputing_is_refused_where_there_is_nothing_to_recompute():
    with pytest.raises(UserError, match=r"set train\.recompute=false"):
        config.load("digits", ["train.recompute=true"])
