"""Every kind of JPEG through the native engine: torchvision's pixels, or a failure by name, whatever came before it."""

import io
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jpeg_builders import (
    APP0,
    APP1,
    APP14,
    DHT,
    DQT,
    FRAMES,
    SOF1,
    SOF3,
    SOF5,
    SOF6,
    cmyk,
    decoded,
    find,
    first_scans,
    frame_size,
    grey_in_2x2,
    in_scans,
    jpeg,
    lossless,
    named_rgb,
    noise,
    of_other_process,
    patched,
    photo,
    resampled,
    sampled,
    with_16_bit_tables,
    with_adobe_transform,
    with_fill_bytes,
    with_restarts,
    without,
)
from loaders import LoaderConfig, _native
from loaders.beton import EncodedImage, ImageMode
from loaders.native_loader import NativeLoader
from loaders.records import FileRecords

pytestmark = pytest.mark.timeout(60)

Load = Callable[..., NativeLoader]


KINDS: dict[str, Callable[[], bytes]] = {
    "4:2:0": lambda: jpeg(photo(229, 307)),
    "4:2:2": lambda: jpeg(photo(229, 307), subsampling=1),
    "4:4:4": lambda: jpeg(photo(229, 307), subsampling=0),
    "4:4:0": lambda: resampled(jpeg(photo(120, 480), subsampling=1), 0x12, 229, 237),
    "4:1:1": lambda: resampled(jpeg(photo(464, 160)), 0x41, 229, 307),
    "1 x 4": lambda: resampled(jpeg(photo(112, 624)), 0x14, 219, 307),
    "grey": lambda: jpeg(photo(229, 307, "L")),
    "grey in 2 x 2": lambda: grey_in_2x2(229, 307),
    "CMYK": lambda: cmyk(229, 307, 0),
    "CMYK without marker": lambda: without(cmyk(229, 307, 0), APP14),
    "YCCK": lambda: cmyk(229, 307, 2),
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
    "restart every 2 rows": lambda: jpeg(photo(229, 307), restart_marker_rows=2),
    "extended": lambda: of_other_process(jpeg(photo(229, 307)), SOF1),
    "16-bit tables": lambda: with_16_bit_tables(jpeg(photo(229, 307))),
    "no JFIF marker": lambda: without(jpeg(photo(229, 307)), APP0),
    "RGB by Adobe's marker": lambda: with_adobe_transform(jpeg(photo(229, 307), subsampling=0), 0),
    "YCbCr by Adobe's marker": lambda: with_adobe_transform(jpeg(photo(229, 307)), 1),
    "luma coarser than chroma": lambda: sampled(photo(229, 307), 0x11, 0x22, 0x22),
    "one chroma fine in rows, one in columns": lambda: sampled(photo(229, 307), 0x22, 0x12, 0x21),
    "3 x 1": lambda: sampled(photo(229, 307), 0x31, 0x11, 0x11),
    "1 x 3": lambda: sampled(photo(229, 307), 0x13, 0x11, 0x11),
    "fill bytes": lambda: with_fill_bytes(jpeg(photo(229, 307))),
    "a second image behind it": lambda: jpeg(photo(229, 307)) + jpeg(photo(90, 120)),
}


def rule(crop: str = "random_resized", *, resolution: int, interpolation: str = "bilinear") -> _native.CropRule:
    ranges = {"area": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "center_fraction": 0.875, "max_shift": 4}
    return _native.CropRule(crop, resolution=resolution, seed=0, epoch=0, interpolation=interpolation, **ranges)


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


def assert_equal_the_full_decode(
    loader: NativeLoader, images: list[bytes], crop: str = "random_resized", interpolation: str = "bilinear"
) -> None:
    made = by_index(loader)
    assert not loader.skipped
    pixels = {data: decoded(data) for data in images}
    for index, data in enumerate(images):
        expected = _native.crop_pixels(pixels[data], index, rule(crop, resolution=64, interpolation=interpolation))
        assert np.array_equal(made[index].numpy(), expected), f"{crop} {index} of {pixels[data].shape}"


def make(kind: str) -> bytes:
    """A JPEG of this kind; skips the test where torchvision decodes it otherwise than the engine's libjpeg-turbo."""
    data = KINDS[kind]()
    if kind == "4:4:0" and not np.array_equal(decoded(data), Image.open(io.BytesIO(data))):
        pytest.skip(
            "torchvision 0.26 holds libjpeg-turbo 2.0, which repeats the rows of 4:4:0; from 2.1 on it blends them"
        )
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_regions_of_every_kind_equal_the_full_decode(kind, load):
    num_crops = 40 if "progressive" in kind else 100  # each of a progressive image decodes all of it
    images = [make(kind)] * num_crops
    assert_equal_the_full_decode(load(images), images)


@pytest.mark.parametrize("crop", ["random_resized", "center", "whole"])
@pytest.mark.parametrize("kind", ["4:2:0", "4:2:2", "4:4:4", "grey", "progressive", "restart every 3 blocks"])
def test_the_wider_filter_of_bicubic_gets_the_pixels_that_it_needs(kind, crop, load):
    images = [make(kind)] * (20 if "progressive" in kind else 50)
    loader = load(images, crop=crop, interpolation="bicubic")
    assert_equal_the_full_decode(loader, images, crop, interpolation="bicubic")


