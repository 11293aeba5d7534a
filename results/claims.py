"""``python results/claims.py --runs DIR``: which of the paper's claims these runs support.

A claim is data (claims.yaml): a comparison, its direction, the smallest effect that counts, the test. The unit of observation is
the seed. Supported: the effect exceeds the minimum, p < 0.05; contradicted: it falls short of it, p < 0.05; undecided otherwise. A
p value is two-sided and Holm-corrected over all claims judged on one profile's runs, so that all verdicts of a profile together are
wrong with a probability of at most 5 % (as far as the test's assumptions hold).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, results/ is on the path, not the directory above it
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import pandas as pd
import rich.box
import rich.console
import rich.table

from results import frame
from results.claim_list import Claim, load_claims
from results.effects import UNITS, Effect, effect
from results.statistics import TESTS, bootstrap_interval, every_p, holm, seeds_needed
from results.tables import METRICS
from rundir.arguments import Parser, place
from rundir.cli import cli

SUPPORTED, CONTRADICTED, UNDECIDED, NO_RUNS = "supported", "contradicted", "undecided", "no runs"
MOST_SEEDS = 100


@dataclass(frozen=True)
class Verdict:
    """What the runs of one profile and setting say of a claim. ``effect`` and the interval are in ``unit``; NaN without runs."""

    claim: Claim
    profile: str
    setting: str
    dataset: str
    metric: str
    verdict: str
    effect: float
    low: float
    high: float
    n: int
    p: float
    p_holm: float
    unit: str
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    command: str
    why: str = ""
    differences: tuple[float, ...] = ()  # by seed, in the order of ``seeds``
    seeds_needed: int = 0  # of an undecided claim; 0: not known

    def record(self) -> dict[str, Any]:
        """As plain types, for JSON; NaN as None."""
        plain = asdict(self) | {"claim": self.claim.id, "statement": self.claim.statement, "grid": self.claim.grid,
                                "about": self.claim.about, "minimum": self.claim.minimum, "test": self.claim.test}
        return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()}


def judge(claims: Sequence[Claim], scores: pd.DataFrame, runs: pd.DataFrame, metrics: pd.DataFrame,
          level: float = 0.05) -> list[Verdict]:
    """A verdict for each claim, profile and setting; frames of the runs that count (:func:`results.frame.current`).

    Claims of one profile are one family of Holm's correction. A claim about an architecture is judged on the profiles that have it.
    """
    found: list[Verdict] = []
    profiles = sorted(set(runs["preset"])) or ["digits"]
    elsewhere = [claim for claim in claims if "arch" in claim.how and not any(map(claim.suits, runs["arch"]))]
    for profile in profiles:
        own = runs[runs["preset"].eq(profile)]
        suitable = [claim for claim in claims if "arch" not in claim.how or any(map(claim.suits, own["arch"]))]
        family = [verdict for claim in suitable for verdict in _of_profile(claim, profile, scores, own, metrics)]
        tests = sum(not math.isnan(verdict.p) for verdict in family)
        for verdict, p in zip(family, holm([verdict.p for verdict in family]), strict=True):
            found.append(_with_seeds(_decided(verdict, p, level), level / max(1, tests)))
    return found + [_without_runs(claim, "", f"no runs of {claim.how['arch']} networks") for claim in elsewhere]


def _of_profile(claim: Claim, profile: str, scores: pd.DataFrame, runs: pd.DataFrame, metrics: pd.DataFrame) -> list[Verdict]:
    """The claim tested on each setting of the profile that has its runs; one verdict without numbers where none has."""
    own = runs[runs["grid"].eq(claim.grid) & runs["arch"].map(claim.suits).astype(bool)]
    tested, why = [], _no_runs(claim)
    for setting in sorted(set(own["setting"])):
        here = own[own["setting"].eq(setting)]
        mine, logged = (rows[rows["run"].isin(set(here["run"]))] for rows in (scores, metrics))
        try:
            measured = effect(claim.measure, claim.how, mine, here, logged, claim.minimum)
        except LookupError as error:
            why = str(error.args[0])
            continue
        tested.append(_tested(claim, profile, setting, measured))
    return tested or [_without_runs(claim, profile, why)]


def _without_runs(claim: Claim, profile: str, why: str) -> Verdict:
    return Verdict(claim, profile, "", "", "", NO_RUNS, *[math.nan] * 3, 0, math.nan, math.nan, UNITS[claim.measure], (), (),
                   _command(claim, profile), why)


def _command(claim: Claim, profile: str) -> str:
    return claim.command.format(profile=profile or "PRESET.yaml")


def _no_runs(claim: Claim) -> str:
    return f"no runs of grid {claim.grid}"


def _tested(claim: Claim, profile: str, setting: str, measured: Effect) -> Verdict:
    differences = list(measured.by_seed.values())
    mean, interval, n, p = sum(differences) / len(differences), bootstrap_interval(differences), len(differences), math.nan
    if measured.each:
        p = every_p(list(measured.each.values()), claim.minimum, TESTS[claim.test])
    elif claim.test in TESTS:
        p = float(np.minimum(1.0, 2 * np.min(TESTS[claim.test](differences, claim.minimum))))  # NaN stays NaN
    elif measured.over is not None:
        mean, interval, n, p = measured.over.value, measured.over.interval, measured.over.n, measured.over.p
    return Verdict(claim, profile, setting, measured.dataset, measured.metric, UNDECIDED, mean, *interval, n, p,
                   math.nan, UNITS[claim.measure], tuple(measured.by_seed), measured.runs, _command(claim, profile),
                   measured.note, tuple(differences))


def _decided(verdict: Verdict, p: float, level: float) -> Verdict:
    if verdict.verdict == NO_RUNS:
        return verdict
    above = verdict.effect > verdict.claim.minimum
    if verdict.claim.test == "exact":
        sides = {difference > verdict.claim.minimum for difference in verdict.differences}
        if len(sides) > 1:
            return replace(verdict, why="counted; seeds lie on both sides of the minimum")
        return replace(verdict, verdict=SUPPORTED if above else CONTRADICTED, why="counted; so at every seed")
    if math.isnan(p):
        why = "one seed" if verdict.n < 2 else "all seeds have the same difference"
        return replace(verdict, p_holm=p, why=f"{why}: there is no spread to test against")
    decided = (SUPPORTED if above else CONTRADICTED) if p < level else UNDECIDED
    return replace(verdict, p_holm=p, verdict=decided)


def _with_seeds(verdict: Verdict, level: float) -> Verdict:
    """An undecided verdict with the seeds that would decide it at ``level``, that of the strictest step of Holm's correction."""
    if verdict.verdict != UNDECIDED or verdict.claim.test not in TESTS:
        return verdict
    return replace(verdict, seeds_needed=seeds_needed(verdict.differences, verdict.claim.minimum, level, most=MOST_SEEDS))


