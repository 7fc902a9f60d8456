"""EXIF orientation: read from any file, damaged or not, and applied by every loader as Pillow does it."""

import importlib.util
import io
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from backends import of_backend
from jpeg_builders import APP1, SOS, decoded, find, frame_size, jpeg, patched, photo, with_restarts
from loaders import LoaderConfig, _native, build_loader
from loaders.beton import EncodedImage, ImageMode
from loaders.errors import FastvitError
from loaders.native_loader import NativeLoader
from loaders.orientation import read_orientation, turn_pixels
from loaders.records import BetonRecords

ORIENTATIONS = range(1, 9)
ORIENTATION = 0x0112
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif"}
CROPS = ["random_resized", "center", "whole", "shift"]
RANGES = {"area": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "center_fraction": 0.875, "max_shift": 4}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def image_file(kind: str, image: Image.Image, orientation: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif(orientation))
    return buffer.getvalue()


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """What Pillow makes of pixels that are stored in this orientation."""
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def entry(orientation: int, *, order: str, kind: int = 3, count: int = 1, big: bool = False) -> bytes:
    """A TIFF directory with a tag in front of the orientation, which is of this type."""
    width = {1: 1, 3: 2, 4: 4}.get(kind, 2)
    word = 8 if big else 4
    value = orientation.to_bytes(width, order).ljust(word, b"\0")
    other = (0x010F).to_bytes(2, order) + (2).to_bytes(2, order) + (1).to_bytes(word, order) + b"\0" * word
    tag = ORIENTATION.to_bytes(2, order) + kind.to_bytes(2, order) + count.to_bytes(word, order) + value
    return (2).to_bytes(8 if big else 2, order) + other + tag + bytes(word)


def tiff(orientation: int, *, order: str, big: bool = False, **of_entry: int) -> bytes:
    """The EXIF data that only tells this orientation."""
    start = b"MM" if order == "big" else b"II"
    if big:
        start += (43).to_bytes(2, order) + (8).to_bytes(2, order) + bytes(2) + (16).to_bytes(8, order)
    else:
        start += (42).to_bytes(2, order) + (8).to_bytes(4, order)
    return start + entry(orientation, order=order, big=big, **of_entry)


def with_exif(data: bytes, tags: bytes) -> bytes:
    """A JPEG with this EXIF data in front of all else."""
    body = b"Exif\0\0" + tags
    return data[:2] + bytes([0xFF, APP1]) + (2 + len(body)).to_bytes(2) + body + data[2:]


# Reading it


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("value", [0, *ORIENTATIONS, 9, 65_535])
def test_it_is_read_from_every_format(kind, value):
    assert read_orientation(image_file(kind, photo(7, 12), value)) == (value if value in ORIENTATIONS else 1)


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("big", [False, True])
def test_it_may_stand_in_either_byte_order_and_in_three_types(order, kind, big):
    assert read_orientation(with_exif(jpeg(photo(7, 12)), tiff(6, order=order, kind=kind, big=big))) == 6


def test_files_that_do_not_say_are_upright():
    data = jpeg(photo(7, 12))
    assert read_orientation(data) == read_orientation(b"") == read_orientation(b"GIF89a") == 1
    assert read_orientation(with_exif(data, b"")) == 1
    # A scan's data that looks like EXIF is none.
    assert (
        read_orientation(data[: find(data, SOS)] + data[find(data, SOS) :] + with_exif(data, tiff(6, order="big"))) == 1
    )


def test_what_comes_before_it_is_passed_over():
    data = with_exif(jpeg(photo(7, 12)), tiff(8, order="little"))
    assert find(data, APP1) == 2
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x/>"
    other = bytes([0xFF, APP1]) + (2 + len(xmp)).to_bytes(2) + xmp
    for between in (b"\xff\xff\xff", b"\0\x01", b"\xff\x01", b"\xff\xd0", other):
        assert read_orientation(data[:2] + between + data[2:]) == 8


