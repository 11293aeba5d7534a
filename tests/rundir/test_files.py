"""Files in any state: content, or one line that says which file and why; never a hang, a crash or gigabytes."""

import os
import socket
import tracemalloc

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rundir.files import MOST_DEPTH, Damaged, parse_yaml, read_json, read_text, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)
)


def refused(read, *args) -> str:
    with pytest.raises(Damaged) as error:
        read(*args)
    message = str(error.value)
    assert "\n" not in message and message
    return message


def test_what_is_no_ordinary_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.getcwd()
        os.chdir(tmp_path)  # a socket's path is short
        try:
            server.bind("socket")
        finally:
            os.chdir(folder)
        for name, why in (
            ("pipe", "is a named pipe, not a file"),
            ("folder", "is a directory, not a file"),
            ("loop", "cannot be read (Too many levels of symbolic links)"),
            ("socket", "cannot be read"),
        ):
            for read in (read_text, read_json, read_yaml):
                message = refused(read, tmp_path / name)
                assert message.startswith(f"{tmp_path / name} ") and why in message
    assert "is a device" in refused(read_text, "/dev/zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0)
    assert "cannot be read (Permission denied)" in refused(read_text, tmp_path / "a")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file" / "below", tmp_path / "broken"):
        with pytest.raises(FileNotFoundError):
            read_text(path)


def test_size_and_encoding(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbfa\xc3\xa9")
    assert read_text(path) == "aé" and "more than the 5 that are read" in refused(read_text, path, 5)
    path.write_bytes(b"ab\xe9")
    assert "is not UTF-8 text (byte 2)" in refused(read_text, path)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "1" + "0" * 5000, '{"a": 1}}', "nul"])
def test_damaged_json(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    assert "JSON" in refused(read_json, tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (BOMB, "more than 200,000 values"),
        ("a: &a [*a]", "line 1: *a holds itself"),
        ("a: 1\nb: [", "line "),
        ("[" * 100_000, f"nested more than {MOST_DEPTH} deep"),
        ("- " * 50_000 + "x", f"nested more than {MOST_DEPTH} deep"),
        ("".join(f"{' ' * i}a:\n" for i in range(3000)), f"nested more than {MOST_DEPTH} deep"),
        ("? " * 5000, "nested more"),
        ("a: 1\nb: 2\na: 3\n", "line 3: a is there twice"),
        ("a: {b: 1, b: 2}", "line 1: b is there twice"),
        ("a: 1\nb:\n\tc: 2\n", "line 3: it is indented with a tab"),
        ("a: 1\nb: 2026-99-99", "line 2: not a value of type timestamp"),
        ("a: " + "1" * 5000, "line 1: not a value of type int"),
        ("a: !!bool x", "line 1: not a value of type bool"),
        ('a: 1\nb: "x\\0"', "line 2: a NUL"),
        ('a: "\\ud800"', "line 1"),
        ("a: 1\n---\nb: 1", "is not YAML"),
        ("? [1, 2]\n: 3", "is not YAML"),
        ("*a", "undefined alias"),
        ("\x00", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_damaged_yaml(tmp_path, content, why):
    (tmp_path / "a.yaml").write_text(content)
    message = refused(read_yaml, tmp_path / "a.yaml")
    assert message.startswith(f"{tmp_path / 'a.yaml'}") and why in message


def test_times_are_strings_and_numbers_numbers():
    assert parse_yaml("a: 1:30:00\nb: 190:20:30.15\nc: 12\nd: -1.5\ne: 0x1f\nf: .inf\ng: '12'") == {
        "a": "1:30:00",
        "b": "190:20:30.15",
        "c": 12,
        "d": -1.5,
        "e": 31,
        "f": float("inf"),
        "g": "12",
    }


def test_a_few_aliases_and_merges_are_fine():
    assert parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
    assert parse_yaml("") is None


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
)


@given(json_like)
def test_what_yaml_wrote_is_read_as_it_was(content):
    assert parse_yaml(yaml.safe_dump(content)) == content


@given(st.binary(max_size=200))
def test_any_bytes_are_content_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "a"
    path.write_bytes(content)
    for read in (read_text, read_json, read_yaml):
        try:
            read(path)
        except Damaged as error:
            assert "\n" not in str(error)


def test_a_bomb_takes_no_memory():
    tracemalloc.start()
    refused(parse_yaml, BOMB)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20