def of_runs(runs: Sequence[Path], keep: bool = True) -> tuple[list[Verdict], tuple[str, ...]]:
    """The verdicts of the runs below these directories, and a line for each run that cannot be read. Raises
    :class:`UserError`."""
    loaded = frame.current_of(frame.load_all(runs, keep), runs)
    claims, level = load_claims()
    return judge(claims, loaded.scores, loaded.runs, loaded.metrics, level), loaded.left_out


def p_text(p: float) -> str:
    """A p value with three decimals, or a dash for NaN."""
    return "—" if math.isnan(p) else "<0.001" if p < 0.0005 else f"{p:.3f}"


def seeds_text(verdict: Verdict) -> str:
    """How many seeds would decide an undecided claim; nothing where that is not known or asked."""
    if not verdict.seeds_needed:
        return ""
    many = f"> {MOST_SEEDS}" if verdict.seeds_needed > MOST_SEEDS else f"≈ {verdict.seeds_needed}"
    return many if verdict.effect > verdict.claim.minimum else f"{many} (against)"


def texts(verdict: Verdict) -> dict[str, str]:
    """A verdict in words and figures, by column."""
    interval = "" if math.isnan(verdict.low) else f"[{verdict.low:.2f}, {verdict.high:.2f}]"
    measured = ", ".join(filter(None, [verdict.dataset, METRICS.get(verdict.metric, verdict.metric)]))
    return {"claim": verdict.claim.id, "about": verdict.claim.about, "statement": verdict.claim.statement,
            "profile": verdict.profile, "verdict": verdict.verdict,
            "effect": f"{verdict.effect:+.2f} {verdict.unit}" if not math.isnan(verdict.effect) else "—", "interval": interval,
            "minimum": f"{verdict.claim.minimum:g}", "n": str(verdict.n), "p": p_text(verdict.p),
            "Holm p": p_text(verdict.p_holm), "seeds needed": seeds_text(verdict), "measured": measured,
            "note": verdict.why + (f"; make them with: {verdict.command}" if verdict.verdict == NO_RUNS else "")}


