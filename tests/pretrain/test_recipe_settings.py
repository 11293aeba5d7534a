"""The single settings that recipes take: batches, pixels, calibration, start of the weights, the authors' regularizer, resuming."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pretrain import config
from pretrain.checkpoints import files as checkpoint
from pretrain.config import CalibrationConfig, RegularizerConfig, WidthsConfig
from pretrain.data import TwoViewBatches, batch_sizes, calibration_batches, crop_batches, evaluation_batches, load, load_for
from pretrain.models import ARCHITECTURES, build
from pretrain.models.resnet import BasicBlock, ResNet
from pretrain.objective.features import with_stage_norms
from pretrain.objective.losses import feature_distance, kl
from pretrain.objective.networks import Student
from pretrain.objective.regularization import Regularizer
from pretrain.objective.sampling import sample_widths
from pretrain.slimmable import at_width, calibrate, extract
from pretrain.training import pretrain
from pretrain.training.build import chunks
from rundir.errors import UserError
from tests.pretrain.interruption import pretrain_until

ARCH = "resnet_of_the_settings_test"
TINY = [
    f"model.arch={ARCH}",
    "model.projector_layers=2",
    "model.projector_hidden=24",
    "model.projector_out=16",
    "model.predictor_hidden=16",
    "optimizer.batch_size=16",
    "optimizer.epochs=4",
    "data.limit=50",
    "data.size=8",
    "diagnostics.images=0",
    "calibration.images=40",
    "train.device=cpu",
    "train.threads=1",
    "train.checkpoint_minutes=0",
]


@pytest.fixture(autouse=True)
def architecture(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, ARCH, lambda: ResNet(BasicBlock, (1, 1, 1), base_channels=16))


# -- losses -------------------------------------------------------------------------------------------------------------------


def test_feature_distance_number_by_number():
    generator = torch.Generator().manual_seed(0)
    student, target = ([torch.randn(2, c, 3, 2, generator=generator, dtype=torch.float64) for c in (3, 5)] for _ in range(2))
    means = []
    for a, b in zip(student, target, strict=True):
        numbers = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
        means.append(sum((x - y) ** 2 for x, y in numbers) / len(numbers))
    student = [m.requires_grad_() for m in student]
    target = [m.requires_grad_() for m in target]
    loss = feature_distance(student, target)
    assert loss.item() == pytest.approx(sum(means) / 2, abs=1e-12)
    loss.backward()
    assert all(m.grad is None for m in target) and all(m.grad.abs().sum() > 0 for m in student)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.floats(0.1, 10), st.integers(0, 99))
def test_kl_is_zero_for_equals_and_positive_else(columns, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    own, guide = (torch.randn(4, columns, generator=generator, dtype=torch.float64) for _ in range(2))
    assert kl(guide + 3.0, guide, temperature).item() == pytest.approx(0, abs=1e-12)  # softmax forgets a constant
    p, q = ((x / temperature).softmax(1) for x in (guide, own))
    expected = float((p * (p / q).log()).sum(1).mean())
    assert kl(own, guide, temperature).item() == pytest.approx(expected, abs=1e-12) and expected >= 0


@pytest.mark.parametrize(("arch", "size"), [("resnet_small", 16), ("resnet50", 64), ("mobilenetv2_cifar", 32)])
def test_stage_norms_are_what_stages_end_in(arch, size):
    """Their outputs have the stages' channels and sizes; with the shortcut and the activation they are the stages."""
    encoder = build(arch).double()
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    with at_width(encoder, 0.5), torch.no_grad():
        features, maps = with_stage_norms(encoder, x)
        stages = encoder.stages(x)
        torch.testing.assert_close(features, encoder(x))
        assert [m.shape for m in maps] == [s.shape for s in stages[1:]]
        # A last BatchNorm's outputs have mean 0 and variance 1 with fresh scales and shifts.
        for inner in maps:
            assert inner.mean().abs() < 1e-9 and inner.var(unbiased=False) == pytest.approx(1, abs=0.02)
    assert not any(module._forward_hooks for module in encoder.modules())


# -- widths, batches, pixels --------------------------------------------------------------------------------------------------


