"""Batches for decoders that are not ours: where the bytes come from, whose they are, and spliced JPEGs."""

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from jpeg_builders import (
    DHT,
    FRAMES,
    SOS,
    array,
    decoded,
    find,
    frame_size,
    jpeg,
    named_rgb,
    patched,
    photo,
    resampled,
    sample_photos,
    with_restarts,
    without,
)
from loaders import LoaderConfig, _native
from loaders.beton import Beton, EncodedImage, ImageMode
from loaders.records import BetonRecords, FileRecords

pytestmark = pytest.mark.timeout(60)

Pixels = NDArray[np.uint8]

ANY_BOX = {"area": (1e-4, 0.1), "ratio": (0.05, 20.0)}


def rule(kind: str = "random_resized", **changes) -> _native.CropRule:
    options = {"resolution": 32, "seed": 1, "epoch": 2, "area": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
    options |= {"center_fraction": 0.875, "max_shift": 4, "interpolation": "bilinear"}
    return _native.CropRule(kind, **(options | changes))


def by_libjpeg(data: Pixels) -> Pixels:
    return _native.decode_jpeg(data, max_side=0, min_side=0)


def by_torchvision(data: Pixels) -> Pixels:
    return decoded(data.tobytes())


def by_pillow(data: Pixels) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))


def by_dali(files: list[Pixels]) -> list[Pixels]:
    dali = pytest.importorskip("nvidia.dali")
    pipeline = dali.Pipeline(batch_size=len(files), num_threads=1, device_id=None, exec_dynamic=True)
    with pipeline:
        encoded = dali.fn.external_source(source=lambda: files, batch=True, dtype=dali.types.UINT8, ndim=1)
        pipeline.set_outputs(dali.fn.decoders.image(encoded, device="cpu", adjust_orientation=False))
    (images,) = pipeline.run()
    return [np.array(images.at(number)) for number in range(len(files))]


HEIGHT, WIDTH = 115, 163  # the last MCU of each side has 3 pixels, which alone would be upsampled in another way

# What makes the file of so many MCUs between restart markers, and an MCU's size.
KINDS: dict[str, tuple[Callable[..., bytes], tuple[int, int]]] = {
    "4:4:4": (lambda **options: jpeg(photo(HEIGHT, WIDTH), subsampling=0, **options), (8, 8)),
    "4:2:2": (lambda **options: jpeg(photo(HEIGHT, WIDTH), subsampling=1, **options), (8, 16)),
    "4:2:0": (lambda **options: jpeg(photo(HEIGHT, WIDTH), **options), (16, 16)),
    "4:4:0": (
        lambda **options: resampled(jpeg(photo(64, 336), subsampling=1, **options), 0x12, HEIGHT, WIDTH),
        (16, 8),
    ),
    "4:1:1": (lambda **options: resampled(jpeg(photo(240, 96), **options), 0x41, HEIGHT, WIDTH), (8, 32)),
    "grey": (lambda **options: jpeg(photo(HEIGHT, WIDTH, "L"), **options), (8, 8)),
    "grey in 2 x 2": (
        lambda **options: patched(data := jpeg(photo(HEIGHT, WIDTH, "L"), **options), find(data, *FRAMES) + 11, 0x22),
        (8, 8),
    ),
}


