"""Tar shards: the images that the webdataset library reads, in any order and again, and what is wrong with a set in one line."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from pretrain.checkpoints import files
from pretrain.config import AugmentConfig
from pretrain.data import (
    TwoViewBatches,
    cache,
    calibration_batches,
    crop_batches,
    evaluation_batches,
    fingerprint,
    images,
    load,
    shards,
)
from pretrain.data.sources import ShardSource, TensorSource
from pretrain.training import pretrain
from rundir.errors import UserError
from tests.pretrain import tiny
from tests.pretrain.interruption import pretrain_until
from transfer.classification.evaluation import evaluate


def picture(number: int, side: int = 20) -> bytes:
    """A JPEG that no other number has; sides differ, so that it is not kept in memory."""
    pixels = np.random.default_rng(number).integers(0, 256, (side + number % 5, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def write(path: Path, *samples: dict) -> Path:
    """A shard by the library's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def sample(number: int, label: object = None) -> dict:
    return {"__key__": f"n{number:04d}", "jpg": picture(number), "cls": str(number % 3 if label is None else label).encode()}


@pytest.fixture
def root(tmp_path):
    """4 shards of 5 training images and one of 6 validation images, of 3 classes."""
    root = tmp_path / "birds"
    for shard in range(4):
        write(root / "train" / f"train-{shard:03d}.tar", *(sample(5 * shard + i) for i in range(5)))
    write(root / "val" / "val-000.tar", *(sample(100 + i) for i in range(6)))
    return root


def read(root: Path, split: str = "train", **options) -> ShardSource:
    return load("webdataset", split, str(root), 16, **options)


def test_the_images_and_labels_are_those_that_the_library_reads(root):
    source = read(root)
    assert isinstance(source, ShardSource) and source.name == "birds" and source.classes == ["0", "1", "2"]
    expected = list(webdataset.WebDataset([str(path) for path in sorted((root / "train").iterdir())], shardshuffle=False))
    assert len(source) == len(expected) == 20
    for i, known in enumerate(expected):
        assert source.names[i] == f"{Path(known['__url__']).stem}/{known['__key__']}.jpg"
        assert source.labels[i] == int(known["cls"])
        assert torch.equal(source.decode(i), images.upright(*images.decoded("x", known["jpg"])))


def test_splits_by_the_names_of_shards(tmp_path, root):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted((root / "train").iterdir())):
        os.rename(path, flat / f"imagenet1k-train-{i:04d}.tar")
    os.rename(root / "val/val-000.tar", flat / "imagenet1k-validation-00.tar")
    assert len(read(flat)) == 20 and len(read(flat, "val")) == 6
    assert fingerprint.is_there("webdataset", str(flat)) and not fingerprint.is_there("webdataset", str(root / "val"))


def test_subsets_and_limits_keep_images_labels_and_names_together(root):
    source = read(root)
    for part, chosen in ((source.subset([7, 3, 19]), [7, 3, 19]), (read(root, limit=6), None)):
        chosen = chosen or [source.names.index(name) for name in part.names]
        assert part.names == [source.names[i] for i in chosen] and part.labels.tolist() == source.labels[chosen].tolist()
        assert all(torch.equal(part.decode(i), source.decode(j)) for i, j in enumerate(chosen))
    assert read(root, limit=6).labels.bincount().tolist() == [2, 2, 2]


def test_small_images_of_one_size_are_kept_in_memory(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split / "0.tar", *(sample(5 * i + (1000 if split == "val" else 0), i % 2) for i in range(4)))
    source = read(tmp_path)
    assert isinstance(source, TensorSource) and source.images.shape == (4, 3, 20, 20)
    assert isinstance(read(tmp_path, store_size=8), TensorSource)


