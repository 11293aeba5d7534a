"""Which records are the same measurement: exactly those with all settings equal."""

import json

from hypothesis import given
from hypothesis import strategies as st

from rundir.directory import RunDirectory
from rundir.records import DEFAULTS, MEASURED, SETTINGS_DEFAULTS, identity

RECORD = {
    "task": "classification",
    "dataset": "digits",
    "metric": "linear_fast",
    "width": 0.5,
    "seed": 100,
    "value": 0.9,
    "chance": 0.1,
    "count": 500,
    "flops": 10,
    "parameters": 5,
    "latency_ms": 0.1,
    "latency_on": "a",
    "changed": {},
    "settings": {"weights": "0a1b", "size": 12, "limit": 0, "C": 1.0, "branch": "student"},
}
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5))
values = st.one_of(plain, st.lists(plain, max_size=3), st.dictionaries(st.text(max_size=3), plain, max_size=2))
names = st.one_of(st.sampled_from([*DEFAULTS, "task", "dataset", "metric", "width", "seed", "data"]), st.text(max_size=6))
places = names.filter(lambda name: name not in {*MEASURED, "settings"})
settings_names = st.one_of(st.sampled_from(["C", "k", "limit", "size", "epochs", "data", *SETTINGS_DEFAULTS]), st.text(max_size=6))


def same(one, other) -> bool:
    """As JSON compares: 1 and 1.0 are one number, 1 and true are two things."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other


@given(settings_names, values, values)
def test_records_that_differ_in_a_setting_are_two_and_equal_ones_are_one(name, one, other):
    pair = [RECORD | {"settings": RECORD["settings"] | {name: value}} for value in (one, other)]
    assert (identity(pair[0]) == identity(pair[1])) == same(one, other)


@given(places, values, values)
def test_records_of_different_places_are_two(name, one, other):
    assert (identity(RECORD | {name: one}) == identity(RECORD | {name: other})) == same(one, other)


@given(st.dictionaries(st.sampled_from(MEASURED), values))
def test_what_was_measured_does_not_count(measured):
    assert identity(RECORD | measured) == identity(RECORD)


@given(st.data())
def test_a_record_from_disk_in_any_order_is_the_same(data):
    record = RECORD | {"settings": RECORD["settings"] | data.draw(st.dictionaries(settings_names, values, max_size=3))}
    shuffled = dict(data.draw(st.permutations(list(record.items()))))
    assert identity(json.loads(json.dumps(shuffled))) == identity(record)


def test_what_an_old_record_does_not_say_is_the_default():
    said = RECORD | DEFAULTS | {"settings": RECORD["settings"] | SETTINGS_DEFAULTS}
    assert identity(said) == identity(RECORD)
    assert identity(RECORD | {"label_fraction": True}) != identity(RECORD)  # which equals 1.0 in Python


@given(st.lists(st.tuples(st.sampled_from([1.0, 0.01]), st.sampled_from([0, 20]), st.floats(0, 1)), min_size=1, max_size=6))
def test_a_run_directory_keeps_the_newest_of_each(tmp_path_factory, entries):
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    for c, limit, value in entries:
        run.add_records([RECORD | {"value": value, "settings": RECORD["settings"] | {"C": c, "limit": limit}}])
    expected = {}
    for c, limit, value in entries:
        expected.pop((c, limit), None)
        expected[c, limit] = value
    assert [((r["settings"]["C"], r["settings"]["limit"]), r["value"]) for r in run.records()] == list(expected.items())
