"""The list of claims, claims.yaml: read and checked. Its head explains the keys."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from results.effects import AT, OUTCOMES, UNITS
from results.statistics import TESTS
from rundir.errors import UserError, first_line
from rundir.schema import CLAIMS_FORMAT

CLAIMS = Path(__file__).with_name("claims.yaml")
MEASURES = set(UNITS)
OTHER_TESTS = ("exact", "over_cells", "binomial")  # counted, no chance involved; of a correlation over cells; of a share of seeds
_REQUIRED = {"score": {"better", "than", "at"}, "train_flops": {"better", "than"}, "train_seconds": {"better", "than"},
             "diagnostic": {"better", "than", "better_name", "than_name"}, "correlation": {"name", "cells"},
             "collapse": {"cells", "outcome"}}
_OPTIONAL = {"score": {"task", "dataset", "metric", "every", "widths"}, "correlation": {"task", "dataset", "metric"}}
# Measures that only one test fits, and the other way round.
_TEST_OF = {"correlation": "over_cells", "collapse": "binomial"}


@dataclass(frozen=True)
class Claim:
    """One statement; ``how`` holds what its measure needs (better, than, at, task, dataset, metric, names, cells)."""

    id: str
    statement: str
    grid: str
    measure: str
    minimum: float
    test: str
    command: str
    how: dict[str, Any]

    @property
    def about(self) -> str:
        """The recipes and cells that it is about, in words."""
        if "cells" in self.how:
            text = ", ".join(self.how["cells"])
        else:
            better, than = (", ".join(self.how[side]) for side in ("better", "than"))
            each = {side: "each of " if self.how.get("every") == side else "" for side in ("better", "than")}
            text = f"{each['better']}{better} against {each['than']}{than}"
        return text + (f", on {self.how['arch']}" if "arch" in self.how else "")

    def suits(self, arch: str) -> bool:
        """Whether it is about networks of architecture ``arch``."""
        return fnmatchcase(arch, self.how.get("arch", "*"))


def load_claims(path: Path = CLAIMS) -> tuple[list[Claim], float]:
    """The claims and the level of the tests. Raises :class:`UserError` where the file is not as documented."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if content["format"] != CLAIMS_FORMAT:
            raise UserError(f"{path} has format {content['format']!r}, this version reads format {CLAIMS_FORMAT}")
        found = [_claim(dict(entry), path) for entry in content["claims"]]
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no list of claims ({first_line(error)}); see results/claims.yaml") from None
    twice = [claim.id for claim in found if sum(other.id == claim.id for other in found) > 1]
    if twice:
        raise UserError(f"{path}: the id {twice[0]} is there twice; give each claim its own")
    return found, float(content["level"])


def _claim(entry: dict[str, Any], path: Path) -> Claim:
    plain = {name: str(entry.pop(name)) for name in ("id", "statement", "grid", "measure", "test", "command")}
    minimum = float(entry.pop("minimum"))
    if plain["measure"] not in MEASURES:
        raise UserError(f"{path}, {plain['id']}: measure {plain['measure']}; write one of {', '.join(sorted(MEASURES))}")
    if plain["test"] not in {*TESTS, *OTHER_TESTS}:
        raise UserError(f"{path}, {plain['id']}: test {plain['test']}; write one of {', '.join([*TESTS, *OTHER_TESTS])}")
    missing = _REQUIRED[plain["measure"]] - set(entry)
    if missing:
        raise UserError(f"{path}, {plain['id']}: a claim about {plain['measure']} needs {', '.join(sorted(missing))}")
    _check_how(plain, minimum, entry, f"{path}, {plain['id']}")
    return Claim(**plain, minimum=minimum, how=entry)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) and value else [None]


def _check_how(plain: dict[str, str], minimum: float, how: dict[str, Any], where: str) -> None:
    known = _REQUIRED[plain["measure"]] | _OPTIONAL.get(plain["measure"], set()) | {"arch"}
    unknown = sorted(set(how) - known)
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]}; a claim about {plain['measure']} has "
                               f"{', '.join(sorted(known))}")
    for name in {"better", "than", "cells"} & set(how):
        if not isinstance(how[name], list) or not how[name]:
            raise UserError(f"{where}: {name} is a list of cells; write {name}: [{how[name]}]")
    if "at" in how and how["at"] not in AT:
        raise UserError(f"{where}: at {how['at']}; write one of {', '.join(AT)}")
    if how.get("every", "better") not in ("better", "than"):
        raise UserError(f"{where}: every is {how['every']!r}; set it to better or than, or leave it out")
    if not all(isinstance(width, (int, float)) and 0 < width <= 1 for width in _listed(how.get("widths", [1.0]))):
        raise UserError(f"{where}: widths is {how['widths']}, not a list of widths; set for example widths: [0.875, 0.625]")
    if "outcome" in how and how["outcome"] not in OUTCOMES:
        raise UserError(f"{where}: outcome {how['outcome']}; set one of {', '.join(OUTCOMES)}")
    if plain["test"] not in ((_TEST_OF[plain["measure"]],) if plain["measure"] in _TEST_OF else (*TESTS, "exact")):
        raise UserError(f"{where}: test {plain['test']} does not fit a claim about {plain['measure']}; over_cells is the "
                               f"test of correlations, binomial that of collapse, {' and '.join(TESTS)} are those of others")
    if how.get("every") and plain["test"] not in TESTS:
        raise UserError(f"{where}: every cell is tested by {' or '.join(TESTS)}; set test to one of these")
    if plain["test"] == "over_cells" and minimum:
        raise UserError(f"{where}: over_cells tests a correlation against none; write minimum: 0")
    try:
        plain["command"].format(profile="digits")
    except (KeyError, IndexError, ValueError):
        raise UserError(f"{where}: of what stands in braces in command only {{profile}} is known") from None
