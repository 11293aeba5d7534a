"""Features that are too many for memory: in a map on the disk, with the same numbers, and nothing left behind."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from rundir.errors import UserError
from tests.transfer.clusters import on_disk
from transfer.classification import Options, evaluate, rows
from transfer.classification.rows import Mapped, Storage, are_finite, blocks, select


def test_a_map_is_the_tensor(tmp_path):
    features = torch.randn(40, 3)
    stored = on_disk(features, tmp_path)
    assert isinstance(stored, Mapped) and stored.shape == (40, 3) and not list(tmp_path.iterdir())
    index = torch.tensor([1, 5, 6, 30, 39])
    for one, other in ((features, stored), (select(features, index), select(stored, index))):
        assert len(one) == len(other)
        for size in (1, 3, 40, 100):
            assert [block.tolist() for block in blocks(one, size)] == [block.tolist() for block in blocks(other, size)]
    assert select(stored, torch.arange(40)) is stored
    copy = stored[:]
    copy.zero_()
    assert torch.equal(stored[:], features)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_found_in_any_block(bad, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "CHECKED", 4)
    for place in (0, 5, 10):
        features = torch.randn(11, 2)
        assert are_finite(features) and are_finite(on_disk(features, tmp_path))
        features[place, 1] = bad
        assert not are_finite(features) and not are_finite(on_disk(features, tmp_path))


def test_all_widths_and_both_splits_together_stay_below_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "IN_MEMORY", 4 * 100 * 12)
    storage = Storage(tmp_path)
    assert all(isinstance(part, torch.Tensor) for part in storage.new(100, [8, 4], torch.device("cpu")))
    assert all(isinstance(part, Mapped) for part in storage.new(1, [8, 4], torch.device("cpu")))


def test_an_evaluation_with_features_on_the_disk_has_the_same_scores(run_directory, monkeypatch, capsys, tmp_path):
    options = Options(label_fractions=[1.0, 0.5])
    protocols = ["knn", "linear_fast"]
    usual = evaluate(run_directory, widths=[1.0, 0.5], protocols=protocols, options=options, out=tmp_path / "a")
    monkeypatch.setattr(rows, "IN_MEMORY", 1000)
    mapped = evaluate(run_directory, widths=[1.0, 0.5], protocols=protocols, options=options, out=tmp_path / "b")
    assert [record["value"] for record in mapped] == [record["value"] for record in usual]
    assert f"kept in files in {tmp_path / 'b'}" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == sorted(path.name for path in (tmp_path / "a").iterdir())


def test_a_full_disk_is_said_before_features_are_computed(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(rows, "IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"cannot keep 0\.1 GB of features .*No space left.*set --out .*fewer --widths"):
        Storage(tmp_path).new(10**6, [25], torch.device("cpu"))
    assert not list(tmp_path.iterdir())
