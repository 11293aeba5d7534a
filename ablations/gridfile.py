"""Grid files: which cells exist, and the title, columns, rows and claims of their table, in one YAML file (docs/extending.md).

``title``; ``columns`` of the table (those in ``details`` are dropped where a terminal is narrow); ``cost: true`` for columns of
what training cost; ``words``: how rows name a factor's values, ``FACTOR: {value: words}``, and further placeholders made of
factors, ``NAME: {"{a}-{b}": {value: words}}``; ``claims`` (:mod:`results.claims.schema`); and ``cells``.

An entry of ``cells`` has a ``name`` with ``{factor}`` placeholders, ``factors`` (name -> list of values, every combination is a
cell; or a list of combinations), ``recipe`` (of ``pretrain/recipes``; what follows changes it), ``set`` (config key -> value,
with placeholders), ``by`` (factor -> value -> further settings) and ``needs``: the cell whose run, of the same seed, must be
trained first; ``{needs}`` in a setting is its directory. ``flops_of`` names a cell whose training takes as many FLOPs: the epochs
of this one are chosen so (to half an epoch). ``where`` names what the network or the launch must have for these cells, of
``batch_norm``, ``patches`` (a ViT) and ``several_widths``; where that is missing they are left out unless they are asked for by
name. A factor's values or a setting may be ``$widths``, the list of evaluation widths from wide to narrow; a setting may be one of
them, ``$widths[0]`` or ``$widths[-1]``, or ``$epochs/N``, a part of the training, rounded down.

``row`` says what the cell is in the table: ``labels`` (one per column; ``{section.key}`` is that setting of the runs),
``section``, ``name`` (the row alone, default its labels), ``short`` (within a ``panel`` of a picture, default the section). Cells
with the same section and labels are one row, and each says with ``width`` which one it serves. ``paper`` is the published method
that the row reproduces (results/paper), ``against`` the cell of one slimmable network that the networks of this row, one per
width, are compared with (these two use the values of factors, not words). Without ``columns`` a table has a row per cell, its
factors as columns.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.claims.schema import read_claims
from rundir.errors import UserError, suggestion
from rundir.experiment import defaults
from rundir.files import read_yaml
from rundir.manifest import GridManifest, GridRow

GRIDS = Path(__file__).parent / "grids"
NEEDS = "{needs}"  # stays in a setting until the seed, and so the run directory, is known
CONDITIONS = ("batch_norm", "patches", "several_widths")
MOST_CELLS = 10_000
FILE_KEYS = {"title": str, "columns": list, "details": list, "cost": bool, "words": dict, "cells": list, "claims": list}
ENTRY_KEYS = {
    "name": str,
    "factors": (dict, list),
    "recipe": str,
    "set": dict,
    "by": dict,
    "needs": str,
    "flops_of": str,
    "where": list,
    "row": dict,
}
ROW_KEYS = {
    "labels": list,
    "section": str,
    "name": str,
    "short": str,
    "panel": str,
    "width": (str, int, float),
    "paper": str,
    "against": str,
}
_KINDS = {
    str: "text",
    list: "a list",
    dict: "a mapping",
    bool: "true or false",
    (dict, list): "a mapping or a list",
    (str, int, float): "a width",
}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9][\w.+=-]*", re.ASCII)


@dataclass(frozen=True)
class CellRow:
    """What a cell is in the table of its grid, every placeholder filled in but for settings of runs."""

    section: str
    labels: tuple[str, ...]
    name: str
    short: str
    panel: str
    width: float | None = None
    paper: str = ""
    against: str = ""


@dataclass(frozen=True)
class Cell:
    """One experiment of a grid: its name, the ``key=value`` settings that make it, and its row."""

    name: str
    overrides: tuple[str, ...]
    row: CellRow
    needs: str = ""
    where: tuple[str, ...] = ()
    flops_of: str = ""


@dataclass(frozen=True)
class GridFile:
    """A grid file whose form has been checked; what depends on the launch's widths is found by :meth:`cells`."""

    name: str
    path: Path
    content: dict[str, Any]

    def fault(self, text: str) -> UserError:
        """An error of this file."""
        return UserError(f"{self.path}: {text}")

    def cells(self, widths: Sequence[float], epochs: int) -> list[Cell]:
        """The cells, in the order of the file, for these evaluation widths and a training of ``epochs``. Raises UserError."""
        found: dict[str, Cell] = {}
        for place, entry in enumerate(self.content["cells"], start=1):
            for cell in _Entry(self, entry, place, sorted(widths, reverse=True), epochs).cells():
                if found.setdefault(cell.name, cell) != cell:
                    raise self.fault(f"cell {cell.name} is there twice, with different content; use every factor in its name")
                if len(found) > MOST_CELLS:
                    raise self.fault(f"more than {MOST_CELLS:,} cells; use fewer values of the factors")
        self._check_links(found)
        _check_used(self)
        # Whatever the widths: a claim about the network trained at 1.0 is no mistake where that is not asked for.
        at_any_width = [name.replace(str(width), "*") for name in found for width in widths if str(width) in name]
        read_claims(self.content.get("claims"), self.name, str(self.path), dict.fromkeys([*found, *at_any_width]))
        return list(found.values())

    def manifest(self, cells: Sequence[Cell], profile: str = "", setting: str = "", command: str = "") -> GridManifest:
        """What ``grid.json`` holds: rows of one section together, sections in the order of their first row. Raises UserError."""
        rows: dict[tuple[str, tuple[str, ...]], list[Cell]] = {}
        for cell in cells:
            rows.setdefault((cell.row.section, cell.row.labels), []).append(cell)
        sections = list(dict.fromkeys(section for section, _ in rows))
        made = tuple(self._row(rows[key]) for section in sections for key in rows if key[0] == section)
        return GridManifest(
            self.name,
            self.content["title"],
            tuple(self.columns),
            made,
            tuple(self.content.get("details", [])),
            self.content.get("cost", False),
            tuple(self.content.get("claims", [])),
            profile,
            setting,
            command,
        )

    @property
    def columns(self) -> list[str]:
        """Headings of the table's text columns."""
        return self.content.get("columns") or ["Cell", *self.factors]

    @property
    def factors(self) -> list[str]:
        """The factors of all entries, in order."""
        return list(dict.fromkeys(name for entry in self.content["cells"] for name in _factor_names(entry)))

    def _row(self, cells: Sequence[Cell]) -> GridRow:
        row, widths = cells[0].row, {cell.name: cell.row.width for cell in cells}
        if len(cells) > 1 and (None in widths.values() or len(set(widths.values())) < len(cells)):
            first, second = list(widths)[:2]
            raise self.fault(
                f"cells {first} and {second} have the same section and labels; give them different labels, or set "
                "row.width, a different one for each, where each serves one width of the row"
            )
        return GridRow(row.section, row.labels, row.short, widths, row.name, row.panel, row.paper, row.against)

    def _check_links(self, cells: Mapping[str, Cell]) -> None:
        for cell in cells.values():
            for key, other in (("needs", cell.needs), ("flops_of", cell.flops_of), ("row.against", cell.row.against)):
                if other and other not in cells:
                    raise self.fault(f"cell {cell.name}: {key} is {other}, which is no cell; {suggestion(other, cells)}")
            seen = [cell.name]
            while (other := cells[seen[-1]].needs) and other not in seen:
                seen.append(other)
            if other:
                raise self.fault(f"cells need each other in a circle: {' -> '.join([*seen, other])}; remove one needs")


