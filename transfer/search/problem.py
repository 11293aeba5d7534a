"""What is searched: a space of sub-networks, their costs and scores, each computed once, and the budgets."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from rundir.errors import UserError
from rundir.subnet import Width
from transfer.search.budget import KINDS, Budget
from transfer.search.latency_estimate import SAMPLES, LatencyEstimate

DRAWS = 200  # at random, in the search for a network that has not been drawn
LATENCY = "latency"
MARGIN = 1.1  # what an estimated latency may be over a limit: it is off by some per cent, and measured before it counts


class Costs(dict[str, float]):
    """Costs by kind, of which the latency is measured when it is asked for."""

    def __init__(self, known: Mapping[str, float], latency: Callable[[], float]):
        super().__init__(known)
        self._latency = latency

    def __missing__(self, kind: str) -> float:
        if kind != LATENCY:
            raise KeyError(kind)
        self[LATENCY] = self._latency()
        return self[LATENCY]


@dataclass
class Scored:
    """A sub-network that has been scored: its costs by kind, its score (None: undefined), and the strategies that asked for it."""

    width: Width
    costs: Costs
    score: float | None
    strategies: list[str] = field(default_factory=list)

    @property
    def rank(self) -> float:
        """The score to compare by: an undefined one is below all."""
        return float("-inf") if self.score is None else self.score


class Problem:
    """Sub-networks to be found. ``told`` is called with their number and a text whenever one has been scored.

    Args:
        space: of the network.
        network_of: what tells sub-networks apart: equal for two that are the same network.
        costs_of: the costs of a sub-network by kind (:data:`transfer.search.budget.KINDS`), without its latency.
        latency_of: milliseconds of one image; asked only where a budget limits them.
        score_of: the score that is maximised.
    """

    def __init__(
        self,
        space,
        budgets: Sequence[Budget],
        network_of: Callable[[Width], object],
        costs_of: Callable[[Width], Mapping[str, float]],
        latency_of: Callable[[Width], float],
        score_of: Callable[[Width], float | None],
    ):
        self.space, self.budgets = space, list(budgets)
        self.kinds = tuple(dict.fromkeys(kind for budget in budgets for kind in budget.kinds))
        self._network_of, self._costs_of, self._latency_of, self._score_of = network_of, costs_of, latency_of, score_of
        self.told: Callable[[int, str], None] = lambda done, text: None
        self._costs: dict[object, Costs] = {}
        self._keys: dict[Width, object] = {}
        self._estimated: dict[object, Costs] = {}
        self.scored: dict[object, Scored] = {}
        self.full = self.costs(space.largest)
        self._check()

    def _check(self) -> None:
        smallest = self.costs(self.space.smallest)
        for budget in self.budgets:
            if [set(other.limits) for other in self.budgets].count(set(budget.limits)) > 1:
                raise UserError(f"--budget {budget} is given twice; leave one of them out")
            if not budget.holds(smallest, self.full):
                least = " ".join(limit.written(smallest, self.full) for limit in budget.limits)
                told = f"no --budget is given, and the default {budget} is too small" if budget.default else f"--budget {budget}"
                vary = "" if any(name.startswith("width") for name, _ in self.space.axes) else ", or add width to --vary"
                raise UserError(
                    f"{told}: no sub-network is so small; the smallest has {least}; set --budget {least}, or a larger one{vary}"
                )

    def key(self, width: Width) -> object:
        """What names the network of ``width``."""
        if width not in self._keys:
            self._keys[width] = self._network_of(width)
        return self._keys[width]

    def costs(self, width: Width) -> Costs:
        """The costs of ``width`` by kind."""
        key = self.key(width)
        if key not in self._costs:
            self._costs[key] = Costs(self._costs_of(width), lambda: self._latency_of(width))
        return self._costs[key]

    def fits(self, width: Width, budget: Budget | None = None) -> bool:
        """Whether ``width`` is within ``budget``, or within any."""
        wanted = self.budgets if budget is None else [budget]
        return any(one.holds(self.costs(width), self.full) for one in wanted)

    @cached_property
    def _estimate(self) -> LatencyEstimate:
        """Of latencies, from sub-networks of all sizes that are measured for it."""
        generator, widths = random.Random(0), [self.space.smallest, self.space.largest]
        least, most = (self.costs(width)["flops"] for width in widths)
        for number in range(1, SAMPLES + 1):  # made smaller until their FLOPs are below a share of the way between the ends

            def small(width: Width, below: float = least + number / SAMPLES * (most - least)) -> bool:
                return self.costs(width)["flops"] <= below

            widths.append(self._shrunk(self.space.random(generator), generator, small))
        return LatencyEstimate(self.space, [(width, self.costs(width)) for width in widths])

    def seems_to_fit(self, width: Width, budget: Budget) -> bool:
        """:meth:`fits`, but that a latency is estimated, on the low side: nothing is measured for it. The answer never changes."""
        if LATENCY not in budget.kinds:
            return self.fits(width, budget)
        key = self.key(width)
        if key not in self._estimated:
            known = {kind: self.costs(width)[kind] for kind in KINDS if kind != LATENCY}
            self._estimated[key] = Costs(known, lambda: self._estimate.of(width, known) / MARGIN)
        return budget.holds(self._estimated[key], self.full)

    def load(self, width: Width) -> float:
        """Share of the full network's costs, of the first kind that a budget limits."""
        kind = self.kinds[0]
        return self.costs(width)[kind] / self.full[kind]

    def score(self, width: Width, strategy: str) -> Scored:
        """``width``, scored for ``strategy``."""
        key = self.key(width)
        if key not in self.scored:
            self.scored[key] = Scored(width, self.costs(width), self._score_of(width))
            self.told(len(self.scored), f"{strategy} {width}")
        found = self.scored[key]
        if strategy not in found.strategies:
            found.strategies.append(strategy)
        return found

    def asked_by(self, strategy: str) -> list[Scored]:
        """What ``strategy`` has had scored, in the order in which they were scored first."""
        return [one for one in self.scored.values() if strategy in one.strategies]

    def best(self, budget: Budget, strategy: str | None = None) -> Scored | None:
        """The best sub-network within ``budget``, of equal ones the cheapest; of those of a strategy, or of all."""
        own = list(self.scored.values()) if strategy is None else self.asked_by(strategy)
        inside = [one for one in own if budget.holds(one.costs, self.full)]
        return max(inside, key=lambda one: (one.rank, -one.costs[self.kinds[0]]), default=None)

    def front(self) -> list[Scored]:
        """The scored sub-networks that no other beats: none is as cheap and better. By cost, rising; of the first kind limited."""
        kind, best, found = self.kinds[0], float("-inf"), []
        for one in sorted(self.scored.values(), key=lambda one: (one.costs[kind], -one.rank)):
            if one.rank > best:
                best = one.rank
                found.append(one)
        return found

    def draws(self, seed: int, measured: bool = True) -> Iterator[Width]:
        """Sub-networks drawn at random, no network twice, in turn within each of the budgets, until none is found any more.

        Most of a space is dear: drawing for each budget in turn gives the small ones their share, and what is drawn too dear is
        made smaller at random places until it is within the budget. Without ``measured`` it need only seem to be.
        """
        generator, seen = random.Random(seed), set()
        open_budgets = list(self.budgets)
        while open_budgets:
            for budget in list(open_budgets):
                drawn = (self._drawn(budget, generator, measured) for _ in range(DRAWS))
                width = next((width for width in drawn if self.key(width) not in seen), None)
                if width is None:
                    open_budgets.remove(budget)
                    continue
                seen.add(self.key(width))
                yield width

    def _drawn(self, budget: Budget, generator: random.Random, measured: bool) -> Width:
        width = self._shrunk(self.space.random(generator), generator, lambda each: self.seems_to_fit(each, budget))
        return self._shrunk(width, generator, lambda each: self.fits(each, budget)) if measured else width

    def _shrunk(self, width: Width, generator: random.Random, fits: Callable[[Width], bool]) -> Width:
        """``width``, made smaller at random places until it ``fits``, or can be made no smaller."""
        while not fits(width):
            values = self.space.values(width)
            below = [
                [choice for choice in choices if choice < value]
                for (_, choices), value in zip(self.space.axes, values, strict=True)
            ]
            places = [place for place, choices in enumerate(below) if choices]
            if not places:  # a latency that is measured again is another one
                return self.space.smallest
            place = generator.choice(places)
            width = self.space.of_values([*values[:place], generator.choice(below[place]), *values[place + 1 :]])
        return width
