"""Batches: the same views whatever the processes, workers and interruptions; evaluation by the paper's rule."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import io
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from pretrain.data import batches as batches_module
from pretrain.data.augment import CropDraws
from pretrain.data.batches import TwoViewBatches, crop_batches, evaluation_batches, generator, resized_crop
from pretrain.data.sources import FolderSource, TensorSource
from rundir.errors import UserError

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
SIZE = 10


def config(**changes):
    fields = {
        "crop_scale": [0.2, 1.0],
        "crop_ratio": [3 / 4, 4 / 3],
        "flip": 0.5,
        "jitter": [0.4, 0.4, 0.4, 0.1],
        "jitter_p": 0.8,
        "grayscale_p": 0.2,
        "blur_p": [0.5, 0.1],
        "blur_sigma": [0.1, 2.0],
        "solarize_p": [0.0, 0.0],
        "interpolation": "bilinear",
    }
    return SimpleNamespace(**{**fields, **changes})


def tensor_source(n=26, height=12, width=14):
    images = torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TensorSource("noise", ["a", "b"], torch.arange(n) % 2, MEAN, STD, images)


@pytest.fixture(scope="module")
def file_source(tmp_path_factory):
    """The images of tensor_source() as files."""
    folder, source = tmp_path_factory.mktemp("images"), tensor_source()
    paths = [str(folder / f"{i}.png") for i in range(len(source))]
    for image, path in zip(source.images, paths, strict=True):
        io.write_png(image, path)
    return FolderSource("noise", source.classes, source.labels, MEAN, STD, paths)


@pytest.fixture(params=["tensor", "files"])
def source(request, file_source):
    return tensor_source() if request.param == "tensor" else file_source


def two_views(source, batch_size=8, seed=3, augment=None, **options):
    return TwoViewBatches(source, augment or config(), SIZE, batch_size, seed, "cpu", **options)


def assert_same(ours, theirs, tolerance=0.0):
    """Batch lists agree: indices exactly, images to ``tolerance``."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a[0], b[0])
        for x, y in zip(a[1:], b[1:], strict=True):
            torch.testing.assert_close(x, y, atol=tolerance, rtol=0)


# --- crops of files


