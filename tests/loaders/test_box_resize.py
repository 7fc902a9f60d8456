"""Boxes resized by matmuls, against torchvision's resize of one image after the other."""

from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from jpeg_builders import sample_photos
from loaders import box_resize as module
from loaders.box_resize import box_resize
from loaders.crop import Crops, Interpolation

Pattern = Callable[[np.random.Generator, int, int], NDArray[np.uint8]]

BOTH_FILTERS = pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])


def noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    return rng.integers(256, size=(height, width, 3), dtype=np.uint8)


def photo(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    return sample_photos()[rng.integers(2)][:height, :width]


def checks(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Black and white, some pixels wide: bicubic overshoots at every edge."""
    side = rng.integers(2, 9)
    squares = (np.arange(height)[:, None] // side + np.arange(width) // side) % 2
    return np.repeat(255 * squares[:, :, None], 3, axis=2).astype(np.uint8)


@cache
def boxes_of(pattern: Pattern, number: int = 24) -> tuple[list[Tensor], Crops]:
    """Images of different sizes with boxes in them: whole images, lines, single pixels and any others."""
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for kind in range(number):
        height, width = (int(side) for side in rng.integers(20, 250, size=2))
        images.append(torch.from_numpy(np.ascontiguousarray(pattern(rng, height, width).transpose(2, 0, 1))))
        inside = int(rng.integers(2, height)), int(rng.integers(2, width))
        box = {0: (height, width), 1: (1, 1), 2: (1, width), 3: (height, 1)}.get(kind % 8, inside)
        boxes.append([int(rng.integers(height - box[0] + 1)), int(rng.integers(width - box[1] + 1)), *box])
    flips = rng.random(number) < 0.5
    return images, Crops(np.array(boxes, np.int32), flips, np.zeros((number, 2), np.int32))


def by_torchvision(images: list[Tensor], crops: Crops, resolution: int, interpolation: Interpolation) -> Tensor:
    made = []
    for image, box, flip in zip(images, crops.boxes.tolist(), crops.flips, strict=True):
        cut = transforms.crop(image, *box).contiguous()
        resized = transforms.resize(cut, [resolution] * 2, InterpolationMode(interpolation), antialias=True)
        made.append((resized.flip(-1) if flip else resized).permute(1, 2, 0))
    return torch.stack(made)


@BOTH_FILTERS
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("resolution", [2, 24, 96])
@pytest.mark.parametrize("pattern", [noise, photo, checks])
def test_pixels_are_torchvisions_within_one_level(pattern, resolution, device, interpolation, monkeypatch):
    """With the numbers that a CUDA device calculates with, too."""
    monkeypatch.setitem(module._DTYPES, "cpu", module._DTYPES[device])
    images, crops = boxes_of(pattern)
    made = box_resize(images, crops, resolution=resolution, interpolation=interpolation)
    assert made.shape == (24, resolution, resolution, 3)
    assert made.dtype == torch.uint8
    assert made.is_contiguous()
    difference = made.int() - by_torchvision(images, crops, resolution, interpolation).int()
    assert difference.abs().max() <= 1
    if resolution > 2:
        assert difference.float().mean().abs() < 0.02, "neither darker nor lighter"


@BOTH_FILTERS
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_image_of_the_result_s_size_stays_as_it_is(device, interpolation, monkeypatch):
    monkeypatch.setitem(module._DTYPES, "cpu", module._DTYPES[device])
    image = torch.from_numpy(noise(np.random.default_rng(0), 40, 50).transpose(2, 0, 1).copy())
    crops = Crops(np.array([[3, 5, 32, 32]], np.int32), np.array([False]), np.zeros((1, 2), np.int32))
    (made,) = box_resize([image], crops, resolution=32, interpolation=interpolation)
    assert torch.equal(made, image[:, 3:35, 5:37].permute(1, 2, 0))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_boxes_of_thousands_of_pixels_stay_exact(interpolation, monkeypatch):
    monkeypatch.setitem(module._DTYPES, "cpu", module._DTYPES["cuda"])
    wide = torch.from_numpy(noise(np.random.default_rng(0), 3, 9000).transpose(2, 0, 1).copy())
    images = [wide, wide.transpose(1, 2).contiguous()]
    boxes = np.array([[0, 7, 3, 8990], [7, 0, 8990, 3]], np.int32)
    crops = Crops(boxes, np.array([True, False]), np.zeros((2, 2), np.int32))
    made = box_resize(images, crops, resolution=2, interpolation=interpolation)
    assert (made.int() - by_torchvision(images, crops, 2, interpolation).int()).abs().max() <= 1


def test_shifts_come_after_the_resize_and_the_flip_and_reflect_the_border():
    images, crops = boxes_of(photo)
    shifts = np.random.default_rng(1).integers(-15, 16, size=(24, 2)).astype(np.int32)
    still = box_resize(images, crops, resolution=16, interpolation="bilinear").numpy()
    moved = box_resize(images, crops._replace(shifts=shifts), resolution=16, interpolation="bilinear").numpy()
    for image, expected_of, (down, right) in zip(moved, still, shifts.tolist(), strict=True):
        padded = np.pad(expected_of, ((15, 15), (15, 15), (0, 0)), mode="reflect")
        assert np.array_equal(image, padded[15 - down : 31 - down, 15 - right : 31 - right])


def test_what_lies_around_a_box_does_not_count():
    """Rows are gathered with what is right of the box, and below it the last row again."""
    images, crops = boxes_of(noise)
    others = []
    for image, (top, left, height, width) in zip(images, crops.boxes.tolist(), strict=True):
        others.append(255 - image)
        box = (slice(None), slice(top, top + height), slice(left, left + width))
        others[-1][box] = image[box]
    options = {"resolution": 40, "interpolation": "bicubic"}
    assert torch.equal(box_resize(others, crops, **options), box_resize(images, crops, **options))


class Operations(TorchDispatchMode):
    """Counts what is done, and how large the largest result is."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.count[func.overloadpacket.__name__] += 1
        if isinstance(made, Tensor) and made._base is None:
            self.largest = max(self.largest, made.nbytes)
        return made


def test_a_batch_takes_as_many_operations_as_one_image():
    images, crops = boxes_of(noise)
    counts = []
    for number in (1, 24):
        with Operations() as operations:
            first = Crops(*(column[:number] for column in crops))
            box_resize(images[:number], first, resolution=32, interpolation="bilinear")
        del operations.count["view"]  # does nothing on a device
        counts.append(operations.count)
    assert counts[0] == counts[1]


def test_large_images_are_done_in_slices_that_change_no_pixel(monkeypatch):
    images, crops = boxes_of(photo)
    options = {"resolution": 32, "interpolation": "bilinear"}
    with Operations() as at_once:
        expected = box_resize(images, crops, **options)
    for limit in (2**21, 1):
        monkeypatch.setattr(module, "_SLICE_BYTES", limit)
        with Operations() as in_slices:
            made = box_resize(images, crops, **options)
        assert torch.equal(made, expected)
        assert in_slices.largest < at_once.largest / 2
        assert in_slices.count["bmm"] > 2
    assert in_slices.count["bmm"] == 2 * len(images), "one image at least"


@pytest.mark.gpu
@BOTH_FILTERS
@pytest.mark.parametrize("pattern", [noise, photo, checks])
def test_a_device_makes_the_same_pixels(pattern, interpolation):
    images, crops = boxes_of(pattern)
    options = {"resolution": 96, "interpolation": interpolation}
    made = box_resize([image.cuda() for image in images], crops, **options)
    assert made.is_cuda
    assert (made.cpu().int() - by_torchvision(images, crops, **options).int()).abs().max() <= 1
