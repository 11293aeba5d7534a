"""The one reader of image files: the same pixels whatever the kind of file, and one line for what is no picture."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pretrain.data import images
from rundir.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def pixels(path, **options):
    return images.read(path, **options).permute(1, 2, 0).numpy()


def png(chunks):
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def written(tmp_path, image, name="picture.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("RGB", RGB),
        ("RGBA", RGB),
        ("L", np.stack([GREY] * 3, -1)),
        ("LA", np.stack([GREY] * 3, -1)),
        ("1", np.stack([(GREY > 127) * np.uint8(255)] * 3, -1)),
    ],
)
def test_every_mode_becomes_three_channels_of_bytes(tmp_path, mode, expected):
    grey = Image.fromarray(GREY)
    image = {"RGB": Image.fromarray(RGB), "L": grey, "1": Image.fromarray(GREY > 127)}.get(mode)
    if image is None:
        image = Image.fromarray(RGB) if mode == "RGBA" else grey
        image.putalpha(Image.fromarray(255 - GREY))
    assert image.mode == mode
    assert np.array_equal(pixels(written(tmp_path, image)), expected)


def test_a_palette_with_a_transparent_colour_keeps_its_colours(tmp_path):
    image = Image.fromarray(np.arange(54, dtype=np.uint8).reshape(6, 9), "P")
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image.putpalette(colours.tobytes())
    path = written(tmp_path, image, transparency=bytes(range(256)))
    assert np.array_equal(pixels(path), colours[np.arange(54).reshape(6, 9)])


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff", "deep.pgm"])
def test_sixteen_bits_keep_their_upper_eight(tmp_path, name):
    deep = GREY.astype(np.uint16) * 257
    deep[0, 0] = 0x12FF
    path = tmp_path / name
    if name.endswith("pgm"):
        path.write_bytes(b"P5 9 6 65535\n" + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(path)
    expected = GREY.copy()
    expected[0, 0] = 0x12
    assert np.array_equal(pixels(path), np.stack([expected] * 3, -1))


def test_sixteen_bits_of_colour_keep_their_upper_eight(tmp_path):
    deep = RGB.astype(">u2") * 256 + 200
    rows = b"".join(b"\0" + row.tobytes() for row in deep.astype(">u2"))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 9, 6, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    (tmp_path / "deep.png").write_bytes(png(chunks))
    assert np.array_equal(pixels(tmp_path / "deep.png"), RGB)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_have_the_pixels_that_pillow_decodes(tmp_path, mode):
    smooth = Image.fromarray(RGB).resize((60, 44), Image.Resampling.BICUBIC).convert(mode)
    path = written(tmp_path, smooth, "picture.jpg")
    assert np.array_equal(pixels(path), np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.ppm", "a.webp", "a.gif", "a.JPG"])
def test_what_the_file_holds_counts_and_not_its_name(tmp_path, name):
    kind = "PNG" if name == "a.JPG" else None
    options = {"lossless": True} if name == "a.webp" else {}
    image = Image.fromarray(RGB) if name != "a.gif" else Image.fromarray(GREY)
    image.save(tmp_path / name, format=kind, **options)
    assert images.is_image(name)
    assert np.array_equal(pixels(tmp_path / name), np.asarray(image.convert("RGB")))


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    path = written(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert set(pixels(path).flatten()) == {10}


# --- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_pictures_are_turned_as_they_are_displayed(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    path = written(tmp_path, Image.fromarray(RGB), name, exif=exif)
    stored = Image.open(path)
    assert np.array_equal(pixels(path), np.asarray(ImageOps.exif_transpose(stored)))
    header, raw = images.load(path)
    assert header.orientation == orientation and header.stored == (9, 6)
    assert header.displayed == ((6, 9) if orientation >= 5 else (9, 6))
    assert np.array_equal(raw.permute(1, 2, 0).numpy(), np.asarray(stored))


def test_of_tiff_the_orientation_is_part_of_the_format(tmp_path):
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    path = written(tmp_path, Image.fromarray(RGB), "a.tif", exif=exif)
    header, raw = images.load(path)
    assert (header.stored, header.orientation) == ((6, 9), 1)
    assert np.array_equal(raw.permute(1, 2, 0).numpy(), np.rot90(RGB, -1)) and torch.equal(raw, images.read(path))


def test_an_annotation_says_by_its_size_which_pixels_it_belongs_to(tmp_path):
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    path = written(tmp_path, Image.fromarray(RGB), exif=exif)
    assert np.array_equal(pixels(path, size=(9, 6)), RGB)
    assert np.array_equal(pixels(path, size=(6, 9)), np.rot90(RGB, -1))
    assert np.array_equal(pixels(path, size=(6, 9), exif="stored"), np.rot90(RGB, -1))
    with pytest.raises(UserError, match=r"has 6 x 9 pixels, its annotation says 7 x 9"):
        images.read(path, size=(7, 9))
    exif[images.ORIENTATION] = 3  # the size says nothing
    path = written(tmp_path, Image.fromarray(RGB), exif=exif)
    assert np.array_equal(pixels(path, size=(9, 6), exif="stored"), RGB)
    assert np.array_equal(pixels(path, size=(9, 6)), RGB[::-1, ::-1])


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, value):
    exif = Image.Exif()
    exif[images.ORIENTATION] = value
    assert np.array_equal(pixels(written(tmp_path, Image.fromarray(RGB), exif=exif)), RGB)


# --- what is no picture


def refused(path, said):
    with pytest.raises(UserError, match=said) as error:
        images.read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_a_file_that_is_cut_off_is_refused(tmp_path, suffix, share):
    noise = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = written(tmp_path, Image.fromarray(noise), f"a.{suffix}")
    os.truncate(path, int(path.stat().st_size * share))
    refused(path, "cannot read the image")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    for side in (12_000, 60_000):  # below and above Pillow's own limit
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(100)))]
        (tmp_path / "bomb.png").write_bytes(png(chunks))
        refused(tmp_path / "bomb.png", "pixels, more than the 134,217,728 that are read")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b"", "empty or none of JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of JPEG"),
    ],
)
def test_other_contents_are_named(tmp_path, content, said):
    (tmp_path / "a.jpg").write_bytes(content)
    refused(tmp_path / "a.jpg", said)


@pytest.mark.parametrize(("dtype", "name"), [(np.int32, "a.tif"), (np.float32, "a.tif")])
def test_numbers_without_a_scale_are_refused(tmp_path, dtype, name):
    refused(written(tmp_path, Image.fromarray(GREY.astype(dtype)), name), "32 bits have no scale")


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    refused(tmp_path / "a.png", "is a named pipe")
    os.symlink("/dev/zero", tmp_path / "b.png")
    refused(tmp_path / "b.png", "is a device")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "none.png", "No such file")
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(2**30 + 1)  # takes no room on the disk
    refused(tmp_path / "large.png", "1,073,741,825 bytes")


def _samples():
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        content = io.BytesIO()
        Image.fromarray(RGB).save(content, kind)
        yield content.getvalue()


SAMPLES = list(_samples())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_any_bytes_are_an_image_or_one_line(tmp_path_factory, content, data):
    """Files with some bytes changed, as a broken disk leaves them."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(bytes(changed))
    try:
        found = images.read(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert found.dtype == torch.uint8 and found.ndim == 3 and len(found) == 3
