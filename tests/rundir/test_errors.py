"""What bad input is answered with."""

from __future__ import annotations

import pytest

from rundir.errors import UserError, check_choice, suggestion


@pytest.mark.parametrize(("name", "options", "expected"), [
    ("digitz", {}, "did you mean digits?"),
    ("digitz", {"before": "data."}, "did you mean data.digits?"),
    ("xyz", {}, "choose one of digits, cifar10"),
    ("xyz", {"before": "data.", "otherwise": "known are two"}, "known are two"),
    (1.5, {}, "choose one of digits, cifar10"),
])
def test_a_name_like_it_is_suggested_or_all(name, options, expected):
    assert suggestion(name, {"digits": 1, "cifar10": 2}, **options) == expected


def test_a_choice_is_checked():
    check_choice("--dataset", "digits", ("digits", "cifar10"))
    with pytest.raises(UserError, match=r"^unknown data set 'digit'; did you mean --dataset digits\?$"):
        check_choice("--dataset", "digit", ("digits", "cifar10"), "data set")
    with pytest.raises(UserError, match=r"^unknown --dataset 'xyz'; write --dataset with one of digits, cifar10$"):
        check_choice("--dataset", "xyz", iter(("digits", "cifar10")))
