"""The `.beton` reader and writer by themselves; `test_beton_ffcv.py` holds them against FFCV."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from loaders.beton import (
    ALLOCATION_TYPE,
    FIELD_TYPE,
    HEADER_TYPE,
    MIN_PAGE_SIZE,
    Beton,
    BetonError,
    BetonStream,
    BetonWriter,
    EncodedImage,
    FieldKind,
    ImageMode,
    metadata_type,
)

pytestmark = pytest.mark.timeout(60)

FIELDS = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT, "weight": FieldKind.FLOAT}
METADATA_OFFSET = HEADER_TYPE.itemsize + len(FIELDS) * FIELD_TYPE.itemsize
Sample = tuple[EncodedImage, int, float]


def make_samples(num_samples: int, modes: tuple[ImageMode, ...] = tuple(ImageMode), *, seed: int = 0) -> list[Sample]:
    """Images of many sizes; the writer does not look into a JPEG, so any bytes will do for one."""
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(num_samples):
        mode = modes[index % len(modes)]
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        shape = (height, width, 3) if mode is ImageMode.RAW else (int(rng.integers(1, 5000)),)
        data = rng.integers(0, 256, shape, dtype=np.uint8)
        samples.append((EncodedImage(data, mode, height, width), int(rng.integers(-(2**40), 2**40)), rng.normal()))
    return samples


def write(
    path: Path, samples: list[Sample], fields: dict[str, FieldKind] = FIELDS, *, num_samples: int | None = None
) -> None:
    with BetonWriter(path, fields, num_samples=num_samples or len(samples), page_size=MIN_PAGE_SIZE) as writer:
        for sample in samples:
            writer.append(sample)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.beton"


# Round trips


@pytest.mark.parametrize("modes", [(ImageMode.RAW,), (ImageMode.JPG,), (ImageMode.JPG, ImageMode.RAW)])
def test_what_is_written_is_read(path: Path, modes: tuple[ImageMode, ...]):
    samples = make_samples(200, modes)
    write(path, samples)
    with Beton(path) as beton:
        assert beton.path == path
        assert (beton.num_samples, beton.page_size) == (200, MIN_PAGE_SIZE)
        assert beton.field_names == tuple(FIELDS)
        for index, (image, label, weight) in enumerate(samples):
            stored = beton.image_bytes(index)
            assert stored.tobytes() == image.data.tobytes()
            assert beton.sizes[index] == image.data.size
            assert (beton.modes[index], beton.heights[index], beton.widths[index]) == image[1:]
            assert (beton.labels[index], beton.metadata["weight"][index]) == (label, weight)
        assert beton.labels.dtype == beton.offsets.dtype == np.int64


def test_every_kind_of_buffer_is_written(path: Path):
    data = bytes(range(12))
    buffers = [data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8).reshape(2, 2, 3)]
    with BetonWriter(path, {"image": FieldKind.RGB_IMAGE}, num_samples=len(buffers)) as writer:
        for buffer in buffers:
            writer.append([EncodedImage(buffer, ImageMode.RAW, 2, 2)])
    with Beton(path) as beton:
        assert [beton.image_bytes(index).tobytes() for index in range(len(buffers))] == [data] * len(buffers)


def test_pages_are_aligned_and_no_record_crosses_one(path: Path):
    rng = np.random.default_rng(0)
    sizes = [MIN_PAGE_SIZE, 1, MIN_PAGE_SIZE - 1, *rng.integers(1, MIN_PAGE_SIZE // 3, 20).tolist()]
    samples = [(EncodedImage(rng.bytes(size), ImageMode.JPG, 1, 1), 0, 0.0) for size in sizes]
    write(path, samples)
    with Beton(path) as beton:
        np.testing.assert_array_equal(beton.sizes, sizes)
        ends = beton.offsets + beton.sizes
        np.testing.assert_array_equal(beton.offsets // MIN_PAGE_SIZE, (ends - 1) // MIN_PAGE_SIZE)
        assert beton.offsets[0] % MIN_PAGE_SIZE == 0
        assert (beton.offsets[1:] >= ends[:-1]).all()
        # The allocation table lies behind whole pages, up to the end of the file, and knows every record.
        table_offset = -(-int(ends[-1]) // MIN_PAGE_SIZE) * MIN_PAGE_SIZE
        table = np.fromfile(path, ALLOCATION_TYPE, offset=table_offset)
        np.testing.assert_array_equal(table["sample"], np.arange(len(sizes)))
        np.testing.assert_array_equal(table["offset"], beton.offsets)
        np.testing.assert_array_equal(table["size"], sizes)


def test_pages_grow_with_a_record_that_is_larger(path: Path):
    sizes = [MIN_PAGE_SIZE, 10, MIN_PAGE_SIZE + 1, MIN_PAGE_SIZE, 5 * MIN_PAGE_SIZE, 10]
    write(
        path, [(EncodedImage(bytes([index]) * size, ImageMode.JPG, 9, 9), 0, 0.0) for index, size in enumerate(sizes)]
    )
    with Beton(path) as beton:
        assert beton.page_size == 8 * MIN_PAGE_SIZE
        # In pages of 2 MiB, then 4, then 16.
        assert (beton.offsets // MIN_PAGE_SIZE).tolist() == [1, 2, 2, 4, 8, 13]
        np.testing.assert_array_equal(beton.offsets // beton.page_size, [0, 0, 0, 0, 1, 1])
        assert [set(beton.image_bytes(index).tolist()) for index in range(6)] == [{index} for index in range(6)]


def test_two_images_of_a_record_share_a_page(path: Path):
    fields = {"left": FieldKind.RGB_IMAGE, "label": FieldKind.INT, "right": FieldKind.RGB_IMAGE}
    image = EncodedImage(bytes(MIN_PAGE_SIZE // 3), ImageMode.JPG, 5, 7)
    with BetonWriter(path, fields, num_samples=4, page_size=MIN_PAGE_SIZE) as writer:
        for label in range(4):
            writer.append([image, label, image])
    with Beton(path) as beton:
        pages = [beton.metadata[name]["data_ptr"] // MIN_PAGE_SIZE for name in ("left", "right")]
        np.testing.assert_array_equal(pages[0], [1, 2, 3, 4])
        np.testing.assert_array_equal(pages[0], pages[1])
        np.testing.assert_array_equal(beton.offsets, beton.metadata["left"]["data_ptr"])


def test_image_bytes_are_a_read_only_view_that_outlives_close(path: Path):
    samples = make_samples(3)
    write(path, samples)
    beton = Beton(path)
    view = beton.image_bytes(1)
    assert not view.flags.owndata
    assert not view.flags.writeable
    with pytest.raises(IndexError):
        beton.image_bytes(3)
    beton.close()
    beton.close()
    assert view.tobytes() == samples[1][0].data.tobytes()
    with pytest.raises(BetonError, match=r"data\.beton: the file is closed"):
        beton.image_bytes(1)


def test_pickling_carries_the_path_alone(path: Path):
    samples = make_samples(500)
    write(path, samples)
    with Beton(path) as beton:
        pickled = pickle.dumps(beton)
    assert len(pickled) < 500
    with pickle.loads(pickled) as copy:
        assert copy.image_bytes(499).tobytes() == samples[499][0].data.tobytes()


# Writing step by step


def stream(file: BinaryIO, path: Path, num_samples: int) -> BetonStream:
    return BetonStream(file, path, FIELDS, num_samples=num_samples, page_size=MIN_PAGE_SIZE)


@pytest.mark.parametrize("num_recalled", [0, 1, 119, 120])
def test_a_stream_goes_on_where_another_one_ended(path: Path, num_recalled: int):
    samples = make_samples(120)
    samples[60] = (EncodedImage(bytes(MIN_PAGE_SIZE), ImageMode.JPG, 9, 9), 0, 0.0)  # pages begin in the middle
    write(path, samples)
    other = path.with_name("other.beton")
    with other.open("w+b") as file:
        first = stream(file, other, 120)
        for sample in samples[:num_recalled]:
            first.append(sample)
        file.flush()
        second = stream(file, other, 120)
        for sample in samples[:num_recalled]:
            second.recall(sample)
        assert (second.num_records, second.end) == (first.num_records, first.end)
        file.truncate(second.end)
        file.seek(0)
        with pytest.raises(BetonError, match=r"version|empty file|zeros|finish"):
            Beton(other)
        for sample in samples[num_recalled:]:
            second.append(sample)
        second.finish()
    assert other.read_bytes() == path.read_bytes()


def test_fewer_records_than_the_largest_number(path: Path):
    """As where some were left out: the pages begin behind the room for all of them."""
    samples = make_samples(30)
    with path.open("w+b") as file:
        long = stream(file, path, 100_000)
        for sample in samples:
            long.append(sample)
        long.finish()
    with Beton(path) as beton:
        assert beton.num_samples == 30
        room = METADATA_OFFSET + 100_000 * metadata_type(FIELDS).itemsize
        assert beton.offsets[0] == -(-room // MIN_PAGE_SIZE) * MIN_PAGE_SIZE
        for index, (image, label, _) in enumerate(samples):
            assert beton.image_bytes(index).tobytes() == image.data.tobytes()
            assert beton.labels[index] == label


def test_a_stream_without_records(path: Path):
    with path.open("w+b") as file, pytest.raises(BetonError, match="no record came"):
        stream(file, path, 5).finish()


@pytest.mark.parametrize("num_samples", [4, 6])
def test_another_number_of_samples_than_announced(path: Path, num_samples: int):
    path.write_bytes(b"what stood there before")
    with pytest.raises(BetonError, match=f"num_samples={num_samples}"):
        write(path, make_samples(5), num_samples=num_samples)
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == b"what stood there before"


LIMITED_WRITER = """
import os, resource, sys
from loaders.beton import BetonError, BetonWriter, EncodedImage, FieldKind, ImageMode
fields = {"image": FieldKind.RGB_IMAGE}
image = EncodedImage(bytes(2**20), ImageMode.JPG, 1, 1)
for limit in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        with BetonWriter(sys.argv[1], fields, num_samples=9) as writer:
            for _ in range(9):
                writer.append([image])
    except BetonError as error:
        print(error, os.listdir(os.path.dirname(sys.argv[1])))