def in_mcus(kind: str) -> tuple[int, int]:
    """Rows and columns."""
    _, (height, width) = KINDS[kind]
    return -(-HEIGHT // height), -(-WIDTH // width)


def intervals(kind: str) -> list[int]:
    """All that divide a row, and some of whole rows."""
    _, columns = in_mcus(kind)
    return [number for number in range(1, columns + 1) if columns % number == 0] + [2 * columns, 3 * columns]


def crops(files: list[bytes], folder: Path, samples: int | list[int], *, splices: bool = True, **options):
    paths = [folder / f"{number}.jpg" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    numbers = np.array(samples) if isinstance(samples, list) else np.arange(samples)
    return _native.encoded_crops(FileRecords(paths).native(), numbers, rule(**options), splices=splices)


def cut_out(pixels: Pixels, box: NDArray[np.int32]) -> Pixels:
    top, left, height, width = box.tolist()
    return pixels[top : top + height, left : left + width]


def samples_at_all_places(kind: str) -> list[int]:
    """Samples whose boxes begin in every row and column of an MCU, and lie at, near and far from every edge."""
    _, (mcu_height, mcu_width) = KINDS[kind]
    samples = np.arange(200_000)
    sides = np.full_like(samples, HEIGHT), np.full_like(samples, WIDTH)
    boxes = _native.random_resized_crops(samples, *sides, seed=1, epoch=2, **ANY_BOX)
    top, left, height, width = boxes.T
    bottom, right = HEIGHT - top - height, WIDTH - left - width
    places = [top % mcu_height == row for row in range(mcu_height)]
    places += [left % mcu_width == column for column in range(mcu_width)]
    places += [gap == distance for gap in (top, left, bottom, right) for distance in range(5)]
    places += [bottom + height <= pixels for pixels in (1, 2, 3, 4)] + [
        right + width <= pixels for pixels in (1, 2, 3, 4)
    ]
    places += [(top == 0) & (left == 0), (bottom == 0) & (right == 0), height == HEIGHT, width == WIDTH]
    places += [(height == 1) & (left % mcu_width == 0), (width == 1) & (left % mcu_width == mcu_width - 1)]
    return sorted({int(np.flatnonzero(place)[0]) for place in places})


@pytest.mark.parametrize("kind", KINDS)
def test_a_spliced_file_has_the_same_pixels(kind, tmp_path):
    make, _ = KINDS[kind]
    samples = samples_at_all_places(kind)
    for interval in intervals(kind):
        data = make(restart_marker_blocks=interval)
        spliced = crops([data], tmp_path, samples, **ANY_BOX)
        boxes = crops([data], tmp_path, samples, splices=False, **ANY_BOX).boxes
        assert not spliced.failures
        assert sum(image.size < len(data) for image in spliced.images) > len(samples) / 2
        for decode in (by_libjpeg, by_torchvision, by_pillow):
            whole = decode(array(data))
            for image, box, box_in_whole in zip(spliced.images, spliced.boxes, boxes, strict=True):
                same = np.array_equal(cut_out(decode(image), box), cut_out(whole, box_in_whole))
                assert same, (decode.__name__, interval, box_in_whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_spliced_file_has_no_more_tiles_than_the_crop_needs(kind, tmp_path):
    make, (mcu_height, mcu_width) = KINDS[kind]
    spliced = crops([make(restart_marker_blocks=1)], tmp_path, 200, **ANY_BOX)
    for image, box in zip(spliced.images, spliced.boxes, strict=True):
        height, width = frame_size(image.tobytes())
        top, left, box_height, box_width = box.tolist()
        assert 0 <= top < mcu_height + 2
        assert 0 <= left < 2 * mcu_width
        assert 0 <= height - top - box_height < mcu_height + 2
        assert 0 <= width - left - box_width < 2 * mcu_width


@pytest.mark.parametrize("kind", ["4:2:0", "4:4:4", "grey"])
def test_dali_makes_the_same_pixels_of_it(kind, tmp_path):
    make, _ = KINDS[kind]
    for interval in intervals(kind)[:2]:
        data = make(restart_marker_blocks=interval)
        samples = samples_at_all_places(kind)
        spliced = crops([data], tmp_path, samples, **ANY_BOX)
        boxes = crops([data], tmp_path, samples, splices=False, **ANY_BOX).boxes
        (whole,) = by_dali([array(data)])
        for pixels, box, box_in_whole in zip(by_dali(spliced.images), spliced.boxes, boxes, strict=True):
            assert np.array_equal(cut_out(pixels, box), cut_out(whole, box_in_whole)), (interval, box_in_whole)


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_that_are_no_tiles_are_left_whole(kind, tmp_path):
    make, _ = KINDS[kind]
    rows, columns = in_mcus(kind)
    for interval in (columns - 2, columns + 1, rows * columns, 0):
        data = make(restart_marker_blocks=interval)
        got = crops([data], tmp_path, 20, **ANY_BOX)
        assert all(image.tobytes() == data for image in got.images)
        assert np.array_equal(got.boxes, crops([data], tmp_path, 20, splices=False, **ANY_BOX).boxes)


def test_what_tells_the_colours_is_kept_and_no_more(tmp_path):
    data = with_restarts(jpeg(photo(200, 300), comment=b"x" * 5000))
    (image,) = crops([data], tmp_path, 1, kind="center", center_fraction=0.1).images
    assert image.tobytes()[6:10] == b"JFIF"
    assert image.size < 3000


@pytest.fixture
def restarts(write_images, tmp_path) -> Path:
    """The two photos with restart markers, in a `.beton` file."""
    path = tmp_path / "restarts.beton"
    photos = [with_restarts(jpeg(Image.fromarray(image))) for image in sample_photos()]
    write_images(path, [EncodedImage(data, ImageMode.JPG, *frame_size(data)) for data in photos], np.arange(2))
    return path


def test_images_lie_in_the_mapped_file_and_live_as_long_as_they_are_used(restarts):
    records = BetonRecords(restarts)
    got = _native.encoded_crops(records.native(), np.array([1, 0, 3]), rule("whole"), splices=True)
    mapped = Beton(restarts)
    assert [image.tobytes() for image in got.images] == [mapped.image_bytes(number).tobytes() for number in (1, 0, 1)]
    assert got.images[0].ctypes.data == got.images[2].ctypes.data  # no copies
    assert not any(image.flags.writeable for image in got.images)
    image, expected = got.images[0], mapped.image_bytes(1).tobytes()
    del records, got
    assert image.tobytes() == expected


def test_spliced_images_are_small_and_read_only(restarts):
    got = _native.encoded_crops(BetonRecords(restarts).native(), np.arange(200), rule(), splices=True)
    sizes = Beton(restarts).sizes
    assert sum(image.size for image in got.images) < 0.75 * 100 * sizes.sum()
    assert not any(image.flags.writeable for image in got.images)


@pytest.mark.parametrize("crop", ["random_resized", "whole", "shift"])
def test_crops_are_those_of_every_backend(crop, restarts):
    config = LoaderConfig(batch_size=8, resolution=32, crop=crop, order="random", drop_last=False, seed=1)
    samples = np.arange(300)
    heights, widths = (sides[samples % 2] for sides in (Beton(restarts).heights, Beton(restarts).widths))
    expected = config.crops(samples, heights=heights, widths=widths, epoch=2)
    got = _native.encoded_crops(BetonRecords(restarts).native(), samples, rule(crop), splices=False)
    for mine, theirs in zip((got.boxes, got.flips, got.shifts), expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)
    assert np.array_equal(got.windows[:, 2:], got.boxes[:, 2:]), "all of the box"
    assert not got.windows[:, :2].any()


@pytest.mark.parametrize(("interpolation", "reach"), [("bilinear", 1), ("bicubic", 2)])
@pytest.mark.parametrize("resolution", [32, 400])
def test_center_is_cut_out_of_the_resized_image(restarts, interpolation, reach, resolution):
    """What torchvision's Resize and CenterCrop keep, and around it what the filter of the resize sees."""
    centered = rule("center", resolution=resolution, interpolation=interpolation)
    got = _native.encoded_crops(BetonRecords(restarts).native(), np.arange(2), centered, splices=False)
    for row, sides in enumerate(zip(Beton(restarts).heights, Beton(restarts).widths, strict=True)):
        for axis, side in enumerate(sides.tolist() for sides in sides):
            target = round(resolution / 0.875)
            resized = target if side == min(sides) else target * side // min(sides)
            scale, offset = side / resized, round((resized - resolution) / 2)
            begin, end = offset * scale, (offset + resolution) * scale
            box_begin, size = got.boxes[row, axis], got.boxes[row, axis + 2]
            assert got.windows[row, axis] + box_begin == pytest.approx(begin)
            assert got.windows[row, axis + 2] == pytest.approx(end - begin)
            support = reach * max(scale, 1) - scale / 2
            seen = [pixel for pixel in range(side) if begin - support < pixel + 0.5 < end + support]
            assert abs(box_begin - seen[0]) <= 1
            assert (box_begin <= seen[0], box_begin + size > seen[-1]) == (True, True)
            assert size <= len(seen) + 2


def test_raw_records_are_pixels(raw_set):
    got = _native.encoded_crops(BetonRecords(raw_set.path).native(), np.arange(106), rule(), splices=True)
    assert all(
        np.array_equal(image, raw) for image, raw in zip(got.images, [*raw_set.images, *raw_set.images], strict=True)
    )
    assert not got.failures


def test_what_cannot_be_read_has_failed(restarts, tmp_path, write_images):
    path = tmp_path / "other_size.beton"
    data = jpeg(photo(90, 120))
    write_images(path, [EncodedImage(data, ImageMode.JPG, 90, 121)], np.zeros(1, np.int64))
    got = _native.encoded_crops(BetonRecords(path).native(), np.array([0]), rule(), splices=True)
    assert got.failures == [(0, False, "it decodes to 90 x 120 pixels, where the file's table says 90 x 121 pixels")]
    assert got.images[0].shape == (0,)
    missing = FileRecords([tmp_path / "missing.jpg"]).native()
    (failure,) = _native.encoded_crops(missing, np.array([5]), rule(), splices=True).failures
    assert failure[:2] == (0, False)
    assert failure[2].startswith("the file cannot be opened: ")


def test_a_file_that_becomes_shorter_is_told(restarts):
    records = BetonRecords(restarts).native()
    before = _native.encoded_crops(records, np.arange(10), rule(), splices=False)
    assert before.cut_rows() == []
    os.truncate(restarts, 20_000)
    assert before.cut_rows() == list(range(10))
    after = _native.encoded_crops(records, np.arange(10), rule(), splices=True)
    assert after.failures == [(row, False, _native.cut_short) for row in range(10)]


def is_foreign(data: bytes, folder: Path, **options) -> bool:
    got = crops([data], folder, 1, **options)
    assert all(foreign and reason for _, foreign, reason in got.failures)
    assert got.images[0].size == 0 or not got.failures
    return bool(got.failures)


def test_what_others_make_something_else_of_is_foreign(tmp_path):
    good = with_restarts(jpeg(photo(90, 120)))
    turned = Image.Exif()
    turned[0x0112] = 6
    sideways = jpeg(photo(90, 120), exif=turned)
    assert not is_foreign(good, tmp_path)
    assert is_foreign(b"", tmp_path)
    assert is_foreign(b"\xff\xd8", tmp_path)
    assert is_foreign(b"\x89PNG\r\n\x1a\n" + bytes(90), tmp_path)
    assert is_foreign(good[:-1], tmp_path)
    assert is_foreign(good[: len(good) // 2], tmp_path)
    assert is_foreign(without(good, DHT), tmp_path)
    rgb = named_rgb(good)
    assert is_foreign(rgb, tmp_path)
    assert is_foreign(rgb[:2] + b"\xff\xe0\x00\x07JFIF\0" + rgb[2:], tmp_path)  # too short for libjpeg to heed it
    assert not is_foreign(sideways, tmp_path)
    assert is_foreign(sideways, tmp_path, turns_upright=True)
    assert not is_foreign(good, tmp_path, turns_upright=True)


def test_restart_markers_that_are_damaged_are_for_our_decoder(tmp_path):
    """It says what is wrong, or that the crop does not need it; others mostly fill up with grey."""
    good = with_restarts(jpeg(photo(160, 160)), 10)  # a row of MCUs, 10 of them
    marker = {number: good.index(bytes([0xFF, 0xD0 + number]), find(good, SOS)) for number in range(8)}
    top = {"kind": "random_resized", "area": (0.01, 0.011), "ratio": (1.0, 1.0)}  # 16 pixels: two or three rows of MCUs
    (box,) = crops([good], tmp_path, 1, splices=False, **top).boxes
    last_row = (int(box[0]) + int(box[2]) + 1) // 16
    assert 1 <= last_row < 8
    for number in range(8):
        damaged = patched(good, marker[number] + 1, 0xD0 + (number + 3) % 8)
        assert is_foreign(damaged, tmp_path, **top) == (number <= last_row)
        assert not is_foreign(damaged, tmp_path, splices=False, **top)


def test_a_sample_must_be_a_number_of_one(restarts):
    records = BetonRecords(restarts).native()
    with pytest.raises(IndexError, match="negative"):
        _native.encoded_crops(records, np.array([-1]), rule(), splices=True)
    assert _native.encoded_crops(records, np.array([], np.int64), rule(), splices=True).images == []
    with pytest.raises(IndexError, match="no records"):
        _native.encoded_crops(FileRecords([]).native(), np.array([0]), rule(), splices=True)


def test_several_threads_may_ask_at_once(restarts):
    records = BetonRecords(restarts).native()

    def ask(_thread: int) -> list[bytes]:
        got = _native.encoded_crops(records, np.arange(50), rule(), splices=True)
        return [image.tobytes() for image in got.images]

    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(ask, range(8))
    assert all(other == first for other in others)
