"""Two-view augmentation of a whole batch at once, with its own random parameters for every image.

Each operation equals torchvision's of the same name applied image by image in float arithmetic; what differs is that
nothing here loops over images. Parameters are drawn on the CPU from a given generator and applied on the device of
the images, so the same generator gives the same views on any device.

The recipe (crop, flip, colour jitter, grayscale, blur, solarize) is that of SimCLR, arXiv 2002.05709, appendix A,
with the blur and solarization probabilities per view of BYOL, arXiv 2006.07733, appendix B.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pretrain.config import AugmentConfig

TRIES = 10  # RandomResizedCrop's attempts before it falls back to a central crop
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the numbers of the operations in a jitter order, as in torchvision
LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2 weights, rounded as torchvision rounds them


def there(x: Tensor, device: torch.device) -> Tensor:
    """``x`` on ``device``. To a GPU through pinned memory, for otherwise the host would wait until all of it has arrived."""
    return (x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x).to(device, non_blocking=True)


@functools.cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


# --- crops ----------------------------------------------------------------------------------------------------------


@dataclass
class CropDraws:
    """Random numbers that become n crop boxes once the sizes of the images are known.

    Keeping them apart from the sizes lets a batch be drawn before its files are opened.
    ``area`` (n, 10) float64: share of the image's area; ``ratio`` (n, 10) float64: width / height; ``place`` (n, 10, 2)
    float64 in [0, 1): position from top and left; ``ratio_range``: smallest and largest ratio, for the fallback.
    """

    area: Tensor
    ratio: Tensor
    place: Tensor
    ratio_range: tuple[float, float]

    @classmethod
    def draw(cls, n: int, scale: Sequence[float], ratio: Sequence[float], generator: torch.Generator) -> CropDraws:
        unit = torch.rand(n, TRIES, 4, generator=generator, dtype=torch.float64)
        low, high = math.log(ratio[0]), math.log(ratio[1])
        return cls(
            scale[0] + (scale[1] - scale[0]) * unit[..., 0],
            (low + (high - low) * unit[..., 1]).exp(),
            unit[..., 2:],
            (float(ratio[0]), float(ratio[1])),
        )

    def rows(self, rows: slice) -> CropDraws:
        return CropDraws(self.area[rows], self.ratio[rows], self.place[rows], self.ratio_range)

    def boxes(self, height: int | Tensor, width: int | Tensor) -> Tensor:
        """Boxes (n, 4) int64 of top, left, height, width in images of ``height`` x ``width`` pixels (ints or (n,))."""
        n = len(self.area)
        height, width = (torch.as_tensor(side, dtype=torch.float64).expand(n) for side in (height, width))
        area = self.area * (height * width)[:, None]
        w, h = (area * self.ratio).sqrt().round(), (area / self.ratio).sqrt().round()
        fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
        first = (fits * torch.arange(TRIES, 0, -1)).argmax(1, keepdim=True)
        w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
        place = self.place.gather(1, first[..., None].expand(n, 1, 2))[:, 0]
        top, left = (place[:, 0] * (height - h + 1)).floor(), (place[:, 1] * (width - w + 1)).floor()
        drawn = torch.stack([top, left, h, w], 1)
        return torch.where(fits.any(1, keepdim=True), drawn, self._central(height, width)).long()

    def box(self, image: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The box of one image, as :meth:`boxes` gives it: without tensors, whose calls would take as long as a crop."""
        pixels = height * width
        places = self.place[image].tolist()
        for area, ratio, (top, left) in zip(self.area[image].tolist(), self.ratio[image].tolist(), places, strict=True):
            w, h = round(math.sqrt(area * pixels * ratio)), round(math.sqrt(area * pixels / ratio))
            if 0 < w <= width and 0 < h <= height:
                return math.floor(top * (height - h + 1)), math.floor(left * (width - w + 1)), h, w
        low, high = self.ratio_range
        w = round(height * high) if width / height > high else width
        h = round(width / low) if width / height < low else height
        return (height - h) // 2, (width - w) // 2, h, w

    def _central(self, height: Tensor, width: Tensor) -> Tensor:
        """The largest central boxes (n, 4) float64 whose aspect ratio is allowed."""
        low, high = self.ratio_range
        w = torch.where(width / height > high, (height * high).round(), width)
        h = torch.where(width / height < low, (width / low).round(), height)
        return torch.stack([((height - h) / 2).floor(), ((width - w) / 2).floor(), h, w], 1)


