"""The two losses against double loops in float64, closed forms, laws and finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.objective.losses import Pairing, infonce, loss_function, negative_cosine


def slow_cosine(s, t):
    total = 0.0
    for a, b in zip(s.tolist(), t.tolist(), strict=True):
        dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
        total += dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(x * x for x in b))
    return -total / len(s)


def slow_infonce(s, t, temperature):
    rows = [[x / math.sqrt(math.fsum(v * v for v in row)) for x in row] for row in s.tolist() + t.tolist()]
    half, total = len(s), 0.0
    for i, row in enumerate(rows):
        logits = {j: math.fsum(a * b for a, b in zip(row, rows[j], strict=True)) / temperature for j in range(2 * half) if j != i}
        top = max(logits.values())
        total += top + math.log(math.fsum(math.exp(v - top) for v in logits.values())) - logits[(i + half) % (2 * half)]
    return total / (2 * half)


def pair(batch, dim, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, dim, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


SHAPES = [(1, 1), (1, 7), (2, 3), (7, 13), (16, 64)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_negative_cosine(batch, dim, dtype):
    s, t = pair(batch, dim, dtype=dtype)
    assert float(negative_cosine(s, t)) == pytest.approx(slow_cosine(s.double(), t.double()), abs=TOLERANCE[dtype])


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("temperature", [0.07, 0.5, 3.0])
def test_infonce(batch, dim, dtype, temperature):
    s, t = pair(batch, dim, dtype=dtype)
    expected = slow_infonce(s.double(), t.double(), temperature)
    assert float(infonce(s, t, temperature)) == pytest.approx(expected, abs=TOLERANCE[dtype] * max(1, 0.5 / temperature))


@pytest.mark.parametrize("batch", [1, 2, 9])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_infonce_of_orthonormal_rows_has_a_closed_form(batch, temperature):
    s = torch.eye(16, dtype=torch.float64)[:batch]
    expected = math.log(math.exp(1 / temperature) + 2 * batch - 2) - 1 / temperature
    assert float(infonce(s, s, temperature)) == pytest.approx(expected, abs=1e-12)
    collapsed = torch.ones(batch, 5, dtype=torch.float64)
    assert float(infonce(collapsed, 3 * collapsed, temperature)) == pytest.approx(math.log(2 * batch - 1), abs=1e-12)


def test_infonce_survives_tiny_temperatures_and_huge_rows():
    s, t = pair(8, 5, dtype=torch.float32)
    value = infonce(1e15 * s, 1e-9 * t, 1e-3)
    assert float(value) == pytest.approx(slow_infonce(s.double(), t.double(), 1e-3), rel=1e-4)


@pytest.mark.parametrize("name", ["mse", "infonce"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_float32_under_autocast(name, dtype):
    s, t = pair(12, 33, dtype=dtype)
    loss = loss_function(name, 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(s, t)
    expected = slow_cosine(s.double(), t.double()) if name == "mse" else slow_infonce(s.double(), t.double(), 0.2)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(expected, abs=2e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 8),
    st.integers(0, 10**6),
    st.sampled_from(["mse", "infonce"]),
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e3),
    st.floats(0.05, 5),
)
def test_laws(batch, dim, seed, name, a, b, temperature):
    """Row scale does not matter, the order of pairs neither, and infonce does not tell student from target."""
    s, t = pair(batch, dim, seed)
    loss = loss_function(name, temperature)
    value = float(loss(s, t))
    scale = torch.linspace(a, b, batch, dtype=torch.float64)[:, None]
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    assert float(loss(a * s, b * t)) == pytest.approx(value, abs=1e-8)
    assert float(loss(scale * s, t)) == pytest.approx(value, abs=1e-8)
    assert float(loss(s[order], t[order])) == pytest.approx(value, abs=1e-8)
    assert float(loss(t, s)) == pytest.approx(value, abs=1e-8)
    # A common rotation changes no similarity.
    rotation = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]
    assert float(loss(s @ rotation, t @ rotation)) == pytest.approx(value, abs=1e-8)
    assert value >= (-1 - 1e-9 if name == "mse" else 0)


@pytest.mark.parametrize("name", ["mse", "infonce"])
def test_gradient_is_the_finite_difference_and_stops_at_the_target(name):
    s, t = (x.requires_grad_() for x in pair(5, 7))
    loss = loss_function(name, 0.4)
    loss(s, t).backward()
    assert t.grad is None
    step = 1e-6
    for i, j in [(0, 0), (2, 6), (4, 3)]:
        moved = torch.zeros_like(s)
        moved[i, j] = step
        with torch.no_grad():
            slope = (loss(s + moved, t) - loss(s - moved, t)) / (2 * step)
        assert float(s.grad[i, j]) == pytest.approx(float(slope), abs=1e-8)


def test_negative_cosine_is_the_mse_of_unit_vectors_up_to_scale_and_offset():
    s, t = pair(6, 9)
    unit = [x / x.norm(dim=1, keepdim=True) for x in (s, t)]
    squared = (unit[0] - unit[1]).square().sum(1).mean()
    assert float(negative_cosine(s, t)) == pytest.approx(float(squared) / 2 - 1, abs=1e-12)


@pytest.mark.parametrize("name", ["mse", "infonce"])
def test_symmetric_crosses_the_views(name):
    s1, t2 = pair(4, 6, 1)
    s2, t1 = pair(4, 6, 2)
    loss = loss_function(name, 0.5)
    expected = 0.5 * (float(loss(s1, t2)) + float(loss(s2, t1)))
    assert float(Pairing("mean", True)(loss, (s1, s2), (t1, t2))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["mse", "infonce"])
def test_an_all_zero_row_gives_finite_losses_and_gradients(name):
    s, t = pair(4, 6)
    s[1] = 0
    s.requires_grad_()
    value = loss_function(name, 0.5)(s, t)
    value.backward()
    assert math.isfinite(float(value.detach())) and s.grad.isfinite().all()
