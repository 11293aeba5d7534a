"""The report page: one HTML file that needs nothing else. Claims first, then tables, pictures, published numbers, and all runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd

from results.claims.judging import NO_RUNS, Verdict
from results.claims.rendering import MEANING
from results.claims.rendering import texts as in_words
from results.contents import Facets, TableItem
from results.paper import Number
from results.tables.html import html
from results.tables.render import Table

# What need not be escaped in an address in double quotes.
SAFE = " !$'()*+,-./:;<=>?@[]_{}~"
HERE = Path(__file__).parent
FILTERS = {"grid": "Grid", "task": "Task", "dataset": "Data set", "profile": "Profile", "width": "Width"}
RUN_COLUMNS = ("Run directory", "Grid", "Cell", "Seed", "State", "Commit", "Trained", "On", "Finished", "Command")


@dataclass(frozen=True)
class Picture:
    """A drawn picture: its SVG, its title, and what it is about."""

    title: str
    svg: str
    facets: Facets


@dataclass(frozen=True)
class Made:
    """How the page was made: the command and the commit of this project's code."""

    command: str
    commit: str


def page(
    verdicts: Sequence[Verdict],
    tables: Sequence[TableItem],
    pictures: Sequence[Picture],
    published: tuple[Table, Sequence[Number]],
    runs: pd.DataFrame,
    scores: pd.DataFrame,
    made: Made,
    left_out: Sequence[str] = (),
) -> str:
    """The whole page. ``runs`` and ``scores``: those that the tables are of; ``left_out``: a line for each that cannot be read."""
    order = {name: str(place) for place, name in enumerate(runs["run"])}
    beside, given = published
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("page.html")
    return template.render(
        css=_text("page.css"),
        js=_text("page.js"),
        made=made,
        left_out=left_out,
        meaning=MEANING,
        NO_RUNS=NO_RUNS,
        order=order,
        states=", ".join(f"{count} {state}" for state, count in runs["state"].value_counts().sort_index().items()),
        trained="; ".join(sorted(set(runs["trained"]))),
        scores=len(scores),
        filters=_filters(runs, scores),
        tested=[verdict for verdict in verdicts if verdict.verdict != NO_RUNS],
        untested=[verdict for verdict in verdicts if verdict.verdict == NO_RUNS],
        tables=[_table(item.table, item.facets, order) for item in tables],
        pictures=pictures,
        beside=_table(beside, Facets(), order),
        sources={number.source.url: number.source.title for number in given},
        runs=[_run(run) for run in runs.to_dict("records")],
        run_columns=RUN_COLUMNS,
        origins=[{"place": run["place"], "commit": run["commit"]} for run in runs[["place", "commit"]].to_dict("records")],
        about_claim=_about,
        numbers=_numbers,
        quoted=_quoted,
    )


def _quoted(svg: str) -> jinja2.runtime.Markup:
    """A picture as it stands in an address: its attributes in single quotes, which need no escape there."""
    return jinja2.runtime.Markup(quote(svg.replace("'", "&apos;").replace('"', "'"), safe=SAFE))


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _filters(runs: pd.DataFrame, scores: pd.DataFrame) -> list[tuple[str, str, list[str]]]:
    """Name, label and choices of each."""
    known = {"grid": runs["grid"], "task": scores["task"], "dataset": scores["dataset"], "profile": runs["preset"]}
    choices = {name: sorted(filter(None, set(values))) for name, values in known.items()}
    choices["width"] = [f"{width:g}" for width in sorted(set(scores["width"].dropna().round(6)), reverse=True)]
    return [(name, label, choices[name]) for name, label in FILTERS.items()]


def _about(verdict: Verdict) -> Facets:
    task = verdict.claim.how.get("task", "classification" if verdict.metric else "")
    return Facets(verdict.claim.grid, task, verdict.dataset, verdict.profile)


def _numbers(verdict: Verdict) -> str:
    """Effect, interval, seeds, p values and what was asked, in a line."""
    said = in_words(verdict)
    numbers = [f"effect {said['effect']}", said["interval"], f"n = {verdict.n}"]
    numbers += [f"p = {said['p']}", f"Holm p = {said['Holm p']}"] if verdict.p == verdict.p else []
    numbers += [f"seeds needed {said['seeds needed']}"] if verdict.seeds_needed else []
    numbers += [f"{verdict.claim.asks} claimed"] if verdict.claim.asks else []
    return ", ".join(filter(None, [*numbers, said["measured"], verdict.why]))


def _table(table: Table, facets: Facets, order: dict[str, str]) -> tuple[str, Facets, list[float], str]:
    """Name, what it is about, its widths and its HTML."""
    widths = {float(key["width"]) for key in table.keys if "width" in key}
    widths |= {float(row.width) for row in table.rows if row.width is not None}
    return table.name, facets, sorted(widths), html(table, lambda run: order.get(run, ""))


def _run(run: dict) -> tuple[Facets, tuple]:
    """What a run is about, and a text for each of RUN_COLUMNS."""
    seconds = run["train_seconds"]
    took = f"{seconds:,.0f} s, {run['train_flops']:.2e} FLOPs" if seconds == seconds else ""
    return Facets(run["grid"], "", "", run["preset"]), (
        run["place"],
        run["grid"],
        run["cell"],
        run["seed"],
        run["state"],
        run["commit"],
        took,
        run["hardware"],
        (run["finished"] or "")[:16].replace("T", " "),
        run["command"],
    )
