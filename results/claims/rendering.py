"""Verdicts in words: as a table in a terminal, as Markdown, and the texts that the page is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table

from results.claims.judging import CONTRADICTED, NO_RUNS, SUPPORTED, UNDECIDED, Verdict, no_runs
from results.statistics.sequential import MOST_SEEDS
from results.tables.scores import METRICS

MEANING = (
    "Effect: mean over seeds. Tests and 95 % intervals hold at any number of seeds, whenever one looks: a sequential "
    "paired t-test over seeds, its binomial counterpart for the share of seeds that collapse. A claim about each of "
    "several cells has the effect of the weakest and an intersection-union test. At least: what the effect has to exceed, "
    "below 0 a margin of non-inferiority; within ± is a test of equivalence. Holm p: two-sided, corrected over the claims "
    "of one grid and profile. Supported or contradicted: Holm p below 0.05; undecided: these runs do not tell. Seeds "
    "needed: to decide with a probability of 80 %, were mean and spread over many seeds as here; a rough guide."
)
COLUMNS = ("profile", "claim", "verdict", "effect", "interval", "at least", "n", "p", "Holm p", "seeds needed")
RIGHT = {"effect", "at least", "n", "p", "Holm p", "seeds needed"}
STYLES = {SUPPORTED: "bold green", CONTRADICTED: "bold red", UNDECIDED: "yellow", NO_RUNS: "dim"}


def p_text(p: float) -> str:
    """A p value with three decimals, or a dash for NaN."""
    return "—" if math.isnan(p) else "<0.001" if p < 0.0005 else f"{p:.3f}"


def seeds_text(verdict: Verdict) -> str:
    """:func:`needed_text` of a verdict."""
    return needed_text(verdict.seeds_needed, verdict.effect, verdict.claim.minimum)


def needed_text(needed: int, effect: float, minimum: float) -> str:
    """How many seeds would decide an undecided claim, against it where ``effect`` is not above ``minimum``; nothing where that is
    not known or asked (0).
    """
    if not needed:
        return ""
    many = f"> {MOST_SEEDS}" if needed > MOST_SEEDS else f"≈ {needed}"
    return many if effect > minimum else f"{many} (against)"


def texts(verdict: Verdict) -> dict[str, str]:
    """A verdict in words and figures, by column."""
    claim = verdict.claim
    interval = "" if math.isnan(verdict.low) else f"[{verdict.low:.2f}, {verdict.high:.2f}]"
    measured = ", ".join(filter(None, [verdict.dataset, METRICS.get(verdict.metric, verdict.metric)]))
    effect = "—" if math.isnan(verdict.effect) else f"{verdict.effect:+.2f} {verdict.unit}"
    return {
        "claim": claim.id,
        "about": claim.about,
        "statement": claim.statement,
        "profile": verdict.profile,
        "verdict": verdict.verdict,
        "effect": effect,
        "interval": interval,
        "at least": f"within ±{claim.margin:g}" if claim.margin else f"{claim.minimum:g}",
        "n": str(verdict.n),
        "p": p_text(verdict.p),
        "Holm p": p_text(verdict.p_holm),
        "seeds needed": seeds_text(verdict),
        "measured": measured,
        "note": verdict.why + (f"; make them with: {verdict.command}" if verdict.verdict == NO_RUNS else ""),
    }


def markdown(verdicts: Sequence[Verdict]) -> str:
    """All verdicts as a Markdown table, with what the words mean."""
    columns = ["claim", "about", "statement", *(name for name in COLUMNS if name != "claim"), "measured", "note"]
    rows = [[texts(verdict)[name].replace("|", "\\|") for name in columns] for verdict in verdicts]
    lines = [
        MEANING,
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def show(verdicts: Sequence[Verdict], console: rich.console.Console, runs: bool = False) -> None:
    """Print the verdicts, then what is missing with the commands that make it. ``runs``: with the runs each verdict used."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, caption=MEANING, caption_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in RIGHT else "left")
    for verdict in verdicts:
        said, word = texts(verdict), rich.text.Text(verdict.verdict, style=STYLES[verdict.verdict])
        table.add_row(*(word if name == "verdict" else rich.text.Text(said[name]) for name in COLUMNS))
    console.print(table)
    if runs:
        for verdict in verdicts:
            console.print(
                f"{verdict.claim.id}{_profile(verdict)}: {' '.join(verdict.runs) or 'no runs'}",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )
    missing = sorted({verdict.command for verdict in verdicts if verdict.verdict == NO_RUNS})
    if missing:
        console.print(
            "claims without runs need:",
            *(f"  {command}" for command in missing),
            sep="\n",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    reasons = sorted(
        {
            f"  {verdict.claim.id}{_profile(verdict)}: {verdict.why}"
            for verdict in verdicts
            if verdict.verdict == NO_RUNS and verdict.why != no_runs(verdict.claim)
        }
    )
    if reasons:
        console.print("of which these have runs, but", *reasons, sep="\n", markup=False, highlight=False, soft_wrap=True)


def _profile(verdict: Verdict) -> str:
    return f" ({verdict.profile})" if verdict.profile else ""