def test_doubled_ends():
    """Max, min, max, min and two drawn (METHOD section 7), the same two as without."""
    plain, doubled = (WidthsConfig(per_step=4, doubled_ends=ends) for ends in (False, True))
    for step in range(5):
        ordinary, found = (sample_widths(cfg, 7, step, 5) for cfg in (plain, doubled))
        assert found == [1.0, 0.25, 1.0, 0.25, *ordinary[1:-1]]


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 500), st.integers(2, 64), st.integers(1, 6))
def test_sizes_of_batches(images, batch, parts):
    batch *= parts
    dropped, kept = (batch_sizes(images, batch, drop, parts) for drop in (True, False))
    assert dropped == [batch] * (images // batch) and kept[: len(dropped)] == dropped
    rest = images - sum(dropped)
    assert len(kept) - len(dropped) == (rest >= 2 * parts)
    if len(kept) > len(dropped):
        assert kept[-1] % parts == 0 and rest - parts < kept[-1] <= rest


def test_a_kept_last_batch_shows_every_image_once_and_is_shared_out():
    source, augment = load("digits", "train", None, 8, limit=50), config.load("digits").augment
    whole = list(TwoViewBatches(source, augment, 8, 16, 3, "cpu", drop_last=False).epoch(0))
    assert sorted(torch.cat([index for index, _, _ in whole]).tolist()) == list(range(50)) and len(whole[-1][0]) == 2
    parts = [list(TwoViewBatches(source, augment, 8, 20, 3, "cpu", rank, 2, drop_last=False).epoch(1)) for rank in (0, 1)]
    alone = list(TwoViewBatches(source, augment, 8, 20, 3, "cpu", drop_last=False).epoch(1))
    for one, other, both in zip(*parts, alone, strict=True):
        assert all(torch.equal(torch.cat([a, b]), c) for a, b, c in zip(one, other, both, strict=True))
    assert [len(index) for index, _, _ in alone] == [20, 20, 10]


def test_pixels_of_ones_own():
    cfg = config.load("digits", ["data.std=[0.5,0.25,0.125]", "data.limit=20"])
    own, usual = load_for(cfg.data, "train"), load("digits", "train", None, 12, limit=20)
    assert own.std == (0.5, 0.25, 0.125) and own.mean == usual.mean
    (x, _), (y, _) = (next(evaluation_batches(source, 12, 20, "cpu")) for source in (own, usual))
    torch.testing.assert_close(x * torch.tensor(own.std).view(3, 1, 1), y * torch.tensor(usual.std).view(3, 1, 1))


# -- calibration --------------------------------------------------------------------------------------------------------------


def test_the_authors_calibration_is_torchs_running_average():
    """Torch's own BatchNorm in training mode on the same batches, from its start, at momentum 0.1."""
    torch.manual_seed(0)
    encoder, batches = build("resnet_small").double(), [torch.randn(6, 3, 8, 8, dtype=torch.float64) for _ in range(4)]
    calibrate(encoder, [0.5], batches, running=True)
    dense = extract(encoder, 0.5)
    for norm in (m for m in dense.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = 0.1
    dense.train()
    with torch.no_grad():
        for x in batches:
            dense(x)
    for name, norm in ((n, m) for n, m in dense.named_modules() if isinstance(m, nn.BatchNorm2d)):
        mean, variance = encoder.get_submodule(name).statistics_at(0.5)
        torch.testing.assert_close(mean, norm.running_mean)
        torch.testing.assert_close(variance, norm.running_var)


def test_images_of_calibration():
    cfg, source = config.load("digits"), load("digits", "train", None, 8, limit=50)
    chosen = torch.randperm(50, generator=torch.Generator().manual_seed(5))[:33]

    def batches(**changes):
        own = replace(CalibrationConfig(), images=33, batch_size=16, **changes)
        return list(calibration_batches(source, own, cfg.augment, 8, 5, "cpu"))

    plain = [x for x, _ in evaluation_batches(source, 8, 16, "cpu", chosen)][:2]  # of 33 the last would be one image
    assert [len(x) for x in batches()] == [16, 16] and all(map(torch.equal, batches(), plain))
    crops = batches(views="crops", passes=3)
    assert len(crops) == 6 and not torch.equal(crops[0], crops[2])
    again = [x for x, _ in crop_batches(source.subset(chosen), 8, 16, 2, 5, "cpu", flip=0.0)][:2]
    assert all(map(torch.equal, crops[4:], again))
    assert [len(x) for x in batches(views="pretraining", passes=2)] == [16] * 4


# -- the start of the weights -------------------------------------------------------------------------------------------------


def start(*overrides: str) -> Student:
    torch.manual_seed(0)
    return Student(config.load("digits", ["model.arch=resnet18_cifar", "model.projector_hidden=1024", *overrides]))


def test_convolutions_start_as_the_project_or_as_torch_has_them():
    """Variance 2 / (9 C) of He's fan-out, or 1 / (3 * 9 C) of torch's uniform distribution: 6 times less."""
    he, usual = (start(f"model.conv_init={name}").encoder.layer4[1].conv2.weight for name in ("he", "torch"))
    fan = 9 * 512
    assert he.var().item() == pytest.approx(2 / fan, rel=0.01) and usual.var().item() == pytest.approx(1 / (3 * fan), rel=0.01)
    assert usual.abs().max().item() <= 1 / math.sqrt(fan)


def test_projector_and_distillation_head_start_as_asked():
    first = start("model.projector_init=normal").projector[0].weight
    assert first.std().item() == pytest.approx(0.01, rel=0.01) and first.abs().max() > 0.03
    copied, usual = (start(f"model.distill_head_init={name}") for name in ("predictor", "torch"))
    for student, equal in ((copied, True), (usual, False)):
        pairs = zip(student.predictor.parameters(), student.distill_head.parameters(), strict=True)
        assert [torch.equal(a, b) for a, b in pairs if a.ndim == 2] == [equal] * 2
    assert copied.predictor[0].weight is not copied.distill_head[0].weight


# -- the authors' regularizer -------------------------------------------------------------------------------------------------


def test_of_a_vit_the_authors_group_all_matrices():
    cfg = config.load("digits_vit", ["objective.base_loss=mse", "model.projector_hidden=32", "model.projector_out=16"])
    student = Student(cfg).double()
    for variant, grouped in (("paper", "blocks"), ("authors", "")):
        regularizer = Regularizer(RegularizerConfig(kind="group", coefficient=0.5, variant=variant), student)
        regularizer.set_alpha(0.05)
        for parameter in student.parameters():
            parameter.grad = torch.zeros_like(parameter)
        regularizer.add_gradient()
        for name, p in student.named_parameters():
            if not p.requires_grad:
                continue
            expected = p.detach().clone()
            if p.ndim == 2 and grouped in name:
                index = torch.tensor([math.floor(c * 8 / p.shape[1]) for c in range(p.shape[1])])
                expected *= 1 - 0.05 * index
            torch.testing.assert_close(p.grad, expected, msg=lambda m, n=name: f"{n}: {m}")


# -- training -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("us3l-r50", ["optimizer.virtual_processes=2"]),  # heads wait for their first gradient until the second stage; adapters
        ("us3l-mse", ["widths.slow_start_epochs=2"]),  # plain decay leaves them alone until then
        ("usnet-byol", []),
        ("slimclr", ["objective.queue=40"]),
    ],
)
def test_a_resumed_recipe_is_the_uninterrupted_one(recipe, more, tmp_path):
    cfg = config.load("digits", [f"experiment.recipe={recipe}", *TINY, *more])
    pretrain(cfg, tmp_path / "whole")
    pretrain_until(cfg, tmp_path / "parts", 4)
    pretrain(cfg, tmp_path / "parts")
    whole, parts = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    names = ("encoder", "projector", "predictor", "distill_head", "adapters", "teacher", "queue")
    assert whole["touched"] == parts["touched"]
    for name in names:
        assert (whole[name] is None) == (parts[name] is None)
        for key, tensor in (whole[name] or {}).items():
            assert torch.equal(tensor, parts[name][key]), f"{name}.{key}"
    assert (whole["adapters"] is not None) == (recipe == "us3l-r50")


def test_processes_that_do_not_exist_are_shared_out_evenly_or_refused():
    cfg = config.load("digits", [*TINY, "optimizer.virtual_processes=4"])
    for world_size, parts in ((1, 4), (2, 2), (4, 1)):
        assert chunks(cfg, world_size) == parts
    with pytest.raises(UserError, match=r"set optimizer\.virtual_processes=3"):
        chunks(cfg, 3)
