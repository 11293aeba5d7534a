"""Fractions of the labels: which images keep theirs, and the lists that say so."""

from __future__ import annotations

import hashlib
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data import load
from pretrain.data.sources import TensorSource
from pretrain.data.subsets import class_turns, label_list, labelled, list_name, write_label_lists
from rundir.errors import UserError
from tests.pretrain.published_copies import COPIES


def source(labels, names=None):
    classes = [str(i) for i in range(max(labels) + 1)]
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    return TensorSource("made", classes, torch.tensor(labels), (0, 0, 0), (1, 1, 1), images, names=names)


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=80)
FRACTIONS = st.floats(0.001, 1)


@settings(max_examples=60, deadline=None)
@given(labels=LABELS, fraction=FRACTIONS, seed=st.integers(0, 100))
def test_balanced_and_at_least_one_a_class(labels, fraction, seed):
    chosen = labelled(source(labels), fraction, seed)
    assert chosen == sorted(set(chosen)) and len(chosen) == max(len(set(labels)), round(fraction * len(labels)))
    counts = {c: sum(labels[i] == c for i in chosen) for c in set(labels)}
    assert all(n >= 1 and (n >= max(counts.values()) - 1 or n == labels.count(c)) for c, n in counts.items())


@settings(max_examples=60, deadline=None)
@given(labels=LABELS, fractions=st.tuples(FRACTIONS, FRACTIONS), seed=st.integers(0, 100))
def test_a_smaller_fraction_is_part_of_a_larger_one(labels, fractions, seed):
    small, large = (set(labelled(source(labels), fraction, seed)) for fraction in sorted(fractions))
    assert small <= large
    assert labelled(source(labels), 1.0, seed) == list(range(len(labels)))


def test_images_are_chosen_by_name_whatever_their_order():
    labels = [i % 3 for i in range(60)]
    names = [f"{label}/{i}.jpg" for i, label in enumerate(labels)]
    chosen = {names[i] for i in labelled(source(labels, names), 0.2, 7)}
    order = list(range(60))
    random.Random(1).shuffle(order)
    moved = source([labels[i] for i in order], [names[i] for i in order])
    assert {moved.names[i] for i in labelled(moved, 0.2, 7)} == chosen
    assert {names[i] for i in labelled(source(labels, names), 0.2, 8)} != chosen


def test_the_rule_written_out():
    labels = [0, 1] * 10
    names = [f"{i:05d}" for i in range(20)]
    digest = {name: hashlib.sha256(f"3/{name}".encode()).hexdigest() for name in names}
    expected = [i for label in (0, 1) for i in sorted(range(label, 20, 2), key=lambda i: digest[names[i]])[:2]]
    assert labelled(source(labels), 0.2, 3) == sorted(expected)
    order, turns = class_turns(names, labels, 3)
    assert order == sorted(range(20), key=lambda i: digest[names[i]])
    assert sorted(turns) == sorted(list(range(10)) * 2)


def test_the_lists_of_digits_never_change():
    chosen = labelled(load("digits", "train", None, 8), 0.01, 0)
    assert chosen == [196, 380, 395, 463, 538, 582, 623, 636, 751, 860, 980, 1095, 1262]


def test_a_subset_is_the_images_with_their_labels_and_names(tmp_path, monkeypatch):
    part = source([0, 1, 2, 1], ["a", "b", "c", "d"]).subset([1, 3])
    assert part.images[:, 0, 0, 0].tolist() == [1, 3] and part.labels.tolist() == [1, 1] and part.names == ["b", "d"]
    assert part.classes == ["0", "1", "2"]
    COPIES["pets"](tmp_path, monkeypatch)
    files = load("pets", "train", str(tmp_path), 8).subset([2, 0])
    assert [path.rsplit("/", 1)[1] for path in files.paths] == ["great_pyrenees_2.jpg", "Bengal_1.jpg"]
    assert files.labels.tolist() == [1, 0] and files.names[1] == "images/Bengal_1.jpg"


def test_a_list_names_every_image(tmp_path):
    made = source([0, 1, 1, 0, 1, 0], ["a.jpg", "b.jpg", "ü/c d.jpg", "d.jpg", "e.jpg", "f.jpg"])
    (path,) = write_label_lists(made, "made", [0.5], [4], tmp_path / "lists")
    assert path.name == list_name("made", 0.5, 4) == "made-train-0.5-seed4.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()
    header = dict(line[2:].split(": ") for line in lines if line.startswith("# ") and ": " in line)
    assert lines[0] == "# label list, format 1"
    assert header == {"dataset": "made", "split": "train", "fraction": "0.5", "seed": "4", "images": "3 of 6", "classes": "2"}
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    assert rows[0] == ["index", "class", "name"]
    assert [int(row[0]) for row in rows[1:]] == labelled(made, 0.5, 4)
    assert all(row[1:] == [str(made.labels[int(row[0])].item()), made.names[int(row[0])]] for row in rows[1:])
    assert path.read_text(encoding="utf-8") == label_list(made, "made", 0.5, 4)


def test_names_of_folders_and_digits(tmp_path):
    from torchvision import io

    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            io.write_png(torch.zeros(3, 4, 4, dtype=torch.uint8), str(tmp_path / split / name / "1.png"))
    assert load("folder", "train", str(tmp_path), 8).names == ["ant/1.png", "bee/1.png"]
    whole = load("digits", "train", None, 8)
    limited = load("digits", "train", None, 8, limit=50)
    assert len(set(whole.names)) == 1297 and set(limited.names) < set(whole.names)
    place = whole.names.index(limited.names[7])
    assert torch.equal(whole.images[place], limited.images[7])


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan")])
def test_a_fraction_is_above_0_and_up_to_1(fraction, tmp_path):
    with pytest.raises(UserError, match=r"--label-fraction .* is not a share"):
        labelled(source([0, 1]), fraction, 0)
    with pytest.raises(UserError, match=r"^--fraction .* is not a share"):
        write_label_lists(source([0, 1]), "made", [fraction], [0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lists_need_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write label lists to"):
        write_label_lists(source([0, 1]), "made", [0.5], [0], tmp_path / "file")