def grids() -> list[str]:
    """Names of the grids that come with the project."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def _instead(path: Path) -> str:
    """What to set instead of a grid file that is not there: one like it, in its folder or of this project's own."""
    beside = [str(file) for pattern in ("*.yaml", "*.yml") for file in sorted(path.parent.glob(pattern))]
    shipped = [path.stem] if path.stem in grids() else []
    near = shipped or difflib.get_close_matches(str(path), beside, n=1)
    return f"did you mean {near[0]}?" if near else f"set --grid to a file that exists, or to one of {', '.join(grids())}"


def load(grid: str) -> GridFile:
    """The grid of that name, or the user's own file where ``grid`` is a path or ends in ``.yaml``.

    Raises:
        UserError: there is no such grid or file, or it is not as the head of this module says.
    """
    own = grid.endswith((".yaml", ".yml")) or os.sep in grid
    if not own and grid not in grids():
        file = f"; for a file of your own set --grid {grid}.yaml" if Path(f"{grid}.yaml").exists() else ""
        raise UserError(f"unknown grid {grid!r}; {suggestion(grid, grids())}{file}")
    path = Path(grid) if own else GRIDS / f"{grid}.yaml"
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"there is no grid file {path}; {_instead(path)}") from None
    if not _NAME.fullmatch(path.stem):
        raise UserError(
            f"{path}: the grid is named after its file, and runs go into a directory of that name; use letters, "
            "digits, '-', '_' and '.' only"
        )
    return _checked(GridFile(path.stem, path, content))


