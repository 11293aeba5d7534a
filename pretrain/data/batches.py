"""Batches from a source: two augmented views to pretrain on, plain images to evaluate, single crops to train a probe
on.

What is random is drawn for the whole global batch from a generator seeded by (seed, epoch, step, stream), and each
process then takes its rows. So an image's views depend neither on the number of processes or workers nor on an
interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretrain.data.augment import Augment, CropDraws, crop_resize, normalise, there, to_float
from pretrain.data.folder import resize_square
from pretrain.data.images import opened, pixels_of, upright
from pretrain.data.sources import FileSource, ImageSource, TensorSource
from pretrain.lazy import Lazy
from rundir.errors import UserError

transforms = Lazy("torchvision.transforms.v2.functional")

if TYPE_CHECKING:
    from pretrain.config import AugmentConfig, CalibrationConfig

FIRST_VIEW, SECOND_VIEW, ORDER, SINGLE_CROP, SINGLE_ORDER = range(5)  # streams of random numbers
RESIZES_BYTES = ("AVX2", "AVX512")  # processors on which torchvision resizes bytes; on others it takes floats for bilinear
Box = tuple[int, int, int, int]  # top, left, height, width
CROP_RATIO = (3 / 4, 4 / 3)  # RandomResizedCrop's default


def generator(seed: int, epoch: int, step: int, stream: int) -> torch.Generator:
    """A CPU generator for one purpose, independent of all others."""
    mixed = np.random.SeedSequence([seed, epoch, step, stream]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


class TwoViewBatches:
    """Two views of every training image, in an order of its own each epoch.

    batch_size is global: each of ``world_size`` processes gets batch_size / world_size images per step. The last incomplete
    batch is dropped, or without ``drop_last`` kept as far as it can be shared out evenly, to ``parts`` virtual processes
    too. ``workers`` processes decode images that are not in memory (0: this one does). Raises
    UserError where the batch is larger than the data or cannot be shared out evenly.
    """

    def __init__(
        self,
        source: ImageSource,
        augment: AugmentConfig,
        size: int,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        drop_last: bool = True,
        parts: int = 0,
    ):
        if batch_size > len(source):
            fitting = 2 ** (len(source).bit_length() - 1)
            raise UserError(
                f"optimizer.batch_size {batch_size} is larger than the {len(source)} training images of "
                f"{source.name}; set optimizer.batch_size={fitting}"
            )
        if batch_size % world_size or batch_size < 1:
            fitting = max(world_size, batch_size - batch_size % world_size)
            raise UserError(
                f"optimizer.batch_size {batch_size} cannot be shared evenly by {world_size} processes; "
                f"set optimizer.batch_size={fitting}"
            )
        self.source, self.batch_size, self.seed, self.workers = source, batch_size, seed, workers
        self.device = torch.device(device)
        self.augment = Augment(augment, size, source.mean, source.std)
        self.rank, self.world_size = rank, world_size
        self.sizes = batch_sizes(len(source), batch_size, drop_last, max(parts, world_size))
        self.steps_per_epoch = len(self.sizes)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (index, x1, x2) from step ``start`` of an epoch on.

        index (b,) int64 on the CPU: positions in the source; x1, x2 (b, 3, size, size) float32, normalised, on the
        device.
        """
        order = torch.randperm(len(self.source), generator=generator(self.seed, epoch, 0, ORDER))

        def fetch(step: int) -> tuple:
            first, size = step * self.batch_size, self.sizes[step]
            share = size // self.world_size
            rows = slice(self.rank * share, (self.rank + 1) * share)
            index = order[first : first + size][rows]
            views = [
                self.augment.sample(size, view, generator(self.seed, epoch, step, view)).rows(rows)
                for view in (FIRST_VIEW, SECOND_VIEW)
            ]
            crops = _crop(
                self.source, index, [(view.crops, view.flip) for view in views], self.augment.size, self.augment.cfg.interpolation
            )
            return index, views, crops

        steps = range(start, self.steps_per_epoch)
        for index, views, crops in _fetched(fetch, steps, self.source, self.workers, self.device):
            x1, x2 = (self.augment.recolour(_move(crop, self.device), view) for crop, view in zip(crops, views, strict=True))
            yield index, x1, x2


