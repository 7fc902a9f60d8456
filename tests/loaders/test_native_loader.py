"""The native engine: its pixels against full decodes, a float64 reference and torchvision; threads, forks, errors."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from jpeg_builders import jpeg, photo, with_restarts
from loaders import BadSampleError, Batch, LoaderConfig, _native
from loaders.beton import EncodedImage, ImageMode
from loaders.native_loader import NativeLoader

pytestmark = pytest.mark.timeout(60)

Write = Callable[..., None]
CROP = {"area": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "center_fraction": 0.875, "max_shift": 4}
INTERPOLATIONS = ["bilinear", "bicubic"]


def open_loader(path: Path, **changes) -> NativeLoader:
    options = {"batch_size": 8, "resolution": 64, "crop": "random_resized", "order": "sequential", "drop_last": False}
    return NativeLoader(path, LoaderConfig(**(options | {"num_workers": 2} | changes)))


def rule(
    crop: str = "random_resized", *, resolution: int = 64, epoch: int = 0, interpolation: str = "bilinear"
) -> _native.CropRule:
    return _native.CropRule(crop, resolution=resolution, seed=0, epoch=epoch, interpolation=interpolation, **CROP)


def test_crops_between_restart_markers_are_the_same(write_images, tmp_path):
    plain = jpeg(photo(229, 307), subsampling=2)
    rewritten = with_restarts(plain)
    batches = []
    for name, data in {"plain": plain, "restart": rewritten}.items():
        path = tmp_path / f"{name}.beton"
        write_images(path, [EncodedImage(data, ImageMode.JPG, 229, 307)] * 300, np.zeros(300, np.int64))
        (batch,) = epoch_of(open_loader(path, batch_size=300), 0)
        batches.append(batch.images)
    assert torch.equal(*batches)


def test_what_cannot_be_rewritten_is_refused():
    whole = jpeg(photo(60, 80))
    for data in (b"", b"no JPEG", whole[:100], whole[: len(whole) // 2]):
        with pytest.raises(RuntimeError):
            with_restarts(data)
    with pytest.raises(ValueError, match="interval must be positive, got 0"):
        with_restarts(whole, 0)


def triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0, 1 - np.abs(x))


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys's, with a = -0.5."""
    x = np.abs(x)
    return np.select([x < 1, x < 2], [1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2])


