"""Data sets: what is read, how it is cut and stored, and what is said when it cannot be."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torchvision import datasets, io
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from pretrain.data import folder, sources
from pretrain.data.sources import FolderSource, TensorSource, balanced_order, load
from rundir.errors import UserError


def picture(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def make_folder(root, sizes=((12, 12),), per_class=3, classes=("ant", "bee")):
    """An image folder of PNG files, so that decoding loses nothing; returns the images by path."""
    images = {}
    for split in ("train", "val"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(per_class):
                path = root / split / name / f"{i:03d}.png"
                images[str(path)] = picture(*sizes[len(images) % len(sizes)], seed=len(images))
                io.write_png(images[str(path)], str(path))
    return images


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# --- digits


def test_digits_splits_are_fixed_stratified_and_disjoint():
    train, val = load("digits", "train", None, 8), load("digits", "val", None, 8)
    assert (len(train), len(val)) == (1297, 500) and train.classes == val.classes == [str(d) for d in range(10)]
    assert torch.bincount(val.labels).tolist() == [50] * 10
    scans = torch.from_numpy(load_digits().images)
    together = torch.cat([train.images, val.images])
    assert torch.equal(together.flatten(1).sort(0)[0], _as_stored(scans).flatten(1).sort(0)[0])
    assert torch.equal(load("digits", "val", None, 8).images, val.images)


def _as_stored(scans):
    return (scans / 16 * 255).round().byte()[:, None].expand(-1, 3, -1, -1)


def test_digits_are_enlarged_by_bicubic_interpolation():
    small, large = load("digits", "val", None, 8), load("digits", "val", None, 16)
    assert large.images.shape == (500, 3, 16, 16) and large.images.dtype == torch.uint8
    assert torch.equal(small.labels, large.labels) and large.labels.dtype == torch.int64
    scans = (small.images / 255 * 16).round() / 16  # of 17 grey levels
    expected = reference.resize(scans, [16], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    assert (large.images / 255 - expected).abs().max() < 0.51 / 255


def test_digits_statistics_are_those_of_the_training_scans():
    train = load("digits", "train", None, 8)
    pixels = train.images.double() / 255
    assert abs(pixels.mean().item() - train.mean[0]) < 1e-3 and abs(pixels.std().item() - train.std[0]) < 1e-3


# --- limit


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), seed=st.integers(0, 1000))
def test_every_beginning_of_a_balanced_order_is_balanced(labels, seed):
    order = balanced_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    total, taken = {c: labels.count(c) for c in labels}, dict.fromkeys(labels, 0)
    for i in order:
        taken[labels[i]] += 1
        most = max(taken.values())
        assert all(count >= most - 1 or count == total[c] for c, count in taken.items())


def test_limit_keeps_a_balanced_part_of_the_training_images_only():
    small, large = (load("digits", "train", None, 8, limit=limit) for limit in (100, 200))
    assert torch.bincount(small.labels).tolist() == [10] * 10 and len(large) == 200
    kept = {tuple(image.flatten().tolist()) for image in large.images}
    assert all(tuple(image.flatten().tolist()) in kept for image in small.images)
    assert len(load("digits", "val", None, 8, limit=100)) == 500
    assert len(load("digits", "train", None, 8, limit=10**6)) == len(load("digits", "train", None, 8, limit=0)) == 1297


# --- image folders


def test_folder_of_one_size_is_kept_in_memory_as_it_is(tmp_path):
    images = make_folder(tmp_path / "bugs", sizes=((12, 15),))
    source = load("folder", "train", str(tmp_path / "bugs"), 32)
    assert isinstance(source, TensorSource) and source.name == "bugs" and source.classes == ["ant", "bee"]
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = [image for path, image in sorted(images.items()) if "/train/" in path]
    assert torch.equal(source.images, torch.stack(expected))


def test_folder_of_mixed_sizes_stays_files(tmp_path):
    images = make_folder(tmp_path, sizes=((12, 12), (9, 14)))
    source = load("folder", "val", str(tmp_path), 8)
    assert isinstance(source, FolderSource) and len(source) == 6
    for i, path in enumerate(source.paths):
        assert torch.equal(source.decode(i), images[path])


def test_folder_larger_than_the_memory_limit_stays_files(tmp_path, monkeypatch):
    make_folder(tmp_path)
    monkeypatch.setattr(sources, "MEMORY_LIMIT", 6 * 3 * 12 * 12 - 1)
    assert isinstance(load("folder", "train", str(tmp_path), 8), FolderSource)
    monkeypatch.setattr(sources, "MEMORY_LIMIT", 6 * 3 * 12 * 12)
    assert isinstance(load("folder", "train", str(tmp_path), 8), TensorSource)


def test_store_size_makes_mixed_sizes_one_tensor(tmp_path):
    images = make_folder(tmp_path, sizes=((12, 12), (9, 14), (20, 16)))
    source = load("folder", "train", str(tmp_path), 8, store_size=6)
    assert isinstance(source, TensorSource) and source.images.shape == (6, 3, 6, 6)
    for stored, path in zip(source.images, sorted(path for path in images if "/train/" in path), strict=True):
        expected = reference.center_crop(reference.resize(images[path], [6], antialias=True), [6, 6])
        assert torch.equal(stored, expected)


def test_folder_limit_is_balanced(tmp_path):
    make_folder(tmp_path, per_class=5)
    assert load("folder", "train", str(tmp_path), 8, limit=4).labels.tolist() == [0, 0, 1, 1]
    assert len(load("folder", "val", str(tmp_path), 8, limit=4)) == 10


def test_other_files_are_passed_over(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "ant" / ".hidden.png").write_bytes(b"")
    assert len(load("folder", "train", str(tmp_path), 8)) == 6


def test_what_is_left_out_is_counted_and_named(tmp_path, capsys):
    make_folder(tmp_path)
    train = tmp_path / "train"
    for name in ("notes.txt", "Thumbs.db", "._000.png"):
        (train / "ant" / name).write_bytes(b"")
    (train / "__MACOSX" / "ant").mkdir(parents=True)
    (train / "000.png").write_bytes(b"")
    assert load("folder", "train", str(tmp_path), 8).classes == ["ant", "bee"]
    said = capsys.readouterr().err
    assert f"left out 5 of {train} that are no images of a class: 000.png, __MACOSX, " in said and "and 2 more" in said
    load("folder", "val", str(tmp_path), 8)
    assert not capsys.readouterr().err


def test_images_of_any_suffix_and_in_folders_below_their_class(tmp_path, capsys):
    make_folder(tmp_path)
    ant = tmp_path / "train" / "ant"
    pictures = [picture(12, 12, seed) for seed in range(3)]
    for image, name in zip(pictures, ("a.BMP", "b.tiff", "deep/er/c.PPM"), strict=True):
        (ant / name).parent.mkdir(parents=True, exist_ok=True)
        reference.to_pil_image(image).save(ant / name)
    source = load("folder", "train", str(tmp_path), 8)
    assert source.names[3:6] == ["ant/a.BMP", "ant/b.tiff", "ant/deep/er/c.PPM"] and len(source) == 9
    assert torch.equal(source.images[3:6], torch.stack(pictures)) and not capsys.readouterr().err


def test_links_that_lead_round_are_followed_once(tmp_path, capsys):
    make_folder(tmp_path)
    (tmp_path / "train" / "ant" / "up").symlink_to(tmp_path / "train" / "ant")
    (tmp_path / "train" / "bee" / "ants").symlink_to(tmp_path / "train" / "ant")
    source = load("folder", "train", str(tmp_path), 8)
    assert source.labels.tolist() == [0] * 3 + [1] * 6  # a link to other images adds them
    assert "2 links in " in capsys.readouterr().err


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: os.symlink("nowhere", path),
        lambda path: os.symlink(path, path),
        lambda path: os.symlink("/dev/zero", path),
    ],
)
def test_an_image_that_is_no_file_is_refused(tmp_path, make):
    make_folder(tmp_path)
    make(tmp_path / "train" / "bee" / "9.png")
    with pytest.raises(UserError, match=r"bee.9\.png is neither a file nor a folder"):
        load("folder", "train", str(tmp_path), 8)


def test_classes_that_differ_in_case_only_are_named(tmp_path, capsys):
    make_folder(tmp_path, classes=("Red", "blue", "red", "re d"))
    assert len(load("folder", "train", str(tmp_path), 8).classes) == 4
    assert "'Red', 're d', 'red' are 3 classes, whose names differ in case or spaces only" in capsys.readouterr().err


def test_grey_alpha_and_deep_png_files_become_rgb_bytes(tmp_path):
    from PIL import Image

    make_folder(tmp_path, per_class=1)
    rgb = picture(12, 12)
    ant = tmp_path / "train" / "ant"
    Image.fromarray(rgb[0].numpy()).save(ant / "grey.png")
    Image.fromarray(torch.cat([rgb, rgb[:1]]).permute(1, 2, 0).numpy()).save(ant / "x.png")
    Image.fromarray((rgb[0].to(torch.int32) * 257).numpy().astype("uint16")).save(ant / "z.png")
    source = load("folder", "train", str(tmp_path), 8)
    assert source.images.dtype == torch.uint8
    assert torch.equal(source.images[1], rgb[:1].expand(3, -1, -1)) and torch.equal(source.images[2], rgb)
    assert (source.images[3].int() - rgb[:1].int()).abs().max() <= 1


def test_long_loads_report_their_progress(tmp_path, monkeypatch, capsys):
    make_folder(tmp_path)
    monkeypatch.setattr(folder, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(folder, "CHUNK", 2)
    load("folder", "train", str(tmp_path), 8)
    assert f"reading {tmp_path.name}/train: 2 of 6 images" in capsys.readouterr().err


def test_sources_move_between_devices(tmp_path):
    make_folder(tmp_path, sizes=((12, 12), (9, 14)))
    files, tensors = load("folder", "train", str(tmp_path), 8), load("digits", "val", None, 8)
    assert files.to("meta").labels.device.type == "meta" and files.to("meta").paths == files.paths
    moved = tensors.to("meta")
    assert moved.labels.device.type == moved.images.device.type == "meta" and moved.classes == tensors.classes


# --- CIFAR in torchvision's files


def fake_cifar(root, monkeypatch):
    """Real-format CIFAR-10 batches of 20 + 20 images; torchvision's checksums are set to fit."""
    base = root / "cifar-10-batches-py"
    base.mkdir()
    data = picture(20, 1024).permute(1, 0, 2).reshape(20, 3072).numpy()
    names = [f"class{i}" for i in range(10)]
    files = {
        "data_batch_1": {"data": data, "labels": [i % 10 for i in range(20)]},
        "test_batch": {"data": data[::-1], "labels": [0] * 20},
        "batches.meta": {"label_names": names},
    }
    for file, entry in files.items():
        (base / file).write_bytes(pickle.dumps(entry))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})
    return torch.from_numpy(data).view(20, 3, 32, 32)


