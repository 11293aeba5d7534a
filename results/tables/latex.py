"""A table in LaTeX, with booktabs."""

from __future__ import annotations

from results.tables.render import AT_CHANCE, COLLAPSED, MISSING, OLDER, YES, Score, Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    AT_CHANCE: r"\dag{}",
    COLLAPSED: r"\ddag{}",
    OLDER: r"\S{}",
    YES: r"$\checkmark$",
    MISSING: "---",
    "–": "--",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "→": r"$\rightarrow$",
    "\n": " ",
}


def latex_escape(text: str) -> str:
    """``text`` for LaTeX's text mode."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(table: Table, intervals: bool = False) -> str:
    """A booktabs ``table`` environment to \\input; the packages it needs are named in its first line.

    ``intervals``: with the 95 % interval of each mean behind it.
    """
    left, right, header = len(table.columns), len(table.value_names), latex_escape(table.value_header)
    align = "".join(column.align[0] for column in table.columns) + "r" * right
    names = [*(column.name for column in table.columns), *table.value_names]
    lines = [
        r"% \usepackage{booktabs,amssymb,graphicx}",
        r"\begin{table*}[t]",
        r"  \centering",
        rf"  \caption{{{latex_escape(table.title + '. ' + table.caption)}}}",
        rf"  \label{{tab:{table.name}}}",
        r"  \smallskip\setlength{\tabcolsep}{4pt}",
        # These shrink only a table that is too high or too wide for the page.
        r"  \resizebox*{!}{\ifdim\totalheight>.8\textheight .8\textheight\else\totalheight\fi}{%",
        r"  \resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{align}}}",
        r"    \toprule",
        *(
            [
                rf"    \multicolumn{{{left}}}{{c}}{{}} & \multicolumn{{{right}}}{{c}}{{{header}}} \\",
                rf"    \cmidrule(l){{{left + 1}-{left + right}}}",
            ]
            if right
            else []
        ),
        "    " + " & ".join(latex_escape(name) for name in names) + r" \\",
        r"    \midrule",
    ]
    for index, row in enumerate(table.rows):
        if index and row.section != table.rows[index - 1].section:
            lines.append(r"    \midrule")
        cells = [latex_escape(label) for label in row.labels]
        cells += [_latex_score(score, table.seeds, intervals) for score in row.scores]
        lines.append("    " + " & ".join(cells) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}}}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _latex_score(score: Score | None, seeds: int, intervals: bool) -> str:
    if score is None:
        return latex_escape(MISSING)
    mean, spread, marks = score.parts(seeds)
    # \rlap: a mark takes no room, so that the numbers stay aligned.
    mark = rf"\rlap{{\textsuperscript{{{latex_escape(marks)}}}}}" if marks else ""
    # The braces keep the bracket from being taken for an option of the line end before it.
    interval = f" {{{score.interval()}}}" if intervals and score.interval() else ""
    return (rf"\textbf{{{mean}}}" if score.best else mean) + latex_escape(spread) + mark + interval