def markdown(verdicts: Sequence[Verdict]) -> str:
    """All verdicts as a Markdown table, with what the words mean."""
    columns = ["claim", "about", "statement", *(name for name in COLUMNS if name != "claim"), "measured", "note"]
    rows = [[texts(verdict)[name].replace("|", "\\|") for name in columns] for verdict in verdicts]
    lines = [MEANING, "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns),
             *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines) + "\n"


MEANING = ("Effect: mean over seeds, with a 95 % bootstrap interval (of three seeds that is their range, and too short). p: "
           "two-sided paired t-test over seeds against the claim's minimum effect, of correlations over cells; a claim about each "
           "of several cells has the effect of the weakest and an intersection-union test; the share of seeds that collapse has an "
           "exact binomial test and interval. Holm p: corrected over all claims of the profile. Supported or contradicted: Holm p "
           "below 0.05; undecided: these runs do not tell. Seeds needed: to decide with a probability of 80 %, were mean and "
           "spread over many seeds as here; a rough guide.")
COLUMNS = ("profile", "claim", "verdict", "effect", "interval", "minimum", "n", "p", "Holm p", "seeds needed")
RIGHT = {"effect", "minimum", "n", "p", "Holm p", "seeds needed"}
STYLES = {SUPPORTED: "bold green", CONTRADICTED: "bold red", UNDECIDED: "yellow", NO_RUNS: "dim"}


def show(verdicts: Sequence[Verdict], console: rich.console.Console, runs: bool = False) -> None:
    """Print the verdicts, then what is missing with the commands that make it. ``runs``: with the runs each verdict used."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, caption=MEANING, caption_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in RIGHT else "left")
    for verdict in verdicts:
        said, word = texts(verdict), rich.text.Text(verdict.verdict, style=STYLES[verdict.verdict])
        table.add_row(*(word if name == "verdict" else said[name] for name in COLUMNS))
    console.print(table)
    if runs:
        for verdict in verdicts:
            console.print(f"{verdict.claim.id} ({verdict.profile}): {' '.join(verdict.runs) or 'no runs'}", soft_wrap=True,
                          markup=False, highlight=False)
    missing = sorted({verdict.command for verdict in verdicts if verdict.verdict == NO_RUNS})
    if missing:
        console.print("claims without runs need:", *(f"  {command}" for command in missing), sep="\n", markup=False,
                      highlight=False, soft_wrap=True)
    reasons = sorted({f"  {verdict.claim.id} ({verdict.profile}): {verdict.why}" for verdict in verdicts
                      if verdict.verdict == NO_RUNS and verdict.why != _no_runs(verdict.claim)})
    if reasons:
        console.print("of which these have runs, but", *reasons, sep="\n", markup=False, highlight=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Show the verdicts. Raises :class:`UserError`."""
    parser = Parser(description="Say which of the paper's claims the runs support.")
    parser.add_argument("--runs", type=place, required=True, nargs="+", metavar="DIR", help="directories of grids, or above them")
    parser.add_argument("--show-runs", action="store_true", help="name the runs each verdict used")
    arguments = parser.parse_args(argv)
    console = rich.console.Console(width=None if sys.stdout.isatty() else 160)
    verdicts, left_out = of_runs(arguments.runs)
    show(verdicts, console, arguments.show_runs)
    for line in left_out:
        console.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    cli(main, interrupted="interrupted")
