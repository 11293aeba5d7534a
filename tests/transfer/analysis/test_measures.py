"""Each measure against an independent slow computation or a closed form, and the laws that it keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, stats

from transfer.analysis import measures

SEEDS = st.integers(0, 2**31)


def features(seed: int, *shape: int) -> torch.Tensor:
    """Features with some channels larger than others, and all of them positive, as after a ReLU."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(np.abs(random.standard_normal(shape) + 0.5) * random.uniform(0.1, 3, shape[-1])).float()


def rotation(seed: int, size: int) -> torch.Tensor:
    return torch.from_numpy(stats.ortho_group.rvs(size, random_state=seed % 2**32))


def unit(row):
    return np.asarray(row, dtype=float) / math.sqrt(sum(float(value) ** 2 for value in row))


def test_alignment_is_the_mean_squared_distance_of_unit_vectors():
    first, second = features(0, 7, 3, 5), features(1, 7, 3, 5)
    slow = [
        sum((a - b) ** 2 for a, b in zip(unit(x), unit(y), strict=True))
        for one, two in zip(first, second, strict=True)
        for x, y in zip(one, two, strict=True)
    ]
    assert measures.alignment(first, second) == pytest.approx(sum(slow) / len(slow), rel=1e-9)
    assert measures.alignment(first, 3 * first) == pytest.approx(0, abs=1e-12)
    assert measures.alignment(first, -first) == pytest.approx(4)


def test_uniformity_is_the_logarithm_of_the_mean_gaussian_potential():
    rows = features(2, 11, 4)
    slow = [
        math.exp(-2 * sum((a - b) ** 2 for a, b in zip(unit(x), unit(y), strict=True)))
        for i, x in enumerate(rows)
        for j, y in enumerate(rows)
        if i != j
    ]
    assert measures.uniformity(rows) == pytest.approx(math.log(sum(slow) / len(slow)), rel=1e-9)
    assert measures.uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-9)
    assert measures.uniformity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(-8)  # the farthest two points can be


def test_measures_in_chunks_are_those_in_one(monkeypatch):
    one, two = features(3, 40, 6), features(4, 40, 9)
    whole = measures.uniformity(one), measures.neighbour_overlap(one, two, 5), measures.order_agreement(one, two)
    monkeypatch.setattr(measures, "CHUNK_ELEMENTS", 130)  # three rows
    parts = measures.uniformity(one), measures.neighbour_overlap(one, two, 5), measures.order_agreement(one, two)
    assert parts == pytest.approx(whole, rel=1e-12)


def test_rankme_is_the_entropy_of_the_singular_values():
    rows = features(5, 30, 8).double().numpy()
    values = np.sqrt(np.clip(np.linalg.eigvalsh(rows.T @ rows), 0, None))
    shares = values / values.sum()
    assert measures.rankme(torch.from_numpy(rows)) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-4)
    assert measures.rankme(torch.eye(6)) == pytest.approx(6, rel=1e-5)  # six directions alike
    assert measures.rankme(torch.ones(9, 1) @ features(6, 1, 5)) == pytest.approx(1, abs=1e-4)  # one direction
    assert measures.rankme(torch.zeros(9, 5)) is None


@given(SEEDS, st.integers(2, 12), st.integers(1, 12), st.floats(0.01, 100))
def test_rankme_lies_between_1_and_the_smaller_side_and_ignores_scale_and_rotation(seed, images, width, scale):
    rows = features(seed, images, width).double()
    value = measures.rankme(rows)
    assert 1 - 1e-4 <= value <= min(images, width) * (1 + 1e-4)
    assert measures.rankme(scale * rows @ rotation(seed, width) if width > 1 else scale * rows) == pytest.approx(value, rel=1e-5)


def slow_lidar(views: np.ndarray) -> float:
    """By its definition: generalised eigenvalues of the two scatter matrices, summed image by image."""
    images, count, width = views.shape
    means = views.mean(1)
    grand = means.mean(0)
    between, within = np.zeros((width, width)), np.zeros((width, width))
    for image in range(images):
        between += np.outer(means[image] - grand, means[image] - grand) / (images - 1)
        for view in range(count):
            apart = views[image, view] - means[image]
            within += np.outer(apart, apart) / (images * (count - 1))
    values = np.clip(linalg.eigh(between, within + 1e-4 * np.eye(width), eigvals_only=True), 0, None)
    shares = values / values.sum() + 1e-7
    return math.exp(-sum(p * math.log(p) for p in shares))


def test_lidar_is_the_rank_of_the_linear_discriminant_matrix():
    views = features(7, 12, 4, 6).double()
    assert measures.lidar(views) == pytest.approx(slow_lidar(views.numpy()), rel=1e-8)
    few = features(8, 3, 4, 6).double()  # fewer images than channels: two directions tell three images apart
    assert measures.lidar(few) == pytest.approx(slow_lidar(few.numpy()), rel=1e-4) and measures.lidar(few) < 2.001
    still = features(9, 10, 1, 5).expand(-1, 4, -1)  # views that are all alike: nothing but the 1e-4 is within
    assert measures.lidar(still) == pytest.approx(slow_lidar(still.double().numpy()), rel=1e-4)
    assert measures.lidar(torch.ones(10, 4, 5)) is None  # images that are all alike