def _checked(file: GridFile) -> GridFile:
    content = file.content
    if not isinstance(content, dict):
        raise file.fault("not a mapping; a grid file has cells, and usually title, columns, words and claims")
    _check_keys(file, content, FILE_KEYS, "")
    content.setdefault("title", file.name)
    if not content.get("cells"):
        raise file.fault("no cells; add a list of entries, each with a name and set")
    for key in ("columns", "details"):
        if not all(isinstance(text, str) and text for text in content.get(key, [])):
            raise file.fault(f"{key} must be a list of headings")
    for text in content.get("details", []):
        if text not in content.get("columns", []):
            raise file.fault(f"details: {text} is no column; {suggestion(text, content.get('columns', []))}")
    for place, entry in enumerate(content["cells"], start=1):
        if not isinstance(entry, dict) or not entry.get("name"):
            raise file.fault(f"entry {place} of cells must be a mapping with a name")
        _check_keys(file, entry, ENTRY_KEYS, f"{_shown(entry['name'])}: ")
        _check_keys(file, entry.get("row", {}), ROW_KEYS, f"{_shown(entry['name'])}: ", "row.")
    _check_words(file)
    read_claims(content.get("claims"), file.name, str(file.path))
    return file


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _check_keys(file: GridFile, content: Mapping[str, Any], known: Mapping[str, Any], where: str, prefix: str = "") -> None:
    for key, value in content.items():
        if key not in known:
            raise file.fault(f"{where}unknown key {prefix}{_shown(key)}; {suggestion(key, known)}")
        if not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is not bool):
            raise file.fault(f"{where}{prefix}{key} is {_shown(value)!r}, but must be {_KINDS[known[key]]}")


def _check_words(file: GridFile) -> None:
    for name, table in file.content.get("words", {}).items():
        tables = list(table.values()) if isinstance(table, dict) else []
        derived = len(tables) == 1 and isinstance(tables[0], dict)
        words = tables[0].values() if derived else tables
        if not tables or not all(isinstance(word, (str, int, float)) for word in words):
            raise file.fault(f'words.{name} must be {{value: words}} of a factor, or {{"{{factor}}-{{factor}}": {{value: words}}}}')
        if not derived and name not in file.factors:
            raise file.fault(f"words.{name}: no cell has a factor {name}; {suggestion(name, file.factors)}")


def _check_used(file: GridFile) -> None:
    """Everything that ``words`` has words for is a value that cells have: a factor's, or factors filled into a template. What
    depends on the launch's widths is left alone.
    """
    for name, table in file.content.get("words", {}).items():
        (template, inner), *_ = table.items()
        template, words = (str(template), inner) if isinstance(inner, dict) else (f"{{{name}}}", table)
        values = _filled(file, template)
        unused = next((word for word in map(_word, words) if word not in values), None) if values else None
        if unused is not None:
            instead = suggestion(unused, sorted(values), otherwise=f"the cells have {', '.join(sorted(values))}")
            raise file.fault(f"words.{name} has words for {_shown(unused)}, which no cell has; {instead}")


def _filled(file: GridFile, template: str) -> set[str]:
    """``template`` with the factors of every cell; empty where one of them is of the launch's widths."""
    needed, found = sorted(set(_PLACEHOLDER.findall(template))), set()
    for entry in file.content["cells"]:
        if not set(needed) <= set(_factor_names(entry)):
            continue
        factors = entry["factors"]
        if isinstance(factors, list):
            chosen = [[each[factor] for factor in needed] for each in factors]
        elif "$widths" in (lists := [factors[factor] for factor in needed]):
            return set()
        else:
            chosen = [list(values) for values in itertools.product(*lists)]
        plain = [dict(zip(needed, map(_word, values), strict=True)) for values in chosen]
        found |= {_PLACEHOLDER.sub(lambda place, each=each: each[place[1]], template) for each in plain}  # type: ignore[misc]
    return found


def _factor_names(entry: Mapping[str, Any]) -> list[str]:
    factors = entry.get("factors", {})
    if isinstance(factors, list):
        return list(factors[0]) if factors and isinstance(factors[0], dict) else []
    return list(factors)


