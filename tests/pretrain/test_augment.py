"""Batched augmentation against torchvision's, image by image."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from pretrain.data.augment import (
    Augment,
    CropDraws,
    color_jitter,
    crop_resize,
    gaussian_blur,
    grayscale,
    solarize,
)

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
OPERATIONS = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation, reference.adjust_hue)


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
        "solarize_p": [0.0, 0.2],
        "interpolation": "bilinear",
    }
    return SimpleNamespace(**{**fields, **changes})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=24, height=16, width=16, seed=0):
    """Random images, some with exact greys or fully saturated pixels: there, conversions of colour have branches."""
    x = torch.rand(n, 3, height, width, generator=seeded(seed))
    x[: n // 4] = x[: n // 4].round()
    x[n // 4 : n // 3] = x[n // 4 : n // 3, :1]
    return x


def jitter_parameters(n, seed=1):
    unit = torch.rand(4, n, generator=seeded(seed))
    order = torch.stack([torch.randperm(4, generator=seeded(seed + i)) for i in range(n)])
    return 0.3 + 1.4 * unit[0], 0.3 + 1.4 * unit[1], 2 * unit[2], unit[3] - 0.5, order


# --- crops


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.2, 1.0), (3 / 4, 4 / 3)),
        (200, 300, (0.08, 1.0), (3 / 4, 4 / 3)),
        (60, 200, (0.5, 1.0), (0.5, 2.0)),  # often needs the central fallback
    ],
)
def test_crop_boxes_are_distributed_as_torchvisions(height, width, scale, ratio):
    n = 3000
    ours = CropDraws.draw(n, scale, ratio, seeded()).boxes(height, width)
    torch.manual_seed(1)
    image = torch.empty(3, height, width)
    transform = v2.RandomResizedCrop(8, scale, ratio)
    theirs = torch.tensor([_box(transform.make_params([image])) for _ in range(n)])
    for measure in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert ks_2samp(measure(ours).numpy(), measure(theirs).numpy(), method="asymp").pvalue > 1e-3


def _box(params):
    return [params[name] for name in ("top", "left", "height", "width")]


@settings(max_examples=150)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(0, 10**6),
    st.sampled_from([(0.2, 1.0), (0.01, 0.1), (0.99, 1.0)]),
    st.sampled_from([(3 / 4, 4 / 3), (0.1, 0.2), (5.0, 9.0)]),
)
def test_the_box_of_one_image_is_that_of_a_batch(height, width, seed, scale, ratio):
    draws = CropDraws.draw(8, scale, ratio, seeded(seed))
    assert [list(draws.box(i, height, width)) for i in range(8)] == draws.boxes(height, width).tolist()


def test_crop_boxes_lie_inside_their_own_images():
    heights, widths = torch.randint(5, 80, (2, 500), generator=seeded())
    boxes = CropDraws.draw(500, (0.2, 1.0), (3 / 4, 4 / 3), seeded(2)).boxes(heights, widths)
    top, left, height, width = boxes.unbind(1)
    assert boxes.dtype == torch.int64 and (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > 0).all()
    assert (top + height <= heights).all() and (left + width <= widths).all()


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (20, 21)])
def test_crop_that_never_fits_is_central_as_in_torchvision(height, width):
    scale, ratio = (4.0, 5.0), (3 / 4, 4 / 3)  # larger than the image: all ten tries fail
    boxes = CropDraws.draw(2, scale, ratio, seeded()).boxes(height, width)
    expected = _box(v2.RandomResizedCrop(8, scale, ratio).make_params([torch.empty(3, height, width)]))
    assert boxes.tolist() == [expected, expected]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (32, 32, 12), (17, 40, 24), (8, 8, 32), (90, 70, 10)])
def test_crop_resize_agrees_with_torchvision(interpolation, height, width, size):
    images = pictures(20, height, width)
    boxes = CropDraws.draw(20, (0.1, 1.0), (0.5, 2.0), seeded()).boxes(height, width)
    boxes[0] = torch.tensor([0, 0, height, width])
    boxes[1] = torch.tensor([2, 3, 1, 1])
    flip = torch.arange(20) % 2 == 0
    ours = crop_resize(images, boxes, size, flip, interpolation)
    for out, image, box, mirrored in zip(ours, images, boxes.tolist(), flip, strict=True):
        method = v2.InterpolationMode(interpolation)
        expected = reference.resized_crop(image, *box, [size, size], method, antialias=True)
        expected = expected.flip(-1) if mirrored else expected
        torch.testing.assert_close(out, expected.clamp(0, 1), atol=2e-5, rtol=0)


def test_crop_resize_of_uint8_is_that_of_the_scaled_floats():
    images = torch.randint(0, 256, (9, 3, 20, 20), dtype=torch.uint8, generator=seeded())
    boxes = CropDraws.draw(9, (0.2, 1.0), (3 / 4, 4 / 3), seeded()).boxes(20, 20)
    out = crop_resize(images, boxes, 16)
    assert out.dtype == torch.float32 and out.shape == (9, 3, 16, 16)
    torch.testing.assert_close(out, crop_resize(images / 255, boxes, 16), atol=1e-6, rtol=0)


def test_crop_resize_of_the_whole_image_at_its_size_changes_nothing():
    images = pictures()
    boxes = torch.tensor([[0, 0, 16, 16]]).expand(len(images), 4)
    for interpolation in ("bilinear", "bicubic"):
        torch.testing.assert_close(crop_resize(images, boxes, 16, None, interpolation), images, atol=1e-6, rtol=0)


def test_crop_resize_names_the_interpolations_there_are():
    with pytest.raises(ValueError, match="bicubic"):
        crop_resize(pictures(), torch.tensor([[0, 0, 16, 16]]).expand(24, 4), 8, None, "nearest")


# --- colours


def test_color_jitter_agrees_with_torchvision_in_every_order():
    images, (*factors, order) = pictures(96), jitter_parameters(96)
    before = images.clone()
    ours = color_jitter(images, *factors, order)
    assert len(set(map(tuple, order.tolist()))) == 24 and torch.equal(images, before)
    for i, image in enumerate(images):
        for operation in order[i].tolist():
            image = OPERATIONS[operation](image, factors[operation][i].item())
        torch.testing.assert_close(ours[i], image, atol=3e-5, rtol=0)


@pytest.mark.parametrize("operation", range(4))
def test_each_operation_alone_agrees_with_torchvision(operation):
    images, (*drawn, order) = pictures(60), jitter_parameters(60, seed=5)
    factors = [torch.ones(60)] * 3 + [torch.zeros(60)]
    factors[operation] = drawn[operation]
    ours = color_jitter(images, *factors, order)
    expected = torch.stack([OPERATIONS[operation](image, drawn[operation][i].item()) for i, image in enumerate(images)])
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


def test_the_order_of_operations_matters():
    images, (*factors, _) = pictures(), jitter_parameters(24)
    forward, backward = torch.arange(4).expand(24, 4), torch.arange(3, -1, -1).expand(24, 4)
    one, other = (color_jitter(images, *factors, order) for order in (forward, backward))
    assert (one - other).abs().amax((1, 2, 3)).min() > 1e-2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), strength=st.floats(0, 3))
def test_color_jitter_stays_in_range(seed, strength):
    images, (*factors, order) = pictures(8, seed=seed), jitter_parameters(8, seed)
    out = color_jitter(images, *(factor * strength for factor in factors[:3]), factors[3], order)
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_neutral_factors_are_the_identity(seed):
    images, order = pictures(8, seed=seed), jitter_parameters(8, seed)[-1]
    one, zero = torch.ones(8), torch.zeros(8)
    torch.testing.assert_close(color_jitter(images, one, one, one, zero, order), images, atol=1e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), first=st.floats(-0.5, 0.5), second=st.floats(-0.5, 0.5))
def test_turns_of_hue_add_up(seed, first, second):
    images, one, order = pictures(8, seed=seed), torch.ones(8), jitter_parameters(8, seed)[-1]

    def turned(x, hue):
        return color_jitter(x, one, one, one, torch.full((8,), hue), order)

    torch.testing.assert_close(turned(turned(images, first), second), turned(images, first + second), atol=1e-4, rtol=0)


def test_images_do_not_influence_one_another():
    images, parameters = pictures(12), jitter_parameters(12)
    together = color_jitter(images, *parameters)
    alone = torch.cat([color_jitter(images[i : i + 1], *(p[i : i + 1] for p in parameters)) for i in range(12)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_grayscale_agrees_with_torchvision():
    images = pictures()
    torch.testing.assert_close(grayscale(images), reference.rgb_to_grayscale(images, 3), atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_grayscale_is_idempotent(seed):
    once = grayscale(pictures(6, seed=seed))
    torch.testing.assert_close(grayscale(once), once, atol=2e-4, rtol=0)  # torchvision's weights add up to 0.9999


@pytest.mark.parametrize(("height", "width", "kernel_size"), [(32, 32, 3), (20, 34, 7), (23, 23, 23)])
def test_gaussian_blur_agrees_with_torchvision(height, width, kernel_size):
    images, sigma = pictures(10, height, width), torch.linspace(0.1, 2.5, 10)
    ours = gaussian_blur(images, sigma, kernel_size)
    for out, image, s in zip(ours, images, sigma.tolist(), strict=True):
        torch.testing.assert_close(out, reference.gaussian_blur(image, [kernel_size] * 2, [s, s]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("side", "kernel_size"), [(224, 23), (96, 9), (32, 3), (16, 3)])
def test_default_blur_kernel_is_a_tenth_of_the_image(side, kernel_size):
    images, sigma = pictures(1, side, side), torch.tensor([2.0])
    assert torch.equal(gaussian_blur(images, sigma), gaussian_blur(images, sigma, kernel_size))


def test_blur_kernel_wider_than_the_image_is_refused():
    with pytest.raises(ValueError, match="too wide"):
        gaussian_blur(pictures(1, 8, 8), torch.ones(1), 17)


def test_solarize_agrees_with_torchvision_and_undoes_itself_once():
    images = pictures()
    torch.testing.assert_close(solarize(images), reference.solarize(images, 0.5), atol=0, rtol=0)
    assert solarize(images).max() <= 0.5


# --- the recipe


def test_sampled_parameters_have_the_asked_distributions():
    augment, n = Augment(config(), 16, MEAN, STD), 4000
    params = augment.sample(n, 0, seeded())
    for marked, share in (
        (params.flip, 0.5),
        (params.gray, 0.2),
        (params.sigma > 0, 0.5),
        (params.hue != 0, 0.8),
        (params.solarize, 0.0),
    ):
        assert abs(marked.float().mean().item() - share) < 0.03
    jittered = params.hue != 0
    assert torch.equal(jittered, params.brightness != 1)
    for values in (params.brightness, params.contrast, params.saturation):
        assert kstest(values[jittered].numpy(), "uniform", (0.6, 0.8)).pvalue > 1e-3
    assert kstest(params.hue[jittered].numpy(), "uniform", (-0.1, 0.2)).pvalue > 1e-3
    assert kstest(params.sigma[params.sigma > 0].numpy(), "uniform", (0.1, 1.9)).pvalue > 1e-3
    counts = torch.unique(params.order, dim=0, return_counts=True)[1]
    assert len(counts) == 24 and (counts - n / 24).abs().max() < 5 * math.sqrt(n / 24)


def test_second_view_has_its_own_probabilities():
    params = Augment(config(), 16, MEAN, STD).sample(4000, 1, seeded())
    assert abs((params.sigma > 0).float().mean().item() - 0.1) < 0.02
    assert abs(params.solarize.float().mean().item() - 0.2) < 0.03


def test_strong_jitter_never_has_negative_factors():
    params = Augment(config(jitter=[2.0, 2.0, 2.0, 0.5], jitter_p=1.0), 16, MEAN, STD).sample(500, 0, seeded())
    assert params.brightness.min() >= 0 and params.brightness.max() > 2.9 and params.hue.abs().max() <= 0.5


def test_apply_is_the_chain_of_torchvision_operations():
    augment = Augment(config(blur_p=[0.5, 0.5], solarize_p=[0.3, 0.3], grayscale_p=0.3), 20, MEAN, STD)
    images = torch.randint(0, 256, (40, 3, 28, 24), dtype=torch.uint8, generator=seeded())
    params = augment.sample(40, 0, seeded(3))
    views = augment.apply(images, params)
    boxes = params.crops.boxes(28, 24)
    for i, image in enumerate(images):
        image = reference.resized_crop(image / 255, *boxes[i].tolist(), [20, 20], antialias=True)
        image = image.flip(-1) if params.flip[i] else image
        values = (params.brightness[i], params.contrast[i], params.saturation[i], params.hue[i])
        for operation in params.order[i].tolist():
            image = OPERATIONS[operation](image, values[operation].item())
        image = reference.rgb_to_grayscale(image, 3) if params.gray[i] else image
        if params.sigma[i] > 0:
            image = reference.gaussian_blur(image, [3, 3], [params.sigma[i].item()] * 2)
        image = reference.solarize(image, 0.5) if params.solarize[i] else image
        difference = (views[i] - reference.normalize(image, MEAN, STD)).abs()
        # A value at the threshold of solarization may fall to either side of it by rounding.
        assert (difference < 5e-4).float().mean() > (0.995 if params.solarize[i] else 0.99999)


def test_views_of_single_rows_are_those_of_the_whole_batch():
    augment = Augment(config(), 16, MEAN, STD)
    images = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=seeded())
    params = augment.sample(10, 1, seeded())
    half = augment.apply(images[5:], params.rows(slice(5, 10)))
    torch.testing.assert_close(augment.apply(images, params)[5:], half, atol=2e-5, rtol=0)


def test_views_are_float32_under_autocast():
    augment = Augment(config(blur_p=[1.0, 1.0]), 16, MEAN, STD)
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=seeded())
    params = augment.sample(6, 0, seeded())
    with torch.autocast("cpu", torch.bfloat16):
        views = augment.apply(images, params)
    assert views.dtype == torch.float32 and torch.equal(views, augment.apply(images, params))


def test_with_everything_off_a_view_is_the_normalised_image():
    off = config(crop_scale=[1.0, 1.0], crop_ratio=[1.0, 1.0], flip=0.0, jitter_p=0.0, grayscale_p=0.0, blur_p=[0.0, 0.0])
    augment = Augment(off, 16, MEAN, STD)
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=seeded())
    views = augment.apply(images, augment.sample(6, 0, seeded()))
    torch.testing.assert_close(views, reference.normalize(images / 255, MEAN, STD), atol=1e-5, rtol=0)