def crop_resize(images: Tensor, boxes: Tensor, size: int, flip: Tensor | None = None, interpolation: str = "bilinear") -> Tensor:
    """Cut a box out of every image and resize it to a square, with anti-aliasing where that shrinks.

    images (N, 3, H, W) uint8, or float in [0, 1]; boxes (N, 4) int64 of top, left, height, width; flip (N,) bool marks
    images to mirror. Returns (N, 3, size, size) float32 in [0, 1]. ``interpolation`` is "bilinear" or "bicubic".

    Resampling is linear and separable, so it is two batched matrix products with weights of their own for each image.
    They equal ``torchvision.transforms.functional.resized_crop(..., antialias=True)`` of float images (no rounding to
    uint8).
    """
    height, width = images.shape[-2:]
    boxes = there(boxes, images.device)
    rows = _resample_weights(boxes[:, 0], boxes[:, 2], height, size, interpolation)
    columns = _resample_weights(boxes[:, 1], boxes[:, 3], width, size, interpolation)
    if flip is not None:
        columns = torch.where(there(flip, images.device)[:, None, None], columns.flip(1), columns)
    if not images.is_floating_point():
        rows = rows / 255
    with torch.autocast(images.device.type, enabled=False):
        x = images.float().flatten(1, 2) @ columns.transpose(1, 2)  # (N, 3H, size)
        x = rows[:, None] @ x.unflatten(1, images.shape[1:3])
    return x.clamp_(0, 1)


def _resample_weights(start: Tensor, length: Tensor, side: int, size: int, interpolation: str) -> Tensor:
    """Weights (N, size, side) float32 that resample pixels ``start`` … ``start + length`` of one axis to ``size``
    pixels.

    The filters are Pillow's, which torch's anti-aliased interpolation follows too: the kernel is stretched by the
    shrinking factor, and the weights inside the box are normalised to 1.
    """
    if interpolation not in _FILTERS:
        raise ValueError(f"interpolation must be one of {sorted(_FILTERS)}, not {interpolation!r}")
    start, length = start.float()[:, None], length.float()[:, None]
    step = length / size  # (N, 1) source pixels an output pixel
    centre = start + step * (torch.arange(size, device=start.device) + 0.5)
    pixel = torch.arange(side, device=start.device) + 0.5
    inside = (pixel > start) & (pixel < start + length)
    weights = _FILTERS[interpolation]((pixel - centre[..., None]).div_(step.clamp(min=1)[..., None]).abs_())
    weights *= inside[:, None]
    return weights.div_(weights.sum(-1, keepdim=True))


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_(min=0)