def batch_sizes(images: int, batch_size: int, drop_last: bool = True, parts: int = 1) -> list[int]:
    """Images of each step of an epoch: full batches, then the rest if it is kept, rounded down to a multiple of ``parts``.

    A rest of fewer than two images for each of ``parts`` is dropped in any case: BatchNorm cannot train on one.
    """
    sizes, rest = [batch_size] * (images // batch_size), images % batch_size // max(1, parts) * max(1, parts)
    return sizes if drop_last or rest < 2 * max(1, parts) else [*sizes, rest]


def calibration_batches(
    source: ImageSource,
    cfg: CalibrationConfig,
    augment: AugmentConfig,
    size: int,
    seed: int,
    device: torch.device | str,
    workers: int = 0,
) -> Iterator[Tensor]:
    """Yield images (b, 3, size, size) for computing BatchNorm statistics, b > 1: at most ``cfg.images`` of the source, chosen by
    the seed, ``cfg.passes`` times, in ``cfg.views``.
    """
    count = min(cfg.images, len(source))
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:count]
    batch = min(cfg.batch_size, count)
    for epoch in range(cfg.passes):
        if cfg.views == "plain":
            views = (x for x, _ in evaluation_batches(source, size, batch, device, chosen, workers))
        elif cfg.views == "crops":
            views = (
                x
                for x, _ in crop_batches(
                    source.subset(chosen), size, batch, epoch, seed, device, flip=augment.flip, workers=workers
                )
            )
        else:
            batches = TwoViewBatches(source.subset(chosen), augment, size, batch, seed, device, workers=workers)
            views = (x for _, x, _ in batches.epoch(epoch))
        yield from (x for x in views if len(x) > 1)  # one image has no variance