def test_lidar_counts_what_tells_images_apart_and_rankme_also_noise():
    random = torch.Generator().manual_seed(0)
    signal = torch.zeros(200, 1, 10)
    signal[:, :, :2] = 3 * torch.randn(200, 1, 2, generator=random)
    views = signal + torch.randn(200, 8, 10, generator=random)
    assert measures.lidar(views) < 4 < 8 < measures.rankme(views[:, 0])


@given(SEEDS, st.integers(2, 8), st.integers(2, 5), st.integers(1, 6))
def test_lidar_is_bounded_and_ignores_rotation(seed, images, count, width):
    views = features(seed, images, count, width).double()
    value = measures.lidar(views)
    assert 1 - 1e-4 <= value <= min(images - 1, width) * (1 + 1e-4)
    if width > 1:
        assert measures.lidar(views @ rotation(seed, width)) == pytest.approx(value, rel=1e-5)


def test_linear_cka_is_hsic_of_the_gram_matrices():
    x, y = features(10, 15, 4).double().numpy(), features(11, 15, 6).double().numpy()
    middle = np.eye(15) - 1 / 15

    def hsic(a, b):
        return np.trace(a @ a.T @ middle @ b @ b.T @ middle)

    slow = hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))
    assert measures.linear_cka(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(slow, rel=1e-9)
    assert measures.linear_cka(torch.ones(15, 3), torch.from_numpy(x)) is None


@given(SEEDS, st.integers(3, 12), st.integers(2, 6), st.integers(1, 6), st.floats(0.01, 100))
def test_linear_cka_ignores_rotation_scale_offset_and_order(seed, images, width, other, scale):
    x, y = features(seed, images, width).double(), features(seed + 1, images, other).double()
    value = measures.linear_cka(x, y)
    assert -1e-9 <= value <= 1 + 1e-9
    assert measures.linear_cka(scale * x @ rotation(seed, width) + 5, y) == pytest.approx(value, abs=1e-8)
    assert measures.linear_cka(y, x) == pytest.approx(value, abs=1e-9)
    assert measures.linear_cka(x, x) == pytest.approx(1)


def test_neighbour_overlap_counts_common_neighbours():
    one, two = features(12, 20, 5).numpy(), features(13, 20, 7).numpy()

    def nearest(rows, i):
        others = [j for j in range(len(rows)) if j != i]
        return set(sorted(others, key=lambda j: -float(unit(rows[i]) @ unit(rows[j])))[:4])

    slow = sum(len(nearest(one, i) & nearest(two, i)) for i in range(20)) / 80
    assert measures.neighbour_overlap(torch.from_numpy(one), torch.from_numpy(two), 4) == pytest.approx(slow)
    assert measures.neighbour_overlap(torch.from_numpy(one), 2 * torch.from_numpy(one), 4) == 1
    assert measures.neighbour_overlap(torch.from_numpy(one), torch.from_numpy(two), 19) == 1  # all of them


def test_unrelated_networks_share_as_many_neighbours_as_chance_gives():
    random = torch.Generator().manual_seed(1)
    one, two = (torch.randn(400, 32, generator=random) for _ in range(2))
    assert measures.neighbour_overlap(one, two, 40) == pytest.approx(40 / 399, abs=0.01)


def test_order_agreement_is_spearmans_rho_for_each_image():
    one, two = features(14, 12, 5), features(15, 12, 3)
    two[3] = two[4]  # two images that are one point: ties
    found = []
    for i in range(12):
        others = [j for j in range(12) if j != i]
        pairs = [[float(unit(rows[i]) @ unit(rows[j])) for j in others] for rows in (one, two)]
        found.append(stats.spearmanr(*np.round(pairs, 9)).statistic)
    assert measures.order_agreement(one, two) == pytest.approx(np.mean(found), rel=1e-9)
    assert measures.order_agreement(one, 7 * one) == pytest.approx(1)
    assert measures.order_agreement(torch.ones(6, 3), torch.eye(6)) is None


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_features_that_are_not_finite_have_no_measures(broken):
    rows, good = features(16, 8, 3), features(17, 8, 3)
    rows[2, 1] = broken
    for value in (
        measures.alignment(rows, good),
        measures.uniformity(rows),
        measures.rankme(rows),
        measures.linear_cka(good, rows),
        measures.lidar(rows[:, None].expand(-1, 2, -1)),
        measures.neighbour_overlap(rows, good, 2),
        measures.order_agreement(good, rows),
    ):
        assert value is None
