"""A table as an HTML fragment: each number a button that names the runs behind it (page.js opens them)."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

from results.tables.render import MISSING, Column, Score, Table, TableRow

_COMMIT = re.compile(r"/blob/[0-9a-f]{40}/")  # of a permanent link, not shown

RunOf = Callable[[str], str]  # a run's name to what a page calls it: its place among the page's runs, or the name itself


def html(table: Table, run_of: RunOf = str) -> str:
    """The table with its caption. Columns and rows of one width carry ``data-w``; numbers ``data-runs`` and ``data-values``."""
    widths = [key.get("width") for key in table.keys]
    names = "".join(f'<th scope="col" class="{_class(column)}">{escape(column.name)}</th>' for column in table.columns)
    names += "".join(
        f'<th scope="col" class="right"{_width(width)}>{escape(name)}</th>'
        for name, width in zip(table.value_names, widths, strict=True)
    )
    blank = "".join(f'<td class="{_class(column)}"></td>' for column in table.columns)
    over = (
        (f'<tr>{blank}<th scope="colgroup" colspan="{len(table.value_names)}" class="over">{escape(table.value_header)}</th></tr>')
        if table.value_names and table.value_header
        else ""
    )
    lines = []
    for index, row in enumerate(table.rows):
        rule = " class=rule" if index and row.section != table.rows[index - 1].section else ""
        lines.append(f"<tr{rule}{_width(row.width)}>{_labels(table, row)}{_scores(table, row, widths, run_of)}</tr>")
    # The caption stands before what scrolls: inside, it would be as wide as the table.
    caption = f"{escape(table.name)}-caption"
    return (
        f'<p class="caption" id="{caption}"><strong>{escape(table.title)}.</strong> {escape(table.caption)}</p>\n'
        f'<div class="scroll"><table aria-labelledby="{caption}"><thead>{over}<tr>{names}</tr></thead><tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>\n"
    )


def _class(column: Column) -> str:
    return column.align + (" detail" if column.detail else "")


def _labels(table: Table, row: TableRow) -> str:
    return "".join(
        f'<td class="{_class(column)}">{_text(label)}</td>' for column, label in zip(table.columns, row.labels, strict=True)
    )


def _text(label: str) -> str:
    """Addresses become links."""

    def word(text: str) -> str:
        if not text.startswith("https://"):
            return escape(text)
        address = text.rstrip(",")
        shown = _COMMIT.sub("/", address.removeprefix("https://"))
        return f'<a href="{escape(address)}">{escape(shown)}</a>{"," * text.endswith(",")}'

    return " ".join(map(word, label.split(" ")))


def _scores(table: Table, row: TableRow, widths: list, run_of: RunOf) -> str:
    return "".join(
        f'<td class="right"{_width(width)}>{_score(score, table.seeds, run_of)}</td>'
        for score, width in zip(row.scores, widths, strict=True)
    )


def _score(score: Score | None, seeds: int, run_of: RunOf) -> str:
    if score is None:
        return f'<span class="none">{MISSING}</span>'
    mean, spread, marks = score.parts(seeds)
    runs = escape(" ".join(run_of(source.run) for source in score.sources))
    values = " ".join(f"{source.seed}:{source.value:.4f}" for source in score.sources)
    interval = score.interval()
    text = f"<b>{mean}</b>" if score.best else mean
    text += f"<small>{escape(spread)}</small>" + (f"<sup>{marks}</sup>" if marks else "")
    return (
        f'<button type="button" class="n" data-runs="{runs}" data-values="{values}"'
        + (f' data-interval="{interval}"' if interval else "")
        + f">{text}</button>"
    )


def _width(width: object) -> str:
    return f' data-w="{float(width):g}"' if isinstance(width, (int, float)) else ""
