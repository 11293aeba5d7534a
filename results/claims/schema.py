"""A claim: what a grid says that its runs will show. The ``claims`` of a grid file, read and checked.

Each is a mapping with ``id``, ``statement``, ``measure`` and what that needs:

- score, points of a task's metric: ``better``, ``than``, ``at``; optional ``every``, ``widths``, ``task``, ``dataset``, ``metric``
- train_flops or train_seconds, % saved: ``better``, ``than``
- diagnostic, % lower, mean over epochs at the widest network: ``better``, ``than``, ``better_name``, ``than_name``
- correlation, Spearman's rho over cells between a diagnostic and the score at the narrowest width, minus that where lower values
  are said to be better: ``name``, ``cells``; optional ``direction`` (lower, the default, or higher), ``width`` (the diagnostic of
  that width after the last epoch, in place of the widest network's mean over epochs), ``task``, ``dataset``, ``metric``
- search, points of k-NN accuracy of the sub-networks that a strategy found, mean over budgets (docs/search.md): ``strategy``,
  ``against``; optional ``cells``, ``dataset``
- search_rank, Spearman's rho of a label-free score with k-NN accuracy over random sub-networks: ``name`` of the score; optional
  ``cells``, ``dataset``
- collapse, % of the seeds of ``cells`` whose narrowest width ends ``outcome``: collapsed, or not collapsed (docs/formats.md)

``better`` are the cells said to be ahead, ``than`` those compared with: names or patterns; several are averaged, each width for
itself, or with ``every: better`` (or than) each is compared and the weakest counts. ``at`` is all, narrowest, narrower (all widths
but the widest) or growth (the gain at the narrowest minus that at the widest); ``widths`` restricts the claim to these, ``arch`` to
networks of that name or pattern. ``minimum`` is the effect that has to be exceeded, default 0; below 0 it is a margin of
non-inferiority. With ``margin`` in its place the two sides are said to differ by less (equivalence). ``exact: true``: no chance is
involved. ``command`` is what makes the runs, where launching the grid is not enough; in it ``{profile}`` is the profile of the runs
at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from reprlib import repr as shortened
from typing import Any

from rundir.errors import UserError, suggestion

AT = ("all", "narrowest", "narrower", "growth")
OUTCOMES = ("collapsed", "not collapsed")
DIRECTIONS = ("lower", "higher")
SIDES = ("better", "than")
_REQUIRED = {
    "score": ("better", "than", "at"),
    "train_flops": SIDES,
    "train_seconds": SIDES,
    "diagnostic": (*SIDES, "better_name", "than_name"),
    "correlation": ("name", "cells"),
    "collapse": ("cells", "outcome"),
    "search": ("strategy", "against"),
    "search_rank": ("name",),
}
_OPTIONAL = {
    "score": ("every", "widths", "task", "dataset", "metric"),
    "search": ("cells", "dataset"),
    "search_rank": ("cells", "dataset"),
    "correlation": ("direction", "width", "task", "dataset", "metric"),
}
_COMMON = ("id", "statement", "measure", "minimum", "margin", "exact", "command", "arch")
_CELLS = (*SIDES, "cells")
_TEXTS = ("strategy", "against", "task", "dataset", "metric", "arch", "name", "better_name", "than_name")
_CHOICES = {"at": AT, "outcome": OUTCOMES, "every": SIDES, "direction": DIRECTIONS}
UNITS = {
    "score": "points",
    "train_flops": "% saved",
    "train_seconds": "% saved",
    "diagnostic": "% lower",
    "correlation": "(−rho)",
    "collapse": "% of seeds",
    "search": "points",
    "search_rank": "(rho)",
}


@dataclass(frozen=True)
class Claim:
    """One statement of ``grid``; ``how`` holds what its measure needs. ``margin`` is 0 but where two are said to be equivalent."""

    id: str
    statement: str
    grid: str
    measure: str
    how: dict[str, Any]
    minimum: float = 0.0
    margin: float = 0.0
    exact: bool = False
    command: str = ""

    @property
    def about(self) -> str:
        """The cells that it is about, in words."""
        if "strategy" in self.how:
            text = f"{self.how['strategy']} against {self.how['against']}"
        elif self.measure == "search_rank":
            text = f"{self.how['name']} against k-NN accuracy"
        elif "cells" in self.how:
            text = ", ".join(self.how["cells"])
        else:
            better, than = (("each of " if self.how.get("every") == side else "") + ", ".join(self.how[side]) for side in SIDES)
            text = f"{better} against {than}"
        return text + (f", on {self.how['arch']}" if "arch" in self.how else "")

    @property
    def asks(self) -> str:
        """What the effect has to be, in words; "" for more than nothing."""
        if self.margin:
            return f"within ±{self.margin:g}"
        return f"more than {self.minimum:g}" if self.minimum else ""

    @property
    def unit(self) -> str:
        """Of its effect."""
        return "(rho)" if self.how.get("direction") == "higher" else UNITS[self.measure]

    @property
    def by_seeds(self) -> bool:
        """Whether more seeds bring a decision nearer: not where cells are the sample."""
        return self.measure != "correlation"

    def suits(self, arch: str) -> bool:
        """Whether it is about networks of architecture ``arch``."""
        return fnmatchcase(arch, self.how.get("arch", "*"))


def read_claims(entries: Any, grid: str, source: str, cells: Iterable[str] | None = None, launch: str = "") -> list[Claim]:
    """The claims of ``grid``, from the list under ``claims`` in its file ``source``; none for None.

    launch: what launches the grid, without its profile; default that of a grid of this project.
    cells: names of all cells of the grid, or patterns of them, where they are known: a claim about none of them is wrong.

    Raises:
        UserError: an entry is not as documented; the line names the file, the claim and the key.
    """
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise UserError(f"{source}: claims is {shortened(entries)}, not a list; set claims: [{{id: ..., statement: ...}}, ...]")
    launch = launch or f"python ablations/run.py --grid {grid}"
    found = [
        _claim(entry, grid, f"{source}, claim {_name(entry, place)}", cells if cells is None else list(cells), launch)
        for place, entry in enumerate(entries, start=1)
    ]
    twice = next((claim.id for place, claim in enumerate(found) if claim.id in {other.id for other in found[:place]}), None)
    if twice is not None:
        raise UserError(f"{source}: two claims have the id {twice}; give each its own")
    return found


def _name(entry: Any, place: int) -> str:
    return entry["id"] if isinstance(entry, Mapping) and isinstance(entry.get("id"), str) else f"number {place}"


def _claim(entry: Any, grid: str, where: str, cells: Sequence[str] | None, launch: str) -> Claim:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} is {shortened(entry)}, not a mapping; set id, statement, measure and what it compares")
    for key in ("id", "statement", "measure"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise UserError(f"{where}: {key} is {shortened(entry.get(key))}, not a text; set {key}: ...")
    measure = entry["measure"]
    if measure not in UNITS:
        raise UserError(f"{where}: measure is {shortened(measure)}; {suggestion(measure, UNITS)}")
    _check_keys(entry, measure, where)
    for key, value in entry.items():
        _check_value(key, value, where)
    _check_together(entry, measure, where)
    how = {key: entry[key] for key in entry if key not in _COMMON or key == "arch"}
    for key in (key for key in _CELLS if key in how and cells is not None):
        for pattern in how[key]:
            if not any(fnmatchcase(cell, pattern) or fnmatchcase(pattern, cell) for cell in cells):
                otherwise = f"the cells are {', '.join(cells)}"
                raise UserError(
                    f"{where}: {key} names {pattern}, and no cell of this grid is called so; "
                    f"{suggestion(pattern, cells, otherwise=otherwise)}"
                )
    command = entry.get("command") or f"{launch} --profile {{profile}} --until decided"
    return Claim(
        entry["id"],
        " ".join(entry["statement"].split()),
        grid,
        measure,
        how,
        float(entry.get("minimum", 0)),
        float(entry.get("margin", 0)),
        entry.get("exact", False),
        " ".join(command.split()),
    )


def _check_keys(entry: Mapping[str, Any], measure: str, where: str) -> None:
    known = [*_COMMON, *_REQUIRED[measure], *_OPTIONAL.get(measure, ())]
    for key in entry:
        if key not in known:
            raise UserError(f"{where}: unknown key {key}; {suggestion(key, known)}")
    for key in _REQUIRED[measure]:
        if key not in entry:
            example = "[a cell]" if key in _CELLS else _CHOICES[key][0] if key in _CHOICES else "..."
            raise UserError(f"{where}: a claim about {measure} needs {key}; set {key}: {example}")


def _check_value(key: str, value: Any, where: str) -> None:
    if key in _CELLS and not (isinstance(value, list) and value and all(isinstance(cell, str) for cell in value)):
        example = value if isinstance(value, str) else "a cell"
        raise UserError(f"{where}: {key} is {shortened(value)}, not a list of cells; set {key}: [{example}]")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UserError(f"{where}: {key} is {shortened(value)}; {suggestion(value, _CHOICES[key])}")
    if key in _TEXTS and not isinstance(value, str):
        raise UserError(f"{where}: {key} is {shortened(value)}, not a text")
    if key in ("minimum", "margin") and (isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9):
        raise UserError(f"{where}: {key} is {shortened(value)}, not a number; set for example {key}: 0.5")
    if key == "margin" and value <= 0:
        raise UserError(f"{where}: margin is {value:g}; set it above 0, for example margin: 1")
    if key == "exact" and not isinstance(value, bool):
        raise UserError(f"{where}: exact is {shortened(value)}; set exact: true, or leave it out")
    if key == "widths" and not (
        isinstance(value, list)
        and value
        and all(isinstance(width, (int, float)) and not isinstance(width, bool) and 0 < width <= 1 for width in value)
    ):
        raise UserError(f"{where}: widths is {shortened(value)}, not a list of widths; set for example widths: [0.875, 0.625]")
    if key == "width" and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1):
        raise UserError(f"{where}: width is {shortened(value)}, not a width; set for example width: 0.25")
    if key == "command":
        try:
            value.format(profile="digits")
        except (AttributeError, LookupError, ValueError):
            raise UserError(f"{where}: command is {shortened(value)}; set a text with nothing but {{profile}} in braces") from None


def _check_together(entry: Mapping[str, Any], measure: str, where: str) -> None:
    if "margin" in entry and "minimum" in entry:
        raise UserError(
            f"{where}: minimum and margin are both set; set minimum for an effect that is exceeded, or margin for two "
            "sides that differ by less"
        )
    if measure == "correlation" and (entry.get("minimum") or "margin" in entry):
        raise UserError(f"{where}: a correlation is tested against none; leave out {'margin' if 'margin' in entry else 'minimum'}")
    if measure == "collapse" and ("margin" in entry or not 0 < entry.get("minimum", 0) < 100):
        raise UserError(
            f"{where}: collapse is tested against a share of seeds; set minimum above 0 and below 100, for example minimum: 50"
        )
    for key in ("margin", "every"):
        if entry.get("exact") and key in entry:
            raise UserError(f"{where}: exact and {key} do not go together; leave one out")
    if entry.get("exact") and measure in ("correlation", "collapse"):
        raise UserError(f"{where}: exact does not fit a claim about {measure}; leave it out")
