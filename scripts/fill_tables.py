"""Put the tables of a report into Markdown pages, between the comments that name them.

    python results/report.py --runs results/published/records.parquet --out report
    python scripts/fill_tables.py --report report docs/tables.md README.md

What stands between ``<!-- from FILE -->`` and ``<!-- end -->`` becomes the table in the report's FILE without rows that have no
number. ``<!-- from claims.json: decided -->`` has every claim that is supported or contradicted, with ``undecided`` the others that
were judged, and ``<!-- from claims.json: CLAIM@PROFILE ... -->`` has these, in this order.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results.claims.rendering import needed_text
from rundir.arguments import Parser, place
from rundir.atomic import write_atomically
from rundir.cli import cli
from rundir.errors import UserError

PLACE = re.compile(r"(<!-- from (\S+?)(?:: ([^>]*?))? -->\n).*?(<!-- end -->)", re.DOTALL)
DECIDED = {"supported": "**supported**", "contradicted": "**contradicted**"}
NO_NUMBER = ("—", "")
TIMED = "seconds"  # claims about the time that training took: of machines that did other things too


def filled(page: str, report: Path) -> str:
    """``page`` with its tables as they are in ``report``.

    Raises:
        UserError: it names a file or a claim that the report does not have.
    """

    def table(found: re.Match) -> str:
        begin, name, chosen, end = found.groups()
        if not (report / name).is_file():
            raise UserError(f"{report} has no {name}; set --report to a report of all the runs that the page is about")
        text = (report / name).read_text(encoding="utf-8")
        rows = claims(json.loads(text)["verdicts"], chosen) if name == "claims.json" else numbers(text)
        return begin + "\n".join(rows) + "\n" + end

    return PLACE.sub(table, page)


def numbers(text: str) -> list[str]:
    """The rows of the Markdown table in ``text`` that have a number, with the two that make its head."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    scores = sum(cell.strip().endswith("×") for cell in rows[0].split("|"))
    return rows[:2] + [
        row for row in rows[2:] if any(cell.strip() not in NO_NUMBER for cell in row.strip().strip("|").split("|")[-scores:])
    ]


def claims(verdicts: list[dict], chosen: str | None) -> list[str]:
    """A row per verdict that rests on a run: of those ``decided`` or ``undecided``, or of those named in ``chosen``, shorter."""
    judged = {f"{v['claim']}@{v['profile']}": v for v in verdicts if v["n"] and TIMED not in v["claim"]}
    if chosen == "decided":
        return [
            *head("claim", "profile", "verdict", "effect", "95 % interval", "n", "Holm p"),
            *(
                f"| {named(v)} | {v['profile']} | {DECIDED[v['verdict']]} | {effect(v, 1)} | {interval(v, 1)} | {v['n']} | "
                f"{corrected(v)} |"
                for v in judged.values()
                if v["verdict"] in DECIDED
            ),
        ]
    if chosen == "undecided":
        return [
            *head("claim", "profile", "effect", "95 % interval", "n", "Holm p", "seeds needed", words=2),
            *(
                f"| {named(v)} | {v['profile']} | {effect(v, 1)} | {interval(v, 1)} | {v['n']} | {corrected(v)} | {needed(v)} |"
                for v in judged.values()
                if v["verdict"] not in DECIDED
            ),
        ]
    names = (chosen or "").split()
    for name in names or [""]:
        if name not in judged:
            raise UserError(
                f"claims.json: {name!r} is not judged in this report; write <!-- from claims.json: decided -->, "
                f"undecided, or some of {', '.join(sorted(judged))}"
            )
    return [
        *head("claim", "profile", "verdict", "effect", "95 % interval", "seeds"),
        *(
            f"| {v['statement']} | `{v['profile']}` | {DECIDED.get(v['verdict'], v['verdict'])} | {effect(v, 1)} | "
            f"{interval(v, 1)} | {v['n']} |"
            for v in map(judged.__getitem__, names)
        ),
    ]


def named(verdict: dict) -> str:
    """The statement and, behind it, the claim's name."""
    return f"{verdict['statement']} (`{verdict['claim']}`)"


def needed(verdict: dict) -> str:
    """How many seeds would decide it, in words."""
    return needed_text(verdict["seeds_needed"], verdict["effect"], verdict["minimum"])


def head(*names: str, words: int = 3) -> list[str]:
    """The first two lines of a table whose first columns, ``words`` of them, are words."""
    return ["| " + " | ".join(names) + " |", "|" + " :-- |" * words + " --: |" * (len(names) - words)]


def effect(verdict: dict, digits: int) -> str:
    """The effect with its unit."""
    whole = "seeds" in verdict["unit"]
    return f"{verdict['effect']:.0f} {verdict['unit']}" if whole else f"{verdict['effect']:+.{digits}f} {verdict['unit']}"


def interval(verdict: dict, digits: int) -> str:
    """The interval, where there is one."""
    return "" if verdict["low"] is None else f"{verdict['low']:.{digits}f} to {verdict['high']:.{digits}f}"


def corrected(verdict: dict) -> str:
    """Holm's p; of what is counted, not tested, that."""
    p = verdict["p_holm"]
    if p is None:
        return "" if verdict["verdict"] == "undecided" else "counted"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=place, required=True, metavar="DIR", help="what results/report.py --out wrote")
    parser.add_argument("pages", type=place, nargs="+", metavar="PAGE")
    arguments = parser.parse_args(argv)
    for page in arguments.pages:
        write_atomically(page, filled(page.read_text(encoding="utf-8"), arguments.report))


if __name__ == "__main__":
    cli(main)