def float64_resize(
    pixels: NDArray[np.uint8], box: list[int], side: int, kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The box of an image through a filter in float64, not rounded, but clamped after either pass."""
    top, left, height, width = box

    def matrix(size: int) -> NDArray[np.float64]:
        scale = size / side
        center = (np.arange(side)[:, None] + 0.5) * scale
        weights = kernel((np.arange(size) + 0.5 - center) / max(scale, 1.0))
        return weights / weights.sum(1, keepdims=True)

    cut = pixels[top : top + height, left : left + width].astype(np.float64)
    columns = np.einsum("hwc,xw->hxc", cut, matrix(width), optimize=True).clip(0, 255)
    return np.einsum("yh,hxc->yxc", matrix(height), columns, optimize=True).clip(0, 255)


# Half a level where one number is rounded, and for bicubic the columns' results as well, whose errors the weights of
# the rows, 1.25 without their signs, make larger.
LARGEST_ERROR = {"bilinear": 0.75, "bicubic": 1.125}


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("instructions", _native.resize_instructions())
@pytest.mark.parametrize(("resolution", "crop"), [(64, "random_resized"), (224, "random_resized"), (50, "whole")])
def test_resizing_is_within_one_level_of_float64(instructions, resolution, crop, interpolation):
    rng = np.random.default_rng(0)
    boxes_of = {"random_resized": _native.random_resized_crops, "whole": None}[crop]
    for index in range(12):
        height, width = (int(side) for side in rng.integers(40, 400, size=2))
        pixels = np.asarray(photo(height, width)).copy()
        pixels[: height // 2] = rng.integers(256, size=(height // 2, width, 3))  # the hard case: noise
        crop_rule = rule(crop, resolution=resolution, interpolation=interpolation)
        made = _native.crop_pixels(pixels, index, crop_rule, instructions)
        box, flip = [0, 0, height, width], False
        if boxes_of:
            sizes = np.array([index]), np.array([height]), np.array([width])
            box = boxes_of(*sizes, 0, 0, CROP["area"], CROP["ratio"])[0].tolist()
            flip = bool(_native.random_flips(sizes[0], 0, 0)[0])
        exact = float64_resize(pixels, box, resolution, {"bilinear": triangle, "bicubic": cubic}[interpolation])
        if flip:
            exact = exact[:, ::-1]
        assert np.abs(made - np.rint(exact)).max() <= 1
        assert np.abs(made - exact).max() < LARGEST_ERROR[interpolation]
        cut = torch.from_numpy(pixels).permute(2, 0, 1)
        theirs = transforms.resized_crop(
            cut, *box, [resolution, resolution], InterpolationMode(interpolation), antialias=True
        )
        theirs = theirs.permute(1, 2, 0).numpy()
        difference = np.abs(made - (theirs[:, ::-1] if flip else theirs).astype(int))
        assert difference.max() <= 2
        assert difference.mean() < 0.2


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("instructions", _native.resize_instructions())
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2), (2000, 17), (333, 4000)])
def test_every_instruction_set_gives_the_same_pixels(instructions, size, interpolation):
    pixels = np.random.default_rng(1).integers(256, size=(*size, 3), dtype=np.uint8)
    for crop in ("random_resized", "center", "whole"):
        for resolution in (1, 7, 32, 225):
            crop_rule = rule(crop, resolution=resolution, interpolation=interpolation)
            made = _native.crop_pixels(pixels, 3, crop_rule, instructions)
            assert np.array_equal(made, _native.crop_pixels(pixels, 3, crop_rule, "scalar"))


@pytest.mark.parametrize("fraction", [0.875, 1.0])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_validation_equals_resize_and_center_crop(photo_set, interpolation, fraction):
    options = {"crop": "center", "interpolation": interpolation, "center_fraction": fraction}
    (batch,) = open_loader(photo_set.path, resolution=96, batch_size=12, **options)
    for image, original in zip(batch.images, photo_set.images, strict=True):
        pixels = torch.from_numpy(original).permute(2, 0, 1)
        resized = transforms.resize(pixels, [round(96 / fraction)], InterpolationMode(interpolation), antialias=True)
        difference = (image.int() - transforms.center_crop(resized, [96, 96]).int()).abs()
        assert difference.max() <= 2
        assert difference.float().mean() < 0.2


def epoch_of(loader: NativeLoader, epoch: int, **options) -> list[Batch]:
    loader.set_epoch(epoch, **options)
    return [Batch(*(tensor.clone() for tensor in batch)) for batch in loader]


def test_threads_ranks_and_resuming_change_no_bit(photo_set):
    options = {"batch_size": 4, "order": "random"}
    expected = epoch_of(open_loader(photo_set.path, num_workers=1, **options), 1)
    for num_workers in (2, 3, 8):
        found = epoch_of(open_loader(photo_set.path, num_workers=num_workers, **options), 1)
        assert all(torch.equal(a.images, b.images) for a, b in zip(expected, found, strict=True))
    resumed = epoch_of(open_loader(photo_set.path, **options), 1, skip_batches=2)
    assert torch.equal(resumed[0].images, expected[2].images)
    ranks = [
        epoch_of(open_loader(photo_set.path, batch_size=1, order="random", rank=rank, world_size=4), 1)
        for rank in range(4)
    ]
    for number, batch in enumerate(expected):
        assert torch.equal(torch.cat([batches[number].images for batches in ranks]), batch.images)


def resident_bytes() -> int:
    """This process's own memory, without pages of mapped files."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_memory_does_not_grow(write_images, tmp_path):
    encoded = [jpeg(photo(60 + size, 80), subsampling=size % 3) for size in range(20)]
    records = [EncodedImage(encoded[number % 20], ImageMode.JPG, 60 + number % 20, 80) for number in range(500)]
    write_images(tmp_path / "small.beton", records, np.zeros(500, np.int64))
    loader = open_loader(tmp_path / "small.beton", order="random", batch_size=50)
    sizes = []
    for epoch in range(30):
        loader.set_epoch(epoch)
        assert sum(len(batch.index) for batch in loader) == 500
        sizes.append(resident_bytes())
    grown = sizes[-1] - sizes[9]
    assert grown < 1 << 19, f"{grown} bytes more after 10,000 samples"


def test_damage_is_named_and_never_shows_the_previous_image(write_images, tmp_path):
    good = jpeg(photo(120, 160))
    cut, garbled = good[: len(good) // 2], bytearray(good)
    garbled[len(good) // 2 : len(good) // 2 + 40] = b"\xff\xd9" * 20
    wrong_size = jpeg(photo(100, 160))
    records = [EncodedImage(bytes(data), ImageMode.JPG, 120, 160) for data in (good, cut, good, garbled, wrong_size)]
    write_images(tmp_path / "damaged.beton", records, np.arange(5))
    with pytest.raises(BadSampleError, match=r"sample 1 \(record 1 of .*damaged.beton\) cannot be decoded"):
        epoch_of(open_loader(tmp_path / "damaged.beton", crop="whole"), 0)
    loader = open_loader(tmp_path / "damaged.beton", crop="whole", on_error="skip")
    (batch,) = epoch_of(loader, 0)
    assert batch.index.tolist() == [0, 2]
    assert torch.equal(batch.images[0], batch.images[1])
    assert [sample.index for sample in loader.skipped] == [1, 3, 4]
    assert "100 x 160" in loader.skipped[2].reason


@pytest.mark.parametrize("crop", ["whole", "center"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_scaled_decoding_is_close(write_images, tmp_path, interpolation, crop):
    data = jpeg(photo(600, 800))
    write_images(tmp_path / "large.beton", [EncodedImage(data, ImageMode.JPG, 600, 800)] * 8, np.zeros(8, np.int64))
    options = {"interpolation": interpolation, "crop": crop}
    exact, scaled = (
        epoch_of(open_loader(tmp_path / "large.beton", **options, scaled_decode=option), 0)[0].images.float()
        for option in (False, True)
    )
    assert not torch.equal(exact, scaled), "it was not scaled"
    difference = (exact - scaled).abs()
    assert difference.mean() < 4
    for border in (difference[..., :2], difference[..., -2:], difference[..., :2, :], difference[..., -2:, :]):
        assert border.mean() < 4, "the pixels next to the crop are part of its border"


def test_a_forked_child_is_told_and_leaves_without_hanging(photo_set):
    loader = open_loader(photo_set.path, batch_size=4)
    child = os.fork()
    if child == 0:
        try:
            next(iter(loader))
        except RuntimeError as error:
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(epoch_of(loader, 0)) == 3


def test_an_iterator_that_was_left_behind_says_so(photo_set):
    loader = open_loader(photo_set.path, batch_size=4)
    old = iter(loader)
    next(old)
    assert len(epoch_of(loader, 0)) == 3
    with pytest.raises(ValueError, match="ended before its last batch"):
        next(old)


@pytest.mark.gpu
def test_batches_for_the_gpu_are_pinned(photo_set):
    expected = epoch_of(open_loader(photo_set.path), 0)
    loader = open_loader(photo_set.path, device=torch.device("cuda"))
    for batch, on_cpu in zip(loader, expected, strict=True):
        assert batch.images.is_pinned()
        copy = batch.images.to("cuda", non_blocking=True)
        torch.cuda.synchronize()  # before the loader uses the batch's memory again
        assert torch.equal(copy.cpu(), on_cpu.images)
