"""Tar shards: every reader finds what was written, by the index too."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from loaders.tar_shard import TarShard
from tools.shards.format import ShardSample
from tools.shards.tar import TarFormat, label_digits
from tools.shards.writer import MAX_KEY_LENGTH, ShardWriter

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def shard(tmp_path: Path, shard_samples: list[ShardSample]) -> Path:
    """A shard of `shard_samples`."""
    return write(tmp_path / "train-000000.tar", shard_samples, digits=3)


def write(path: Path, samples: list[ShardSample], *, digits: int) -> Path:
    with ShardWriter(path, TarFormat(digits)) as writer:
        for sample in samples:
            writer.append(*sample)
    return path


@pytest.mark.parametrize(("num_classes", "digits"), [(1, 1), (10, 1), (11, 2), (100, 2), (1000, 3), (1001, 4)])
def test_digits(num_classes: int, digits: int):
    assert label_digits(num_classes) == digits


def test_a_label_with_too_many_digits_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"s\.tar: sample 0 \('a'\): label 10 has more than label_digits=1 digits"):
        write(tmp_path / "s.tar", [ShardSample("a", b"x", "jpg", 10)], digits=1)


def test_our_loader_reads_it(shard: Path, shard_samples: list[ShardSample]):
    tar = TarShard(shard)
    assert tar.labels.tolist() == [sample.label for sample in shard_samples]
    assert [tar.image_bytes(index).tobytes() for index in range(len(tar.labels))] == [s.image for s in shard_samples]
    assert [tar.member_name(index) for index in range(len(tar.labels))] == [
        f"{sample.key}.{sample.extension}" for sample in shard_samples
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves the file open
def test_webdataset_reads_it(shard: Path, shard_samples: list[ShardSample]):
    read = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode())
    assert [(s["__key__"], s.get("jpg", s.get("png")), s["cls"]) for s in read] == [
        (sample.key, sample.image, sample.label) for sample in shard_samples
    ]


def test_tarfile_reads_it(tmp_path: Path):
    key = "k" * MAX_KEY_LENGTH
    path = write(tmp_path / "s.tar", [ShardSample(key, bytes(512), "png", 5)], digits=2)
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        names = [(member.name, member.size) for member in members]
        assert names == [(f"{key}.png", 512), (f"{key}.cls", 2)]
        for member in members:
            assert member.isreg()
            assert (member.mode, member.uid, member.gid, member.mtime) == (0o644, 0, 0, 0)
            assert (member.uname, member.gname, member.linkname, member.pax_headers) == ("", "", "", {})
        label = archive.extractfile(members[1])
        assert label is not None
        assert label.read() == b"05"
    assert path.read_bytes()[257:265] == b"ustar\00000"


def test_the_index_is_that_of_wds2idx(shard: Path):
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    from wds2idx import IndexCreator

    theirs = shard.with_name("theirs")
    with IndexCreator(str(shard), str(theirs), verbose=False) as index:
        index.create_index()
    assert shard.with_suffix(".idx").read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("num_classes", [1000, 10])
def test_dali_reads_it_with_labels_as_numbers(num_classes: int, tmp_path: Path, shard_samples: list[ShardSample]):
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    from nvidia.dali import fn, pipeline_def, types

    samples = [sample._replace(label=sample.label % num_classes) for sample in shard_samples]
    digits = label_digits(num_classes)
    paths = [
        write(tmp_path / f"train-{number:06}.tar", part, digits=digits)
        for number, part in enumerate([samples[:3], samples[3:]])
    ]
    weights = np.array([10**power for power in reversed(range(digits))], np.int32)

    @pipeline_def(batch_size=len(samples), num_threads=2, device_id=None)
    def pipeline():
        encoded, cls = fn.readers.webdataset(
            paths=[str(path) for path in paths],
            index_paths=[str(path.with_suffix(".idx")) for path in paths],
            ext=["jpg;png", "cls"],
            missing_component_behavior="error",
        )
        labels = fn.reductions.sum((cls - 48) * types.Constant(weights))
        return encoded, labels, fn.decoders.image(encoded)

    built = pipeline()
    built.build()
    encoded, labels, images = built.run()
    assert [encoded.at(index).tobytes() for index in range(len(samples))] == [sample.image for sample in samples]
    assert [int(labels.at(index)) for index in range(len(samples))] == [sample.label for sample in samples]
    assert images.at(0).shape == (100, 150, 3)
    assert images.at(7).shape == (32, 32, 3)