@pytest.mark.parametrize("capability", ["here", "DEFAULT"])
@settings(max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 10**6), st.sampled_from(["bilinear", "bicubic"]), st.booleans())
def test_a_crop_of_bytes_is_torchvisions_to_the_bit(capability, height, width, seed, interpolation, lies_as_decoded):
    """However the pixels lie in memory, and also where torchvision takes floats."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=random).permute(2, 0, 1)
    image = pixels if lies_as_decoded else pixels.contiguous()
    h, w = (int(torch.randint(1, side + 1, (1,), generator=random)) for side in (height, width))
    top, left = (int(torch.randint(0, side - part + 1, (1,), generator=random)) for side, part in ((height, h), (width, w)))
    with pytest.MonkeyPatch.context() as patch:
        if capability != "here":
            patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        expected = reference.resized_crop(image, top, left, h, w, [24, 24], InterpolationMode(interpolation), True)
        assert torch.equal(resized_crop(image, (top, left, h, w), 24, interpolation), expected)


@pytest.fixture
def photographs(tmp_path):
    """JPEGs of many sizes, smooth, one of them turned by its EXIF orientation, and one PNG."""
    paths = []
    for i, (height, width) in enumerate(((96, 130), (131, 90), (260, 170), (19, 33), (99, 161), (80, 64))):
        small = torch.rand(1, 3, 4, 5, generator=generator(0, i, 0, 0))
        pixels = (torch.nn.functional.interpolate(small, [height, width], mode="bicubic").clamp(0, 1)[0] * 255).byte()
        paths.append(str(tmp_path / f"{i}.{'png' if i == 5 else 'jpg'}"))
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 1 else 1
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(paths[-1], exif=exif, **({} if i == 5 else {"quality": 95}))
    return FolderSource("photographs", ["a"], torch.zeros(len(paths), dtype=torch.int64), MEAN, STD, paths)


def test_crops_of_drafts_are_crops_of_the_same_place(photographs, monkeypatch):
    factors = []
    decode = batches_module.pixels_of
    monkeypatch.setattr(
        batches_module,
        "pixels_of",
        lambda where, file, content, factor: factors.append(factor) or decode(where, file, content, factor),
    )
    for step in range(20):
        draws = CropDraws.draw(6, (0.3, 1.0), (3 / 4, 4 / 3), generator(1, 0, step, 0))
        views = [(draws, torch.arange(6) % 2 == 0)]
        [full], [draft] = (
            batches_module._crop(source, torch.arange(6), views, 10, "bilinear")
            for source in (photographs, photographs.drafted(True))
        )
        assert torch.equal(full[3], draft[3]) and torch.equal(full[5], draft[5])  # too small, and no JPEG
        difference = (full.float() - draft.float()).abs().mean((1, 2, 3))
        between_images = (full.float() - full.roll(1, 0).float()).abs().mean((1, 2, 3))
        assert (difference < between_images / 2).all()
    assert set(factors) >= {1, 4, 8}


def test_a_draft_keeps_as_many_pixels_as_the_smallest_crop_is_made_of(photographs):
    for size in (10, 33, 60):
        for place in range(6):
            draws = [CropDraws.draw(1, (0.3, 1.0), (3 / 4, 4 / 3), generator(2, place, size, view)) for view in (0, 1)]
            image, boxes = batches_module._drafted(photographs, place, draws, 0, size)
            whole = photographs.decode(place)
            before = [each.box(0, *whole.shape[-2:]) for each in draws]
            assert min(min(box[2:]) for box in boxes) >= min(size, *(min(box[2:]) for box in before))
            factor = 2 ** round(math.log2(whole.shape[-1] / image.shape[-1]))
            edges = [abs(box[side] * factor - old[side]) for box, old in zip(boxes, before, strict=True) for side in (0, 1)]
            assert max(edges) <= factor / 2
            for top, left, height, width in boxes:
                assert top >= 0 and left >= 0 and top + height <= image.shape[-2] and left + width <= image.shape[-1]


def test_evaluation_never_takes_drafts(photographs):
    usual, draft = (next(evaluation_batches(source, 10, 6, "cpu"))[0] for source in (photographs, photographs.drafted(True)))
    assert torch.equal(usual, draft)
    assert tensor_source().drafted(True).images.shape == (26, 3, 12, 14)


# --- two views


def test_an_epoch_shows_different_images_in_whole_batches(source):
    batches = two_views(source)
    epoch = list(batches.epoch(0))
    assert batches.steps_per_epoch == len(epoch) == 3
    index = torch.cat([index for index, _, _ in epoch])
    assert index.dtype == torch.int64 and len(set(index.tolist())) == 24
    for _, x1, x2 in epoch:
        assert x1.shape == x2.shape == (8, 3, SIZE, SIZE) and x1.dtype == x2.dtype == torch.float32
        assert not torch.allclose(x1, x2)


def test_the_same_seed_and_epoch_give_the_same_views_and_others_do_not(source):
    first = list(two_views(source).epoch(1))
    assert_same(first, list(two_views(source).epoch(1)))
    for other in (two_views(source).epoch(2), two_views(source, seed=4).epoch(1)):
        assert not torch.equal(first[0][0], next(iter(other))[0])


def test_views_depend_on_the_step_not_only_on_the_image():
    still = tensor_source(8)
    still.images[:] = still.images[:1]
    (_, x1, _), (_, y1, _) = (next(iter(two_views(still).epoch(epoch))) for epoch in (0, 1))
    assert not torch.allclose(x1, y1) and not torch.allclose(x1[0], x1[1])


def test_the_two_views_of_an_image_are_drawn_independently(source):
    plain = config(jitter_p=0.0, grayscale_p=0.0, blur_p=[0.0, 0.0])
    differences = [(x1 - x2).abs().amax((1, 2, 3)) for _, x1, x2 in two_views(source, augment=plain).epoch(0)]
    assert (torch.cat(differences) > 0.1).all()


def test_resuming_within_an_epoch_gives_the_rest_of_it(source):
    batches = two_views(source)
    assert_same(list(batches.epoch(5, start=2)), list(batches.epoch(5))[2:])
    assert list(batches.epoch(5, start=3)) == []


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_out_the_views_of_one(source, world_size):
    shares = [two_views(source, rank=rank, world_size=world_size).epoch(2) for rank in range(world_size)]
    together = [tuple(torch.cat(parts) for parts in zip(*step, strict=True)) for step in zip(*shares, strict=True)]
    assert_same(together, list(two_views(source).epoch(2)), tolerance=1e-4)


def test_workers_change_nothing(file_source):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    alone = list(two_views(file_source).epoch(1, start=1))
    assert_same(list(two_views(file_source, workers=2).epoch(1, start=1)), alone)
    assert torch.equal(torch.get_rng_state(), before)  # and the global random state is left alone


def test_files_give_the_views_of_the_tensor_but_for_rounding(file_source):
    plain = config(jitter_p=0.0, grayscale_p=0.0, blur_p=[0.0, 0.0])
    files, tensor = (two_views(s, augment=plain).epoch(0) for s in (file_source, tensor_source()))
    assert_same(list(files), list(tensor), tolerance=1.01 / 255 / min(STD))


def test_views_are_crops_of_the_images_they_are_indexed_by():
    flat = tensor_source()
    flat.images[:] = torch.arange(len(flat), dtype=torch.uint8)[:, None, None, None] * 9
    plain = config(jitter_p=0.0, grayscale_p=0.0, blur_p=[0.0, 0.0])
    for index, x1, x2 in two_views(flat, augment=plain).epoch(0):
        for x in (x1, x2):
            value = reference.normalize(x, [-m / s for m, s in zip(MEAN, STD, strict=True)], [1 / s for s in STD]) * 255
            torch.testing.assert_close(value, (index * 9.0)[:, None, None, None].expand_as(value), atol=1e-3, rtol=0)


def test_files_of_different_sizes_are_batched(tmp_path):
    paths = []
    for i, (height, width) in enumerate([(12, 30), (25, 11), (9, 9), (16, 16)]):
        paths.append(str(tmp_path / f"{i}.png"))
        io.write_png(torch.full((3, height, width), 40 * i, dtype=torch.uint8), paths[-1])
    mixed = FolderSource("mixed", ["a"], torch.zeros(4, dtype=torch.int64), (0.0,) * 3, (1.0,) * 3, paths)
    plain = config(jitter_p=0.0, grayscale_p=0.0, blur_p=[0.0, 0.0])
    ((index, x1, _),) = two_views(mixed, 4, augment=plain).epoch(0)
    torch.testing.assert_close(x1.amax((1, 2, 3)) * 255, index * 40.0)
    x = torch.cat([x for x, _ in evaluation_batches(mixed, 8, 3, "cpu")])
    assert x.shape == (4, 3, 8, 8)
    torch.testing.assert_close(x.amin((1, 2, 3)) * 255, torch.arange(4) * 40.0)


@pytest.mark.parametrize(
    ("n", "batch", "world_size", "said"),
    [
        (300, 512, 1, r"batch_size 512 is larger than the 300 training images of noise; set optimizer.batch_size=256"),
        (26, 27, 1, r"set optimizer.batch_size=16"),
        (26, 10, 4, r"batch_size 10 cannot be shared evenly by 4 processes; set optimizer.batch_size=8"),
        (26, 2, 4, r"set optimizer.batch_size=4"),
        (26, 0, 1, r"batch_size 0 .*set optimizer.batch_size=1"),
    ],
)
def test_unusable_batch_sizes_are_explained(n, batch, world_size, said):
    with pytest.raises(UserError, match=said):
        two_views(tensor_source(n), batch, world_size=world_size)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_damaged_meanwhile_is_one_clear_line(file_source, tmp_path, workers):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no pixels")
    damaged = FolderSource("noise", ["a"], file_source.labels[:4], MEAN, STD, [*file_source.paths[:3], str(broken)])
    with pytest.raises(UserError, match=r"cannot read the image .*broken\.png") as error:
        list(two_views(damaged, 2, workers=workers).epoch(0))
    assert "\n" not in str(error.value)


def test_generators_of_different_purposes_differ():
    places = list(itertools.product((0, 1), (0, 1), (0, 1), range(5)))
    assert len({torch.rand(1, generator=generator(*place)).item() for place in places}) == len(places)


# --- evaluation


@pytest.mark.parametrize("size", [10, 7, 20])
def test_evaluation_resizes_to_eight_sevenths_and_cuts_the_centre(source, size):
    images = tensor_source().images
    batches = list(evaluation_batches(source, size, 8, "cpu"))
    assert [len(x) for x, _ in batches] == [8, 8, 8, 2]
    assert torch.equal(torch.cat([labels for _, labels in batches]), source.labels)
    expected = reference.resize(images / 255, [round(size * 8 / 7)], InterpolationMode.BILINEAR, antialias=True)
    expected = reference.normalize(reference.center_crop(expected, [size, size]), MEAN, STD)
    tolerance = 1e-4 if isinstance(source, TensorSource) else 1.01 / 255 / min(STD)
    torch.testing.assert_close(torch.cat([x for x, _ in batches]), expected, atol=tolerance, rtol=0)


def test_evaluation_of_chosen_images_keeps_their_order(source):
    chosen = [5, 2, 20, 2]
    everything = torch.cat([x for x, _ in evaluation_batches(source, SIZE, 26, "cpu")])
    for indices in (chosen, torch.tensor(chosen)):
        batches = list(evaluation_batches(source, SIZE, 3, "cpu", indices))
        torch.testing.assert_close(torch.cat([x for x, _ in batches]), everything[chosen], atol=1e-6, rtol=0)
        assert torch.cat([labels for _, labels in batches]).tolist() == source.labels[chosen].tolist()


def test_evaluation_leaves_the_source_as_it_was():
    source = tensor_source()
    before = source.images.clone()
    list(evaluation_batches(source, SIZE, 8, "cpu"))
    assert torch.equal(source.images, before)


# --- single crops


def test_crop_batches_show_every_image_once_an_epoch(source):
    batches = list(crop_batches(source, SIZE, 8, 0, 7, "cpu"))
    assert [len(x) for x, _ in batches] == [8, 8, 8, 2]
    assert sum(labels.sum().item() for _, labels in batches) == 13
    assert all(x.shape[1:] == (3, SIZE, SIZE) and x.dtype == torch.float32 for x, _ in batches)
    again, later = (next(iter(crop_batches(source, SIZE, 8, epoch, 7, "cpu")))[0] for epoch in (0, 1))
    assert torch.equal(batches[0][0], again) and not torch.allclose(again, later)


def test_crop_batches_belong_to_their_labels_and_respect_their_options():
    ramp = tensor_source(20)
    ramp.images[:] = torch.arange(14, dtype=torch.uint8) * 18  # brighter to the right
    ramp.images[10:] = 0
    ramp.labels[:] = (torch.arange(20) >= 10).long()
    for flip in (0.0, 1.0):
        for x, labels in crop_batches(ramp, SIZE, 6, 0, 1, "cpu", flip=flip):
            slope = x[..., -1].mean((1, 2)) - x[..., 0].mean((1, 2))
            assert torch.equal(slope.abs() < 1e-6, labels == 1)
            assert (slope[labels == 0] < 0).all() if flip else (slope[labels == 0] > 0).all()


def test_crop_batches_from_workers_are_the_same(file_source):
    ours, theirs = (list(crop_batches(file_source, SIZE, 8, 2, 1, "cpu", workers=workers)) for workers in (0, 2))
    for (x, labels), (y, others) in zip(ours, theirs, strict=True):
        assert torch.equal(x, y) and torch.equal(labels, others)
