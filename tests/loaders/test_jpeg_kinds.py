"""Every kind of JPEG through the native engine: torchvision's pixels, or a failure by name, whatever came before it."""

import io
import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from loaders import LoaderConfig, _native
from loaders.beton import EncodedImage, ImageMode
from loaders.native_loader import NativeLoader

pytestmark = pytest.mark.timeout(60)

APP0, APP1, APP14, DHT, DQT, SOS = 0xE0, 0xE1, 0xEE, 0xC4, 0xDB, 0xDA
SOF = {0xC0, 0xC1, 0xC2}

Load = Callable[..., NativeLoader]


@cache
def photo(height: int, width: int, mode: str = "RGB") -> Image.Image:
    from sklearn.datasets import load_sample_images

    image = Image.fromarray(load_sample_images().images[height % 2])
    return image.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8))


def jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"quality": 90, "subsampling": 2 if image.mode == "RGB" else 0} | options))
    return buffer.getvalue()


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each segment, to the header of the first scan."""
    marker, end = 0, 2
    while marker != SOS:
        marker, begin = data[end + 1], end
        end = begin + 2 + int.from_bytes(data[begin + 2 : begin + 4], "big")
        yield marker, begin, end


def find(data: bytes, *markers: int) -> int:
    """Where the first segment of one of these kinds begins."""
    return next(begin for marker, begin, _ in segments(data) if marker in markers)


def patched(data: bytes, position: int, *values: int) -> bytes:
    return data[:position] + bytes(values) + data[position + len(values) :]


def without(data: bytes, marker: int, first_byte: int | None = None) -> bytes:
    """Cut the segments of a kind, or only those whose first byte is the given one."""
    for found, begin, end in reversed(list(segments(data))):
        if found == marker and first_byte in (None, data[begin + 4]):
            data = data[:begin] + data[end:]
    return data


def frame_size(data: bytes) -> tuple[int, int]:
    frame = find(data, *SOF)
    return int.from_bytes(data[frame + 5 : frame + 7], "big"), int.from_bytes(data[frame + 7 : frame + 9], "big")


def resampled(data: bytes, factors: int, height: int, width: int) -> bytes:
    """Other sampling factors of the first component, with as many blocks in an MCU: the blocks change their places."""
    frame = find(data, *SOF)
    return patched(patched(data, frame + 5, *height.to_bytes(2, "big"), *width.to_bytes(2, "big")), frame + 11, factors)


def of_other_process(data: bytes, marker: int) -> bytes:
    return patched(data, find(data, *SOF) + 1, marker)


def in_scans(planes: Sequence[Image.Image]) -> bytes:
    """A sequential JPEG with a scan for each component: grey ones behind a frame header for all of them."""
    encoded = [jpeg(plane) for plane in planes]
    first, count = encoded[0], len(encoded)
    frame, scan = find(first, *SOF), find(first, SOS)
    components = b"".join(bytes([number, 0x11, 0]) for number in range(1, count + 1))
    header = bytes([0xFF, 0xC0, 0, 8 + 3 * count]) + first[frame + 4 : frame + 9] + bytes([count]) + components
    scans = [
        b"\xff\xda\x00\x08\x01" + bytes([number]) + data[find(data, SOS) + 6 : -2]
        for number, data in enumerate(encoded, 1)
    ]
    return first[:frame] + header + first[frame + 13 : scan] + b"".join(scans) + b"\xff\xd9"


def lossless(height: int, width: int, precision: int) -> bytes:
    """RGB, grey in the middle everywhere: each sample is as predicted, which one code says, a single 0."""
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    frame = bytes([precision]) + size + b"\x03R\x11\x00G\x11\x00B\x11\x00"
    table = b"\x00" + b"\x01" + bytes(15) + b"\x00"
    scan = b"\x03R\x00G\x00B\x00\x01\x00\x00"  # predicted from the left
    parts = {0xC3: frame, DHT: table, SOS: scan}
    headers = [bytes([0xFF, marker]) + (2 + len(part)).to_bytes(2, "big") + part for marker, part in parts.items()]
    return b"\xff\xd8" + b"".join(headers) + bytes(-(-3 * height * width // 8)) + b"\xff\xd9"


def cmyk(transform: int) -> bytes:
    """A CMYK file whose Adobe marker says how its colours were transformed."""
    data = jpeg(photo(229, 307, "CMYK"))
    return patched(data, find(data, APP14) + 15, transform)


def grey_in_2x2() -> bytes:
    data = jpeg(photo(229, 307, "L"))
    return patched(data, find(data, *SOF) + 11, 0x22)


def named_rgb(data: bytes) -> bytes:
    """Without a marker that tells the colours, components of these names are red, green and blue."""
    data = without(data, APP0)
    frame, scan = find(data, *SOF), find(data, SOS)
    for number, name in enumerate(b"RGB"):
        data = patched(patched(data, frame + 10 + 3 * number, name), scan + 5 + 2 * number, name)
    return data


def with_restarts(data: bytes) -> bytes:
    return _native.add_restart_markers(np.frombuffer(data, np.uint8))


KINDS: dict[str, Callable[[], bytes]] = {
    "4:2:0": lambda: jpeg(photo(229, 307)),
    "4:2:2": lambda: jpeg(photo(229, 307), subsampling=1),
    "4:4:4": lambda: jpeg(photo(229, 307), subsampling=0),
    "4:4:0": lambda: resampled(jpeg(photo(120, 480), subsampling=1), 0x12, 229, 237),
    "4:1:1": lambda: resampled(jpeg(photo(464, 160)), 0x41, 229, 307),
    "1 x 4": lambda: resampled(jpeg(photo(112, 624)), 0x14, 219, 307),
    "grey": lambda: jpeg(photo(229, 307, "L")),
    "grey in 2 x 2": grey_in_2x2,
    "CMYK": lambda: cmyk(0),
    "CMYK without marker": lambda: without(cmyk(0), APP14),
    "YCCK": lambda: cmyk(2),
    "RGB": lambda: jpeg(photo(229, 307), keep_rgb=True, subsampling=0),
    "RGB by name": lambda: named_rgb(jpeg(photo(229, 307))),
    "optimized": lambda: jpeg(photo(229, 307), optimize=True),
    "long codes": lambda: jpeg(noise(229, 307), optimize=True, quality=100),
    "progressive": lambda: jpeg(photo(229, 307), progressive=True),
    "progressive 4:4:4": lambda: jpeg(photo(229, 307), progressive=True, subsampling=0),
    "progressive grey": lambda: jpeg(photo(229, 307, "L"), progressive=True),
    "progressive CMYK": lambda: jpeg(photo(229, 307, "CMYK"), progressive=True),
    "three scans": lambda: in_scans(photo(229, 307).split()),
    "restart every 3 blocks": lambda: jpeg(photo(229, 307), restart_marker_blocks=3),
    "restart every row": lambda: jpeg(photo(229, 307), restart_marker_rows=1, subsampling=0),
    "extended": lambda: of_other_process(jpeg(photo(229, 307)), 0xC1),
}


def rule(crop: str = "random_resized", *, resolution: int, epoch: int = 0) -> _native.CropRule:
    ranges = {"area": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "center_fraction": 0.875, "max_shift": 4}
    return _native.CropRule(crop, resolution=resolution, seed=0, epoch=epoch, **ranges)


def decoded(data: bytes) -> NDArray[np.uint8]:
    """The whole image, [h, w, 3]."""
    image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return image.permute(1, 2, 0).contiguous().numpy()


@pytest.fixture
def load(write_images, tmp_path) -> Load:
    """Open a loader over JPEGs, written to a file once."""
    paths: dict[tuple[bytes, ...], Path] = {}

    def open_loader(images: list[bytes], size: tuple[int, int] | None = None, **changes) -> NativeLoader:
        path = paths.setdefault(tuple(images), tmp_path / f"{len(paths)}.beton")
        if not path.exists():
            records = [EncodedImage(data, ImageMode.JPG, *(size or frame_size(data))) for data in images]
            write_images(path, records, np.zeros(len(images), np.int64))
        options = {"batch_size": len(images), "resolution": 64, "crop": "random_resized", "order": "sequential"}
        config = LoaderConfig(**(options | {"drop_last": False, "num_workers": 2, "on_error": "skip"} | changes))
        return NativeLoader(path, config)

    return open_loader


def by_index(loader: NativeLoader, epoch: int = 0) -> dict[int, Tensor]:
    """The images of an epoch, [h, w, 3]."""
    loader.set_epoch(epoch)
    made = {}
    for batch in loader:
        made |= zip(batch.index.tolist(), batch.images.permute(0, 2, 3, 1).clone(), strict=True)
    return made


def reasons(loader: NativeLoader) -> dict[int, str]:
    return {sample.index: sample.reason for sample in loader.skipped}


def assert_equal_the_full_decode(loader: NativeLoader, images: list[bytes], crop: str = "random_resized") -> None:
    made = by_index(loader)
    assert not loader.skipped
    pixels = {data: decoded(data) for data in images}
    for index, data in enumerate(images):
        expected = _native.crop_pixels(pixels[data], index, rule(crop, resolution=64))
        assert np.array_equal(made[index].numpy(), expected), f"{crop} {index} of {pixels[data].shape}"


@pytest.mark.parametrize("kind", KINDS)
def test_regions_of_every_kind_equal_the_full_decode(kind, load):
    images = [KINDS[kind]()] * 200
    assert_equal_the_full_decode(load(images), images)


@pytest.mark.parametrize("kind", KINDS)
def test_restart_markers_change_no_pixel_of_any_kind(kind, load):
    data = KINDS[kind]()
    images = [with_restarts(data)] * 100
    assert np.array_equal(decoded(images[0]), decoded(data))
    assert_equal_the_full_decode(load(images), images)


@pytest.mark.parametrize("crop", ["random_resized", "center", "whole"])
@pytest.mark.parametrize("kind", ["4:2:0", "4:2:2", "4:4:4", "progressive", "grey"])
def test_small_images(kind, crop, load):
    options = {"4:2:2": {"subsampling": 1}, "4:4:4": {"subsampling": 0}, "progressive": {"progressive": True}}
    sides = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33]
    sizes = [(height, width) for height in sides for width in sides] + [(1, 999), (999, 1)]
    mode = "L" if kind == "grey" else "RGB"
    images = [jpeg(photo(*size, mode), **options.get(kind, {})) for size in sizes]
    assert_equal_the_full_decode(load(images, crop=crop), images, crop)


@pytest.mark.parametrize("crop", ["random_resized", "center", "whole"])
@pytest.mark.parametrize("size", [(20, 20_000), (20_000, 20), (3000, 20_000), (9, 65_500), (65_500, 9)])
def test_large_images(size, crop, load):
    images = [jpeg(photo(*size), subsampling=subsampling) for subsampling in (0, 2)]
    assert_equal_the_full_decode(load(images, crop=crop), images, crop)


def test_exif_orientation_is_ignored(load):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = jpeg(photo(90, 120)), jpeg(photo(90, 120), exif=exif)
    assert find(turned, APP1)
    made = by_index(load([plain, turned], crop="whole"))
    assert torch.equal(made[0], made[1])


UNSUPPORTED = {
    "12 bits": (lambda data: patched(data, find(data, *SOF) + 4, 12), "precision 12"),
    "lossless": (lambda _: lossless(229, 307, 8), "SOF type 0xc3"),
    "lossless, 12 bits": (lambda _: lossless(229, 307, 12), "SOF type 0xc3"),
    "lossless, 16 bits": (lambda _: lossless(229, 307, 16), "SOF type 0xc3"),
    "baseline as lossless": (lambda data: of_other_process(data, 0xC3), "SOF type 0xc3"),
    "hierarchical": (lambda data: of_other_process(data, 0xC5), "SOF type 0xc5"),
    "hierarchical, progressive": (lambda data: of_other_process(data, 0xC6), "SOF type 0xc6"),
    "height 0": (lambda data: patched(data, find(data, *SOF) + 5, 0, 0), "Empty JPEG image"),
    "width 0": (lambda data: patched(data, find(data, *SOF) + 7, 0, 0), "Empty JPEG image"),
    "65,501 pixels wide": (
        lambda data: patched(data, find(data, *SOF) + 7, *(65_501).to_bytes(2, "big")),
        "65500 pixels",
    ),
    "two components": (lambda _: in_scans(photo(229, 307).split()[:2]), "color conversion"),
}


@pytest.mark.parametrize("crop", ["random_resized", "whole"])
@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_cannot_be_decoded_fails_by_name(kind, crop, load):
    make, reason = UNSUPPORTED[kind]
    good = jpeg(photo(229, 307))
    loader = load([good, make(good), good, make(good), good], size=(229, 307), num_workers=1, crop=crop)
    assert list(by_index(loader)) == [0, 2, 4]
    assert list(reasons(loader)) == [1, 3]
    assert all(re.search(reason, found) for found in reasons(loader).values()), reasons(loader)


@pytest.mark.parametrize("precision", [8, 12, 16])
def test_lossless_images_cannot_get_restart_markers(precision):
    with pytest.raises(RuntimeError):
        with_restarts(lossless(229, 307, precision))


def damaged(data: bytes) -> list[bytes]:
    """Cut off, with a marker and with noise in its middle, and with codes that there are none of."""
    middle = len(data) // 2
    garbled = random.Random(0).randbytes(200).replace(b"\xff", b"\x7f")
    return [
        data[:middle],
        patched(data, middle, *b"\xff\xd9" * 20),
        patched(data, middle, *garbled),
        patched(data, middle, *b"\xff\x00" * 40),
    ]


def very_different() -> list[bytes]:
    """Neighbours have nothing in common: size, subsampling, colours, tables, restart markers, damage."""
    good = [make() for make in KINDS.values()]
    more = [jpeg(photo(height, width)) for height, width in ((1, 1), (500, 20), (31, 700), (480, 640))]
    noisy = [jpeg(noise(300, 300), optimize=True, quality=100, subsampling=number) for number in (1, 2)]
    restarts = [with_restarts(data) for data in [*more, *noisy, good[0]]]
    bad = [data for source in (good[0], noisy[0], restarts[-1], KINDS["progressive"]()) for data in damaged(source)]
    images = [*good, *more, *noisy, *restarts, *bad]
    random.Random(0).shuffle(images)
    return images


def test_neighbours_never_change_a_pixel(load):
    """Each thread decodes two images in turn: with any number of them, an image is what it is without the others."""
    images = very_different()
    options = {"order": "random", "resolution": 112}  # large enough for decoders to take one sample at a time
    loaders = [load(images, num_workers=num_workers, **options) for num_workers in (1, 2, 3, 8)]
    alone = [
        load(images, num_workers=1, batch_size=1, rank=rank, world_size=len(images), **options)
        for rank in range(len(images))
    ]
    for epoch in range(3):
        expected = {index: image for loader in alone for index, image in by_index(loader, epoch).items()}
        bad = {index: reason for loader in alone for index, reason in reasons(loader).items()}
        assert len(expected) + len(bad) == len(images)
        assert len(bad) > 5
        for loader in loaders:
            made = by_index(loader, epoch)
            assert made.keys() == expected.keys()
            assert reasons(loader) == bad
            assert all(torch.equal(made[index], expected[index]) for index in expected)


# The resolution is large enough for a thread's two decoders to take one sample at a time: both have decoded an image
# with tables when those without come.
IN_TURN = {"num_workers": 1, "resolution": 112}


def test_standard_tables_stand_in_for_missing_ones(load):
    """Motion JPEGs have no Huffman tables. Those of the image before must not do."""
    other, whole = jpeg(photo(229, 307), optimize=True), jpeg(photo(120, 90))
    images = [other, other, *[without(whole, DHT)] * 2, other, other, whole]
    made = by_index(load(images, crop="whole", **IN_TURN))
    assert torch.equal(made[2], made[6])
    assert torch.equal(made[3], made[6])


def test_quantization_tables_of_the_image_before_must_not_do(load):
    good = jpeg(photo(120, 90))
    images = [good, good, *[without(good, DQT)] * 2, good]
    loader = load(images, **IN_TURN)
    assert list(by_index(loader)) == [0, 1, 4]
    assert list(reasons(loader)) == [2, 3]
    assert all("Quantization table" in reason for reason in reasons(loader).values())
