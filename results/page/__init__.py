"""The report page: one HTML file that needs nothing else. Claims first, then tables, pictures, published numbers, and all runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from results.claims.judging import NO_RUNS, Verdict
from results.claims.rendering import MEANING
from results.claims.rendering import texts as in_words
from results.contents import Facets, TableItem
from results.paper import Number
from results.tables.html import html
from results.tables.render import Table

# What need not be escaped in an address in double quotes: about a fifth shorter than base64.
SAFE = " !$'()*+,-./:;=?@[]_~"
HERE = Path(__file__).parent
FILTERS = {"grid": "Grid", "task": "Task", "dataset": "Data set", "profile": "Profile", "width": "Width"}


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


def page(verdicts: Sequence[Verdict], tables: Sequence[TableItem], pictures: Sequence[Picture],
         published: tuple[Table, Sequence[Number]], runs: pd.DataFrame, scores: pd.DataFrame, made: Made,
         left_out: Sequence[str] = ()) -> str:
    """The whole page. ``runs`` and ``scores``: those that the tables are of; ``left_out``: a line for each that cannot be read."""
    order = {name: str(place) for place, name in enumerate(runs["run"])}
    body = [_head(runs, scores, made), _filters(runs, scores),
            _section("claims", "Claims", f"<p class=soft>{escape(MEANING)}</p>" + _claims(verdicts, order)),
            _section("tables", "Tables", "".join(_table(item, order) for item in tables)),
            _section("pictures", "Pictures", f'<div class="pictures">{"".join(map(_picture, pictures))}</div>'),
            _section("published", "Published numbers and ours", _published(published, order)),
            _section("runs", "Runs", _left_out(left_out) + _runs(runs))]
    data = json.dumps([{"place": run["place"], "commit": run["commit"]} for run in runs[["place", "commit"]].to_dict("records")])
    return "\n".join([
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">', "<title>Results</title>",
        '<link rel="icon" href="data:,">',  # or a browser asks the server for one
        f"<style>\n{_text('page.css')}</style></head>\n<body>", *body,
        '<dialog id="origin"><form method="dialog"><button>Close</button></form><p></p><ul></ul></dialog>',
        # "<" might end the script
        f'<script type="application/json" id="run-data">{data.replace("<", chr(92) + "u003c")}</script>',
        f"<script>\n{_text('page.js')}</script>\n</body></html>\n"])


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _head(runs: pd.DataFrame, scores: pd.DataFrame, made: Made) -> str:
    states = ", ".join(f"{count} {state}" for state, count in runs["state"].value_counts().sort_index().items())
    trained = "; ".join(sorted(set(runs["trained"])))
    return (f"<h1>Universally slimmable self-supervised learning: results</h1>\n<p>{len(runs)} runs ({escape(states)}), "
            f"{len(scores):,} scores. Trained on {escape(trained)}.</p>\n"
            f"<p class=soft>Made by <code>{escape(made.command)}</code> with this project at commit "
            f"<code>{escape(made.commit or 'unknown')}</code>. <span class=screen>A click on a number shows the runs behind it; "
            "all runs stand at the end.</span></p>\n")


def _filters(runs: pd.DataFrame, scores: pd.DataFrame) -> str:
    known = {"grid": set(runs["grid"]), "task": set(scores["task"]), "dataset": set(scores["dataset"]),
             "profile": set(runs["preset"])}
    choices = {name: sorted(filter(None, values)) for name, values in known.items()}
    choices["width"] = [f"{width:g}" for width in sorted(set(scores["width"].dropna().round(6)), reverse=True)]
    selects = []
    for name, label in FILTERS.items():
        options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in choices[name])
        selects.append(f'<label>{label} <select name="{name}"><option value="">all</option>{options}</select></label>')
    return (f'<div id="filters" role="search" aria-label="Filter">{" ".join(selects)} '
            '<button type="button" id="reset">Show all</button> <span id="shown" role="status"></span></div>\n')


def _section(name: str, title: str, content: str) -> str:
    return (f'<section id="{name}"><h2>{escape(title)}</h2>\n{content}\n'
            '<p class="empty soft" hidden>Nothing here for this choice.</p></section>')


def _facets(facets: Facets, widths: Iterable[float] = ()) -> str:
    """Attributes that the filters read."""
    said = {"grid": facets.grid, "task": facets.task, "dataset": facets.dataset, "profile": facets.profile}
    found = sorted({*widths, *([] if facets.width is None else [facets.width])}, reverse=True)
    text = "".join(f' data-{name}="{escape(value)}"' for name, value in said.items() if value)
    return " data-item" + text + (f' data-widths="{" ".join(f"{width:g}" for width in found)}"' if found else "")


def _claims(verdicts: Sequence[Verdict], order: dict[str, str]) -> str:
    lists = ["\n".join(_claim(verdict, order) for verdict in verdicts if (verdict.verdict == NO_RUNS) == missing)
             for missing in (False, True)]
    tested, untested = (f'<ul class="claims">\n{lines}\n</ul>' if lines else "" for lines in lists)
    if not untested:
        return tested
    count = sum(verdict.verdict == NO_RUNS for verdict in verdicts)
    return f"{tested}<details><summary>{count} claims without runs, and the commands that make them</summary>{untested}</details>"


def _claim(verdict: Verdict, order: dict[str, str]) -> str:
    said = in_words(verdict)
    task = verdict.claim.how.get("task", "classification" if verdict.metric else "")
    facets = Facets(verdict.claim.grid, task, verdict.dataset, verdict.profile)
    about = " · ".join(filter(None, [verdict.profile, f"grid {verdict.claim.grid}", verdict.claim.about]))
    lines = [f'<p><span class="verdict">{verdict.verdict}</span> · {escape(about)}</p>',
             f"<p>{escape(verdict.claim.statement)}</p>"]
    if verdict.verdict == NO_RUNS:
        lines.append(f"<p class=soft>{escape(verdict.why)}. <code>{escape(verdict.command)}</code></p>")
    else:
        numbers = [f"effect {said['effect']}", said["interval"], f"n = {verdict.n}"]
        numbers += [f"p = {said['p']}", f"Holm p = {said['Holm p']}"] if verdict.p == verdict.p else []
        numbers += [f"seeds needed {said['seeds needed']}"] if verdict.seeds_needed else []
        numbers += [f"{verdict.claim.asks} claimed"] if verdict.claim.asks else []
        lines.append(f"<p class=soft>{escape(', '.join(filter(None, [*numbers, said['measured'], verdict.why])))}</p>")
        links = "".join(f'<li><a href="#run-{order[run]}">{escape(run)}</a></li>' for run in verdict.runs if run in order)
        lines.append(f"<details><summary>{len(verdict.runs)} runs used</summary><p><code>{escape(verdict.command)}</code></p>"
                     f"<ul>{links}</ul></details>")
    name = f"claim-{verdict.claim.id}-{escape(verdict.profile)}"
    return f'<li class="{verdict.verdict.replace(" ", "-")}" id="{name}"{_facets(facets)}>{"".join(lines)}</li>'


def _table(item: TableItem, order: dict[str, str]) -> str:
    widths = {float(key["width"]) for key in item.table.keys if "width" in key}
    widths |= {float(row.width) for row in item.table.rows if row.width is not None}
    return (f'<div class="item" id="{escape(item.table.name)}"{_facets(item.facets, widths)}>'
            f"{html(item.table, lambda run: order.get(run, ''))}</div>\n")


def _picture(picture: Picture) -> str:
    # As an image and not as markup: the parts of two inlined pictures could have the same names.
    data = quote(picture.svg, safe=SAFE)
    return (f'<div class="item"{_facets(picture.facets)}><h3>{escape(picture.title)}</h3>'
            f'<img alt="{escape(picture.title)}" src="data:image/svg+xml,{data}"></div>\n')


def _published(published: tuple[Table, Sequence[Number]], order: dict[str, str]) -> str:
    table, numbers = published
    sources = {number.source.url: number.source.title for number in numbers}
    lines = "".join(f'<li>{escape(title)}: <a href="{escape(url)}">{escape(url)}</a></li>' for url, title in sources.items())
    facets = _facets(Facets(), {number.width for number in numbers})
    return (f'<div class="item"{facets}>{html(table, lambda run: order.get(run, ""))}'
            f"<details><summary>Sources</summary><ul>{lines}</ul></details></div>")


def _left_out(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f"<p>Left out, since they cannot be read:</p><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _runs(runs: pd.DataFrame) -> str:
    head = "".join(f'<th scope="col" class="left">{name}</th>'
                   for name in ("Run directory", "Grid", "Cell", "Seed", "State", "Commit", "Trained", "On", "Finished", "Command"))
    lines = []
    for place, run in enumerate(runs.to_dict("records")):
        seconds = run["train_seconds"]
        took = f"{seconds:,.0f} s, {run['train_flops']:.2e} FLOPs" if seconds == seconds else ""
        cells = (run["place"], run["grid"], run["cell"], run["seed"], run["state"], run["commit"], took, run["hardware"],
                 (run["finished"] or "")[:16].replace("T", " "), run["command"])
        facets = _facets(Facets(run["grid"], "", "", run["preset"]))
        texts = "".join(f'<td class="left">{escape(str(cell))}</td>' for cell in cells)
        lines.append(f'<tr id="run-{place}"{facets}>{texts}</tr>')
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"