def test_cifar_is_read_from_torchvisions_files(tmp_path, monkeypatch):
    images = fake_cifar(tmp_path, monkeypatch)
    source = load("cifar10", "train", str(tmp_path), 32)
    assert source.name == "cifar10" and torch.equal(source.images, images) and source.images.is_contiguous()
    assert source.labels.tolist() == [i % 10 for i in range(20)] and source.classes[3] == "class3"
    assert load("cifar10", "val", str(tmp_path), 32).labels.tolist() == [0] * 20
    limited = load("cifar10", "train", str(tmp_path), 32, limit=10, store_size=16)
    assert sorted(limited.labels.tolist()) == list(range(10)) and limited.images.shape == (10, 3, 16, 16)


def test_missing_cifar_is_downloaded_and_nothing_is_left_beside_it(tmp_path, monkeypatch):
    def download(self):
        fake_cifar(Path(self.root), monkeypatch)

    monkeypatch.setattr(datasets.CIFAR10, "download", download)
    assert len(load("cifar10", "train", str(tmp_path / "new"), 32)) == 20
    assert os.listdir(tmp_path / "new") == ["cifar-10-batches-py"]
    monkeypatch.delattr(datasets.CIFAR10, "download")  # the second time there is nothing to download
    assert len(load("cifar10", "val", str(tmp_path / "new"), 32)) == 20