def evaluation_batches(
    source: ImageSource,
    size: int,
    batch_size: int,
    device: torch.device | str,
    indices: Sequence[int] | Tensor | None = None,
    workers: int = 0,
    scale: float = 8 / 7,
    interpolation: str = "bilinear",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (x, labels) once over the source, or over ``indices`` of it, in order; the last batch may be smaller.

    Images are resized (anti-aliased) so that the shorter side is ``scale`` times ``size``, and the central square is
    cut: by default the usual rule of ImageNet (256 for 224). x (b, 3, size, size) float32, normalised; labels (b,)
    int64; both on the device.
    """
    indices = torch.arange(len(source)) if indices is None else torch.as_tensor(indices, dtype=torch.int64).cpu()

    def fetch(step: int) -> tuple[Tensor, Tensor]:
        index = indices[step * batch_size : (step + 1) * batch_size]
        return index, _centre(source, index, size, round(size * scale), interpolation)

    steps = range(-(-len(indices) // batch_size))
    for index, images in _fetched(fetch, steps, source, workers, torch.device(device)):
        yield _finished(source, images, device), _labels(source, index, device)


def crop_batches(
    source: ImageSource,
    size: int,
    batch_size: int,
    epoch: int,
    seed: int,
    device: torch.device | str,
    scale: Sequence[float] = (0.8, 1.0),
    flip: float = 0.5,
    interpolation: str = "bicubic",
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (x, labels) once over the source, shuffled by (seed, epoch); the last batch may be smaller.

    One random crop of each image, mirrored with probability ``flip``: training images of linear evaluation and
    fine-tuning. x (b, 3, size, size) float32, normalised; labels (b,) int64; both on the device.
    """
    order = torch.randperm(len(source), generator=generator(seed, epoch, 0, SINGLE_ORDER))

    def fetch(step: int) -> tuple[Tensor, Tensor]:
        index = order[step * batch_size : (step + 1) * batch_size]
        random = generator(seed, epoch, step, SINGLE_CROP)
        draws = CropDraws.draw(len(index), scale, CROP_RATIO, random)
        mirrored = torch.rand(len(index), generator=random) < flip
        return index, _crop(source, index, [(draws, mirrored)], size, interpolation)[0]

    steps = range(-(-len(order) // batch_size))
    for index, images in _fetched(fetch, steps, source, workers, torch.device(device)):
        yield _finished(source, images, device), _labels(source, index, device)


# --- from images to pixels of the asked size ------------------------------------------------------------------------


def _crop(
    source: ImageSource, index: Tensor, views: Sequence[tuple[CropDraws, Tensor]], size: int, interpolation: str
) -> list[Tensor]:
    """Cut one crop an image for each (draws, flip) of ``views``: a list of (b, 3, size, size).

    float32 where the images are in memory; uint8 on the CPU where files are decoded (once for all views), which keeps
    the traffic between processes small.
    """
    if isinstance(source, TensorSource):
        images = _rows(source.images, index)
        return [crop_resize(images, draws.boxes(*images.shape[-2:]), size, flip, interpolation) for draws, flip in views]
    assert isinstance(source, FileSource)
    out = [torch.empty(len(index), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2) for _ in views]  # as crops lie in memory
    mirrored = [flip.tolist() for _, flip in views]
    for i, place in enumerate(index.tolist()):
        if source.draft:
            image, boxes = _drafted(source, place, [draws for draws, _ in views], i, size)
        else:
            image = source.decode(place)
            boxes = [draws.box(i, *image.shape[-2:]) for draws, _ in views]
        for crops, box, flip in zip(out, boxes, mirrored, strict=True):
            crop = resized_crop(image, box, size, interpolation)
            crops[i] = crop.flip(-1) if flip[i] else crop
    return out


def _drafted(source: FileSource, place: int, draws: Sequence[CropDraws], i: int, size: int) -> tuple[Tensor, list[Box]]:
    """Image ``place`` of a source at the smallest scale at which all its boxes (row ``i`` of ``draws``) have ``size`` pixels a
    side, and the boxes in it.
    """
    where, content = source.content(place)
    file, header = opened(where, content)
    width, height = header.displayed
    boxes = [each.box(i, height, width) for each in draws]
    factor = next(f for f in (8, 4, 2, 1) if f == 1 or (file.format == "JPEG" and min(min(box[2:]) for box in boxes) >= f * size))
    image = upright(header, pixels_of(where, file, content, factor))
    return image, [_scaled(box, factor) for box in boxes]


def _scaled(box: Box, factor: int) -> Box:
    """A box in an image of one ``factor``-th of the size, its edges rounded."""
    top, left, bottom, right = (round(edge / factor) for edge in (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    return top, left, bottom - top, right - left


def resized_crop(image: Tensor, box: Box, size: int, interpolation: str) -> Tensor:
    """The square (3, size, size) that a box (top, left, height, width) of an image (3, H, W) uint8 becomes: torchvision's
    ``resized_crop`` with anti-aliasing, to the bit.

    torch resizes pixels that lie next to each other three times as fast, and torchvision does not ask for it.
    """
    top, left, height, width = box
    if interpolation == "bilinear" and torch.backends.cpu.get_cpu_capability() not in RESIZES_BYTES:
        return transforms.resized_crop(image, *box, [size, size], transforms.InterpolationMode(interpolation), True)
    part = image[None, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
    return F.interpolate(part, [size, size], mode=interpolation, align_corners=False, antialias=True)[0]


def _centre(source: ImageSource, index: Tensor, size: int, side: int, interpolation: str) -> Tensor:
    """Images resized and cut for evaluation: (b, 3, size, size), float32 from memory, uint8 from files."""
    if isinstance(source, TensorSource):
        resized = resize_square(to_float(_rows(source.images, index)), side, size, interpolation)
        return resized.clamp_(0, 1) if interpolation == "bicubic" else resized
    decoded = (source.decode(i) for i in index.tolist())  # type: ignore[attr-defined]
    return torch.stack([resize_square(image, side, size, interpolation) for image in decoded])


def _rows(images: Tensor, index: Tensor) -> Tensor:
    return images.index_select(0, there(index, images.device))


def _labels(source: ImageSource, index: Tensor, device: torch.device | str) -> Tensor:
    return _rows(source.labels, index).to(device)


def _move(x: Tensor, device: torch.device | str) -> Tensor:
    return there(x, torch.device(device))


def _finished(source: ImageSource, images: Tensor, device: torch.device | str) -> Tensor:
    return normalise(to_float(_move(images, device)), source.mean, source.std)


# --- worker processes -----------------------------------------------------------------------------------------------


class _Steps(Dataset):
    """Item i is the batch of the i-th step: a worker makes whole batches, so nothing has to be collated."""

    def __init__(self, fetch: Callable[[int], Any], steps: Sequence[int]):
        self.fetch, self.steps = fetch, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, i: int) -> Any:
        try:
            return self.fetch(self.steps[i])
        except UserError as error:  # raised in a worker, its message would come wrapped in a traceback
            return error


def _as_is(batch: Any) -> Any:
    return batch


def _fetched(
    fetch: Callable[[int], Any], steps: Sequence[int], source: ImageSource, workers: int, device: torch.device
) -> Iterable[Any]:
    """``fetch(step)`` for every step, in order; by worker processes where files have to be decoded."""
    if isinstance(source, TensorSource) or workers == 0:
        return map(fetch, steps)
    return _from_workers(_Steps(fetch, steps), workers, device)


def _from_workers(steps: _Steps, workers: int, device: torch.device) -> Iterator[Any]:
    # A generator of its own: without one the loader would draw from, and so disturb, the global random state.
    loader = DataLoader(
        steps,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_is,
        multiprocessing_context="fork",
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