@pytest.mark.parametrize("kind", KINDS)
def test_restart_markers_change_no_pixel_of_any_kind(kind, load):
    data = make(kind)
    images = [with_restarts(data)] * 50
    assert np.array_equal(decoded(images[0]), decoded(data))
    assert_equal_the_full_decode(load(images), images)


FOR_OUR_DECODER_ALONE = {
    *("CMYK", "CMYK without marker", "YCCK", "progressive CMYK", "RGB", "RGB by name", "RGB by Adobe's marker"),
    *("three scans", "luma coarser than chroma", "one chroma fine in rows, one in columns", "3 x 1", "1 x 3"),
    "fill bytes",
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_decoders_get_kinds_that_all_decode_alike(kind, tmp_path):
    data = make(kind)
    (tmp_path / "one.jpg").write_bytes(data)
    records = FileRecords([tmp_path / "one.jpg"]).native()
    got = _native.encoded_crops(records, np.array([0]), rule("whole", resolution=64), splices=True)
    assert [foreign for _, foreign, _ in got.failures] == ([True] if kind in FOR_OUR_DECODER_ALONE else [])
    if kind not in FOR_OUR_DECODER_ALONE:
        assert got.images[0].tobytes() == data
        ours = _native.decode_jpeg(got.images[0], max_side=0, min_side=0)
        assert np.array_equal(ours, decoded(data))
        assert np.array_equal(ours, Image.open(io.BytesIO(data)).convert("RGB"))


INCOMPLETE = {
    "4:2:0": lambda: jpeg(photo(229, 307), progressive=True),
    "4:4:4": lambda: jpeg(photo(229, 307), progressive=True, subsampling=0),
    "grey": lambda: jpeg(photo(229, 307, "L"), progressive=True),
    "CMYK": lambda: jpeg(photo(229, 307, "CMYK"), progressive=True),
}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("num_scans", [1, 2, 4])
@pytest.mark.parametrize("kind", INCOMPLETE)
def test_regions_of_files_that_lack_scans_equal_the_full_decode(kind, num_scans, interpolation, load):
    """libjpeg smooths what it lacks, over more blocks than a region has. How depends on its version."""
    data = first_scans(INCOMPLETE[kind](), num_scans)
    loader = load([data] * 30, interpolation=interpolation)
    made = by_index(loader)
    assert not loader.skipped
    pixels = _native.decode_jpeg(np.frombuffer(data, np.uint8), max_side=0, min_side=0)
    for index, image in made.items():
        expected = _native.crop_pixels(pixels, index, rule(resolution=64, interpolation=interpolation))
        assert np.array_equal(image.numpy(), expected), f"crop {index}"


@pytest.mark.parametrize("num_scans", [1, 2, 4])
@pytest.mark.parametrize("kind", INCOMPLETE)
def test_files_that_lack_scans_look_as_elsewhere(kind, num_scans):
    data = first_scans(INCOMPLETE[kind](), num_scans)
    ours = _native.decode_jpeg(np.frombuffer(data, np.uint8), max_side=0, min_side=0)
    for others in (decoded(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))):
        assert np.abs(ours - others.astype(int)).mean() < 4  # each version of libjpeg-turbo smooths in its own way


def test_an_end_marker_is_not_needed(load):
    """Cameras and broken transfers leave it out; all pixels are there."""
    whole = jpeg(photo(229, 307))
    images = [whole[:-2], whole[:-2] + b"MakerNote" * 9, whole]
    made = by_index(load(images, crop="whole"))
    assert torch.equal(made[0], made[2])
    assert torch.equal(made[1], made[2])


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
@pytest.mark.parametrize("size", [(20, 20_000), (20_000, 20), (600, 20_000), (9, 65_500), (65_500, 9)])
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
    "12 bits": (lambda data: patched(data, find(data, *FRAMES) + 4, 12), "precision 12"),
    "lossless": (lambda _: lossless(229, 307, 8), "SOF type 0xc3"),
    "lossless, 12 bits": (lambda _: lossless(229, 307, 12), "SOF type 0xc3"),
    "lossless, 16 bits": (lambda _: lossless(229, 307, 16), "SOF type 0xc3"),
    "baseline as lossless": (lambda data: of_other_process(data, SOF3), "SOF type 0xc3"),
    "hierarchical": (lambda data: of_other_process(data, SOF5), "SOF type 0xc5"),
    "hierarchical, progressive": (lambda data: of_other_process(data, SOF6), "SOF type 0xc6"),
    "height 0": (lambda data: patched(data, find(data, *FRAMES) + 5, 0, 0), "Empty JPEG image"),
    "width 0": (lambda data: patched(data, find(data, *FRAMES) + 7, 0, 0), "Empty JPEG image"),
    "65,501 pixels wide": (
        lambda data: patched(data, find(data, *FRAMES) + 7, *(65_501).to_bytes(2)),
        "65500 pixels",
    ),
    "2 of 3 columns of chroma": (lambda _: sampled(photo(229, 307), 0x31, 0x21, 0x21), "ractional sampling"),
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
