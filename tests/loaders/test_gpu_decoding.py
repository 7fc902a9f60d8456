"""Decoding on a card, by `dali` (mixed) and `nvjpeg`: the contract of loaders/contract.py, against `native` on the CPU.

How far pixels may be from those of `native`, in levels of 255, on average and at most: inverse DCT, colour conversion
and resize of the GPU round elsewhere, which is all there is in images without subsampled colours. In the others,
`dali` is asked to interpolate colours as libjpeg-turbo does; torchvision has nvJPEG repeat them, which differs along
coloured edges (simulated on these photos: 0.9 on average, 21 at most, where a small crop is enlarged). The outermost
pixels count for the average alone: where a filter reaches beyond the crop, DALI repeats the last pixel, Pillow and
`native` leave that part of the filter out.
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_images
from fastvit_train.prefetch import Prefetcher
from jpeg_builders import cmyk, jpeg, photo, with_restarts
from loaders import BadSampleError, Batch, ImageLoader, LoaderConfig, build_loader
from loaders.beton import EncodedImage, ImageMode

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

DEVICE = torch.device("cuda")
BACKENDS = [
    pytest.param(
        "dali", marks=pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is None, reason="no DALI here")
    ),
    "nvjpeg",
]
SIZES = [(300, 400), (375, 500), (256, 256), (417, 301), (96, 130), (333, 500)]


class Tolerance(NamedTuple):
    mean: float
    most: int
    """Of pixels that are not at the border."""


FULL_COLOUR = Tolerance(0.7, 12)
HALF_COLOUR = {"dali": Tolerance(0.7, 16), "nvjpeg": Tolerance(1.5, 40)}

Build = Callable[..., ImageLoader]


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    return request.param


@pytest.fixture
def build() -> Iterator[Build]:
    """Builds loaders and closes them after the test."""
    built: list[ImageLoader] = []

    def make(name: str, path: Path, **changes) -> ImageLoader:
        options = {
            "batch_size": 8,
            "resolution": 128,
            "crop": "random_resized",
            "order": "random",
            "drop_last": False,
            "seed": 5,
            "num_workers": 2,
            "device": torch.device("cpu") if name == "native" else DEVICE,
        }
        built.append(build_loader(name, path, LoaderConfig(**(options | changes))))
        return built[-1]

    yield make
    for loader in built:
        loader.close()


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Callable[..., Path]:
    """Makes a `.beton` file of 22 photos of several sizes."""
    folder = tmp_path_factory.mktemp("photos")

    def make(*, subsampling: str = "4:2:0", restarts: bool = False) -> Path:
        path = folder / f"{subsampling.replace(':', '')}{restarts}.beton"
        if not path.exists():
            files = [jpeg(photo(*SIZES[n % 6]).rotate(n, expand=False), subsampling=subsampling) for n in range(22)]
            records = [
                EncodedImage(with_restarts(data) if restarts else data, ImageMode.JPG, *SIZES[n % 6])
                for n, data in enumerate(files)
            ]
            write_images(path, records, np.arange(22) % 7)
        return path

    return make


def epoch_of(loader: ImageLoader, epoch: int = 0, **options) -> list[Batch]:
    """The epoch's batches on the CPU."""
    loader.set_epoch(epoch, **options)
    return [Batch(*(tensor.to("cpu", copy=True) for tensor in batch)) for batch in loader]


def check_alike(batches: list[Batch], expected: list[Batch], tolerance: Tolerance, *, border: int = 2) -> None:
    """The same samples and labels in the same order, and nearly the same pixels."""
    assert [batch.index.tolist() for batch in batches] == [batch.index.tolist() for batch in expected]
    assert [batch.labels.tolist() for batch in batches] == [batch.labels.tolist() for batch in expected]
    for batch, other in zip(batches, expected, strict=True):
        differences = (batch.images.int() - other.images.int()).abs()
        for index, difference in zip(batch.index.tolist(), differences, strict=True):
            assert difference.float().mean() <= tolerance.mean, f"sample {index}: {difference.float().mean():.2f}"
            inner = difference[:, border:-border, border:-border].max()
            assert inner <= tolerance.most, f"sample {index}: {inner}"


