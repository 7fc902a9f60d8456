"""TFRecord shards: DALI and our own reader find what was written."""

import subprocess
import sys
from pathlib import Path

import pytest

from loaders.tfrecord_shard import TFRecordShard
from tfrecords import IMAGE, LABEL, feature, field, record
from tools.shards.format import ShardSample
from tools.shards.tfrecord import TFRecordFormat
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


def test_it_is_read_back(shard: Path, shard_samples: list[ShardSample]):
    assert read(shard) == [(sample.image, sample.label) for sample in shard_samples]
    opened = TFRecordShard(shard)
    assert not opened.image_bytes(0).flags.writeable
    assert opened.sizes.tolist() == [len(sample.image) for sample in shard_samples]
    assert all(map(opened.is_sound, range(len(shard_samples))))


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