@pytest.mark.parametrize(
    "tags",
    [
        tiff(6, order="big", kind=2),  # text
        tiff(6, order="big", count=2),
        patched(tiff(6, order="big"), 0, 0x4A),  # neither byte order
        patched(tiff(6, order="big"), 3, 41),
        patched(tiff(6, order="big"), 4, 0xFF, 0xFF, 0xFF, 0xF0),  # the directory lies outside
        patched(tiff(6, order="big"), 8, 0, 0),  # no entries
        b"\xff" * 40,
    ],
    ids=["type", "count", "byte order", "version", "offset", "entries", "garbage"],
)
def test_damaged_exif_means_upright(tags, write_images, tmp_path):
    data = with_exif(jpeg(photo(90, 120)), tags)
    assert read_orientation(data) == 1
    plain, damaged = native([jpeg(photo(90, 120)), data], write_images, tmp_path, crop="whole")
    assert np.array_equal(plain, damaged)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_damage_does_harm(kind):
    """Cut anywhere, or with any bytes changed: the answer is one of eight, and comes."""
    whole = image_file(kind, photo(7, 12), 6)
    found = [read_orientation(whole[:size]) for size in range(len(whole))]
    rng = np.random.default_rng(0)
    for _ in range(3000):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(len(damaged), size=rng.integers(1, 6))
        damaged[places] = rng.choice([0, 1, 6, 0x7F, 0x80, 0xFF, 0x12], size=len(places))
        found.append(read_orientation(damaged))
    assert set(found) <= set(ORIENTATIONS)


# Turning pixels


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (16, 16), (17, 40), (50, 33)])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pixels_are_turned_as_pillow_does(orientation, size):
    pixels = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    assert np.array_equal(turn_pixels(pixels, orientation), upright(pixels, orientation))


# Loaders


def native(images: list[bytes], write_images, folder: Path, **options) -> list[NDArray[np.uint8]]:
    """One epoch of the engine over these JPEGs, each of which is stored at another size than it is seen."""
    records = [EncodedImage(data, ImageMode.JPG, *frame_size(data)) for data in images]
    write_images(folder / "set.beton", records, np.zeros(len(images), np.int64))
    given = {"batch_size": len(images), "resolution": 64, "order": "sequential", "drop_last": False, "num_workers": 2}
    with closing(
        NativeLoader(folder / "set.beton", LoaderConfig(**(given | {"exif_orientation": "apply"} | options)))
    ) as loader:
        (batch,) = loader
        return list(batch.images.permute(0, 2, 3, 1).numpy().copy())


def rule(crop: str, *, interpolation: str = "bilinear") -> _native.CropRule:
    return _native.CropRule(crop, resolution=64, seed=0, epoch=0, interpolation=interpolation, **RANGES)


