"""Verdicts on claims, valid at any number of seeds.

The unit of observation is the seed. Supported: the statement's test rejects that it is false; contradicted: the opposite one does;
undecided otherwise. All p values are sequential (:mod:`results.statistics.sequential`): a report may be made after every seed, and
runs stopped at whatever it says. They are two-sided and Holm-corrected over the claims of one grid judged on one profile's runs:
these are stated together, before its runs, and a report of more grids does not change them. So all verdicts of a grid and profile
together are wrong with a probability of at most 5 % (as far as the tests' assumptions hold).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
from scipy import stats

from results.claims.effects import Effect, effect
from results.claims.schema import Claim
from results.statistics.families import Sides, equivalence, every, holm, two_sided
from results.statistics.intervals import bootstrap_interval, spearman_interval
from results.statistics.proportions import sequential_binomial_p, sequential_share
from results.statistics.sequential import FIRST_LOOK, MOST_SEEDS, consistent, seeds_needed, sequential_interval, sequential_p

SUPPORTED, CONTRADICTED, UNDECIDED, NO_RUNS = "supported", "contradicted", "undecided", "no runs"
LEVEL = 0.05
# A correlation is over cells, and its p value no path over seeds: it is looked at when so many seeds are there, at no other time.
CELL_LOOKS = (3, 6, 12)
CHANGED = "not decided: the mean of all seeds is outside the interval that the first ones gave, so they do not measure the same"


@dataclass(frozen=True)
class Verdict:
    """What the runs of one profile and setting say of a claim. ``effect`` and the interval are in the unit of the claim's measure;
    NaN without runs."""

    claim: Claim
    profile: str
    setting: str
    command: str
    verdict: str = NO_RUNS
    why: str = ""
    dataset: str = ""
    metric: str = ""
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    p: float = math.nan
    p_holm: float = math.nan
    holds: bool = False  # the test's side: the smaller p value is that in favour
    seeds: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    differences: tuple[float, ...] = ()  # by seed, in the order of ``seeds``
    seeds_needed: int = 0  # of an undecided claim; 0: not known

    @property
    def unit(self) -> str:
        """Of the effect."""
        return self.claim.unit

    @property
    def decided(self) -> bool:
        """Supported or contradicted."""
        return self.verdict in (SUPPORTED, CONTRADICTED)

    def record(self) -> dict[str, Any]:
        """As plain types, for JSON; NaN as None."""
        claim = self.claim
        plain = asdict(self) | {
            "claim": claim.id,
            "statement": claim.statement,
            "grid": claim.grid,
            "about": claim.about,
            "minimum": claim.minimum,
            "margin": claim.margin,
            "unit": self.unit,
        }
        return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()}


def judge(
    claims: Sequence[Claim], scores: pd.DataFrame, runs: pd.DataFrame, metrics: pd.DataFrame, level: float = LEVEL
) -> list[Verdict]:
    """A verdict for each claim, profile and setting; frames of the runs that count (:func:`results.frame.current`).

    Claims of one grid and profile are one family of Holm's correction. A claim about an architecture is judged on the profiles that
    have it.
    """
    found: list[Verdict] = []
    about = runs[runs["grid"].isin({claim.grid for claim in claims})]  # not of checkpoints that were evaluated by themselves
    profiles = sorted(set((about if len(about) else runs)["preset"])) or ["digits"]
    elsewhere = [claim for claim in claims if "arch" in claim.how and not any(map(claim.suits, runs["arch"]))]
    for profile in profiles:
        own = runs[runs["preset"].eq(profile)]
        suitable = [claim for claim in claims if "arch" not in claim.how or any(map(claim.suits, own["arch"]))]
        for grid in dict.fromkeys(claim.grid for claim in suitable):
            if profile not in _profiles_of(grid, runs, profiles):
                continue
            family = [
                verdict for claim in suitable if claim.grid == grid for verdict in _of_profile(claim, profile, scores, own, metrics)
            ]
            tests = sum(not math.isnan(verdict.p) for verdict in family)
            found += [
                _with_seeds(_decided(verdict, p, level), level / max(1, tests))
                for verdict, p in zip(family, holm([verdict.p for verdict in family]), strict=True)
            ]
    return found + [
        Verdict(claim, "", "", command(claim, ""), why=f"no runs of {claim.how['arch']} networks") for claim in elsewhere
    ]


def _profiles_of(grid: str, runs: pd.DataFrame, profiles: Sequence[str]) -> Collection[str]:
    """The profiles whose runs a grid's claims are judged on: those it was run with; the first of all where it was not run."""
    return set(runs.loc[runs["grid"].eq(grid), "preset"]) or profiles[:1]


def _of_profile(claim: Claim, profile: str, scores: pd.DataFrame, runs: pd.DataFrame, metrics: pd.DataFrame) -> list[Verdict]:
    """The claim tested on each setting of the profile that has its runs; one verdict without numbers where none has."""
    own = runs[runs["grid"].eq(claim.grid) & runs["arch"].map(claim.suits).astype(bool)]
    tested, why = [], no_runs(claim)
    for setting in sorted(set(own["setting"])):
        here = own[own["setting"].eq(setting)]
        mine, logged = (rows[rows["run"].isin(set(here["run"])) & rows["grid"].eq(claim.grid)] for rows in (scores, metrics))
        try:
            measured = effect(claim, mine, here, logged)
        except LookupError as error:
            why = str(error.args[0])
            continue
        tested.append(_tested(claim, Verdict(claim, profile, setting, command(claim, profile)), measured))
    return tested or [Verdict(claim, profile, "", command(claim, profile), why=why)]


