"""Directories that can be written to, or one line before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rundir.atomic import make_folder
from rundir.errors import UserError


def test_a_folder_is_made_and_left_empty(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b", "scores")
        assert os.listdir(tmp_path / "a" / "b") == []


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("file", "which is a file; give another --out DIR"),
        ("file/below", "Not a directory"),
        ("n" * 300, "File name too long"),
        ("loop/x", "symbolic links"),
    ],
)
def test_places_that_cannot_be_a_folder_are_one_line(tmp_path, place, why):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError) as caught:
        make_folder(tmp_path / place, "scores")
    assert why in str(caught.value) and "cannot write scores to" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_place_of_the_system_is_one_line():
    with pytest.raises(UserError, match="cannot write the report to /proc/x"):
        make_folder(Path("/proc/x"), "the report")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    for place in (tmp_path, tmp_path / "below"):
        with pytest.raises(UserError, match="Permission denied"):
            make_folder(place, "scores")
    tmp_path.chmod(0o700)
