"""Pages get their tables from a report, and say where it lacks one."""

from __future__ import annotations

import json
import re

import pytest

from rundir.errors import UserError
from scripts import fill_tables

TABLE = """**A title**

| Method | 1.0× | 0.5× |
| :-- | --: | --: |
| one | 80.0 ± 1.0 | — |
| none of it | — | — |

A note.
"""
CLAIM = {
    "claim": "a-claim",
    "profile": "digits",
    "statement": "One beats two.",
    "verdict": "supported",
    "effect": 1.25,
    "low": 0.5,
    "high": 2.0,
    "unit": "points",
    "n": 6,
    "p_holm": 0.0004,
    "seeds_needed": 0,
    "minimum": 0.0,
}
COUNTED = CLAIM | {
    "claim": "counted",
    "unit": "% of seeds",
    "effect": 100.0,
    "low": None,
    "high": None,
    "p_holm": None,
    "verdict": "undecided",
}
OPEN = CLAIM | {"claim": "open", "verdict": "undecided", "effect": -1.0, "p_holm": 0.5, "seeds_needed": 13}
TIMED = CLAIM | {"claim": "takes-fewer-seconds"}
NOT_RUN = CLAIM | {"claim": "not-run", "n": 0, "effect": None}


@pytest.fixture
def report(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "table-one.md").write_text(TABLE)
    (tmp_path / "report" / "claims.json").write_text(json.dumps({"verdicts": [CLAIM, COUNTED, OPEN, TIMED, NOT_RUN]}))
    return tmp_path / "report"


def page(tmp_path, comment):
    path = tmp_path / "page.md"
    path.write_text(f"before\n\n<!-- from {comment} -->\n| old |\n<!-- end -->\n\nafter\n")
    return path


@pytest.mark.parametrize(
    ("comment", "rows"),
    [
        ("table-one.md", "| Method | 1.0× | 0.5× |\n| :-- | --: | --: |\n| one | 80.0 ± 1.0 | — |\n"),
        (
            "claims.json: a-claim@digits",
            "| claim | profile | verdict | effect | 95 % interval | seeds |\n"
            "| :-- | :-- | :-- | --: | --: | --: |\n| One beats two. | `digits` | **supported** | +1.2 points | 0.5 to 2.0 | 6 |\n",
        ),
        (
            "claims.json: decided",
            "| claim | profile | verdict | effect | 95 % interval | n | Holm p |\n"
            "| :-- | :-- | :-- | --: | --: | --: | --: |\n"
            "| One beats two. (`a-claim`) | digits | **supported** | +1.2 points | 0.5 to 2.0 | 6 | <0.001 |\n",
        ),
        (
            "claims.json: undecided",
            "| claim | profile | effect | 95 % interval | n | Holm p | seeds needed |\n"
            "| :-- | :-- | --: | --: | --: | --: | --: |\n"
            "| One beats two. (`counted`) | digits | 100 % of seeds |  | 6 |  |  |\n"
            "| One beats two. (`open`) | digits | -1.0 points | 0.5 to 2.0 | 6 | 0.500 | ≈ 13 (against) |\n",
        ),
    ],
)
def test_what_stands_between_the_comments_is_the_reports(tmp_path, report, comment, rows):
    path = page(tmp_path, comment)
    for _ in range(2):  # a second time changes nothing
        fill_tables.main(["--report", str(report), str(path)])
        assert path.read_text() == f"before\n\n<!-- from {comment} -->\n{rows}<!-- end -->\n\nafter\n"


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        ("table-two.md", "has no table-two.md; set --report to a report of all the runs"),
        (
            "claims.json: b@digits",
            "claims.json: 'b@digits' is not judged in this report; write <!-- from claims.json: decided -->, "
            "undecided, or some of a-claim@digits, counted@digits",
        ),
        ("claims.json", "claims.json: '' is not judged in this report; write <!-- from claims.json: decided -->"),
    ],
)
def test_what_a_report_lacks_is_said_and_the_page_stays(tmp_path, report, comment, said):
    path = page(tmp_path, comment)
    before = path.read_text()
    with pytest.raises(UserError, match=re.escape(said)):
        fill_tables.main(["--report", str(report), str(path)])
    assert path.read_text() == before