def _cubic(distance: Tensor, a: float = -0.5) -> Tensor:
    """Keys' cubic convolution kernel of the absolute distance (IEEE TASSP 29(6), 1981, eq. 15: a = -1/2)."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}


# --- colours --------------------------------------------------------------------------------------------------------


def _luminance(x: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W)."""
    red, green, blue = x.split(1, 1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def color_jitter(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor, order: Tensor) -> Tensor:
    """torchvision's ColorJitter with factors and an order of operations for each image.

    x (N, 3, H, W) float32 in [0, 1]; brightness, contrast, saturation (N,) factors >= 0 (1 changes nothing); hue (N,)
    in [-0.5, 0.5] turns (0 changes nothing); order (N, 4) int64, a permutation of 0 brightness, 1 contrast, 2
    saturation, 3 hue: ``order[i, k]`` is done k-th to image i. Returns a new tensor like x.

    Brightness, contrast and saturation all blend an image with something dull (black, its mean grey, its own grey),
    so one colour matrix and one offset per image apply whichever is due; only hue is picked out by rows.
    """
    hue, order = hue.cpu(), order.cpu().T  # (4, N)
    factors = torch.stack([brightness.cpu(), contrast.cpu(), saturation.cpu(), torch.ones_like(hue)])
    f = factors.gather(0, order)
    grey, mean = (1 - f) * (order == SATURATION), (1 - f) * (order == CONTRAST)  # share of the image's own grey, mean grey
    matrix = f[..., None, None] * torch.eye(3) + grey[..., None, None] * torch.tensor(LUMA)
    matrix, mean, luma = there(matrix, x.device), there(mean[..., None], x.device), _constant(LUMA, x.device)
    for k in range(4):
        x = _blend(x, matrix[k], mean[k], luma)
        rows = ((order[k] == HUE) & (hue != 0)).nonzero()[:, 0]
        if len(rows):
            turned = there(rows, x.device)
            x.index_copy_(0, turned, _rotate_hue(x.index_select(0, turned), there(hue[rows], x.device)))
    return x


def _blend(x: Tensor, matrix: Tensor, mean: Tensor, luma: Tensor) -> Tensor:
    """clamp(matrix · colour + mean · mean luminance): x (N, 3, H, W), matrix (N, 3, 3), mean (N, 1), luma (3,)."""
    with torch.autocast(x.device.type, enabled=False):
        offset = mean * (x.mean((2, 3)) @ luma)[:, None]
        blended = torch.baddbmm(offset[..., None].expand(-1, 3, 1), matrix, x.flatten(2))
    return blended.view_as(x).clamp_(0, 1)


def _rotate_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of RGB images (n, 3, H, W) by ``turns`` (n,), through the hexagon of HSV as torchvision does."""
    high, low = x.amax(1), x.amin(1)
    chroma = high - low
    scale = chroma.clamp(min=1e-20).reciprocal_()  # a grey pixel has chroma 0 and stays grey whatever its hue
    # 0 in the largest channel, 1 in the smallest
    red, green, blue = ((high - channel).mul_(scale) for channel in x.unbind(1))
    # Choosing by a lerp with weights 0 and 1 is several times faster on a CPU than torch.where.
    sixths = torch.lerp((red - blue).add_(2), (green - red).add_(4), green.sign())
    sixths = torch.lerp(blue.sub_(green), sixths, red.sign_()).add_(6 * turns[:, None, None])
    sixths.sub_((sixths / 6).floor_(), alpha=6)
    out = torch.empty_like(x)
    for channel, (centre, sign, offset) in enumerate(((3, 1, -1), (2, -1, 2), (4, -1, 2))):
        ramp = (sixths - centre).abs_().mul_(sign).add_(offset).clamp_(0, 1)
        torch.addcmul(low, chroma, ramp, out=out[:, channel])
    return out


def grayscale(x: Tensor) -> Tensor:
    """Replace colours by their luminance: (N, 3, H, W) float -> the same shape, three equal channels."""
    return _luminance(x).expand_as(x).clone()


def solarize(x: Tensor, threshold: float = 0.5) -> Tensor:
    """Invert the values at or above ``threshold``: (N, 3, H, W) float in [0, 1] -> the same shape."""
    return torch.where(x >= threshold, 1 - x, x)


def gaussian_blur(x: Tensor, sigma: Tensor, kernel_size: int | None = None) -> Tensor:
    """Blur every image with its own Gaussian: (N, C, H, W) float and sigma (N,) in pixels, > 0 -> the same shape.

    Equals torchvision's gaussian_blur (reflected borders). ``kernel_size`` is odd; by default a tenth of the height,
    as in SimCLR, arXiv 2002.05709, appendix A (23 at 224 pixels), and at least 3.
    """
    height, width = x.shape[-2:]
    kernel_size = kernel_size or max(3, 2 * round((height / 10 - 1) / 2) + 1)
    sigma = there(sigma.float(), x.device)
    rows, columns = (_blur_weights(sigma, side, kernel_size) for side in (height, width))
    with torch.autocast(x.device.type, enabled=False):
        return rows[:, None] @ (x.flatten(1, 2) @ columns.transpose(1, 2)).view_as(x)


def _blur_weights(sigma: Tensor, side: int, kernel_size: int) -> Tensor:
    """Banded matrices (N, side, side) that blur one axis, borders reflected without repeating the edge pixel."""
    reach = kernel_size // 2
    if reach >= side:
        raise ValueError(f"a blur kernel of {kernel_size} pixels is too wide for images of {side} pixels")
    offset = torch.arange(-reach, reach + 1, device=sigma.device)
    kernel = (-0.5 * (offset / sigma[:, None]) ** 2).softmax(1)
    source = (torch.arange(side, device=sigma.device)[:, None] + offset).abs()
    source = (side - 1) - (side - 1 - source).abs()
    weights = torch.zeros(len(sigma), side, side, device=sigma.device)
    return weights.scatter_add_(2, source.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, side, -1))


# --- the recipe -----------------------------------------------------------------------------------------------------


@dataclass
class ViewParams:
    """What happens to each of n images in one view; tensors are on the CPU.

    crops: :class:`CropDraws`; flip, gray, solarize (n,) bool; brightness, contrast, saturation, hue (n,) float32 and
    order (n, 4) int64 as in :func:`color_jitter`; sigma (n,) float32, 0 where there is no blur.
    """

    crops: CropDraws
    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    gray: Tensor
    sigma: Tensor
    solarize: Tensor

    def rows(self, rows: slice) -> ViewParams:
        """The parameters of some of the images, for example of one process's part of the batch."""
        return ViewParams(self.crops.rows(rows), *(getattr(self, field.name)[rows] for field in fields(self)[1:]))


class Augment:
    """Draws and applies the random changes of one view.

    cfg: AugmentConfig; size: side of the views in pixels; mean, std: three numbers each, for RGB in [0, 1].
    """

    def __init__(self, cfg: AugmentConfig, size: int, mean: Sequence[float], std: Sequence[float]):
        self.cfg, self.size, self.mean, self.std = cfg, size, tuple(mean), tuple(std)

    def sample(self, n: int, view: int, generator: torch.Generator) -> ViewParams:
        """Draw the parameters of n images for view 0 or 1.

        The count of random numbers depends on n alone, so neighbouring images never change each other's views.
        """
        cfg = self.cfg
        crops = CropDraws.draw(n, cfg.crop_scale, cfg.crop_ratio, generator)
        flip, jitter, gray, blur, solarized, sigma, *strength = torch.rand(10, n, generator=generator)
        order = torch.rand(n, 4, generator=generator).argsort(1)
        jitter = (jitter < cfg.jitter_p).float()
        brightness, contrast, saturation = (
            1 + jitter * (torch.lerp(torch.tensor(max(0.0, 1 - most)), torch.tensor(1.0 + most), unit) - 1)
            for most, unit in zip(cfg.jitter[:3], strength[:3], strict=True)
        )
        hue = jitter * cfg.jitter[3] * (2 * strength[3] - 1)
        low, high = cfg.blur_sigma
        sigma = (low + (high - low) * sigma) * (blur < cfg.blur_p[view])
        return ViewParams(
            crops,
            flip < cfg.flip,
            brightness,
            contrast,
            saturation,
            hue,
            order,
            gray < cfg.grayscale_p,
            sigma,
            solarized < cfg.solarize_p[view],
        )

    def apply(self, images: Tensor, params: ViewParams) -> Tensor:
        """images (n, 3, H, W) uint8 or float in [0, 1] -> the view (n, 3, size, size) float32, normalised, same
        device."""
        boxes = params.crops.boxes(*images.shape[-2:])
        return self.recolour(crop_resize(images, boxes, self.size, params.flip, self.cfg.interpolation), params)

    def recolour(self, x: Tensor, params: ViewParams) -> Tensor:
        """What follows the crop, partly in place: x (n, 3, size, size) uint8 or float32 in [0, 1] -> float32,
        normalised."""
        x = to_float(x)
        if any(self.cfg.jitter) and self.cfg.jitter_p > 0:
            x = color_jitter(x, params.brightness, params.contrast, params.saturation, params.hue, params.order)
        x = _on_rows(x, params.gray, grayscale)
        x = _on_rows(x, params.sigma > 0, gaussian_blur, params.sigma)
        x = _on_rows(x, params.solarize, solarize)
        return normalise(x, self.mean, self.std)


def _on_rows(x: Tensor, chosen: Tensor, change, *per_image: Tensor) -> Tensor:
    """Apply ``change`` to the images marked in ``chosen`` (n,) bool, in place."""
    rows = chosen.nonzero()[:, 0]
    if len(rows):
        own = there(rows, x.device)
        x.index_copy_(0, own, change(x.index_select(0, own), *(values[rows] for values in per_image)))
    return x


def to_float(x: Tensor) -> Tensor:
    """uint8 images, however they lie in memory, to contiguous float32 in [0, 1]; float images to float32 as they are."""
    return x.float() if x.is_floating_point() else x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def normalise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std by channel, in place: x (N, 3, H, W) float32."""
    mean, std = (_constant(tuple(values), x.device).view(3, 1, 1) for values in (mean, std))
    return x.sub_(mean).div_(std)
