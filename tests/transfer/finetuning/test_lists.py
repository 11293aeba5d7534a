"""Names in lists: what they stand for, and which are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rundir.errors import UserError
from transfer.finetuning.lists import Images, check_inside, read_names


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1))
def test_a_name_that_is_taken_stays_in_its_folder(tmp_path_factory, name):
    folder = (tmp_path_factory.getbasetemp() / "data").resolve()
    try:
        check_inside(name, "list")
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert (folder / name).resolve().is_relative_to(folder)


@pytest.mark.parametrize("name", ["/a", "..", "../a", "a/../../b", "a/..", "//a", "\0", ".", ""])
def test_names_that_are_refused(name):
    with pytest.raises(UserError, match="leads out of the data's folder"):
        check_inside(name, "list")


def test_names_are_found_whatever_their_suffix(tmp_path):
    for file in ("a.jpg", "a.png", "b c.TIF", "d.e.PNG", ".hidden.png", "g.txt", "sub/h.webp"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("")
    images = Images(tmp_path)
    found = {name: images.find(name) for name in ("a", "a.png", "b c", "d.e", "d", ".hidden", "g", "sub/h", "none/h")}
    assert {name: path and str(path.relative_to(tmp_path)) for name, path in found.items()} == {
        "a": "a.jpg",
        "a.png": "a.png",
        "b c": "b c.TIF",
        "d.e": "d.e.PNG",
        "d": None,
        ".hidden": None,
        "g": None,
        "sub/h": "sub/h.webp",
        "none/h": None,
    }


def test_lists_that_cannot_be_read(tmp_path):
    images = Images(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("größe\n".encode("latin-1"))
    for name, said in (("empty", "names no image"), ("latin", "is not UTF-8"), ("none", "No such file")):
        with pytest.raises(UserError, match=said):
            read_names(tmp_path / f"{name}.txt", images)
