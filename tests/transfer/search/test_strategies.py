"""Searches on problems whose answer is known: every sub-network of the small network can be looked at."""

from __future__ import annotations

import itertools
import math
import random
from functools import cache

import pytest
import torch
from scipy import stats

from pretrain.models import build
from pretrain.slimmable import CostTable, Subnet, space_of
from rundir.errors import UserError
from transfer.search import checking, strategies
from transfer.search.budget import Budget
from transfer.search.latency_estimate import SAMPLES
from transfer.search.options import EVOLUTIONARY, GREEDY, PREDICTOR, RANDOM, STRATEGIES, UNIFORM, Options
from transfer.search.predictor import Prediction, spearman
from transfer.search.problem import Problem

BUDGETS = [Budget.parse([f"flops={share}"]) for share in (0.2, 0.4, 0.7)]
WEIGHTS = (0.1, 0.2, 1.0, 0.4)  # of the stages, in a score that non-uniform widths serve best


def score_of(width):
    """Higher for wider stages, with falling returns; stage 3 matters most."""
    subnet = width if isinstance(width, Subnet) else Subnet(width)
    return sum(weight * math.sqrt(subnet.width_of(stage)) for stage, weight in enumerate(WEIGHTS))


@cache
def network():
    torch.manual_seed(0)
    model = build("resnet_small")
    return model, CostTable(model, 12), space_of(model, vary=["width"])


def problem(budgets=BUDGETS, score=score_of, latency=lambda width: 1.0):
    _, table, space = network()

    def costs(width):
        load = table.load(width)
        return {"flops": load.flops, "parameters": load.parameters, "memory": load.memory}

    return Problem(space, budgets, table.network, costs, latency, score)


@cache
def everything():
    """By network the best score that any of its widths has, and its cost: what this small space holds."""
    one, found = problem(), {}
    different = [
        [stage[0], *(w for w, wider in zip(stage[1:], stage, strict=False) if at(place, w) != at(place, wider))]
        for place, stage in enumerate(one.space.width)
    ]
    for widths in itertools.product(*different):
        width = one.space.canonical(Subnet(widths))
        found[one.key(width)] = width, score_of(width), one.load(width)
    assert len(found) == 2 * 4 * 7 * 13
    return found


def at(place, width):
    """Channels of the stage ``place`` of the network."""
    return network()[0].stage_dims(width)[place]


def optimum(budget):
    return max(score for _, score, share in everything().values() if share <= budget.limits[0].most)


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_what_is_within_a_budget_is_scored(name):
    scored = []

    def noted(width):
        scored.append(width)
        return score_of(width)

    one = problem(score=noted)
    strategies.RUN[name](one, Options(evaluations=30, pool=100))
    assert len(scored) == len({one.key(width) for width in scored}) == len(one.scored)
    if name == GREEDY:  # which comes from above
        assert any(one.fits(width) for width in scored)
    else:
        assert scored and all(one.fits(width) for width in scored)
    assert all(strategy == name for each in one.scored.values() for strategy in each.strategies)


def test_random_and_evolution_score_as_many_as_asked():
    one = problem()
    for name in (RANDOM, EVOLUTIONARY, PREDICTOR):
        strategies.RUN[name](one, Options(evaluations=40, pool=200))
    assert len(one.asked_by(RANDOM)) == len(one.asked_by(EVOLUTIONARY)) == 40
    assert 30 <= len(one.asked_by(PREDICTOR)) <= 40


def test_evolution_comes_close_to_the_best_and_beats_uniform_widths():
    one = problem()
    for name in (UNIFORM, EVOLUTIONARY):
        strategies.RUN[name](one, Options(evaluations=150))
    for budget in BUDGETS:
        found, uniform = (one.best(budget, name).score for name in (EVOLUTIONARY, UNIFORM))
        assert uniform < found <= optimum(budget) + 0.05 and found > optimum(budget) - 0.08


def test_the_same_seed_finds_the_same():
    found = []
    for seed in (0, 0, 1):
        one = problem()
        for name in STRATEGIES:
            strategies.RUN[name](one, Options(evaluations=25, pool=50, seed=seed))
        found.append([(each.width, each.score, tuple(each.strategies)) for each in one.scored.values()])
    assert found[0] == found[1] != found[2]


