"""Budgets: what a sub-network may cost at most, as shares of the full network or in units."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from rundir.errors import UserError, suggestion

# What can be limited, by its name in a budget: the kind of cost, and what one unit of the number is; None: a share.
KINDS = ("flops", "parameters", "memory", "latency")
UNITS = {"memory_mb": ("memory", 1e6), "latency_ms": ("latency", 1.0)}
SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
NUMBER = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)([kMGT]?)")
EXAMPLE = "flops=0.3 (a share of the full network), flops=20M, parameters=300k, memory_mb=8 or latency_ms=2"
Costs = Mapping[str, float]  # by kind: FLOPs, parameters, bytes, milliseconds


@dataclass(frozen=True)
class Limit:
    """One kind of cost and its largest value: a share of the full network's, or in FLOPs, parameters, bytes, milliseconds."""

    kind: str
    most: float
    share: bool

    def filled(self, costs: Costs, full: Costs) -> float:
        """How full ``costs`` make it: at most 1 is within."""
        return costs[self.kind] / (self.most * (full[self.kind] if self.share else 1))

    def written(self, costs: Costs, full: Costs) -> str:
        """What of ``costs`` it limits, as it is written in a budget: rounded up, so that as a limit it is kept."""
        if self.share:
            return f"{self.kind}={min(_rounded_up(costs[self.kind] / full[self.kind]), Decimal(1)):f}"
        name, unit = next(((name, unit) for name, (kind, unit) in UNITS.items() if kind == self.kind), (self.kind, 1.0))
        suffix, factor = next(((s, f) for s, f in reversed(SUFFIXES.items()) if costs[self.kind] >= f), ("k", 1e3))
        suffix, factor = ("", unit) if name in UNITS else (suffix, factor)
        return f"{name}={_rounded_up(costs[self.kind] / factor):f}{suffix}"


@dataclass(frozen=True)
class Budget:
    """Limits that a sub-network must keep all of; ``text`` is what they were written as; ``default``: by nobody, but by default."""

    limits: tuple[Limit, ...]
    text: str
    default: bool = False

    @classmethod
    def parse(cls, words: Iterable[str], default: bool = False) -> Budget:
        """The budget of words such as ``flops=0.3``, ``flops=20M``, ``latency_ms=2``.

        Raises:
            UserError: a word is none, or a kind of cost is limited twice.
        """
        words = list(words)
        limits = [_limit(word) for word in words]
        for place, limit in enumerate(limits):
            if any(limit.kind == other.kind for other in limits[:place]):
                raise UserError(
                    f"--budget {' '.join(words)} limits {limit.kind} twice; leave one out, or give each a --budget of its own"
                )
        return cls(tuple(limits), " ".join(words), default)

    def __str__(self) -> str:
        return self.text

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of cost that are limited, as they were written."""
        return tuple(limit.kind for limit in self.limits)

    def holds(self, costs: Costs, full: Costs) -> bool:
        """Whether ``costs`` keep all limits. A latency is asked for last: it is measured."""
        return all(limit.filled(costs, full) <= 1 for limit in sorted(self.limits, key=lambda limit: KINDS.index(limit.kind)))


def _rounded_up(value: float) -> Decimal:
    """Three significant digits, or all in front of the point; above ``value``, by more than rounding makes of it."""
    above = Decimal(value) * (1 + Decimal("1e-12"))
    return above.quantize(Decimal(10) ** min(0, above.adjusted() - 2), ROUND_CEILING)


def _limit(word: str) -> Limit:
    name, sign, text = word.partition("=")
    if not sign or not text:
        raise UserError(f"--budget {word!r} is not KIND=LIMIT; set for example {EXAMPLE}")
    if name not in (*KINDS, *UNITS):
        raise UserError(f"--budget {word}: unknown cost {name!r}; {suggestion(name, [*KINDS, *UNITS])}")
    if "," in text and "=" in text:
        raise UserError(f"--budget {word}: several limits have spaces between them; did you mean {word.replace(',', ' ')}?")
    found = NUMBER.fullmatch(text)
    value = float(found[1]) * SUFFIXES.get(found[2], 1.0) if found else math.nan
    if not 0 < value < math.inf:
        raise UserError(f"--budget {word}: {text!r} is not a number above 0; set for example {EXAMPLE}")
    if name in UNITS:
        kind, unit = UNITS[name]
        return Limit(kind, value * unit, share=False)
    if not found[2] and value <= 1:
        return Limit(name, value, share=True)
    if not found[2] or name in ("memory", "latency"):
        instead = {"memory": "memory_mb=8", "latency": "latency_ms=2"}.get(name, f"{name}=20M")
        raise UserError(f"--budget {word}: {text} is no share of the full network; set a number up to 1, or units as in {instead}")
    return Limit(name, value, share=False)
