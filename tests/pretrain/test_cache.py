"""What is known of a data set's files from one start to the next: never trusted once a change would show without it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrain.data import cache, fingerprint, folder, listing
from rundir.errors import UserError


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """Notes of data sets of any size, in a folder of their own."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "notes"))
    monkeypatch.setattr(cache, "WORTH", 1)
    return tmp_path / "notes"


@pytest.fixture
def images(tmp_path):
    """An image folder whose files are not images, since nobody looks into them; old enough to be noted."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(3):
                (tmp_path / "data" / split / name / f"{number}.png").write_bytes(bytes([number] * 10))
    (tmp_path / "linked.png").write_bytes(b"linked")
    (tmp_path / "data/train/cat/link.png").symlink_to(tmp_path / "linked.png")
    time.sleep(1.5 * cache.FINE)
    return tmp_path / "data"


def count_scans(monkeypatch) -> list[str]:
    done: list[str] = []
    scan = folder.scan
    monkeypatch.setattr(folder, "scan", lambda root, split: done.append(split) or scan(root, split))
    return done


def found(root: Path) -> tuple[str, list[str], list[int]]:
    known = listing.of("folder", "train", str(root))
    return fingerprint.of_dataset("folder", "train", str(root)), known.paths, known.labels.tolist()


def test_the_second_start_lists_nothing_and_finds_the_same(images, notes, monkeypatch):
    (images / "train" / "cat" / "read.me").write_text("no image")
    time.sleep(1.5 * cache.FINE)
    scans = count_scans(monkeypatch)
    first, notes_of_first = found(images), listing.of("folder", "train", str(images)).notes
    assert scans == ["train"] and "read.me" in notes_of_first[0]
    assert found(images) == first and listing.of("folder", "train", str(images)).notes == notes_of_first
    assert scans == ["train"] and len(list(notes.iterdir())) == 2
    monkeypatch.setenv(cache.VARIABLE, "")
    assert found(images) == first and scans == ["train"] * 3


def rewrite(path: Path, content: bytes) -> None:
    """New content without any change of the folder, and with the old time of modification."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "a file more": lambda root: (root / "train/dog/9.png").write_bytes(b"9"),
    "a file less": lambda root: (root / "train/dog/1.png").unlink(),
    "a file with another name": lambda root: (root / "train/dog/1.png").rename(root / "train/dog/7.png"),
    "a file in another class": lambda root: (root / "train/dog/1.png").rename(root / "train/cat/7.png"),
    "a longer file": lambda root: rewrite(root / "train/dog/1.png", bytes(11)),
    "another content as long and as old": lambda root: rewrite(root / "train/dog/1.png", bytes([7] * 10)),
    "what a link leads to": lambda root: (root.parent / "linked.png").write_bytes(b"LINKED"),
    "two classes exchanged": lambda root: [
        (root / "train" / a).rename(root / "train" / b) for a, b in (("cat", "x"), ("dog", "cat"), ("x", "dog"))
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_that_a_fingerprint_shows_is_noticed(change, images, notes, monkeypatch):
    before = found(images)
    CHANGES[change](images)
    after = found(images)
    monkeypatch.setenv(cache.VARIABLE, "")
    assert after == found(images) and after[0] != before[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "val/owl").mkdir(), "different classes"),
        (lambda root: (root.parent / "linked.png").unlink(), "broken link"),
        (lambda root: [path.unlink() for path in (root / "train/dog").iterdir()], "no image in"),
    ],
)
def test_what_ends_a_start_without_notes_ends_one_with_them(change, said, images, notes):
    found(images)
    change(images)
    for look in (lambda: listing.of("folder", "train", str(images)), lambda: found(images)):
        with pytest.raises(UserError, match=said):
            look()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_note_counts_as_none(images, notes, data):
    expected = found(images)
    for file in notes.iterdir():
        content = bytearray(file.read_bytes())
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
            content[place] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    assert found(images) == expected == found(images)


def test_files_that_changed_a_moment_ago_are_not_noted(images, notes, monkeypatch):
    """Two changes within one tick of the clock leave one time: the second would be missed."""
    (images / "train/cat/0.png").write_bytes(b"now")
    began = (images / "train/cat/0.png").stat().st_ctime
    monkeypatch.setattr(time, "time", lambda: began)
    found(images)
    assert not any("fingerprint" in cache.texts(np.load(file)["about"])[1] for file in notes.glob("*"))
    monkeypatch.setattr(time, "time", lambda: began + 2 * cache.FINE)
    scans = count_scans(monkeypatch)
    found(images)
    assert len(list(notes.iterdir())) == 2 and len(scans) < 2


def test_where_times_have_no_fractions_a_moment_is_longer():
    coarse, fine = (np.array([[1, 1, 10**9 * 100, 10**9 * 100 + more]]) for more in (0, 1))
    assert cache._settled(fine, 100.5) and not cache._settled(coarse, 100.5) and cache._settled(coarse, 102.5)


def test_data_that_cannot_be_written_to_are_noted_and_small_ones_are_not(images, notes, monkeypatch):
    for path in [images, *images.rglob("*")]:
        if path.is_dir():
            path.chmod(0o555)
    time.sleep(1.5 * cache.FINE)
    monkeypatch.setattr(cache, "WORTH", 8)
    found(images)
    assert not notes.exists()
    monkeypatch.setattr(cache, "WORTH", 7)
    found(images)
    assert len(list(notes.iterdir())) == 2


def test_a_cache_folder_that_cannot_be_made(images, notes, monkeypatch, capsys):
    notes.write_text("a file")
    with pytest.raises(UserError, match=r"cannot write to .*notes .*set US3L_CACHE to a folder"):
        found(images)
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(notes))
    assert found(images)[1] and "set US3L_CACHE=DIR" in capsys.readouterr().err


def test_the_folder_of_the_notes(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, "~/x")
    assert cache.place() == Path("~/x").expanduser()
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.place() == tmp_path / "us3l-bench"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache.place() == Path.home() / ".cache/us3l-bench"


def test_two_data_sets_at_one_place_have_a_note_each(images, notes):
    """As on nodes that share the cache and each have a copy of the data."""
    first = found(images)
    images.rename(images.with_name("other"))
    (images / "train/cat").mkdir(parents=True)
    (images / "val/cat").mkdir(parents=True)
    for split in ("train", "val"):
        (images / split / "cat/1.png").write_bytes(b"1")
    time.sleep(1.5 * cache.FINE)
    second = found(images)
    assert second[0] != first[0] and len(list(notes.iterdir())) == 4
