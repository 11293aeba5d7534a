"""Files that others wrote: how much is read of them."""

import tracemalloc

import pytest

from pretrain.data.files import read_bytes, read_text, tree
from rundir.errors import UserError


def test_no_more_room_is_taken_than_a_file_has(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1000)
    tracemalloc.start()
    assert read_bytes(tmp_path / "a", most=2**34) == b"x" * 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_text_with_and_without_a_byte_order_mark(tmp_path):
    for content in (b"\xef\xbb\xbfgr\xc3\xbcn", b"gr\xc3\xbcn"):
        (tmp_path / "a").write_bytes(content)
        assert read_text(tmp_path / "a") == "grün"


def test_size_is_asked_before_reading(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    assert read_bytes(tmp_path / "a", most=3) == b"123"
    with pytest.raises(UserError, match="has 3 bytes, more than the 2 that are read"):
        read_bytes(tmp_path / "a", most=2)


def test_a_tree_is_sorted_and_names_what_it_leaves_out(tmp_path):
    for name in ("b/2", "a/1", "c", ".hidden", "b/Thumbs.db", "__MACOSX/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "a" / "root").symlink_to(tmp_path)
    found = tree(tmp_path)
    assert found.files == ["a/1", "b/2", "c"] and found.litter == [".hidden", "__MACOSX", "b/Thumbs.db"]
    assert found.repeated == ["a/root"]