def batches(root: Path, workers: int, start: int = 0) -> list:
    source = read(root)
    found = TwoViewBatches(source, AugmentConfig(), 16, 4, 7, "cpu", workers=workers)
    return [found.epoch(epoch, start if epoch == 0 else 0) for epoch in range(2)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_workers_and_a_resumption_give_the_same_batches_to_the_bit(root, workers):
    whole = [batch for epoch in batches(root, 0) for batch in epoch]
    assert len(whole) == 10
    resumed = [batch for epoch in batches(root, workers, start=3) for batch in epoch]
    for one, other in zip(whole[3:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    order = torch.cat([index for index, *_ in whole[:5]])
    assert sorted(order.tolist()) == list(range(20)) and order.tolist() != list(range(20))


def test_calibration_and_evaluation_read_them(root):
    from pretrain.config import CalibrationConfig

    source = read(root)
    for views in ("plain", "crops", "pretraining"):
        cfg = CalibrationConfig(images=8, batch_size=4, views=views)
        assert [len(x) for x in calibration_batches(source, cfg, AugmentConfig(), 16, 0, "cpu", 1)] == [4, 4]
    x, y = next(evaluation_batches(source, 16, 20, "cpu"))
    assert x.shape == (20, 3, 16, 16) and torch.equal(y, source.labels)
    assert sorted(torch.cat([y for _, y in crop_batches(source, 16, 8, 0, 0, "cpu")]).tolist()) == sorted(source.labels.tolist())


def test_a_run_resumed_within_an_epoch_is_the_uninterrupted_one_and_is_evaluated(root, tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.training.loop.training_flops", lambda *args: 1.0)
    settings = [
        "optimizer.epochs=2",
        "optimizer.batch_size=4",
        "data.name=webdataset",
        f"data.root={root}",
        "data.limit=0",
        "train.checkpoint_minutes=0",
    ]
    cfg = tiny.tiny(*settings)
    pretrain(cfg, tmp_path / "whole")
    pretrain_until(cfg, tmp_path / "broken", 8)  # 5 steps an epoch
    pretrain(tiny.tiny(*settings, "data.workers=1"), tmp_path / "broken")
    one, other = (files.latest(tmp_path / name)[1] for name in ("whole", "broken"))
    assert all(torch.equal(one["encoder"][name], other["encoder"][name]) for name in one["encoder"])
    assert one["data"] == other["data"] == one["config"]["data"]["fingerprint"] == of(root)
    records = evaluate(tmp_path / "whole", widths=[1.0], protocols=["knn"])
    assert records[0]["dataset"] == "birds" and records[0]["count"] == 6
    assert evaluate(tmp_path / "whole", "webdataset", str(root), widths=[1.0], protocols=["knn"]) == records


def of(root: Path) -> str:
    return fingerprint.of_dataset("webdataset", "train", str(root))


def test_the_fingerprint_is_of_names_labels_and_contents_and_not_of_the_place(root, tmp_path):
    before = of(root)
    assert fingerprint.of_dataset("webdataset", "val", str(root)) != before
    root.rename(tmp_path / "moved")
    root = tmp_path / "moved"
    assert of(root) == before
    path = root / "train/train-002.tar"
    kept = path.read_bytes()
    content = bytearray(kept)
    place = shards.index(str(path))[0][1]
    content[place.first + place.size // 2] ^= 1
    path.write_bytes(content)
    changed = of(root)
    write(path, *(sample(10 + i, i % 2) for i in range(5)))
    assert len({before, changed, of(root)}) == 3
    path.write_bytes(kept)
    assert of(root) == before


def test_shards_are_indexed_once(root, tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "notes"))
    monkeypatch.setattr(cache, "WORTH", 1)
    monkeypatch.setattr(cache, "FINE", -100.0)  # the files are new
    first, done = read(root), []
    index = shards.index
    monkeypatch.setattr(shards, "index", lambda path: done.append(path) or index(path))
    second = read(root)
    assert done == [] and second.names == first.names and torch.equal(second.decode(3), first.decode(3))
    write(root / "train/train-004.tar", sample(30))
    assert len(read(root)) == 21 and len(done) == 6


def add(path: Path, name: str, content: bytes = b"", **of_member) -> None:
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        for key, value in of_member.items():
            setattr(member, key, value)
        tar.addfile(member, io.BytesIO(content))


def test_what_belongs_to_no_sample_is_left_out_and_said(root, capsys):
    for name in ("._n0001.jpg", "__MACOSX/a.jpg", "README"):
        add(root / "train/train-000.tar", name, b"x")
    (root / "train" / "list.txt").write_text("")
    assert len(read(root)) == 20
    said = capsys.readouterr().err
    assert "left out 3 files in shards" in said and "1 of" in said and "list.txt" in said


def test_a_hard_link_is_the_file_it_leads_to(root):
    path = root / "train/train-003.tar"
    add(path, "z.jpg", type=tarfile.LNKTYPE, linkname="n0015.jpg")
    add(path, "z.cls", b"1")
    source = read(root)
    assert source.names[20:] == [] or source.names[-1] == "train-003/z.jpg"
    twin = source.names.index("train-003/n0015.jpg")
    assert torch.equal(source.decode(20), source.decode(twin)) and source.labels[20] == 1


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def first_byte(path: Path) -> int:
    """Of the second image in a shard."""
    return shards.index(str(path))[0][1].first


def spoil(path: Path) -> None:
    """Damage the header of the second image."""
    content = bytearray(path.read_bytes())
    place = first_byte(path) - 512
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(content)


def replaced(root: Path, **changes) -> None:
    write(root / "train/train-001.tar", *({**sample(5 + i), **changes} for i in range(5)))


def without(root: Path, part: str) -> None:
    write(root / "train/train-001.tar", *({key: value for key, value in sample(5 + i).items() if key != part} for i in range(5)))


FAULTS = {
    "a gap": (lambda root: (root / "train/train-002.tar").unlink(), r"1 of the train shards train-\*.tar .* missing.*: 2;"),
    "fewer than the names say": (
        lambda root: [path.rename(path.with_name(f"{path.stem}-of-0005.tar")) for path in list((root / "train").iterdir())],
        r"missing.*: 4;",
    ),
    "no validation": (lambda root: (root / "val/val-000.tar").unlink(), "no shards of the split val"),
    "no training": (lambda root: (root / "train").rename(root / "other"), "no shards of the split train"),
    "no folder": (lambda root: root.rename(root.with_name("elsewhere")), "no folder .*; set data.root=DIR, where DIR/train/"),
    "compressed": (lambda root: (root / "train/train-003.tar").rename(root / "train/train-003.tar.gz"), "is compressed"),
    "empty": (lambda root: (root / "train/train-003.tar").write_bytes(b""), "cannot read the shard .*train-003.tar"),
    "no tar": (lambda root: (root / "train/train-003.tar").write_bytes(b"x" * 5000), "cannot read the shard .*train-003.tar"),
    "cut off in a file": (lambda root: cut(root / "train/train-003.tar", 1000), "train-003.tar"),
    "cut off in a header": (
        lambda root: cut(root / "train/train-003.tar", first_byte(root / "train/train-003.tar") - 300),
        "train-003.tar",
    ),
    "a damaged header": (lambda root: spoil(root / "train/train-003.tar"), r"train-003.tar.*(beyond byte|bad checksum)"),
    "two in one": (
        lambda root: (root / "train/train-003.tar").open("ab").write((root / "train/train-002.tar").read_bytes()),
        "several tar files in one",
    ),
    "a link": (lambda root: add(root / "train/train-003.tar", "z.jpg", type=tarfile.SYMTYPE, linkname="n0015.jpg"), "is a link"),
    "no label": (lambda root: without(root, "cls"), r"sample n0005 has no label .*n0005.cls"),
    "an empty label": (lambda root: replaced(root, cls=b" \n"), "is '', which is no class"),
    "no image": (lambda root: without(root, "jpg"), "sample n0005 has no image"),
    "two images": (lambda root: replaced(root, png=b"x"), "sample n0005 has two images"),
    "an empty image": (lambda root: replaced(root, jpg=b""), "n0005.jpg is empty"),
    "a name with two dots": (
        lambda root: write(root / "train/train-001.tar", {"__key__": "a", "v2.jpg": picture(1), "cls": b"1"}),
        "no image .*first dot",
    ),
    "a name twice": (lambda root: add(root / "train/train-003.tar", "n0019.jpg", picture(1)), "holds n0019.jpg twice"),
    "a sample in two places": (lambda root: add(root / "train/train-003.tar", "n0015.txt", b"x"), "not next to each other"),
    "a shard twice": (
        lambda root: (root / "train/train-004.tar").write_bytes((root / "train/train-001.tar").read_bytes()),
        "train-001.tar and .*train-004.tar hold the same image",
    ),
    "a training shard among the validation": (
        lambda root: (root / "val/val-001.tar").write_bytes((root / "train/train-001.tar").read_bytes()),
        "hold the same image",
    ),
    "a class of one split": (lambda root: replaced(root, cls=b"7"), "different classes: only one of them has the label 7"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_shards_is_said_in_one_line(fault, root):
    change, said = FAULTS[fault]
    change(root)
    with pytest.raises(UserError, match=said) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_names_that_begin_anew_in_each_shard_are_no_repetition(tmp_path):
    for number in range(3):
        write(tmp_path / "train" / f"{number}.tar", *({**sample(10 * number + i, i % 2), "__key__": str(i)} for i in range(4)))
    write(tmp_path / "val" / "0.tar", *({**sample(100 + i, i % 2), "__key__": str(i)} for i in range(4)))
    assert len(set(read(tmp_path).names)) == 12


def test_labels_are_numbers_in_their_order_or_names(tmp_path):
    for split, more in (("train", 0), ("val", 100)):
        write(tmp_path / split / "0.tar", *(sample(more + i, label) for i, label in enumerate(["10", "9", "09"])))
    source = read(tmp_path)
    assert source.classes == ["9", "10"] and source.labels.tolist() == [1, 0, 0]
    for split, more in (("train", 0), ("val", 100)):
        write(tmp_path / split / "0.tar", *(sample(more + i, label) for i, label in enumerate(["owl", "crow", "9"])))
    assert read(tmp_path).classes == ["9", "crow", "owl"]


def test_a_damaged_image_is_named_with_its_shard(root):
    replaced(root, jpg=picture(5)[:200])
    with pytest.raises(UserError, match=r"cannot read the image n0005.jpg in .*train-001.tar"):
        read(root)
    replaced(root)
    source = read(root)
    cut(root / "train/train-003.tar", 1000)
    with pytest.raises(UserError, match=r"train-003.tar is cut off"):
        source.decode(19)
    (root / "train/train-003.tar").unlink()
    with pytest.raises(UserError, match=r"cannot read .*train-003.tar"):
        source.decode(19)
