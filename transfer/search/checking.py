"""The check with labels: what k-NN accuracy says of the sub-networks found, and whether a score ranks as it does."""

from __future__ import annotations

import itertools
from typing import Any

from rundir.progress import reporting
from transfer.search import output
from transfer.search.budget import Budget
from transfer.search.predictor import spearman
from transfer.search.problem import LATENCY, Problem, Scored
from transfer.search.scores import SCORES
from transfer.search.scoring import Scorer

SECONDS = 0.5  # of measuring the latency of a sub-network that is reported
Accuracies = dict[object, "float | None"]  # by network


def ranked(scorer: Scorer, problem: Problem) -> tuple[Accuracies, dict[str, Any]]:
    """k-NN accuracies of randomly drawn sub-networks, and Spearman's rho of every label-free score with them.

    They are drawn for each budget in turn, so that small networks have their share; no strategy has chosen them.
    """
    if not scorer.labelled:
        return {}, {"ranks": {}, "ranked": 0}
    drawn = list(itertools.islice(problem.draws(scorer.options.seed), scorer.options.checked))
    accuracies, scores = {}, []
    with reporting("sub-networks checked with labels", len(drawn)) as reporter:
        for number, width in enumerate(drawn, start=1):
            accuracies[problem.key(width)] = scorer.accuracy(width)
            scores.append(scorer.all_scores(width))
            reporter.update(number, str(width))
    ranks = {}
    for name in SCORES:
        pairs = [
            (own[name], accuracy)
            for own, accuracy in zip(scores, accuracies.values(), strict=True)
            if own[name] is not None and accuracy is not None
        ]
        ranks[name] = output.finite(spearman([score for score, _ in pairs], [accuracy for _, accuracy in pairs]))
    return accuracies, {"ranks": ranks, "ranked": len(drawn)}


def picked(scorer: Scorer, problem: Problem, accuracies: Accuracies) -> dict[str, Any]:
    """For each budget the best sub-network of each strategy, and of all together, with its latency and accuracy; the accuracies are
    added to ``accuracies``.
    """
    latencies: dict[object, float] = {}
    found = []
    for budget, strategy in itertools.product(problem.budgets, [*scorer.options.strategies, None]):
        best = _best(scorer, problem, latencies, budget, strategy)
        if best is not None:
            key = problem.key(best.width)
            if scorer.labelled and key not in accuracies:
                accuracies[key] = scorer.accuracy(best.width)
            if key not in latencies:
                latencies[key] = scorer.latency(best.width, SECONDS)
            found.append(
                {
                    "budget": str(budget),
                    "strategy": strategy or "all",
                    **output.row(problem, best),
                    "latency_ms": latencies[key],
                    "knn": accuracies.get(key),
                }
            )
    evaluated = {name: len(problem.asked_by(name)) for name in scorer.options.strategies}
    return {"picks": found, "evaluated": evaluated, "scored": len(problem.scored), "full": dict(problem.full)}


def _best(scorer: Scorer, problem: Problem, latencies: dict[object, float], budget: Budget, strategy: str | None) -> Scored | None:
    """:meth:`Problem.best`. Of many short measurements of latency the lowest is so by luck: what is best is measured again, for
    longer, and must still be within the budget.
    """
    while True:
        best = problem.best(budget, strategy)
        if best is None or LATENCY not in budget.kinds or problem.key(best.width) in latencies:
            return best
        latencies[problem.key(best.width)] = best.costs[LATENCY] = scorer.latency(best.width, SECONDS)
