"""Budgets: shares and units, several limits at once, and what is wrong with others."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rundir.errors import UserError
from transfer.search.budget import Budget

FULL = {"flops": 1e9, "parameters": 2e6, "memory": 10e6, "latency": 8.0}


@pytest.mark.parametrize(
    ("word", "kind", "most"),
    [
        ("flops=0.3", "flops", 0.3e9),
        ("flops=1", "flops", 1e9),
        ("flops=20M", "flops", 20e6),
        ("flops=1.5G", "flops", 1.5e9),
        ("parameters=300k", "parameters", 300e3),
        ("parameters=.25", "parameters", 0.5e6),
        ("memory=0.5", "memory", 5e6),
        ("memory_mb=8", "memory", 8e6),
        ("memory_mb=0.5", "memory", 0.5e6),
        ("latency_ms=2", "latency", 2.0),
        ("latency=0.5", "latency", 4.0),
        ("flops=2e-1", "flops", 0.2e9),
    ],
)
def test_a_limit_is_a_share_or_has_units(word, kind, most):
    budget = Budget.parse([word])
    assert budget.kinds == (kind,) and str(budget) == word
    assert budget.holds(FULL | {kind: most}, FULL)
    assert not budget.holds(FULL | {kind: most * 1.001}, FULL)


@given(st.lists(st.floats(0.01, 1.5), min_size=4, max_size=4))
def test_all_limits_are_kept(shares):
    costs = dict(zip(FULL, (share * full for share, full in zip(shares, FULL.values(), strict=True)), strict=True))
    budget = Budget.parse(["flops=0.5", "memory_mb=4", "latency_ms=2"])
    assert budget.holds(costs, FULL) == (costs["flops"] <= 0.5e9 and costs["memory"] <= 4e6 and costs["latency"] <= 2)


def test_the_latency_is_asked_for_last():
    class Unmeasured(dict):
        def __missing__(self, kind):
            raise AssertionError(f"{kind} was measured")

    assert not Budget.parse(["latency_ms=2", "flops=0.1"]).holds(Unmeasured(flops=0.2e9), FULL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flops"], "'flops' is not KIND=LIMIT; set for example flops=0.3"),
        (["flops="], "is not KIND=LIMIT"),
        (["flops=0.3,latency_ms=2"], "several limits have spaces between them; did you mean flops=0.3 latency_ms=2?"),
        (["flop=0.3"], "unknown cost 'flop'; did you mean flops?"),
        (["flops=-1"], "'-1' is not a number above 0"),
        (["flops=0"], "'0' is not a number above 0"),
        (["flops=nan"], "'nan' is not a number above 0"),
        (["flops=many"], "'many' is not a number above 0"),
        (["flops=30"], "30 is no share of the full network; set a number up to 1, or units as in flops=20M"),
        (["memory=8"], "units as in memory_mb=8"),
        (["memory=8M"], "units as in memory_mb=8"),
        (["latency=2"], "units as in latency_ms=2"),
        (["flops=0.3", "flops=20M"], "limits flops twice"),
        (["latency=0.3", "latency_ms=20"], "limits latency twice"),
    ],
)
def test_what_is_no_budget_is_said_in_one_line(words, message):
    with pytest.raises(UserError) as error:
        Budget.parse(words)
    assert message in str(error.value) and "\n" not in str(error.value)


@given(
    kind=st.sampled_from(["flops", "parameters", "memory", "latency"]),
    part=st.floats(1e-4, 1),
    units=st.booleans(),
)
@example("flops", 1.0, False)
def test_costs_as_they_are_written_are_a_budget_that_they_keep(kind, part, units):
    """A message says what the smallest sub-network has: set as a limit, that works."""
    names = {"memory": "memory_mb=8", "latency": "latency_ms=2"}
    asked = Budget.parse([names.get(kind, f"{kind}=20M") if units else f"{kind}=0.5"])
    costs = {name: part * most for name, most in FULL.items()}
    again = Budget.parse([asked.limits[0].written(costs, FULL)])
    assert again.holds(costs, FULL)
    assert again.limits[0].share == (not units) and again.limits[0].filled(costs, FULL) > 0.98