def command(claim: Claim, profile: str) -> str:
    """What makes the runs of the claim on a profile."""
    return claim.command.format(profile=profile or "PRESET.yaml")


def no_runs(claim: Claim) -> str:
    """Why a claim is not judged whose grid has not been run."""
    return f"no runs of grid {claim.grid}"


def _tested(claim: Claim, verdict: Verdict, measured: Effect) -> Verdict:
    differences = tuple(measured.by_seed.values())
    mean, n, notes = sum(differences) / len(differences), len(differences), [measured.note]
    if claim.measure == "correlation":
        mean, interval, n = _over_cells(measured)
        sides = _cell_sides(measured)
    elif claim.measure == "collapse":
        hits = [value > 50 for value in differences]
        sides = sequential_binomial_p(hits, MOST_SEEDS, claim.minimum / 100)
        low, high = sequential_share(hits, MOST_SEEDS)
        interval = 100 * low, 100 * high
    elif claim.exact:
        sides, interval = (math.nan, math.nan), bootstrap_interval(differences)
    else:
        sides = every([paired(claim, values) for values in measured.each.values() or [differences]])
        interval = sequential_interval(differences, MOST_SEEDS)
    if len(differences) > MOST_SEEDS and not claim.exact:
        notes.append(f"tested on the first {MOST_SEEDS} seeds")
    return replace(
        verdict,
        verdict=UNDECIDED,
        why="; ".join(filter(None, notes)),
        dataset=measured.dataset,
        metric=measured.metric,
        effect=mean,
        low=interval[0],
        high=interval[1],
        n=n,
        p=two_sided(sides),
        holds=sides[0] <= sides[1],
        seeds=tuple(measured.by_seed),
        runs=measured.runs,
        differences=differences,
    )


def paired(claim: Claim, differences: Sequence[float]) -> Sides:
    """Sequential p values that the mean difference is as claimed, and that it is not."""
    if claim.margin:
        return equivalence(*(sequential_p(differences, MOST_SEEDS, end) for end in (-claim.margin, claim.margin)))
    return sequential_p(differences, MOST_SEEDS, claim.minimum)


def _over_cells(measured: Effect) -> tuple[float, tuple[float, float], int]:
    """Spearman's rho of the cells' means over all seeds, minus that where lower is said to be better, its interval, and the number
    of cells.
    """
    means = [table.mean(axis=1) for table in measured.over]
    low, high = spearman_interval(*means)
    return -float(stats.spearmanr(*means).statistic), (-high, -low), len(means[0])


def _cell_sides(measured: Effect) -> Sides:
    """The smallest p value of the few looks, times their number (Bonferroni)."""
    seeds = sorted(measured.over[0].columns)
    looks = []
    for count in (count for count in CELL_LOOKS if count <= len(seeds)):
        test = stats.spearmanr(*(table[seeds[:count]].mean(axis=1) for table in measured.over))
        looks.append((test.pvalue / 2, 1 - test.pvalue / 2) if test.statistic < 0 else (1 - test.pvalue / 2, test.pvalue / 2))
    if not looks:
        return math.nan, math.nan
    above, below = (min(1.0, len(CELL_LOOKS) * float(min(side))) for side in zip(*looks, strict=True))
    return above, below


def _decided(verdict: Verdict, p: float, level: float) -> Verdict:
    if verdict.verdict == NO_RUNS:
        return verdict
    if verdict.claim.exact:
        sides = {difference > verdict.claim.minimum for difference in verdict.differences}
        if len(sides) > 1:
            return replace(verdict, why="counted; seeds lie on both sides of the minimum")
        return replace(verdict, verdict=SUPPORTED if sides == {True} else CONTRADICTED, why="counted; so at every seed")
    if math.isnan(p):
        few = len(verdict.differences) < FIRST_LOOK
        why = (
            f"{len(verdict.differences)} of the {FIRST_LOOK} seeds that a test needs"
            if few
            else "all seeds have the same difference: there is no spread to test against"
        )
        return replace(verdict, why="; ".join(filter(None, [verdict.why, why])))
    if p < level and _of_pairs(verdict.claim) and not consistent(verdict.differences, MOST_SEEDS):
        return replace(verdict, p_holm=p, why="; ".join(filter(None, [verdict.why, CHANGED])))
    decided = (SUPPORTED if verdict.holds else CONTRADICTED) if p < level else UNDECIDED
    return replace(verdict, p_holm=p, verdict=decided)


def _of_pairs(claim: Claim) -> bool:
    """Whether a claim is tested by differences over seeds."""
    return not claim.exact and claim.measure not in ("correlation", "collapse")


def _with_seeds(verdict: Verdict, level: float) -> Verdict:
    """An undecided verdict with the seeds that would decide it at ``level``, that of the strictest step of Holm's correction."""
    claim = verdict.claim
    if verdict.verdict != UNDECIDED or claim.margin or not _of_pairs(claim) or CHANGED in verdict.why:
        return verdict
    return replace(verdict, seeds_needed=seeds_needed(verdict.differences, MOST_SEEDS, claim.minimum, level))