def grey_levels_apart(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_engine_crops_the_upright_image(orientation, crop, interpolation, write_images, tmp_path):
    files = {
        "baseline": jpeg(photo(123, 171), exif=exif(orientation)),
        "4:2:2": jpeg(photo(122, 171), exif=exif(orientation), subsampling=1),
        "progressive": jpeg(photo(171, 123), exif=exif(orientation), progressive=True),
        "restarts": with_exif(with_restarts(jpeg(photo(171, 122))), tiff(orientation, order="big")),
    }
    images = [*files.values()] * 10
    made = native(images, write_images, tmp_path, crop=crop, interpolation=interpolation)
    seen = {data: upright(decoded(data), orientation) for data in files.values()}
    for index, data in enumerate(images):
        expected = _native.crop_pixels(seen[data], index, rule(crop, interpolation=interpolation))
        # Stored rows may be the columns of the upright image: other roundings, which a cubic may amplify.
        assert grey_levels_apart(made[index], expected) <= (1 if interpolation == "bilinear" else 2)
        assert np.abs(made[index].astype(int) - expected).mean() < 0.05


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_only_rounding_depends_on_how_an_image_is_stored(orientation, write_images, tmp_path):
    """Sharp squares, of which a mistake of one pixel would show: bicubic with odd offsets, and decoding at 1/4."""
    sharp = Image.fromarray(np.kron(np.indices((34, 47)).sum(0) % 2, np.ones((8, 8))).astype(np.uint8) * 255).convert(
        "RGB"
    )
    stored = Image.fromarray(upright(np.asarray(sharp), {6: 8, 8: 6}.get(orientation, orientation)))
    images = [jpeg(sharp, subsampling=0, quality=100), jpeg(stored, subsampling=0, quality=100, exif=exif(orientation))]
    for options in ({"interpolation": "bicubic", "center_fraction": 0.83}, {"scaled_decode": True}):
        plain, turned = native(images, write_images, tmp_path, crop="center", **options)
        assert grey_levels_apart(plain, turned) <= 1


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Two ImageFolders, in the same order: files of all formats in all orientations, and what they show as PNG."""
    tagged, plain = tmp_path / "tagged", tmp_path / "plain"
    for kind, extension in FORMATS.items():
        (tagged / kind).mkdir(parents=True)
        (plain / kind).mkdir(parents=True)
        for orientation in ORIENTATIONS:
            height, width = (60, 90) if orientation < 5 else (90, 60)
            data = image_file(kind, photo(height, width), orientation)
            (tagged / kind / f"{orientation}{extension}").write_bytes(data)
            # With no tag to act on, so that Pillow leaves a TIFF as it is.
            stored = Image.open(io.BytesIO(image_file(kind, photo(height, width), 1)))
            pixels = decoded(data) if kind == "JPEG" else np.asarray(stored.convert("RGB"))
            Image.fromarray(upright(pixels, orientation)).save(plain / kind / f"{orientation}.png")
    return tagged, plain


def epoch(backend: str, path: Path, **options) -> torch.Tensor:
    given = {"batch_size": 32, "resolution": 48, "order": "sequential", "drop_last": False}
    workers = 0 if backend == "torch" else 2
    with closing(build_loader(backend, path, LoaderConfig(**(given | {"num_workers": workers} | options)))) as loader:
        (batch,) = loader
        return batch.images.clone()


@pytest.mark.parametrize(
    ("backend", "crop"),
    [of_backend("dali", "dali", crop, label=f"dali-{crop}") for crop in CROPS]
    + [("torch", crop) for crop in CROPS]
    + [("native", crop) for crop in CROPS]
    + [("nvjpeg", crop) for crop in CROPS]
    + [("resident", "whole")],
)
def test_every_backend_sees_what_pillow_shows(backend, crop, folders):
    tagged, plain = folders
    shown, expected = epoch(backend, tagged, crop=crop, exif_orientation="apply"), epoch(backend, plain, crop=crop)
    assert grey_levels_apart(shown.numpy(), expected.numpy()) <= {"dali": 0, "native": 1}.get(backend, 0)


@pytest.mark.parametrize("backend", [of_backend("dali"), "native", "nvjpeg", "torch", "resident"])
def test_by_default_images_are_as_they_are_stored(backend, tmp_path):
    for folder, orientation in (("tagged", 6), ("plain", 1)):
        (tmp_path / folder / "a").mkdir(parents=True)
        for kind, extension in FORMATS.items():
            (tmp_path / folder / "a" / f"{kind}{extension}").write_bytes(image_file(kind, photo(60, 90), orientation))
    tagged, plain = (epoch(backend, tmp_path / folder, crop="whole") for folder in ("tagged", "plain"))
    assert torch.equal(tagged, plain)
    assert not torch.equal(tagged, epoch(backend, tmp_path / "tagged", crop="whole", exif_orientation="apply"))


def test_the_table_of_a_file_has_the_size_that_is_stored(write_images, tmp_path):
    data = jpeg(photo(60, 90), exif=exif(6))
    for size, fits in (((60, 90), True), ((90, 60), False)):
        write_images(tmp_path / "set.beton", [EncodedImage(data, ImageMode.JPG, *size)], np.zeros(1, np.int64))
        records = BetonRecords(tmp_path / "set.beton")
        if fits:
            assert tuple(records.decode(0, exif_orientation="apply").shape) == (3, 90, 60)
        else:
            with pytest.raises((RuntimeError, FastvitError), match=r"it decodes to"):
                records.decode(0, exif_orientation="apply")


@pytest.mark.skipif(importlib.util.find_spec("ffcv") is None, reason="ffcv is not installed")
def test_ffcv_refuses_the_option(raw_set):
    config = LoaderConfig(
        batch_size=4, resolution=32, crop="whole", order="random", drop_last=True, exif_orientation="apply"
    )
    with pytest.raises(FastvitError, match=r"exif_orientation must be ignore, got apply; use another --data\.backend"):
        build_loader("ffcv", raw_set.path, config)