def _no_files(base):
    for file in base.iterdir():
        file.unlink()


@pytest.mark.parametrize("damage", [_no_files, lambda base: (base / "data_batch_1").write_bytes(b"\x80\x04cut off")])
def test_damaged_cifar_is_explained(tmp_path, monkeypatch, damage):
    fake_cifar(tmp_path, monkeypatch)
    damage(tmp_path / "cifar-10-batches-py")
    with pytest.raises(UserError, match="incomplete or damaged; remove that folder") as error:
        load("cifar10", "train", str(tmp_path), 32)
    one_line(error)


def test_failing_download_names_the_folder_expected(tmp_path, monkeypatch):
    def download(self):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", download)
    with pytest.raises(UserError) as error:
        load("cifar10", "train", str(tmp_path / "none"), 32)
    message = one_line(error)
    assert str(tmp_path / "none" / "cifar-10-batches-py") in message and "no route to host" in message
    assert not (tmp_path / "none").exists()


# --- what a user may get wrong


def _remove(*parts):
    def damage(root):
        path = root.joinpath(*parts)
        for file in path.rglob("*.png"):
            file.unlink()
        for directory in [*sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True), path]:
            directory.rmdir()

    return damage


def _garbage(root):
    (root / "train" / "bee" / "001.png").write_bytes(b"these are not the pixels")


