"""TFRecord shards: DALI and our own reader find what was written, and damage is named."""

import struct
import subprocess
import sys
from pathlib import Path

import google_crc32c
import pytest

from tools.shards.format import ShardSample
from tools.shards.tfrecord import TFRecordFormat, TFRecordShard
from tools.shards.writer import ShardWriter

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def shard(tmp_path: Path, shard_samples: list[ShardSample]) -> Path:
    """A shard of `shard_samples`."""
    path = tmp_path / "train-000000.tfrecord"
    with ShardWriter(path, TFRecordFormat()) as writer:
        for sample in shard_samples:
            writer.append(*sample)
    return path


def read(path: Path) -> list[tuple[bytes, int]]:
    shard = TFRecordShard(path)
    return [(shard.image_bytes(index).tobytes(), label) for index, label in enumerate(shard.labels.tolist())]


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def record(example: bytes) -> bytes:
    length = struct.pack("<Q", len(example))
    return length + masked(length) + example + masked(example)


def field(number: int, *content: bytes) -> bytes:
    data = b"".join(content)
    size = len(data)
    return bytes([number << 3 | 2, *([size] if size < 128 else [size & 127 | 128, size >> 7])]) + data


def feature(name: str, kind: int, *values: bytes) -> bytes:
    return field(1, field(1, name.encode()), field(2, field(kind, *values)))


IMAGE = feature("image/encoded", 1, field(1, b"jpeg"))
LABEL = feature("image/class/label", 3, field(1, b"\xac\x02"))
GOOD = field(1, IMAGE, LABEL)


def test_it_is_read_back(shard: Path, shard_samples: list[ShardSample]):
    assert read(shard) == [(sample.image, sample.label) for sample in shard_samples]
    opened = TFRecordShard(shard)
    assert not opened.image_bytes(0).flags.writeable
    assert opened.sizes.tolist() == [len(sample.image) for sample in shard_samples]


@pytest.mark.parametrize("label", [0, 127, 128, 16383, 16384, 2**63 - 1])
@pytest.mark.parametrize("size", [1, 100, 127, 128, 300, 16400])
def test_numbers_of_every_length(tmp_path: Path, label: int, size: int):
    with ShardWriter(tmp_path / "a.tfrecord", TFRecordFormat()) as writer:
        writer.append("a", bytes(size), "png", label)
    assert read(tmp_path / "a.tfrecord") == [(bytes(size), label)]


def test_a_record_is_the_protocol_buffer_it_should_be(tmp_path: Path):
    """Held against bytes put together in another way."""
    with ShardWriter(tmp_path / "a.tfrecord", TFRecordFormat()) as writer:
        writer.append("long" * 24, b"jpeg", "jpg", 300)
    filename = feature("image/filename", 1, field(1, b"long" * 24, b".jpg"))
    example = field(1, LABEL, feature("image/format", 1, field(1, b"JPEG")), filename, IMAGE)
    assert (tmp_path / "a.tfrecord").read_bytes() == record(example)


def test_the_index_is_that_of_tfrecord2idx(shard: Path):
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    script = Path(sys.executable).with_name("tfrecord2idx")
    theirs = shard.with_name("theirs")
    subprocess.run([sys.executable, script, shard, theirs], check=True, timeout=30)
    assert shard.with_suffix(".idx").read_bytes() == theirs.read_bytes()


def test_dali_reads_it(shard: Path, shard_samples: list[ShardSample]):
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    from nvidia.dali import fn, pipeline_def, tfrecord

    text = tfrecord.FixedLenFeature((), tfrecord.string, "")
    features = {
        "image/encoded": text,
        "image/class/label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
        "image/format": text,
        "image/filename": text,
    }

    @pipeline_def(batch_size=len(shard_samples), num_threads=2, device_id=None)
    def pipeline():
        read = fn.readers.tfrecord(path=str(shard), index_path=str(shard.with_suffix(".idx")), features=features)
        return *(read[name] for name in features), fn.decoders.image(read["image/encoded"])

    built = pipeline()
    built.build()
    encoded, labels, formats, names, images = built.run()
    for index, sample in enumerate(shard_samples):
        assert encoded.at(index).tobytes() == sample.image
        assert labels.at(index).tolist() == [sample.label]
        assert formats.at(index).tobytes() == {"jpg": b"JPEG", "png": b"PNG"}[sample.extension]
        assert names.at(index).tobytes().decode() == f"{sample.key}.{sample.extension}"
        assert images.at(index).shape[2] == 3


