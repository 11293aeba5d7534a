"""The searches: uniform widths, random, greedy slimming, evolution (NSGA-II), and a predictor that screens thousands."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

from rundir.subnet import Width
from transfer.search import predictor as predicting
from transfer.search.options import EVOLUTIONARY, GREEDY, PREDICTOR, RANDOM, UNIFORM, Options
from transfer.search.problem import Problem

POPULATION = 24  # of NSGA-II; smaller where fewer are scored
IDLE = 20  # generations that bring no network that is new and within a budget, before evolution is over
MEASURED = 4  # times as many latencies are measured as sub-networks scored, before the predictor gives up on a budget
WORST = -1e9  # in the place of an undefined score, for a library that wants numbers


def uniform(problem: Problem, options: Options) -> None:
    """One width for all layers: what a slimmable network is used at otherwise. All that are within a budget are scored."""
    for width in problem.space.uniform():
        if problem.fits(width):
            problem.score(width, UNIFORM)


def at_random(problem: Problem, options: Options) -> None:
    """Random search: as many sub-networks as evolution scores, drawn for each budget in turn."""
    for width in itertools.islice(problem.draws(options.seed), options.evaluations):
        problem.score(width, RANDOM)


def greedy(problem: Problem, options: Options) -> None:
    """Slimming step by step from the full network: of all next smaller sub-networks the one that loses the least score per cost
    saved (of the first kind that a budget limits), as NetAdapt does (arXiv 1804.03230) without training in between. A step skips
    values where the whole way would score more than ``evaluations`` sub-networks. It ends where the smallest budget is kept.
    """
    space, asked = problem.space, 0
    here = problem.score(space.largest, GREEDY)
    stride = _stride(problem, options.evaluations)
    while not all(budget.holds(here.costs, problem.full) for budget in problem.budgets):
        steps = [width for width in _steps(problem, here.width, stride) if problem.load(width) < problem.load(here.width)]
        if not steps or asked >= 2 * options.evaluations:
            return
        asked += len(steps)
        found = [problem.score(width, GREEDY) for width in steps]
        here = min(found, key=lambda one: (here.rank - one.rank) / (problem.load(here.width) - problem.load(one.width)))


def _steps(problem: Problem, width: Width, stride: int) -> list[Width]:
    """The sub-networks that are ``stride`` smaller at one place, or as many as there are."""
    ladders = [_ladder(problem, width, place) for place in range(len(problem.space.axes))]
    return [ladder[min(stride, len(ladder)) - 1] for ladder in ladders if ladder]


def _ladder(problem: Problem, width: Width, place: int) -> list[Width]:
    """The networks that differ from ``width`` by a smaller value at ``place``, largest first; values that give an equal network are
    passed over.
    """
    space, found, last = problem.space, [], problem.key(width)
    values, choices = space.values(width), space.axes[place][1]
    for value in choices[choices.index(values[place]) + 1 :]:
        smaller = space.of_values([*values[:place], value, *values[place + 1 :]])
        if problem.key(smaller) != last:
            found.append(smaller)
            last = problem.key(smaller)
    return found


def _stride(problem: Problem, evaluations: int) -> int:
    """How far each step goes so that the way from the largest to the smallest sub-network scores about ``evaluations``."""
    places = range(len(problem.space.axes))
    lengths = [len(_ladder(problem, problem.space.largest, place)) for place in places]
    return next(
        (
            stride
            for stride in range(1, max(lengths, default=1))
            if len(places) * sum(-(-length // stride) for length in lengths) <= evaluations
        ),
        max(lengths, default=1),
    )


def evolutionary(problem: Problem, options: Options) -> None:
    """NSGA-II (Deb et al., IEEE Trans. Evol. Comp. 6(2), 2002), optuna's: the highest score at the least cost of each limited kind.

    It starts from the same random sub-networks as random search. What is within no budget is given back unscored.
    """
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    population = max(4, min(POPULATION, options.evaluations // 4))
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=options.seed % 2**32)
    study = optuna.create_study(directions=["maximize", *["minimize"] * len(problem.kinds)], sampler=sampler)
    axes = problem.space.axes
    for width in itertools.islice(problem.draws(options.seed), population):
        values = problem.space.values(width)
        study.enqueue_trial({name: choices.index(value) for (name, choices), value in zip(axes, values, strict=True)})
    seen: set[object] = set()
    idle = 0
    while len(seen) < options.evaluations and idle < IDLE * population:
        trial, idle = study.ask(), idle + 1
        width = problem.space.of_values([choices[trial.suggest_int(name, 0, len(choices) - 1)] for name, choices in axes])
        if not problem.fits(width):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        found = problem.score(width, EVOLUTIONARY)
        idle = idle if problem.key(width) in seen else 0
        seen.add(problem.key(width))
        study.tell(trial, [WORST if found.score is None else found.score, *(found.costs[kind] for kind in problem.kinds)])


def by_prediction(problem: Problem, options: Options) -> predicting.Prediction:
    """A predictor, trained on the first half of the random sub-networks, screens ``pool`` others; the best that it says for each
    budget are scored, as many in all as the other half.
    """
    half = options.evaluations // 2
    known = [problem.score(width, PREDICTOR) for width in itertools.islice(problem.draws(options.seed), half)]
    predictor = predicting.Prediction(problem.space, known, options.seed)
    pool = list(itertools.islice(problem.draws(options.seed + 1, measured=False), options.pool))
    predictor.screened = len(pool)
    expected = dict(zip(pool, predictor.of(pool), strict=True))
    have = {problem.key(one.width) for one in known}
    each = max(1, (options.evaluations - half) // len(problem.budgets))
    for budget in problem.budgets:
        fresh = [width for width in pool if problem.key(width) not in have and problem.seems_to_fit(width, budget)]
        best = sorted(fresh, key=lambda width: -expected[width])
        tried = (width for width in best[: MEASURED * each] if problem.fits(width, budget))
        for width in itertools.islice(tried, each):
            problem.score(width, PREDICTOR)
            have.add(problem.key(width))
    return predictor


RUN: dict[str, Callable[[Problem, Options], object]] = {
    UNIFORM: uniform,
    RANDOM: at_random,
    GREEDY: greedy,
    EVOLUTIONARY: evolutionary,
    PREDICTOR: by_prediction,
}
