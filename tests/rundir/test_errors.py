"""What bad input is answered with."""

from __future__ import annotations

import pickle

import pytest

from rundir.errors import Setting, UserError, check_choice, settings_are_options, suggestion
from rundir.files import Damaged


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("digitz", {}, "did you mean digits?"),
        ("digitz", {"before": "data."}, "did you mean data.digits?"),
        ("xyz", {}, "choose one of digits, cifar10"),
        ("xyz", {"before": "data.", "otherwise": "known are two"}, "known are two"),
        (1.5, {}, "choose one of digits, cifar10"),
    ],
)
def test_a_name_like_it_is_suggested_or_all(name, options, expected):
    assert suggestion(name, {"digits": 1, "cifar10": 2}, **options) == expected


def test_a_choice_is_checked():
    check_choice("--dataset", "digits", ("digits", "cifar10"))
    with pytest.raises(UserError, match=r"^unknown data set 'digit'; did you mean --dataset digits\? Choices: digits, cifar10$"):
        check_choice("--dataset", "digit", ("digits", "cifar10"), "data set")
    with pytest.raises(UserError, match=r"^unknown value of --dataset: 'xyz'; set --dataset to one of digits, cifar10$"):
        check_choice("--dataset", "xyz", iter(("digits", "cifar10")))


def test_a_setting_in_a_message_is_named_as_the_user_typed_it():
    error = Damaged("no folder data.root=x; set ", Setting("data.root", "DIR"), " or ", Setting("data.size", 32))
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == "no folder data.root=x; set data.root=DIR or data.size=32"
    with pytest.raises(Damaged) as caught, settings_are_options({"data.root": "--data-dir"}):
        raise error
    assert str(caught.value) == "no folder data.root=x; set --data-dir DIR or data.size=32" and caught.value.__cause__ is error
