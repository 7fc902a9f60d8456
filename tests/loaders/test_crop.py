"""Crops: inside the image, distributed as torchvision's, and a function of (seed, epoch, index) alone."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from loaders import _native
from loaders.crop import crop_boxes, random_flips, random_shifts

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def boxes(heights, widths, *, crop="random_resized", seed=0, epoch=0, indices=None, area=AREA, ratio=RATIO):
    heights, widths = np.asarray(heights, dtype=np.int64), np.asarray(widths, dtype=np.int64)
    indices = np.arange(len(heights)) if indices is None else indices
    return crop_boxes(
        crop,
        indices=indices,
        heights=heights,
        widths=widths,
        seed=seed,
        epoch=epoch,
        area=area,
        ratio=ratio,
        center_fraction=0.875,
    )


def twin(index: int, height: int, width: int, seed: int, epoch: int) -> tuple[int, int, int, int]:
    """One random resized crop in plain Python."""
    for attempt in range(10):
        words = [int(word) for word in _native.philox(index & 0xFFFFFFFF, index >> 32, epoch, 2 << 16 | attempt, seed)]
        area = height * width * (AREA[0] + words[0] / 2**32 * (AREA[1] - AREA[0]))
        low, high = (math.log(bound) for bound in RATIO)
        ratio = math.exp(low + words[1] / 2**32 * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return words[2] * (height - h + 1) >> 32, words[3] * (width - w + 1) >> 32, h, w
    raise AssertionError("choose a size that fits")


def test_random_resized_equals_its_python_twin():
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(200, 600, size=(2, 200))
    indices = rng.integers(1 << 40, size=200)
    drawn = boxes(heights, widths, seed=1 << 50 | 9, epoch=3, indices=indices)
    expected = [
        twin(index, height, width, 1 << 50 | 9, 3)
        for index, height, width in zip(indices.tolist(), heights.tolist(), widths.tolist(), strict=True)
    ]
    assert drawn.tolist() == [list(box) for box in expected]


@pytest.mark.parametrize("crop", ["random_resized", "center", "whole", "shift"])
def test_boxes_lie_inside(crop):
    rng = np.random.default_rng(0)
    heights = np.concatenate([rng.integers(1, 700, size=3000), [1, 1, 65535, 1, 20000]])
    widths = np.concatenate([rng.integers(1, 700, size=3000), [1, 65535, 1, 2, 20000]])
    top, left, height, width = boxes(heights, widths, crop=crop).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (height > 0).all()
    assert (width > 0).all()
    assert (top + height <= heights).all()
    assert (left + width <= widths).all()


def test_center_is_the_square_in_the_middle_to_the_nearest_pixel():
    sizes = [(height, width) for height in range(1, 60) for width in (1, 2, 37, 58, 65535)]
    sides = [max(1, round(min(size) * 0.875)) for size in sizes]
    expected = [[(h - side) // 2, (w - side) // 2, side, side] for (h, w), side in zip(sizes, sides, strict=True)]
    heights, widths = zip(*sizes, strict=True)
    assert boxes(heights, widths, crop="center").tolist() == expected


def test_an_image_without_pixels_has_no_random_box():
    with pytest.raises(ValueError, match="must lie in"):
        boxes([3, 0], [3, 3], crop="random_resized")


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 100), (100, 500)])
def test_random_resized_is_distributed_as_torchvisions(height: int, width: int):
    # Two samples of 3,000: their means differ by less than five standard errors, and so do the 10 % and 90 % quantiles.
    count = 3000
    ours = boxes([height] * count, [width] * count)
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(224, scale=AREA, ratio=RATIO)
    image = torch.zeros(3, height, width)
    theirs = np.array(
        [
            [params[name] for name in ("top", "left", "height", "width")]
            for params in (transform.make_params([image]) for _ in range(count))
        ]
    )
    for column in range(4):
        mine, other = ours[:, column], theirs[:, column]
        error = math.sqrt((mine.var() + other.var()) / count) + 1e-9
        assert abs(mine.mean() - other.mean()) < 5 * error
        spread = max(mine.std(), other.std())
        assert np.abs(np.quantile(mine, [0.1, 0.9]) - np.quantile(other, [0.1, 0.9])).max() <= 0.15 * spread + 1


def test_the_same_sample_gets_the_same_box_wherever_it_stands():
    heights, widths = np.full(50, 300), np.full(50, 400)
    together = boxes(heights, widths)
    alone = np.concatenate([boxes([300], [400], indices=np.array([index])) for index in range(50)])
    assert np.array_equal(together, alone)
    assert not np.array_equal(together, boxes(heights, widths, epoch=1))
    assert not np.array_equal(together, boxes(heights, widths, seed=1))


def test_center_keeps_the_share_of_the_short_side():
    assert boxes([375, 256], [500, 256], crop="center").tolist() == [[23, 86, 328, 328], [16, 16, 224, 224]]


def test_flips_are_fair_and_change_with_the_epoch():
    indices = np.arange(20000)
    flips = random_flips(indices=indices, seed=0, epoch=0)
    assert abs(flips.mean() - 0.5) < 0.02
    assert abs((flips == random_flips(indices=indices, seed=0, epoch=1)).mean() - 0.5) < 0.02
    assert np.array_equal(flips[100:200], random_flips(indices=indices[100:200], seed=0, epoch=0))


def test_shifts_are_uniform_and_change_with_the_epoch():
    indices = np.arange(20000)
    shifts = random_shifts(indices=indices, seed=0, epoch=0, max_shift=2)
    counts = np.zeros((5, 5), np.int64)
    np.add.at(counts, tuple((shifts + 2).T), 1)
    assert abs(counts - 800).max() < 150  # five standard deviations
    other = random_shifts(indices=indices, seed=0, epoch=1, max_shift=2)
    assert abs((shifts == other).mean() - 0.2) < 0.02
    assert np.array_equal(shifts[100:200], random_shifts(indices=indices[100:200], seed=0, epoch=0, max_shift=2))
    assert not random_shifts(indices=indices, seed=0, epoch=0, max_shift=0).any()


def test_images_without_size_are_refused():
    with pytest.raises(ValueError, match="heights and widths"):
        boxes([0], [5])
