"""The one reader of image files: pretraining, every transfer task, pictures and checks see the same pixels.

The rule, which docs/datasets.md states: 8 bits a channel, RGB. Grey becomes three equal channels, transparency is dropped,
palettes and CMYK are converted, 16 bits a channel lose their lower eight, of an animation the first frame counts. The picture is
turned as its EXIF orientation says, unless an annotation shows by its size that it belongs to the pixels as they are stored.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretrain.data.files import read_bytes
from pretrain.lazy import Lazy
from rundir.errors import UserError

decoders = Lazy("torchvision.io")

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
# What a file may be, whatever its name; others that Pillow knows run programs (EPS) or are no pictures.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MOST_PIXELS = 2**27  # 134 million: more is a mistake or an attack, and takes gigabytes
ORIENTATION = 0x0112  # EXIF's tag
STORED, DISPLAYED = "stored", "displayed"
NO_IMAGES = (
    (b"version https://git-lfs", "a pointer of Git LFS; run git lfs pull"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
)

# Of large images, for which MOST_PIXELS is checked instead, and of odd metadata, which change no pixel.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Header:
    """``stored``: (width, height) of the pixels in the file; ``orientation``: EXIF's, 1 to 8, 1 where there is none."""

    stored: tuple[int, int]
    orientation: int = 1

    @property
    def displayed(self) -> tuple[int, int]:
        """(width, height) after turning."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored

    def sides(self, size: tuple[int, int]) -> list[str]:
        """Which of stored and displayed an annotation of ``size`` (width, height) may belong to."""
        return [side for side in (STORED, DISPLAYED) if getattr(self, side) == size]


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(SUFFIXES)


def read(path: str | Path, size: tuple[int, int] | None = None, exif: str = DISPLAYED) -> Tensor:
    """The image (3, H, W) uint8 RGB, turned by its EXIF orientation.

    Args:
        path: the file.
        size: (width, height) that an annotation states. Where only the stored or only the turned pixels have it, those are
            returned.
        exif: ``displayed`` or ``stored`` pixels where that is left open.

    Raises:
        UserError: it cannot be read, or has another size than ``size`` either way.
    """
    return fitted(path, *load(path), size, exif)


def fitted(path: str | Path, header: Header, pixels: Tensor, size: tuple[int, int] | None, exif: str) -> Tensor:
    """What :func:`read` returns of an image whose ``header`` and stored ``pixels`` are known."""
    sides = [exif] if size is None else header.sides(size)
    if not sides:
        raise UserError(
            f"{path} has {header.displayed[0]} x {header.displayed[1]} pixels, its annotation says "
            f"{size[0]} x {size[1]}; correct one of them"
        )
    side = exif if exif in sides else sides[0]
    return turned(pixels, header.orientation) if side == DISPLAYED else pixels


def load(path: str | Path) -> tuple[Header, Tensor]:
    """The header, and the pixels (3, H, W) uint8 RGB as they are stored. Raises UserError where the file cannot be read."""
    return decoded(path, read_bytes(path))


def decoded(path: str | Path, content: bytes) -> tuple[Header, Tensor]:
    """What :func:`load` returns of the file ``path`` whose content is known; ``path`` is for messages only."""
    image, header = opened(path, content)
    return header, pixels_of(path, image, content)


def pixels_of(path: str | Path, image: Image.Image, content: bytes, factor: int = 1) -> Tensor:
    """The stored pixels (3, H, W) uint8 RGB of what :func:`opened` returned of a file's ``content``.

    factor: 1, 2, 4 or 8; a JPEG is decoded at one ``factor``-th of its size (rounded up), each pixel about the mean of a square.
    """
    try:
        return _pixels(image, content) if factor == 1 else _draft(image, factor)
    except UserError as error:
        raise UserError(f"cannot read the image {path} ({error}); replace or remove it") from None
    except Exception as error:  # decoders stumble over damaged files in many ways
        raise UserError(f"cannot read the image {path} ({_reason(error)}); replace or remove it") from error


def opened(path: str | Path, content: bytes) -> tuple[Image.Image, Header]:
    """The image whose ``content`` is in ``path``, not decoded yet, and its header. Raises UserError where it is no image."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error).partition("(")[2].partition(" ")[0]) from None
    except Exception as error:
        start = content[:64].lstrip().lower()
        reason = next((what for begin, what in NO_IMAGES if start.startswith(begin)), None)
        if reason is None:
            unknown = isinstance(error, Image.UnidentifiedImageError)
            reason = f"it is empty or none of {', '.join(FORMATS)}" if unknown else _reason(error)
        raise UserError(f"cannot read the image {path} ({reason}); replace or remove it") from None
    if image.width * image.height > MOST_PIXELS:
        raise _too_large(path, str(image.width * image.height))
    return image, Header(image.size, _orientation(image))


def upright(header: Header, pixels: Tensor) -> Tensor:
    """Stored pixels (..., H, W) as they are displayed."""
    return turned(pixels, header.orientation)


def turned(pixels: Tensor, orientation: int) -> Tensor:
    """Stored pixels (..., H, W) as they are displayed; EXIF 2.32, tag 274."""
    if orientation >= 5:
        pixels = pixels.transpose(-1, -2)
    mirrored = [axis for axis, orientations in ((-1, (2, 3, 6, 7)), (-2, (3, 4, 7, 8))) if orientation in orientations]
    return pixels.flip(mirrored) if mirrored else pixels


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # there it is part of the format, and Pillow has turned the pixels already
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # what a viewer cannot read turns nothing
        return 1
    return found if found in range(1, 9) else 1


def _draft(image: Image.Image, factor: int) -> Tensor:
    if image.format in ("JPEG", "MPO"):
        image.draft(None, (image.width // factor, image.height // factor))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _pixels(image: Image.Image, content: bytes) -> Tensor:
    if image.format in ("JPEG", "MPO"):  # the same library as Pillow's, in half the time
        try:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            return decoders.decode_jpeg(data, mode=decoders.ImageReadMode.RGB)
        except RuntimeError:
            pass  # Pillow decodes more kinds, or says what is wrong
    image.info.pop("transparency", None)  # of a palette
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if not deep and image.mode[:1] in ("I", "F"):
        raise UserError("its numbers of 32 bits have no scale that is known: save it with 8 or 16 bits a channel")
    if deep:
        grey = torch.from_numpy((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        return grey.expand(3, -1, -1).contiguous()
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _too_large(path: str | Path, pixels: str) -> UserError:
    return UserError(
        f"the image {path} has {pixels} pixels, more than the {MOST_PIXELS:,} that are read; make it smaller, or remove it"
    )


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