"""


def test_a_full_disk_leaves_nothing(path: Path):
    # At the start of the file, in its first page, in its last page, and in the table behind three pages of 8 MiB.
    limits = [0, 12 * 2**20, 16 * 2**20 + 1, 24 * 2**20 + 17]
    command = [sys.executable, "-c", LIMITED_WRITER, path, *map(str, limits)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    message = f"{path}: cannot be written: File too large; make room there or choose another place []\n"
    assert result.stdout == message * len(limits)
    assert result.stderr == ""


# What the writer refuses


def image(**changes: object) -> EncodedImage:
    return EncodedImage(bytes(12), ImageMode.RAW, 2, 2)._replace(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([image()], r"1 values for the 3 fields image, label, weight"),
        ([b"bytes", 0, 0.0], r"field 'image': expected an EncodedImage, got bytes"),
        ([image(data=bytes(11)), 0, 0.0], r"11 bytes of raw pixels where 2 x 2 x 3 make 12"),
        ([image(data=np.zeros((2, 2, 6), np.uint8)[..., ::2]), 0, 0.0], r"not contiguous"),
        ([image(data=b"", mode=ImageMode.JPG), 0, 0.0], r"no bytes"),
        ([image(mode=7), 0, 0.0], r"7 is not a valid ImageMode"),
        ([image(height=0), 0, 0.0], r"height 0 is not from 1 to 65535"),
        ([image(width=65_536), 0, 0.0], r"width 65536 is not from 1 to 65535.*resize"),
        ([image(), "cat", 0.0], r"field 'label': 'str'"),
        ([image(), 2**63, 0.0], r"field 'label': 9223372036854775808 does not fit 64 bits"),
        ([image(), 0, "heavy"], r"field 'weight': expected a number, got str"),
        (
            [image(data=np.zeros(2**31 + 1, np.uint8), mode=ImageMode.JPG), 0, 0.0],
            r"its 2147483649 bytes do not fit the largest page, of 2147483648 bytes; store it smaller",
        ),
    ],
)
def test_values_that_do_not_suit(path: Path, values: list[object], message: str):
    with pytest.raises(BetonError, match=rf"data\.beton: record 1: .*{message}"):
        write(path, [make_samples(1)[0], values])
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("name", ["", "seventeen letters", "größe", "nul\0"])
def test_field_names_that_ffcv_would_cut_or_garble(path: Path, name: str):
    with pytest.raises(BetonError, match="1 to 16 ASCII characters"):
        BetonWriter(path, {name: FieldKind.INT}, num_samples=1)


@pytest.mark.parametrize("page_size", [0, -(2**21), 2**20, 2**21 + 1, 2**32])
def test_page_sizes_that_ffcv_does_not_have(path: Path, page_size: int):
    with pytest.raises(BetonError, match=f"page_size must be a power of two.*got {page_size}"):
        BetonWriter(path, FIELDS, num_samples=1, page_size=page_size)


def test_other_things_that_cannot_be_written(path: Path):
    with pytest.raises(BetonError, match="at least one field"):
        BetonWriter(path, {}, num_samples=1)
    with pytest.raises(BetonError, match="num_samples must be positive, got 0"):
        BetonWriter(path, FIELDS, num_samples=0)
    with pytest.raises(BetonError, match="it is a folder"):
        BetonWriter(path.parent, FIELDS, num_samples=1)
    missing = path.parent / "missing" / "data.beton"
    with pytest.raises(BetonError, match="No such file or directory"), BetonWriter(missing, FIELDS, num_samples=1):
        pass


# What the reader refuses


def test_things_that_are_no_file(path: Path):
    with pytest.raises(BetonError, match=r"data\.beton: no such file"):
        Beton(path)
    with pytest.raises(BetonError, match=r"a folder; name a \.beton file"):
        Beton(path.parent)
    path.touch()
    with pytest.raises(BetonError, match="an empty file"):
        Beton(path)
    os.remove(path)
    os.mkfifo(path)
    with pytest.raises(BetonError, match="no such file"):
        Beton(path)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(5000), b"hello" * 1000, bytes(5000)])
def test_foreign_files(path: Path, content: bytes):
    path.write_bytes(content)
    with pytest.raises(BetonError, match=r"version \d+; this is not a \.beton file"):
        Beton(path)


def test_files_without_images_or_labels(path: Path):
    with BetonWriter(path, {"weight": FieldKind.FLOAT}, num_samples=2) as writer:
        writer.append([1.5])
        writer.append([2])
    with Beton(path) as beton:
        np.testing.assert_array_equal(beton.metadata["weight"], [1.5, 2.0])
        with pytest.raises(BetonError, match="no int field among weight"):
            _ = beton.labels
        for column in ("modes", "heights", "widths", "offsets", "sizes"):
            with pytest.raises(BetonError, match="no image field among weight"):
                getattr(beton, column)


def test_truncated_anywhere(path: Path):
    write(path, make_samples(50))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    lengths = [*range(HEADER_TYPE.itemsize + 2), len(content) - ALLOCATION_TYPE.itemsize, len(content) - 1]
    lengths += [int(length) for span in (4000, len(content)) for length in rng.integers(0, span, 100)]
    for length in lengths:
        path.write_bytes(content[:length])
        with pytest.raises(BetonError, match=r"data\.beton: "):
            Beton(path)


@pytest.mark.parametrize("name", HEADER_TYPE.names or ())
def test_header_words_out_of_range(path: Path, name: str):
    write(path, make_samples(10))
    content = bytearray(path.read_bytes())
    dtype, offset = HEADER_TYPE.fields[name][:2]
    good = int(np.frombuffer(content, dtype, 1, offset)[0])
    largest = np.iinfo(dtype).max
    for value in {0, 1, good - 1, good + 1, 2 * good, largest // 2, largest} - {good}:
        np.frombuffer(content, dtype, 1, offset)[...] = value
        path.write_bytes(content)
        if name == "page_size" and value == 2 * good:  # as good a page size as any: no record crosses such a page
            Beton(path).close()
            continue
        with pytest.raises(BetonError, match=r"data\.beton: "):
            Beton(path)


def set_metadata(row: int, field: str, value: object) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        metadata = np.frombuffer(content, metadata_type(FIELDS), 10, METADATA_OFFSET)
        metadata["image"][field][row] = value

    return change


def set_allocation(row: int, field: str, value: object) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        table_offset = int(np.frombuffer(content, HEADER_TYPE, 1)["allocation_table_offset"][0])
        np.frombuffer(content, ALLOCATION_TYPE, offset=table_offset)[field][row] = value

    return change


def set_byte(offset: int, value: int) -> Callable[[bytearray], None]:
    return lambda content: content.__setitem__(offset, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_metadata(7, "mode", 2), r"record 7, field 'image': mode 2 is none of \[0, 1\]"),
        (set_metadata(7, "height", 0), r"record 7, field 'image': height 0"),
        (set_metadata(6, "width", 0), r"record 6, field 'image': width 0"),
        (set_metadata(7, "width", 61), r"record 7, field 'image': size \d+ is not height x width x 3"),
        (set_metadata(4, "data_ptr", 2**63), r"record 4, field 'image': data_ptr .* not in the allocation table"),
        (set_metadata(4, "data_ptr", 0), r"record 4, field 'image': data_ptr 0 is not in the"),
        (
            set_metadata(4, "data_ptr", MIN_PAGE_SIZE + 1),
            r"record 4, field 'image': data_ptr 2097153 is not in",
        ),
        (
            set_allocation(9, "size", 2 * MIN_PAGE_SIZE),
            r"record 9 of 10 has 4194304 bytes at byte \d+, where",
        ),
        (set_allocation(9, "size", 2**64 - 1), r"record 9 of 10 has 18446744073709551615 bytes"),
        (set_allocation(9, "size", 0), r"record 9, field 'image': size 0 is not positive"),
        (set_allocation(3, "offset", 0), r"record 3 of 10 has \d+ bytes at byte 0,"),
        (set_allocation(3, "offset", 2**64 - 1), r"record 3 of 10 has \d+ bytes at byte 18446744073709551615,"),
        (set_allocation(3, "sample", 10), r"record 10 of 10 has"),
        (set_byte(HEADER_TYPE.itemsize, 255), r"field b'image' is of the unknown kind 255"),
        (set_byte(HEADER_TYPE.itemsize + 1, 0), r"field name b'' is empty"),
        (set_byte(HEADER_TYPE.itemsize + 1, 200), r"field name b'\\xc8mage' is empty, not ASCII"),
    ],
)
def test_damage_is_named(path: Path, change: Callable[[bytearray], None], message: str):
    write(path, make_samples(10))
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    with pytest.raises(BetonError, match=rf"data\.beton: {message}"):
        Beton(path)


def test_mutated_files_open_or_fail_clearly(path: Path):
    """Whatever is changed, a file that opens can be read to its last byte."""
    write(path, make_samples(10))
    content = path.read_bytes()
    metadata_end = METADATA_OFFSET + 10 * metadata_type(FIELDS).itemsize
    table_offset = len(content) - 10 * ALLOCATION_TYPE.itemsize
    telling = np.r_[: HEADER_TYPE.itemsize + 17, METADATA_OFFSET:metadata_end, table_offset : len(content)]
    rng = np.random.default_rng(0)
    num_opened = 0
    for _ in range(200):
        mutated = bytearray(content)
        for offset in rng.choice(telling, rng.integers(1, 4)):
            mutated[offset] ^= rng.integers(1, 256)
        path.write_bytes(mutated)
        try:
            beton = Beton(path)
        except BetonError:
            continue
        with beton:
            num_opened += 1
            for index in range(beton.num_samples):
                assert beton.image_bytes(index).size == beton.sizes[index] > 0
                int(beton.image_bytes(index).sum())
    assert 0 < num_opened < 200
