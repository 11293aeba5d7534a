"""Laws of every width-sampling rule (METHOD section 4)."""

import dataclasses
import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pretrain.config import WidthsConfig, trained_widths
from pretrain.objective.sampling import sample_widths
from pretrain.objective.width_rules.dynamic import lower_bound

RANGES = st.tuples(st.integers(1, 100), st.integers(1, 100)).map(lambda p: (min(p) / 100, max(p) / 100))


def draws(cfg, seed=1, total=40):
    return [sample_widths(cfg, seed, step, total) for step in range(total)]


@settings(max_examples=200, deadline=None)
@given(
    RANGES,
    st.sampled_from(["sandwich", "uniform", "fixed", "dynamic"]),
    st.integers(2, 6),
    st.integers(0, 10**6),
    st.integers(1, 50),
)
@example((0.3, 1.0), "dynamic", 3, 0, 8)  # 0.3 + 3 * 0.7 / 3 is just below 1 in floating point
def test_laws_of_every_rule(bounds, rule, per_step, seed, total):
    low, high = bounds
    fixed = [low + (high - low) * f for f in (0.5, 0.0)] + [high]
    cfg = WidthsConfig(min=low, max=high, sampling=rule, per_step=per_step, fixed=fixed)
    for step, widths in enumerate(draws(cfg, seed, total)):
        assert widths == sorted(widths, reverse=True)
        assert all(low <= w <= high for w in widths)
        assert widths == sample_widths(cfg, seed, step, total)
        if low == high:
            assert widths == [high]
        elif rule == "sandwich":
            assert widths[0] == high and widths[-1] == low and len(widths) == per_step
        elif rule == "uniform":
            assert len(widths) == per_step
        elif rule == "fixed":
            assert widths == sorted(fixed, reverse=True)
        else:
            stage = 1 + step * 4 // total
            bound = low + (4 - stage) * (high - low) / 3
            assert widths[0] == high
            assert widths == [high] if stage == 1 else len(widths) == per_step
            assert min(widths) >= bound - 1e-12
            assert stage == 1 or widths[-1] == pytest.approx(bound, abs=1e-12)


def test_dynamic_stages_of_the_paper():
    cfg = WidthsConfig(sampling="dynamic")
    narrowest = [min(widths) for widths in draws(cfg, total=100)]
    groups = [(w, len(list(run))) for w, run in itertools.groupby(narrowest)]
    assert [w for w, _ in groups] == pytest.approx([1.0, 0.75, 0.5, 0.25], abs=1e-12)
    assert [n for _, n in groups] == [25] * 4
    assert [len(widths) for widths in draws(cfg, total=100)] == [1] * 25 + [3] * 75


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 7, 10, 4001])
def test_dynamic_stages_where_four_does_not_divide_the_steps(total):
    for step in {0, total // 4, total // 2, 3 * total // 4, total - 1}:
        stage = next(s for s in (1, 2, 3, 4) if step / total < s / 4)
        assert lower_bound(0.25, 1.0, step / total) == pytest.approx(1 - 0.25 * (stage - 1))


@settings(max_examples=300, deadline=None)
@given(RANGES)
@example((0.3, 1.0))
@example((0.01, 0.18))
def test_dynamic_bounds_are_exact_at_both_ends(bounds):
    low, high = bounds
    assert lower_bound(low, high, 0.0) == high
    assert lower_bound(low, high, 0.999) == low


@pytest.mark.parametrize(("rule", "free"), [("sandwich", slice(1, 2)), ("uniform", slice(0, 3))])
def test_free_draws_are_uniform(rule, free):
    """Kolmogorov-Smirnov against the uniform distribution, over 1500 steps of one seed."""
    from scipy import stats

    cfg = WidthsConfig(sampling=rule)
    values = [w for widths in draws(cfg, seed=5, total=1500) for w in widths[free]]
    assert stats.kstest(values, stats.uniform(0.25, 0.75).cdf).pvalue > 1e-3


def test_seeds_and_steps_draw_differently_and_neither_depends_on_the_other_calls():
    cfg = WidthsConfig()
    middles = {(seed, step): sample_widths(cfg, seed, step, 10)[1] for seed in range(5) for step in range(10)}
    assert len(set(middles.values())) == 50
    assert all(sample_widths(cfg, seed, step, 10)[1] == w for (seed, step), w in reversed(middles.items()))


def test_the_narrow_end_of_two_widths_per_step():
    assert draws(WidthsConfig(per_step=2), total=3) == [[1.0, 0.25]] * 3
    assert {len(w) for w in draws(WidthsConfig(sampling="uniform", per_step=1))} == {1}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["sandwich", "dynamic", "uniform", "elastic"]),
    st.integers(3, 20),
    st.integers(2, 6),
    st.integers(0, 10**6),
    st.sampled_from([(0.25, 1.0), (0.3, 0.9), (0.5, 0.55)]),
)
def test_a_grid_keeps_the_order_and_the_ends(rule, count, per_step, step, ends):
    """Widths of a grid are the nearest of it to those drawn without, at most half a place away where nothing hinders."""
    free = WidthsConfig(sampling=rule, per_step=per_step, min=ends[0], max=ends[1])
    bound = dataclasses.replace(free, grid=count)
    drawn = sample_widths(free, 7, step, 10**6)
    found = sample_widths(bound, 7, step, 10**6)
    place = (ends[1] - ends[0]) / (count - 1)
    assert len(found) == len(drawn) and found == sorted(found, reverse=True)
    assert set(found) <= set(trained_widths(bound)) and len(trained_widths(bound)) in (count, per_step)
    assert all(abs(a - b) <= 1.5 * place + 1e-9 for a, b in zip(found, drawn, strict=True))
    if rule != "uniform":
        assert found[0] == ends[1] and found[1:].count(ends[1]) == 0
    if rule == "sandwich":
        assert found[-1] == ends[0]


def test_few_widths_are_known():
    assert trained_widths(WidthsConfig()) == [] and trained_widths(WidthsConfig(sampling="dynamic")) == []
    assert trained_widths(WidthsConfig(per_step=2)) == [1.0, 0.25]
    assert trained_widths(WidthsConfig(sampling="fixed", fixed=[0.5, 1.0])) == [1.0, 0.5]
    assert trained_widths(WidthsConfig(min=1.0)) == [1.0]
    assert trained_widths(WidthsConfig(grid=4)) == [1.0, 0.75, 0.5, 0.25]
    assert trained_widths(WidthsConfig(sampling="uniform", grid=3)) == [1.0, 0.625, 0.25]