def test_greedy_takes_the_step_that_costs_the_least_per_flop():
    """The first step again by hand, from all networks that are one step smaller."""
    one = problem([Budget.parse(["flops=0.95"])])
    strategies.greedy(one, Options(evaluations=1000))
    full = one.space.largest
    smaller = []
    for place, choices in enumerate(one.space.width):
        for value in choices[1:]:
            width = one.space.canonical(Subnet(tuple(value if i == place else 1.0 for i in range(4))))
            if one.key(width) != one.key(full):
                smaller.append(width)
                break
    best = min(smaller, key=lambda w: (score_of(full) - score_of(w)) / (one.load(full) - one.load(w)))
    assert {one.key(each.width) for each in one.asked_by(GREEDY)} >= {one.key(width) for width in (full, *smaller)}
    if one.load(best) <= 0.95:
        assert len(one.asked_by(GREEDY)) == 1 + len(smaller)


def test_greedy_reaches_the_smallest_budget_within_about_its_evaluations():
    one = problem()
    strategies.greedy(one, Options(evaluations=40))
    assert all(one.best(budget, GREEDY) is not None for budget in BUDGETS) and len(one.asked_by(GREEDY)) <= 80


def test_the_front_is_what_no_other_beats():
    one = problem(score=lambda width: random.Random(str(width)).random())
    strategies.at_random(one, Options(evaluations=60))
    points = [(each.costs["flops"], each.score) for each in one.scored.values()]
    expected = {
        (cost, score)
        for cost, score in points
        if not any((c <= cost and s > score) or (c < cost and s >= score) for c, s in points)
    }
    assert {(each.costs["flops"], each.score) for each in one.front()} == expected


def test_an_undefined_score_is_never_chosen():
    one = problem(score=lambda width: None if score_of(width) > 1.2 else score_of(width))
    for name in STRATEGIES:
        strategies.RUN[name](one, Options(evaluations=20, pool=40))
    assert all(one.best(budget).score is not None for budget in BUDGETS)
    assert all(each.score is not None for each in one.front())


def test_small_spaces_end():
    one = problem([Budget.parse(["flops=0.13"])])
    for name in STRATEGIES:
        strategies.RUN[name](one, Options(evaluations=1000, pool=2000))
    small = [key for key, (_, _, share) in everything().items() if share <= 0.13]
    assert small and len(one.asked_by(RANDOM)) == len(one.asked_by(EVOLUTIONARY)) == len(small)


def test_the_latency_is_measured_only_where_it_is_limited_and_needed():
    asked = []

    def latency(width):
        asked.append(width)
        return 2.0 if score_of(width) > 1.3 else 1.0

    strategies.at_random(problem(latency=latency), Options(evaluations=20))
    assert asked == []
    one = problem([Budget.parse(["flops=0.4", "latency_ms=1.5"])], latency=latency)
    strategies.at_random(one, Options(evaluations=20))
    assert all(each.costs["latency"] == 1.0 for each in one.scored.values())
    assert len([width for width in asked if one.load(width) > 0.4]) <= SAMPLES + 2  # those that estimates are learned from


@cache
def elastic():
    torch.manual_seed(0)
    model = build("resnet_small_elastic")
    return CostTable(model, 12), space_of(model, vary=["width", "depth", "kernel"])


def timed(limits, measured):
    """A large space, of which latencies depend on FLOPs and, a little, on chance. ``measured`` gets every one that is asked for."""
    table, space = elastic()

    def costs(width):
        load = table.load(width)
        return {"flops": load.flops, "parameters": load.parameters, "memory": load.memory}

    def latency(width):
        measured.append(width)
        return (0.1 + table.load(width).flops / 1e7) * random.Random(str(width)).uniform(0.97, 1.03)

    return Problem(space, [Budget.parse([limit]) for limit in limits], table.network, costs, latency, score_of)


