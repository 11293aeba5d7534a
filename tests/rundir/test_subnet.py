"""A sub-network as a value: printed and read again, its order among widths, and what is refused."""

from __future__ import annotations

import itertools
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rundir.subnet import Subnet, narrowest, parse_width, widest, width_key

WIDTHS = st.floats(1e-6, 1.0)
ODD = st.integers(0, 20).map(lambda n: 2 * n + 1)


def lists(values):
    return st.none() | st.lists(values, min_size=1, max_size=6).map(tuple)


SUBNETS = st.builds(
    Subnet,
    width=WIDTHS | st.lists(WIDTHS, min_size=1, max_size=6).map(tuple),
    depth=lists(st.integers(0, 40)),
    kernel=lists(ODD),
    resolution=st.none() | st.integers(1, 4096),
    heads=lists(st.integers(1, 24)),
    mlp=lists(st.floats(0.01, 8)),
    patches=st.none() | WIDTHS,
)


@given(SUBNETS)
def test_what_is_printed_is_read_again(subnet):
    assert Subnet.parse(str(subnet)) == subnet and hash(Subnet.parse(str(subnet))) == hash(subnet)
    assert parse_width(str(subnet)) == subnet.canonical == width_key(subnet)
    assert pickle.loads(pickle.dumps(subnet)) == subnet
    assert " " not in str(subnet) and json.loads(json.dumps(str(subnet))) == str(subnet)


@given(WIDTHS)
def test_a_plain_width_is_itself(width):
    assert Subnet.parse(str(width)).canonical == width_key(width) == parse_width(f"w{width:.6f}" if width > 1e-5 else str(width))
    assert isinstance(parse_width(str(width)), float)


@pytest.mark.parametrize(
    ("subnet", "text"),
    [
        (Subnet(), "w1"),
        (Subnet(0.5), "w0.5"),
        (Subnet((0.5, 0.5, 0.5)), "w0.5"),
        (Subnet((1.0, 0.75, 0.5, 0.5), (2, 1, 2, 2), (3, 5, 3, 3), 128), "w[1,.75,.5,.5]d[2,1,2,2]k[3,5,3,3]r128"),
        (Subnet(1.0, depth=(3, 2), heads=(6, 4), mlp=(4, 3.5), resolution=160), "w1d[3,2]h[6,4]m[4,3.5]r160"),
        (Subnet(0.5, patches=0.5), "w0.5p0.5"),
        (Subnet(resolution=16, patches=1), "w1r16p1"),
        (Subnet(0.1 + 0.2), "w0.3"),
        (Subnet((1, 1e-6)), "w[1,.000001]"),
        (Subnet(1.0, depth=(10, 0)), "w1d[10,0]"),
    ],
)
def test_how_it_is_printed(subnet, text):
    assert str(subnet) == f"{subnet:g}" == f"{subnet:.2f}" == text
    assert f"{subnet:>40}" == text.rjust(40)


def test_it_is_read_with_blanks_and_in_any_order():
    assert Subnet.parse(" r128 d[2, 1] w[1, 0.50] ") == Subnet((1.0, 0.5), (2, 1), resolution=128)
    assert Subnet.parse("p.5w.5") == Subnet(0.5, patches=0.5) and Subnet.parse("p1e-1") == Subnet(patches=0.1)
    assert Subnet.parse("d[2,1]").width == 1.0


@given(st.lists(WIDTHS | SUBNETS, min_size=2, max_size=8))
def test_widths_and_sub_networks_are_sorted_together(found):
    def mean(width):
        return sum(width.widths) / len(width.widths) if isinstance(width, Subnet) else width

    ordered = sorted(map(width_key, found), reverse=True)
    means = list(map(mean, ordered))
    assert all(a >= b - 1e-6 for a, b in itertools.pairwise(means))
    shuffled = [*ordered[1::2], *ordered[::2]]
    assert ordered == sorted(shuffled, reverse=True)


def test_the_plain_width_is_before_sub_networks_of_its_width():
    assert sorted([Subnet(0.5, depth=(1, 1)), 0.5, 1.0, Subnet((0.5, 0.25))], reverse=True) == [
        1.0,
        0.5,
        Subnet(0.5, depth=(1, 1)),
        Subnet((0.5, 0.25)),
    ]
    assert (narrowest(Subnet((0.5, 0.25))), widest(Subnet((0.5, 0.25))), narrowest(0.5), widest(0.5)) == (0.25, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; set for example 0.5"),
        ("0", "above 0"),
        ("1.5", "at most 1"),
        ("nan", "at most 1"),
        ("-1", "at most 1"),
        ("w[1,.5", "not understood from 'w[1,.5' on"),
        ("0.5x", "not understood from '0.5x' on"),
        ("w.5w.5", "names w twice"),
        ("w[1,,.5]", "not numbers"),
        ("w[1,2]", "has 2.0, which is not a number above 0 and at most 1"),
        ("w[]", "not numbers"),
        ("d[1.5,2]", "not whole numbers"),
        ("d2", "has one number for d; set a list"),
        ("d[-1]", "not a whole number of at least 0"),
        ("k[2,3]", "even kernel"),
        ("k[3,0]", "at least 1"),
        ("r[128,64]", "a list for r (resolution)"),
        ("r0", "at least 1"),
        ("r1.5", "not whole numbers"),
        ("h[0]", "at least 1"),
        ("m[0]", "above 0"),
        ("q[1]", "not understood"),
        ("W0.5", "understood"),
        ("p0", "p has 0.0, which is not a number above 0 and at most 1; set for example p0.5"),
        ("p1.5", "set for example p0.5"),
        ("p[.5,.5]", "a list for p (patches), which is one for the whole network; set one number, such as p0.5"),
        ("p[]", "a list"),
        ("p0.5p0.5", "names p twice"),
        ("p", "not understood from 'p' on"),
        ("p-0.5", "not understood"),
        ("p.5.5", "not numbers"),
        ("p1e-9", "keeps no patch; set for example p0.5"),
    ],
)
def test_what_is_refused_says_what_to_write_in_one_line(text, said):
    with pytest.raises(ValueError) as caught:
        Subnet.parse(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert "set " in str(caught.value) or "leave" in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": "0.5"},
        {"width": True},
        {"width": ()},
        {"depth": 2},
        {"depth": ()},
        {"depth": (1.0,)},
        {"resolution": 12.0},
        {"kernel": (3, "5")},
        {"width": float("inf")},
        {"mlp": (float("nan"),)},
        {"patches": (0.5,)},
        {"patches": True},
        {"patches": 0.0},
        {"patches": float("nan")},
    ],
)
def test_values_of_other_kinds_are_refused(wrong):
    with pytest.raises(ValueError, match="; set "):
        Subnet(**wrong)