# Damage


def test_a_file_that_is_cut_short_is_named_wherever_it_ends(tmp_path: Path):
    path = tmp_path / "a.tfrecord"
    first, second = record(GOOD), record(GOOD)
    for kept in range(1, len(second)):
        path.write_bytes(first + second[:kept])
        with pytest.raises(ValueError, match=rf"a\.tfrecord: record 1 at byte {len(first)}: .*cut short; write the"):
            read(path)


def test_every_changed_byte_is_noticed(tmp_path: Path):
    path = tmp_path / "a.tfrecord"
    for position in range(len(record(GOOD))):
        data = bytearray(record(GOOD))
        data[position] ^= 0x10
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.tfrecord: record 0 at byte 0: the checksum of its \w+ is wrong"):
            read(path)


@pytest.mark.parametrize("name", ["missing.tfrecord", "folder"])
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=rf"{name}: cannot be read: (No such file|Is a directory)"):
        read(tmp_path / name)


def test_an_example_in_another_order_with_more_in_it_is_read(tmp_path: Path):
    more = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + b"\x11" + bytes(8) + b"\x1d" + bytes(4) + b"\x22\x01x"
    path = tmp_path / "a.tfrecord"
    path.write_bytes(record(more + field(1, LABEL)) + record(field(1, feature("x", 2, b""), LABEL) + field(1, IMAGE)))
    with pytest.raises(ValueError, match="record 0 at byte 0: it has no image/encoded"):
        read(path)
    path.write_bytes(path.read_bytes()[len(record(more + field(1, LABEL))) :] + record(more + GOOD))
    assert read(path) == [(b"jpeg", 300)] * 2


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (b"", "it has no image/class/label and no image/encoded"),
        (field(1, IMAGE), "it has no image/class/label"),
        (GOOD[:-1], "a field that does not end in it"),
        (b"\x09" + bytes(7), "a field that does not end in it"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "a field that does not end in it"),
        (b"\x0a", "a number that does not end"),
        (b"\x80" * 20, "a number that does not end"),
        (b"\x08" + b"\xff" * 9 + b"\x7f", "a number that does not end"),
        (b"\x0b", "the unknown wire type 3"),
        (field(1, field(1)), "0 values in field 1"),
        (field(1, LABEL, feature("image/encoded", 1)), "0 values in field 1"),
        (field(1, LABEL, feature("image/encoded", 1, field(1, b"a"), field(1, b"b"))), "2 values in field 1"),
        (field(1, IMAGE, feature("image/class/label", 1, field(1, b"7"))), "0 values in field 3"),
        (field(1, IMAGE, feature("image/class/label", 3, field(1, b"\1\2"))), "image/class/label is not one number"),
        (
            field(1, IMAGE, feature("image/class/label", 3, field(1, b"\xff" * 9 + b"\1"))),
            "image/class/label is not one number from 0",
        ),
    ],
)
def test_examples_that_are_none_are_named(tmp_path: Path, example: bytes, message: str):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(record(GOOD) + record(example))
    with pytest.raises(ValueError, match=rf"a\.tfrecord: record 1 at byte {len(record(GOOD))}: .*{message}"):
        read(path)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    monkeypatch.delitem(sys.modules, "tools.shards.tfrecord")
    from tools.shards.writer import SHARD_FORMATS

    with pytest.raises(ImportError, match=r"pip install 'fastvit\[convert\]'"):
        SHARD_FORMATS["tfrecord"](10)
    assert SHARD_FORMATS["tar"](10) is not None
