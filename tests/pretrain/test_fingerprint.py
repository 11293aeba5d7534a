"""Fingerprints: equal for equal data wherever it lies, another one after any change of what they are of."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pretrain.data import fingerprint
from rundir.errors import UserError

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)
SETS = st.dictionaries(NAMES, st.binary(max_size=12), min_size=1, max_size=6)


@pytest.fixture
def folder(tmp_path):
    count = 0

    def make(contents: dict[str, bytes]) -> dict[str, Path]:
        nonlocal count
        count += 1
        home = tmp_path / str(count)
        home.mkdir()
        for number, content in enumerate(contents.values()):
            (home / str(number)).write_bytes(content)
        return {name: home / str(number) for number, name in enumerate(contents)}

    return make


@settings(max_examples=60, deadline=None)
@given(SETS, st.data(), st.sampled_from([fingerprint.WHOLE_BYTES, 0]))
def test_neither_the_order_of_a_listing_nor_the_place_counts(tmp_path_factory, contents, data, whole):
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    shuffled = data.draw(st.permutations(list(contents)))
    for home in (one, other):
        for number, name in enumerate(contents):
            (home / str(number)).write_bytes(contents[name])
    numbers = {name: str(number) for number, name in enumerate(contents)}
    before = fingerprint.of_files({name: one / numbers[name] for name in contents}, whole)
    assert fingerprint.of_files({name: other / numbers[name] for name in shuffled}, whole) == before
    assert len(before) == 16 and before[0] == "f" and int(before, 16) >= 0


@settings(max_examples=80, deadline=None)
@given(SETS, SETS)
def test_two_sets_are_equal_exactly_where_names_and_contents_are(tmp_path_factory, one, other):
    found = []
    for contents in (one, other):
        home = tmp_path_factory.mktemp("set")
        for number, content in enumerate(contents.values()):
            (home / str(number)).write_bytes(content)
        found.append(fingerprint.of_files({name: home / str(number) for number, name in enumerate(contents)}))
    assert (found[0] == found[1]) == (one == other)


ARRAYS = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), max_size=3).map(
    lambda rows: np.array(rows, np.uint8).reshape(len(rows), 2)
)


@settings(max_examples=100, deadline=None)
@given(ARRAYS, ARRAYS)
def test_arrays_differ_by_values_shape_and_type(one, other):
    assert (fingerprint.of_array(one) == fingerprint.of_array(other)) == np.array_equal(one, other)
    assert fingerprint.of_array(one) != fingerprint.of_array(one.astype(np.int8))
    assert fingerprint.of_array(np.asfortranarray(one)) == fingerprint.of_array(one)  # the layout in memory is no difference
    assert fingerprint.of_array(one) != fingerprint.of_array(one.T) or one.shape == (2, 2)


def test_of_large_sets_the_sampled_contents_and_all_names_and_sizes_count(folder, monkeypatch):
    contents = {f"{i:03d}": bytes([i] * 10) for i in range(40)}
    files = folder(contents)
    before = fingerprint.of_files(files, whole=100, sampled=4)
    files["010"].write_bytes(bytes([99] * 10))  # one of every tenth
    assert fingerprint.of_files(files, whole=100, sampled=4) != before
    files["010"].write_bytes(contents["010"])
    files["011"].write_bytes(bytes([99] * 10))
    assert fingerprint.of_files(files, whole=100, sampled=4) == before  # as documented: not looked into
    assert fingerprint.of_files(files) != fingerprint.of_files(folder(contents))
    files["011"].write_bytes(bytes([11] * 11))
    assert fingerprint.of_files(files, whole=100, sampled=4) != before
    renamed = {("x" if name == "011" else name): path for name, path in folder(contents).items()}
    assert fingerprint.of_files(renamed, whole=100, sampled=4) != before
    monkeypatch.setattr(fingerprint, "SIZED", 20)  # so many files that not all are asked for their size
    touched: list[str] = []
    monkeypatch.setattr(fingerprint, "_state", lambda path: touched.append(path) or os.stat(path))
    assert fingerprint.of_files(folder(contents), sampled=4) == fingerprint.of_files(folder(contents), sampled=4)
    assert len(touched) == 2 * (20 + 4)


def test_a_missing_file_and_a_pipe_are_said_and_not_waited_for(folder, tmp_path):
    files = folder({"a": b"1", "b": b"2"})
    files["b"].unlink()
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        fingerprint.of_files(files)
    os.mkfifo(files["b"])
    with pytest.raises(UserError, match="not a regular file"):
        fingerprint.of_files(files)


def images(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 3) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(each):
                Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(root / split / name / f"{i}.png")
    return root


def of(root: Path) -> tuple[str, str]:
    return fingerprint.of_dataset("folder", "train", str(root)), fingerprint.of_dataset("folder", "val", str(root))


def test_an_image_folder_keeps_its_fingerprint_at_another_place_and_loses_it_by_any_correction(tmp_path):
    root = images(tmp_path / "a")
    train, val = of(root)
    shutil.copytree(root, tmp_path / "b")
    assert of(tmp_path / "b") == (train, val) and train != val

    (root / "val/cat").rename(root / "val/x")  # labels of all validation images corrected: same names, same number
    (root / "val/dog").rename(root / "val/cat")
    (root / "val/x").rename(root / "val/dog")
    assert of(root)[0] == train and of(root)[1] != val

    moved = tmp_path / "b/train/cat/2.png"
    moved.rename(tmp_path / "b/train/dog/7.png")
    assert of(tmp_path / "b")[0] != train and of(tmp_path / "b")[1] == val


def test_bundled_scans_have_one_fingerprint_a_split_wherever_the_program_runs():
    train, val = (fingerprint.of_dataset("digits", split, None) for split in ("train", "val"))
    assert (train, val) == ("fc63e90f4f70e884", "fe42bb3a9af3242f")


def test_labels_count_beside_the_files(tmp_path):
    paths = [str(path) for path in sorted((images(tmp_path) / "train").rglob("*.png"))]
    labels = ["cat"] * 3 + ["dog"] * 3
    before = fingerprint.of_images(tmp_path, ["cat", "dog"], paths, labels)
    assert fingerprint.of_images(tmp_path, ["cat", "dog"], paths[::-1], labels[::-1]) == before
    assert fingerprint.of_images(tmp_path, ["cat", "dog"], paths, [*labels[:-1], "cat"]) != before
    assert fingerprint.of_images(tmp_path, ["cat", "dog", "owl"], paths, labels) != before


def test_whether_a_data_set_is_there_is_known_without_looking_into_it(tmp_path):
    assert fingerprint.is_there("digits", None)
    assert not fingerprint.is_there("folder", None) and not fingerprint.is_there("folder", str(tmp_path))
    assert fingerprint.is_there("folder", str(images(tmp_path / "own")))
    assert not fingerprint.is_there("cifar10", str(tmp_path))
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert fingerprint.is_there("cifar10", str(tmp_path))


def test_a_data_set_without_a_place_is_asked_for_it():
    with pytest.raises(UserError, match=r"set data\.root=DIR"):
        fingerprint.of_dataset("folder", "train", None)