def test_thousands_are_screened_without_measuring_their_latencies():
    measured = []
    one = timed(["latency=0.5", "latency=0.7"], measured)
    for name in STRATEGIES:
        strategies.RUN[name](one, Options(evaluations=40, pool=600))
        assert all(one.fits(each.width) for each in one.asked_by(name)) or name == GREEDY
    assert len(one.asked_by(RANDOM)) == 40 and len(one.asked_by(PREDICTOR)) >= 30
    assert len(measured) == len({one.key(width) for width in measured}) < 50 + 8 * 40


def test_what_is_drawn_does_not_depend_on_what_was_measured_before():
    one, other = timed(["latency=0.6"], []), timed(["latency=0.6"], [])
    for width in itertools.islice(other.draws(1), 30):
        other.score(width, RANDOM)
    assert list(itertools.islice(one.draws(0), 30)) == list(itertools.islice(other.draws(0), 30))


def test_an_estimated_latency_is_close():
    one = timed(["latency=0.5"], [])
    generator = random.Random(3)
    for width in (one.space.random(generator) for _ in range(50)):
        assert one._estimate.of(width, one.costs(width)) == pytest.approx(one.costs(width)["latency"], rel=0.15)


def test_the_best_is_measured_again_and_must_still_keep_the_budget():
    """Of many short measurements the lowest is one by luck; the second best here is what it was measured as."""
    one = problem([Budget.parse(["latency_ms=1"])], latency=lambda width: 0.9)
    first, second, third = sorted(
        (one.score(width, RANDOM) for width in (0.5, 0.75, 0.25)), key=lambda each: each.score, reverse=True
    )

    class Longer:
        options = Options(strategies=[RANDOM], checked=0)
        labelled = False

        def latency(self, width, seconds):
            return {first.width: 1.4, second.width: 0.95, third.width: 0.5}[width]

    picks = checking.picked(Longer(), one, {})["picks"]
    assert [(pick["subnet"], pick["latency_ms"]) for pick in picks] == [(str(second.width), 0.95)] * 2
    assert one.best(one.budgets[0]) is second


def test_an_impossible_budget_is_refused():
    with pytest.raises(UserError, match=r"^--budget flops=0\.01: .* has (flops=0\.1\d*); set --budget \1, or a larger one$"):
        problem([Budget.parse(["flops=0.01"])])


def test_a_budget_that_is_given_twice_is_refused():
    with pytest.raises(UserError, match=r"--budget flops=\.5 is given twice"):
        problem([Budget.parse(["flops=.5"]), Budget.parse(["memory=0.5"]), Budget.parse(["flops=0.50"])])


def test_progress_is_told_of_every_sub_network():
    told = []
    one = problem()
    one.told = lambda done, text: told.append((done, text))
    strategies.at_random(one, Options(evaluations=5))
    assert [done for done, _ in told] == [1, 2, 3, 4, 5] and all(text.startswith("random ") for _, text in told)


# -- the predictor --------------------------------------------------------------------------------------------------------


def test_the_predictor_ranks_what_it_has_not_seen():
    one = problem()
    known = [one.score(width, RANDOM) for width in itertools.islice(one.draws(0), 80)]
    predictor = Prediction(one.space, known, 0)
    others = [width for width in itertools.islice(one.draws(1), 200) if one.key(width) not in one.scored]
    rho = stats.spearmanr(predictor.of(others), [score_of(width) for width in others]).statistic
    assert rho > 0.8 and abs(predictor.rho - rho) < 0.2 and predictor.count == 80


def test_of_noise_the_predictor_says_that_it_knows_nothing():
    one = problem(score=lambda width: random.Random(str(width)).random())
    known = [one.score(width, RANDOM) for width in itertools.islice(one.draws(0), 100)]
    assert abs(Prediction(one.space, known, 0).rho) < 0.35


def test_without_scores_there_is_no_prediction():
    one = problem(score=lambda width: None)
    known = [one.score(width, RANDOM) for width in itertools.islice(one.draws(0), 12)]
    predictor = Prediction(one.space, known, 0)
    assert math.isnan(predictor.rho) and predictor.of([1.0, 0.5]) == [0.0, 0.0]


def test_rank_correlation_of_constants_is_undefined():
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3])) and math.isnan(spearman([1, 2], [1, 2]))
    assert spearman([1, 2, 3], [3, 5, 9]) == pytest.approx(1)