def _truncated(root):
    path = root / "train" / "bee" / "001.png"
    path.write_bytes(path.read_bytes()[:100])


def _empty_file(root):
    (root / "train" / "bee" / "001.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_remove("train"), r"no folder .*train; set data\.root="),
        (_remove("val"), r"no folder .*val; set data\.root="),
        (_remove("val", "bee"), "different classes.*bee"),
        (lambda root: [_remove("train", c)(root) for c in ("ant", "bee")], "no class folders in .*train"),
        (lambda root: [f.unlink() for f in (root / "train" / "bee").iterdir()], "no image in .*bee"),
        (_garbage, "cannot read the image .*bee.001.png"),
        (_truncated, "cannot read the image .*bee.001.png"),
        (_empty_file, "cannot read the image .*bee.001.png"),
    ],
)
def test_unusable_folders_are_explained(tmp_path, damage, said):
    make_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=said) as error:
        load("folder", "train", str(tmp_path), 8)
    one_line(error)


@pytest.mark.parametrize(
    ("name", "root", "options", "said"),
    [
        ("cifr10", "x", {}, "unknown data set 'cifr10'.*cifar100"),
        ("folder", None, {}, "set data.root=DIR"),
        ("cifar10", "", {}, "set data.root=DIR"),
        ("folder", "/nonexistent/place", {}, "no folder /nonexistent/place/train"),
        ("digits", None, {"limit": -1}, "data.limit=-1"),
        ("digits", None, {"store_size": -4}, "data.store_size=-4"),
    ],
)
def test_wrong_requests_are_explained(name, root, options, said):
    with pytest.raises(UserError, match=said) as error:
        load(name, "train", root, 8, **options)
    one_line(error)


def test_split_is_train_or_val():
    with pytest.raises(ValueError, match="train or val"):
        load("digits", "test", None, 8)


def test_the_scans_are_scikit_learns_whether_it_is_imported_or_not(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    imported = sources.digit_scans()
    monkeypatch.undo()
    for ours, theirs in zip(sources.digit_scans(), imported, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(imported[0], load_digits().images)
