"""What is averaged differs in the seed alone: runs and scores of one cell that differ in more are told apart, by what differs.

Runs of one cell are compared by their resolved configs (:mod:`rundir.experiment`), scores by what else their records say.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rundir.experiment import defaults, listed
from rundir.schema import State

CELL = ["grid", "preset", "setting", "cell"]
SCORES = ["grid", "preset", "setting", "task", "dataset", "metric", "score", "label_fraction", "model", "schedule", "variant"]
SLOT = ["width", "initial"]
_SEED_AND_HASH = re.compile(r"-s\d+-[0-9a-f]{8}$")


def of_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """``runs`` with ``setting`` and ``trained`` naming what they differ in: where these are equal, the seed alone differs.

    Columns used: ``CELL``, run, state, started, and ``alike``, ``others``, ``overrides`` of :func:`rundir.reading.read_run`. A run
    is named by what its launch changed where that is recorded; else by how it differs from the cell's first finished run.
    """
    labels = pd.Series("", index=runs.index, dtype=object)
    alike, learns = runs["alike"], runs["others"].ne("")
    for part in (runs[~learns], runs[learns]):  # what a run learned from is named before it
        if part["others"].ne("").any():
            names = dict(zip(runs["run"], labels, strict=True))
            alike = alike.where(~learns, [_with_others(*both, names) for both in zip(runs["alike"], runs["others"], strict=True)])
        part = part.assign(alike=alike[part.index])
        part = part.assign(named=part["overrides"].fillna("").ne(""))
        cells = part.groupby(CELL)
        for _, cell in part[cells["alike"].transform("nunique").gt(1) | cells["named"].transform("any")].groupby(CELL):
            labels[cell.index] = _labels(cell)
    suffix = labels.where(labels.eq(""), ", " + labels)
    return runs.assign(setting=runs["setting"] + suffix, trained=runs["trained"] + suffix)


def _with_others(alike: str, others: str, labels: Mapping[str, str]) -> str:
    """``alike`` with the runs that were learned from, by name without seed and hash; those that are known with what names them."""
    found = {
        key: _SEED_AND_HASH.sub("", run) + (f" ({labels[run]})" if labels.get(run) else "")
        for key, run in (json.loads(others) if others else {}).items()
    }
    return json.dumps({**json.loads(alike), **found}, sort_keys=True)


def _labels(cell: pd.DataFrame) -> pd.Series:
    """What names each run of one cell; equal exactly for runs that are alike."""
    cell = cell.assign(alike=_identified(cell["alike"]))
    order = cell.assign(_open=cell["state"].ne(State.DONE), _when=cell["started"].fillna("")).sort_values(["_open", "_when", "run"])
    said: dict[str, str | None] = {}  # what the launches of runs that are alike say, the least of it; None: nothing is recorded
    for alike, overrides in zip(order["alike"], order["overrides"], strict=True):
        known = [text for text in (said.get(alike), overrides) if text is not None]
        said[alike] = min(known, key=lambda text: (len(text), text)) if known else None
    named: dict[str, str] = {}  # by text
    for alike in sorted(said, key=lambda alike: (said[alike] or "") != ""):
        text = said[alike] or ""
        if text in named:
            text = ", ".join(filter(None, [text, _difference(json.loads(alike), json.loads(named[text]))]))
        named[_new(text, alike, named)] = alike
    texts = {alike: text for text, alike in named.items()}
    return cell["alike"].map(texts)


def _identified(alike: Sequence[str]) -> list[str]:
    """``alike`` of a cell's runs; one that does not say which images it learned from is taken to be as a run that does."""
    saying: dict[str, str] = {}
    without = []
    for said in alike:
        content = json.loads(said)
        images = content.pop("data.fingerprint", None)
        without.append(json.dumps(content, sort_keys=True))
        if images:
            saying.setdefault(without[-1], said)
    return [said if "data.fingerprint" in said else saying.get(rest, said) for said, rest in zip(alike, without, strict=True)]


def _new(text: str, of: object, taken: Mapping[str, Any]) -> str:
    """``text``, or with a hash of what it is ``of`` where other settings have the same words."""
    return text if text not in taken else f"{text} ({hashlib.sha256(repr(of).encode()).hexdigest()[:6]})"


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    known = defaults()
    keys = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key) or (key in one) != (key in other)}
    return listed({key: one.get(key, known.get(key)) for key in keys})


def of_scores(scores: pd.DataFrame) -> pd.Series:
    """What names each score's evaluation: ``variant``, and what else differs among scores that would share a table.

    Columns used: ``SCORES``, ``SLOT``, and ``rest`` and ``standard`` of :func:`rundir.reading.read_records`. Without a name is the
    grid's own evaluation where that is recorded, else that of most scores. What a record does not say is taken to be as in most
    others.
    """
    found = scores["variant"].copy()
    several = scores.groupby(SCORES, dropna=False)["rest"].transform("nunique").gt(1) if len(scores) else pd.Series(dtype=bool)
    for _, part in scores[several].groupby(SCORES, dropna=False):
        said = [json.loads(rest) for rest in part["rest"]]
        keys = _differing(said, list(part[SLOT].itertuples(index=False, name=None)))
        usual = {key: Counter(json.dumps(each[key]) for each in said if key in each).most_common(1)[0][0] for key in keys}
        chosen = [tuple(json.dumps(each[key]) if key in each else usual[key] for key in keys) for each in said]
        count = Counter(each for each, standard in zip(chosen, part["standard"], strict=True) if standard) or Counter(chosen)
        first = min(count, key=lambda each: (-count[each], each))
        named: dict[str, tuple] = {}
        for each in [first, *sorted(set(chosen) - {first})]:
            differs = {key: json.loads(own) for key, own, plain in zip(keys, each, first, strict=True) if own != plain}
            named[_new(listed(differs), each, named)] = each
        texts = {each: text for text, each in named.items()}
        found[part.index] = [
            ", ".join(filter(None, [variant, texts[each]])) for variant, each in zip(part["variant"], chosen, strict=True)
        ]
    return found


def _differing(said: Sequence[Mapping[str, Any]], slots: Sequence[tuple]) -> list[str]:
    """The settings that two scores of one slot say differently; what differs with the width alone does not tell scores apart."""
    seen: dict[tuple, set[str]] = {}
    for each, slot in zip(said, slots, strict=True):
        for name, value in each.items():
            seen.setdefault((name, *slot), set()).add(json.dumps(value))
    return sorted({name for (name, *_), values in seen.items() if len(values) > 1})