class _Entry:
    """One entry of ``cells``, expanded."""

    def __init__(self, file: GridFile, content: Mapping[str, Any], place: int, widths: list[float], epochs: int):
        self.file, self.content, self.widths, self.epochs = file, content, widths, epochs
        self.where = f"{_shown(content['name'])}: "

    def cells(self) -> list[Cell]:
        """A cell for each combination of the factors."""
        combinations = self._combinations()
        self._check_by(combinations)
        unknown = [name for name in self.content.get("where", []) if name not in CONDITIONS]
        if unknown:
            raise self._fault(f"where: {_shown(unknown[0])} is not known; {suggestion(unknown[0], CONDITIONS)}")
        return [self._cell(chosen) for chosen in combinations]

    def _fault(self, text: str) -> UserError:
        return self.file.fault(self.where + text)

    def _combinations(self) -> list[dict[str, Any]]:
        factors = self.content.get("factors", {})
        if isinstance(factors, list):
            if not factors or not all(isinstance(each, dict) and each.keys() == factors[0].keys() for each in factors):
                raise self._fault("factors, as a list, must hold mappings that all have the same factors")
            found = [dict(each) for each in factors]
        else:
            lists = {name: self.widths if values == "$widths" else values for name, values in factors.items()}
            if wrong := [name for name, values in lists.items() if not isinstance(values, list) or not values]:
                raise self._fault(f"factor {_shown(wrong[0])} must be a list of values, or $widths")
            number = 1
            for values in lists.values():
                number *= len(values)
            if number > MOST_CELLS:
                raise self._fault(f"the factors have {number:,} combinations; use at most {MOST_CELLS:,}")
            found = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
        for chosen in found:
            for name, value in chosen.items():
                if not isinstance(name, str) or not name.isidentifier() or name == "needs":
                    raise self._fault(f"{_shown(name)} is no name for a factor; use letters, digits and '_'")
                if not isinstance(value, (str, int, float)):
                    raise self._fault(f"factor {name} has the value {_shown(value)}; use text or numbers")
        return found

    def _check_by(self, combinations: Sequence[Mapping[str, Any]]) -> None:
        for factor, table in self.content.get("by", {}).items():
            if factor not in combinations[0]:
                raise self._fault(f"by.{_shown(factor)}: no such factor; {suggestion(factor, combinations[0], otherwise='add it')}")
            values = {_word(chosen[factor]) for chosen in combinations}
            if not isinstance(table, dict) or not all(isinstance(settings, dict) for settings in table.values()):
                raise self._fault(f"by.{factor} must be {{value: {{key: value}}}}")
            if other := [value for value in table if _word(value) not in values]:
                raise self._fault(f"by.{factor}: {_shown(other[0])} is not a value of it; {suggestion(other[0], sorted(values))}")

    def _cell(self, chosen: dict[str, Any]) -> Cell:
        content, plain = self.content, {name: _word(value) for name, value in chosen.items()}
        settings = ({"experiment.recipe": content["recipe"]} if "recipe" in content else {}) | content.get("set", {})
        for factor, table in content.get("by", {}).items():
            settings |= next((more for value, more in table.items() if _word(value) == plain[factor]), {})
        name = self._fill(content["name"], plain, "name")
        if not _NAME.fullmatch(name):
            raise self._fault(f"cell name {_shown(name)!r}: run directories are named so; use letters, digits, '-', '_', '.' only")
        overrides = tuple(f"{key}={self._setting(key, value, plain)}" for key, value in settings.items())
        return Cell(
            name,
            overrides,
            self._row(name, plain),
            self._fill(content.get("needs", ""), plain, "needs"),
            tuple(content.get("where", ())),
            self._fill(content.get("flops_of", ""), plain, "flops_of"),
        )

    def _setting(self, key: object, value: object, plain: Mapping[str, str]) -> object:
        if not isinstance(key, str):
            raise self._fault(f"set has the key {_shown(key)}; use a key of the config, such as optimizer.epochs")
        if isinstance(value, dict):
            raise self._fault(f'{key} is a mapping; put a placeholder in quotes, as in {key}: "{{factor}}"')
        if not isinstance(value, str):
            return value
        if value == "$widths":
            return "[" + ",".join(map(str, self.widths)) + "]"
        if found := re.fullmatch(r"\$widths\[(0|-1)\]", value):
            return self.widths[int(found[1])]
        if (found := re.fullmatch(r"\$epochs/(\d+)", value)) and int(found[1]):
            return self.epochs // int(found[1])
        if value.startswith("$"):
            raise self._fault(f"{key}: {_shown(value)} is not known; use $widths, $widths[0], $widths[-1] or $epochs/N")
        known = {**plain, "needs": NEEDS} if self.content.get("needs") else plain
        return self._fill(value, known, key)

    def _fill(self, template: str, known: Mapping[str, str], key: str) -> str:
        def text(found: re.Match) -> str:
            if found[1] not in known:
                names = [f"{{{name}}}" for name in known]
                otherwise = "there are no factors here" if not names else ""
                raise self._fault(f"{key}: nothing gives the placeholder {found[0]}; " + (otherwise or suggestion(found[0], names)))
            return known[found[1]]

        filled = _PLACEHOLDER.sub(text, template)
        if "{" in _PLACEHOLDER.sub("", template) or "}" in _PLACEHOLDER.sub("", template):
            raise self._fault(f"{key}: {_shown(template)} has a brace without its partner")
        return filled

    def _row(self, cell: str, plain: Mapping[str, str]) -> CellRow:
        row, columns = self.content.get("row", {}), self.file.content.get("columns")
        if columns and "labels" not in row:
            raise self._fault(f"the table has the columns {', '.join(columns)}, but row.labels is missing; set one per column")
        if not columns and "labels" in row:
            raise self._fault("row has labels, but the file has no columns; add columns, a heading per label")
        known = self._words(plain)
        if columns:
            labels = self._labels(row["labels"], known)
        else:
            labels = (cell, *(known.get(name, "") for name in self.file.factors))
        texts = {key: self._fill(row[key], known, f"row.{key}") for key in ("section", "name", "short", "panel") if key in row}
        texts |= {key: self._fill(row[key], {**known, **plain}, f"row.{key}") for key in ("paper", "against") if key in row}
        section = texts.get("section", "")
        said = ", ".join(label for label in labels if label and not _PLACEHOLDER.search(label)) if columns else ""
        name = texts.get("name") or said or cell
        width = None if "width" not in row else self._width(self._fill(str(row["width"]), plain, "row.width"))
        return CellRow(
            section,
            labels,
            name,
            texts.get("short", name),
            texts.get("panel", section),
            width,
            texts.get("paper", ""),
            texts.get("against", ""),
        )

    def _labels(self, labels: Sequence[Any], known: Mapping[str, str]) -> tuple[str, ...]:
        columns = self.file.content["columns"]
        if len(labels) != len(columns):
            raise self._fault(
                f"row.labels has {len(labels)} texts for {len(columns)} columns; set one for each of "
                f'{", ".join(columns)} ("" for none)'
            )
        of_runs = {key: f"{{{key}}}" for key in defaults()}
        filled = []
        for label in labels:
            if not isinstance(label, (str, int, float)):
                raise self._fault(f"row.labels: {_shown(label)} is no text; put a placeholder in quotes")
            dotted = any("." in name for name in _PLACEHOLDER.findall(str(label)))
            filled.append(self._fill(_word(label), {**known, **of_runs} if dotted else known, "row.labels"))
        return tuple(filled)

    def _words(self, plain: Mapping[str, str]) -> dict[str, str]:
        """What a row's placeholders stand for: the factors in words, and what the file makes of them."""
        known = dict(plain)
        for name, table in self.file.content.get("words", {}).items():
            (template, inner), *_ = table.items()
            if not isinstance(inner, dict):
                words = {_word(value): _word(word) for value, word in table.items()}
                known |= {name: words.get(plain[name], plain[name])} if name in plain else {}
                continue
            if not set(_PLACEHOLDER.findall(str(template))) <= plain.keys() or not self._uses(name):
                continue
            value = self._fill(str(template), plain, f"words.{name}")
            words = {_word(key): _word(word) for key, word in inner.items()}
            if value not in words:
                raise self._fault(f"words.{name} has no words for {value}; {suggestion(value, words)}")
            known[name] = words[value]
        return known

    def _uses(self, name: str) -> bool:
        return f"{{{name}}}" in str(self.content.get("row", {}))

    def _width(self, text: str) -> float:
        try:
            width = float(text)
        except ValueError:
            width = 0.0
        if not 0 < width <= 1:
            raise self._fault(f"row.width is {_shown(text)}, not a width above 0 and at most 1")
        return width


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
