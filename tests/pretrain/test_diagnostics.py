"""Diagnostics against numpy and scipy, their ranges, and what is measured when."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cosine, pdist
from scipy.stats import special_ortho_group

from pretrain.config import from_dict
from pretrain.diagnostics import Diagnostics, absolute_drift, cka_drift, effective_rank, feature_std, relative_drift
from pretrain.objective.networks import Student, Teacher


def randn(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SHAPES = [(3, 2), (7, 13), (64, 8), (10, 300)]


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_feature_std(n, d, dtype):
    x = (randn(n, d) + 0.3).to(dtype)
    a = x.double().numpy()
    expected = (a / np.linalg.norm(a, axis=1, keepdims=True)).std(axis=0).mean() * math.sqrt(d)
    assert feature_std(x) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_effective_rank(n, d):
    x = randn(n, d) * torch.linspace(0.1, 3, d, dtype=torch.float64)
    a = x.numpy() - x.numpy().mean(0)
    assert effective_rank(x) == pytest.approx(math.exp(stats.entropy(np.linalg.svd(a, compute_uv=False))), rel=1e-9)
    assert 1 <= effective_rank(x) <= min(n - 1, d) + 1e-9


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_drifts(n, d):
    now, before = randn(n, d, 1), randn(n, d, 1) + 0.4 * randn(n, d, 2)
    expected = np.mean([cosine(a, b) for a, b in zip(now.numpy(), before.numpy(), strict=True)])
    assert absolute_drift(now, before) == pytest.approx(expected, abs=1e-12)
    similarities = [1 - pdist(t.numpy(), "cosine") for t in (now, before)]
    assert relative_drift(now, before) == pytest.approx(1 - stats.pearsonr(*similarities)[0], abs=1e-9)
    # Linear CKA by its definition: HSIC of centred Gram matrices.
    centre = np.eye(n) - 1 / n
    k, m = (centre @ (t.numpy() @ t.numpy().T) @ centre for t in (now, before))
    expected = 1 - np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert cka_drift(now, before) == pytest.approx(expected, abs=1e-9)


def test_collapse_and_isotropy():
    collapsed = torch.ones(20, 16) * 3
    assert feature_std(collapsed) == pytest.approx(0, abs=1e-12) and effective_rank(collapsed) == 0
    assert effective_rank(torch.zeros(20, 16)) == 0 and feature_std(torch.zeros(20, 16)) == 0
    one_direction = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None] * torch.ones(1, 16, dtype=torch.float64)
    assert effective_rank(one_direction) == pytest.approx(1, abs=1e-6)
    isotropic = randn(5000, 16)
    assert feature_std(isotropic) == pytest.approx(1, abs=0.02) and effective_rank(isotropic) == pytest.approx(16, abs=0.1)
    assert relative_drift(collapsed, isotropic[:20]) is None and cka_drift(collapsed, isotropic[:20]) is None


def test_not_finite_features_have_no_rank():
    x = randn(5, 4)
    x[2, 1] = math.nan
    assert math.isnan(effective_rank(x))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 20), st.integers(2, 12), st.floats(0.01, 100))
def test_a_common_rotation_is_absolute_drift_only(seed, n, d, scale):
    """What the theory turns on: rotating all targets moves them, but not their similarities."""
    targets = randn(n, d, seed)
    rotation = torch.from_numpy(special_ortho_group.rvs(d, random_state=seed))
    rotated = scale * targets @ rotation
    assert relative_drift(rotated, targets) == pytest.approx(0, abs=1e-9)
    assert cka_drift(rotated, targets) == pytest.approx(0, abs=1e-9)
    assert absolute_drift(rotated, targets) == pytest.approx(
        float(np.mean([cosine(a, b) for a, b in zip(rotated.numpy(), targets.numpy(), strict=True)])), abs=1e-9
    )
    assert absolute_drift(targets, targets) == pytest.approx(0, abs=1e-12)
    assert absolute_drift(-targets, targets) == pytest.approx(2, abs=1e-12)
    assert 0 <= relative_drift(randn(n, d, seed + 1), targets) <= 2


def config(**objective):
    return from_dict(
        {
            "model": {"arch": "resnet_small", "projector_hidden": 16, "projector_out": 8, "predictor_hidden": 8},
            "objective": objective,
            "diagnostics": {"widths": [1.0, 0.5, 0.25, 0.125]},
        }
    )


@pytest.mark.parametrize(
    ("objective", "guided"),
    [
        ({"teacher": "online", "distill_loss": "mse"}, [1.0]),
        ({"teacher": "momentum", "distill_loss": "infonce"}, [1.0]),
        ({"teacher": "online", "distill_loss": "none"}, [1.0, 0.5, 0.25]),
        ({"teacher": "momentum", "distill_loss": "none"}, [1.0, 0.5, 0.25]),
    ],
)
def test_what_is_measured_when(objective, guided):
    torch.manual_seed(0)
    cfg = config(**objective)
    student = Student(cfg).double()
    teacher = Teacher(student) if cfg.objective.teacher == "momentum" else None
    images = torch.randn(9, 3, 8, 8, dtype=torch.float64)
    diagnostics = Diagnostics(cfg, images)
    first = diagnostics.measure(student, teacher)
    assert [(n, w) for n, w, _ in first] == [
        (n, w) for w in (1.0, 0.5, 0.25) for n in ("feature_std", "effective_rank", "projection_std", "projection_rank")
    ]
    measured = {(n, w): v for n, w, v in first}
    for width in (1.0, 0.5, 0.25):
        projections = project(student, images, width)
        assert measured["projection_std", width] == pytest.approx(feature_std(projections), rel=1e-6)
        assert measured["projection_rank", width] == pytest.approx(effective_rank(projections), rel=1e-6)
    before = {w: project(teacher or student, images, w) for w in guided}
    for parameter in (teacher or student).parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    second = diagnostics.measure(student, teacher)
    drifts = {(n, w): v for n, w, v in second if n.startswith("drift")}
    assert set(drifts) == {(n, w) for w in guided for n in ("drift/absolute", "drift/relative", "drift/cka")}
    for width in guided:
        now = project(teacher or student, images, width).float()
        assert drifts["drift/absolute", width] == pytest.approx(absolute_drift(now, before[width].float()), abs=1e-6)
        assert drifts["drift/relative", width] == pytest.approx(relative_drift(now, before[width].float()), abs=1e-6)
    assert all(p.grad is None for p in student.parameters())


def project(network, images, width):
    from pretrain.slimmable import at_width

    with at_width(network, width), torch.no_grad():
        return network.projector(network.encoder(images))


def test_a_diverged_network_is_reported_as_undefined():
    cfg = config()
    student = Student(cfg)
    student.encoder.bn1.weight.data.fill_(math.inf)
    rows = Diagnostics(cfg, torch.randn(6, 3, 8, 8)).measure(student, None)
    assert len(rows) == 12 and all(value is None for _, _, value in rows)