def same(batches: list[Batch], others: list[Batch]) -> bool:
    return all(
        torch.equal(one, other) for pair in zip(batches, others, strict=True) for one, other in zip(*pair, strict=True)
    )


@pytest.mark.parametrize("restarts", [False, True], ids=["whole", "spliced"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_crops_are_those_of_native(backend, build, photos, subsampling, restarts):
    path = photos(subsampling=subsampling, restarts=restarts)
    tolerance = FULL_COLOUR if subsampling == "4:4:4" else HALF_COLOUR[backend]
    loader, native = build(backend, path), build("native", path)
    for epoch in (0, 1):
        check_alike(epoch_of(loader, epoch), epoch_of(native, epoch), tolerance)


@pytest.mark.parametrize(
    ("options", "border", "tolerance"),
    [
        # Pillow and `native` cut what this filter overshoots after each of two passes, the others after both.
        ({"interpolation": "bicubic"}, 8, Tolerance(0.7, 24)),
        ({"crop": "center", "order": "sequential"}, 2, FULL_COLOUR),
        ({"crop": "whole"}, 2, FULL_COLOUR),
        ({"crop": "shift", "max_shift": 9}, 2 + 9, FULL_COLOUR),
        ({"order": "quasi_random"}, 2, FULL_COLOUR),
        ({"repeats": 2, "drop_last": True}, 2, FULL_COLOUR),
        ({"rank": 1, "world_size": 3}, 2, FULL_COLOUR),
        ({"resolution": 224}, 3, FULL_COLOUR),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_mean_what_they_mean_for_native(backend, build, photos, options, border, tolerance):
    path = photos(subsampling="4:4:4", restarts=True)
    expected = epoch_of(build("native", path, **options), 2)
    check_alike(epoch_of(build(backend, path, **options), 2), expected, tolerance, border=border)


def test_a_spliced_image_has_the_pixels_of_the_whole_one(backend, build, photos):
    """The same decoder on both: nothing may differ but what lies beyond the pixels that upsampling sees."""
    whole, spliced = (epoch_of(build(backend, photos(restarts=restarts))) for restarts in (False, True))
    check_alike(spliced, whole, Tolerance(0.05, 2))


def test_batches_are_on_the_card_as_the_contract_has_them(backend, build, photos):
    loader = build(backend, photos())
    assert len(loader) == 3
    for batch, size in zip(loader, (8, 8, 6), strict=True):
        assert batch.images.device.type == batch.labels.device.type == batch.index.device.type == DEVICE.type
        assert batch.images.shape == (size, 3, 128, 128)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == batch.index.dtype == torch.int64


def test_an_epoch_continues_at_any_batch_and_is_the_same_again(backend, build, photos):
    loader = build(backend, photos(restarts=True))
    whole = epoch_of(loader, 3)
    assert same(epoch_of(loader, 3, skip_batches=1), whole[1:])
    assert same(epoch_of(loader, 3), whole)
    assert epoch_of(loader, 3, resolution=96)[0].images.shape == (8, 3, 96, 96)


def test_leaving_early_is_possible_at_any_time(backend, build, photos):
    loader = build(backend, photos())
    expected = epoch_of(loader, 1)
    for _ in range(5):
        loader.set_epoch(0)
        next(iter(loader))
    assert same(epoch_of(loader, 1), expected)
    batches = iter(loader)
    next(batches)
    loader.close()
    with pytest.raises(ValueError, match="ended before its last batch"):
        next(batches)


def test_a_batch_that_is_held_is_not_overwritten(backend, build, photos):
    """Two epochs are held at once, and compared when the loader has long made others."""
    loader = build(backend, photos(restarts=True), batch_size=4)
    held = []
    for epoch in (0, 1, 2):
        loader.set_epoch(epoch)
        held.append(list(loader))
    for epoch, batches in enumerate(held):
        assert same([Batch(*(tensor.cpu() for tensor in batch)) for batch in batches], epoch_of(loader, epoch))


def test_work_on_another_stream_sees_whole_batches(backend, build, photos):
    """Batches asked for while a side stream is current, whose queue is never empty; and through the prefetcher."""
    loader = build(backend, photos(restarts=True), batch_size=2)
    expected = [batch.images.long().sum().item() for batch in epoch_of(loader)]
    matrix = torch.randn(4096, 4096, device=DEVICE)
    for batches in (loader, Prefetcher(loader, DEVICE)):
        loader.set_epoch(0)
        with torch.cuda.stream(torch.cuda.Stream()):
            sums = []
            for batch in batches:
                _ = matrix @ matrix
                sums.append(batch.images.long().sum())
                del batch
            assert torch.stack(sums).tolist() == expected


@pytest.fixture
def damaged(tmp_path) -> Path:
    """Nine photos, of which number 4 has no tables and number 7 is cut off."""
    files = [jpeg(photo(120, 160).rotate(n), subsampling="4:4:4") for n in range(9)]
    files[4] = files[4][:20] + bytes(300)
    files[7] = files[7][: len(files[7]) // 2]
    path = tmp_path / "damaged.beton"
    write_images(path, [EncodedImage(data, ImageMode.JPG, 120, 160) for data in files], np.arange(9) % 7)
    return path


def test_a_damaged_image_is_named(backend, build, damaged):
    with pytest.raises(BadSampleError, match=r"sample [47] .*record [47] of .*damaged\.beton"):
        epoch_of(build(backend, damaged, batch_size=9, crop="whole"))


def test_a_damaged_image_is_left_out_and_the_others_stay(backend, build, damaged):
    options = {"on_error": "skip", "batch_size": 3, "crop": "whole"}  # a crop may lie in what is there of a file
    loader, native = build(backend, damaged, **options), build("native", damaged, **options)
    for epoch in (0, 1, 2):
        check_alike(epoch_of(loader, epoch), epoch_of(native, epoch), FULL_COLOUR)
        assert sorted(sample.index for sample in loader.skipped) == sorted(sample.index for sample in native.skipped)


def test_what_the_card_does_not_decode_comes_all_the_same(backend, build, tmp_path):
    """Other formats, CMYK, progressive, grey, another sampling, and images that EXIF data turns."""
    folder = tmp_path / "photos" / "class"
    folder.mkdir(parents=True)
    image = photo(200, 280)
    image.save(folder / "a.png")
    image.save(folder / "b.webp", lossless=True)
    (folder / "c.jpg").write_bytes(cmyk(200, 280, 2))
    (folder / "d.jpg").write_bytes(jpeg(image, progressive=True, subsampling="4:4:4"))
    (folder / "e.jpg").write_bytes(jpeg(image.convert("L")))
    (folder / "f.jpg").write_bytes(jpeg(image, subsampling="4:4:4"))
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "g.jpg").write_bytes(jpeg(image, subsampling="4:4:4", exif=exif))
    for options in ({}, {"exif_orientation": "apply"}):
        loader, native = (build(name, folder.parent, **options) for name in (backend, "native"))
        check_alike(epoch_of(loader), epoch_of(native), FULL_COLOUR)


def test_epochs_take_no_more_and_more_of_torchs_memory(build, photos):
    """Of DALI's own, which other processes' cannot be told from, nothing is checked."""
    loader = build("nvjpeg", photos(restarts=True))
    reserved = []
    for epoch in range(30):
        epoch_of(loader, epoch)
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] == reserved[9]


def test_pixels_of_a_raw_file_come_bit_by_bit(backend, build, raw_set):
    (batch,) = epoch_of(build(backend, raw_set.path, crop="whole", resolution=32, batch_size=53))
    for image, index in zip(batch.images, batch.index.tolist(), strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), raw_set.images[index])
