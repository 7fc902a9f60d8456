"""TFRecord shards: the same batches as from other sources, all names and layouts, and shards that are damaged."""

import ctypes
import gzip
import mmap
import os
import pickle
import re
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from loaders import BadSampleError, Batch, LoaderConfig, _native, build_loader
from loaders.beton import Beton
from loaders.companions import card_path, class_names
from loaders.records import open_records
from loaders.shards import find_shards, shard_kind
from loaders.tfrecord_shard import TFRecordShard
from tfrecords import GOOD, IMAGE, LABEL, example, feature, field, head, masked, record, varint, write_tfrecord

pytestmark = pytest.mark.timeout(60)

TFDS_NAMES = ("image", "label")


def open_bytes(folder: Path, content: bytes) -> TFRecordShard:
    path = folder / "shard.tfrecord"
    path.write_bytes(content)
    return TFRecordShard(path)


def images_in(shard: TFRecordShard) -> list[tuple[bytes, int]]:
    return [(shard.image_bytes(index).tobytes(), label) for index, label in enumerate(shard.labels.tolist())]


@pytest.fixture
def encoded(photo_set) -> list[bytes]:
    """The photos' JPEG files."""
    with Beton(photo_set.path) as beton:
        return [beton.image_bytes(index).tobytes() for index in range(beton.num_samples)]


def epoch_of(backend: str, path: Path, **changes) -> list[Batch]:
    options = {"batch_size": 5, "resolution": 48, "crop": "random_resized", "order": "random", "drop_last": False}
    options["num_workers"] = 0 if backend == "torch" else 2
    loader = build_loader(backend, path, LoaderConfig(**(options | {"seed": 3} | changes)))
    loader.set_epoch(1)
    batches = [Batch(*(tensor.clone() for tensor in batch)) for batch in loader]
    loader.close()
    return batches


# The same samples as from other sources


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("names", [("image/encoded", "image/class/label"), TFDS_NAMES])
def test_beton_and_shards_give_the_same_batches(backend, names, encoded, photo_set, tmp_path):
    samples = list(zip(encoded, photo_set.labels.tolist(), strict=True))
    for number, (start, stop) in enumerate([(0, 5), (5, 5), (5, 6), (6, 12)]):  # one of them empty
        write_tfrecord(tmp_path / "shards" / f"train-{number:05}-of-00004", samples[start:stop], names=names)
    expected = epoch_of(backend, photo_set.path)
    for path in ("shards", "shards/train-*", "shards/train-{00000..00003}-of-00004"):
        batches = epoch_of(backend, tmp_path / path)
        assert all(
            torch.equal(*pair) for ours in zip(batches, expected, strict=True) for pair in zip(*ours, strict=True)
        )


def test_resident_reads_them(raw_set, encode_jpeg, tmp_path):
    samples = [(encode_jpeg(image), 2) for image in raw_set.images[:4]]
    write_tfrecord(tmp_path / "a.tfrecord", samples)
    (batch,) = epoch_of("resident", tmp_path / "a.tfrecord", crop="whole", resolution=32, order="sequential")
    assert batch.labels.tolist() == [2] * 4
    records = open_records(tmp_path / "a.tfrecord")
    assert torch.equal(batch.images[3], records.decode(3))


def test_records_have_names_and_can_be_carried_to_workers(encoded, tmp_path):
    for number in range(2):
        write_tfrecord(tmp_path / f"{number}.tfrecord", [(encoded[number], 7)] * 3)
    records = open_records(tmp_path)
    assert records.name(4) == f"{tmp_path}/1.tfrecord: record 1"
    copy = pickle.loads(pickle.dumps(records))
    assert torch.equal(copy.decode(4), records.decode(4))
    assert records.labels.tolist() == [7] * 6


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_a_broken_image_is_named(backend, encoded, tmp_path):
    path = write_tfrecord(tmp_path / "a.tfrecord", [(encoded[0], 0), (encoded[1][:300], 1)])
    with pytest.raises(BadSampleError, match=r"sample 1 \(.*a\.tfrecord: record 1\) cannot be decoded"):
        epoch_of(backend, path, batch_size=2)


def test_dalis_index_is_not_asked(tmp_path):
    path = write_tfrecord(tmp_path / "a.tfrecord", [(b"one", 1), (b"two", 2)])
    path.with_suffix(".idx").write_text("0 9999999\n")
    assert images_in(TFRecordShard(path)) == [(b"one", 1), (b"two", 2)]
    assert find_shards(tmp_path) == [path]


def num_cached(file: np.ndarray) -> int:
    """How many pages of a mapped file are in memory."""
    pages = np.zeros(-(-len(file) // mmap.PAGESIZE), np.uint8)
    where = (ctypes.c_void_p(file.ctypes.data), ctypes.c_size_t(len(file)), ctypes.c_void_p(pages.ctypes.data))
    assert ctypes.CDLL(None).mincore(*where) == 0
    return int(np.count_nonzero(pages & 1))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system does not take files out of memory")
def test_opening_reads_no_image(tmp_path):
    """The images are holes in the file, which become pages of memory when they are read, or what lies close to them."""
    data = example(bytes(1 << 20), 7)
    begin = data.index(bytes(1 << 20))
    path = tmp_path / "a.tfrecord"
    with path.open("wb") as file:
        for _ in range(64):
            file.write(head(len(data)) + data[:begin])
            file.seek(1 << 20, os.SEEK_CUR)
            file.write(data[begin + (1 << 20) :] + bytes(4))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mapped = _native.map_file(os.fsencode(path))
    num_before = num_cached(mapped)
    assert TFRecordShard(path).labels.tolist() == [7] * 64
    assert num_cached(mapped) - num_before < 5 * 64, "the file has 256 pages for each record"


# What they are called


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("train-000000.tfrecord", "train.json"),
        ("train.tfrecord", "train.json"),
        ("train.tfrecords", "train.json"),
        ("train-00000-of-01024", "train.json"),
        ("train-00000-of-00010.tfrecord", "train.json"),
        ("cifar10-train.tfrecord-00000-of-00001", "cifar10-train.json"),
        ("train-0-of-2.tar", "train.json"),
    ],
)
def test_names_of_shards(name, card, tmp_path):
    assert shard_kind(Path(name)).kind == ("tar" if name.endswith("tar") else "TFRecord")
    assert card_path(tmp_path / name) == tmp_path / card
    (tmp_path / name).touch()
    for neighbour in ("train.json", "train.idx", f"{name}.records.tsv", "dataset_info.json", "LICENSE"):
        (tmp_path / neighbour).touch()
    assert find_shards(tmp_path) == find_shards(tmp_path / name) == find_shards(tmp_path / "*") == [tmp_path / name]


@pytest.mark.parametrize(
    "name",
    [
        "train-00000-of-00010.parquet",
        "model.ckpt.data-00000-of-00001",
        "train.array_record-00000-of-00001",
        "train-00000",
        "tfrecord",
        "train.beton",
        "-of-1",
    ],
)
def test_names_of_other_files(name, tmp_path):
    (tmp_path / name).touch()
    assert shard_kind(tmp_path / name) is None
    assert find_shards(tmp_path) == find_shards(tmp_path / name) == find_shards(tmp_path / "*") == []


def test_shards_that_are_not_there_are_named(tmp_path):
    write_tfrecord(tmp_path / "train-00000-of-00002", [(b"x", 0)])
    for path, missing in [
        ("a-*.tfrecord", r"a-\*\.tfrecord: no such file; name TFRecord shards that there are"),
        ("a-0-of-2", "a-0-of-2: no such file; name TFRecord shards"),
        ("train-{00000..00001}-of-00002", "train-00001-of-00002: no such file; name TFRecord shards"),
        ("b-{0..1}", "b-0: no such file; name shards that there are"),
        ("b-*", r"b-\*: no such file or folder; name a \.beton file, .* or tar or TFRecord shards"),
    ]:
        with pytest.raises(ValueError, match=missing):
            open_records(tmp_path / path)


def test_two_kinds_together_are_refused(tmp_path):
    write_tfrecord(tmp_path / "a.tfrecord", [(b"x", 0)])
    (tmp_path / "a.tar").touch()
    for path in (tmp_path, tmp_path / "a.*"):
        with pytest.raises(
            ValueError, match=rf"{re.escape(str(path))}: tar and TFRecord shards; name those of one kind"
        ):
            open_records(path)
    assert find_shards(tmp_path / "*.tfrecord") == [tmp_path / "a.tfrecord"]


@pytest.mark.parametrize("name", ["a.tfrecord.gz", "train-00000-of-00002.gz"])
def test_compressed_files_are_named_with_a_remedy(name, tmp_path):
    (tmp_path / name).write_bytes(gzip.compress(b"x"))
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=rf"{name}: compressed, .*; decompress it \(gunzip .*{name}\) and name"):
            open_records(path)


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, *(partial(zlib.compress, level=level) for level in (1, 5, 6, 9))],
    ids=["gzip", "zlib-1", "zlib-5", "zlib-6", "zlib-9"],
)
def test_what_tensorflow_compressed_is_named(compress, tmp_path):
    content = compress(record(GOOD))
    with pytest.raises(
        ValueError, match=r"shard\.tfrecord: record 0 .*: the file is compressed, but .*; decompress it, or"
    ):
        open_bytes(tmp_path, content)


def test_a_card_names_their_classes(tmp_path):
    for number in range(2):
        write_tfrecord(tmp_path / f"train-{number:05}-of-00002", [(b"x", number)])
    assert class_names(tmp_path) is None
    (tmp_path / "train.json").write_text('{"class_names": ["cat", "dog"]}')
    assert class_names(tmp_path) == class_names(tmp_path / "train-*") == ("cat", "dog")


# Examples


def test_an_example_in_another_order_with_more_in_it_is_read(tmp_path):
    more = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + b"\x11" + bytes(8) + b"\x1d" + bytes(4) + b"\x22\x01x"
    two_maps = field(1, feature("x", 2, b""), LABEL) + field(1, IMAGE)
    assert images_in(open_bytes(tmp_path, record(two_maps) + record(more + GOOD))) == [(b"jpeg", 300)] * 2


@pytest.mark.parametrize(
    ("features", "image", "label"),
    [
        ([LABEL, IMAGE], b"jpeg", 300),
        ([feature("image", 1, field(1, b"tfds")), feature("label", 3, field(1, b"\5"))], b"tfds", 5),
        ([IMAGE, feature("image", 1, field(1, b"tfds")), LABEL], b"jpeg", 300),
        ([feature("image", 1, field(1, b"tfds")), IMAGE, feature("label", 2, b""), LABEL], b"jpeg", 300),
        ([IMAGE, feature("image/encoded", 1, field(1, b"last")), LABEL], b"last", 300),
        ([IMAGE, feature("image/class/label", 3, b"\x08\xac\x02")], b"jpeg", 300),  # not packed
        ([IMAGE, feature("image/class/label", 3, field(1, varint(2**63 - 1)))], b"jpeg", 2**63 - 1),
        ([field(1), IMAGE, LABEL], b"jpeg", 300),
    ],
)
def test_which_features_count(features, image, label, tmp_path):
    assert images_in(open_bytes(tmp_path, record(field(1, *features)))) == [(image, label)]


def labelled(*label: bytes, kind: int = 3) -> bytes:
    return field(1, IMAGE, feature("image/class/label", kind, *label))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no feature image/encoded or image"),
        (field(1, LABEL), "it has no feature image/encoded or image, only 'image/class/label'"),
        (
            field(1, IMAGE, feature("a\n\x80", 1), feature("class", 3, field(1, b"\1"))),
            r"it has no feature image/class/label or label, only 'image/encoded', 'a\\x0a\\xc2\\x80', 'class'",
        ),
        (field(1, field(1), field(1)), "it has no feature image/encoded or image, only '', ''"),
        (GOOD[:-1], "a field that does not end in it"),
        (b"\x09" + bytes(7), "a field that does not end in it"),
        (b"\x0d" + bytes(3), "a field that does not end in it"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "a field that does not end in it"),
        (b"\x0a", "a number that does not end"),
        (b"\x80" * 20, "a number that does not end"),
        (b"\x08" + b"\xff" * 9 + b"\x7f", "a number that does not end"),
        (b"\x0b", "a field of the unknown wire type 3"),
        (field(1, LABEL, feature("image/encoded", 1)), "its image/encoded is not one image file"),
        (field(1, LABEL, feature("image", 1, field(1, b"a"), field(1, b"b"))), "its image is not one image file"),
        (field(1, LABEL, feature("image", 3, field(1, b"7"))), "its image is not one image file"),
        (labelled(), "its image/class/label is not one number from 0"),
        (labelled(field(1, b"7"), kind=1), "its image/class/label is not one number from 0"),
        (labelled(field(1, b"\1\2")), "its image/class/label is not one number from 0"),
        (labelled(b"\x08\1", b"\x08\2"), "its image/class/label is not one number from 0"),
        (labelled(field(1, b"\xff" * 9 + b"\1")), "its image/class/label is not one number from 0"),
    ],
)
def test_examples_that_are_none_are_named(data, message, tmp_path):
    place = rf"shard\.tfrecord: record 1 at byte {len(record(GOOD))} of \d+"
    with pytest.raises(ValueError, match=rf"{place}: (its Example has )?{message}; copy or write it again$"):
        open_bytes(tmp_path, record(GOOD) + record(data))


# Damage


def test_a_file_that_is_cut_short_is_named_wherever_it_ends(tmp_path):
    first = second = record(GOOD)
    for kept in range(1, len(second)):
        with pytest.raises(
            ValueError, match=rf"shard\.tfrecord: record 1 at byte {len(first)} of .*it is cut short; copy"
        ):
            open_bytes(tmp_path, first + second[:kept])


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**64 - 16, 2**32, len(GOOD) + 1])
def test_lengths_beyond_the_file_are_named(length, tmp_path):
    with pytest.raises(
        ValueError, match=rf"record 0 at byte 0 of \d+: {len(GOOD)} bytes are left of its {length}: it is"
    ):
        open_bytes(tmp_path, head(length) + GOOD + masked(GOOD))


def test_every_changed_byte_is_noticed(tmp_path):
    """When the shard is opened, or else by the checksum of its data."""
    whole = record(GOOD)
    num_read, refusals = 0, {}
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 0x10
        try:
            shard = open_bytes(tmp_path, bytes(data))
        except ValueError as error:
            refusals[position] = str(error)
        else:
            num_read += 1
            assert not shard.is_sound(0)
    assert all("the checksum of its length is wrong: it is damaged" in refusals[position] for position in range(12))
    assert all("record 0 at byte 0 of" in refusal for refusal in refusals.values())
    assert len(b"jpeg") + 4 <= num_read < len(whole) - 12
    assert open_bytes(tmp_path, whole).is_sound(0)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, reason in (("missing.tfrecord", "No such file"), ("folder", "Is a directory")):
        with pytest.raises(ValueError, match=rf"{name}: {reason}.*; name TFRecord shards that can be read"):
            TFRecordShard(tmp_path / name)
    (tmp_path / "empty.tfrecord").touch()
    with pytest.raises(ValueError, match=r"empty\.tfrecord: no image with a label in it"):
        open_records(tmp_path / "empty.tfrecord")


def test_mutated_shards_are_read_or_refused_by_name(tmp_path):
    """Bytes set to others, half of them with the checksum of the length made right again: never a crash."""
    rng = np.random.default_rng(0)
    samples = [(b"image" * 40, 1), (b"", 2), (b"photo", 300)]
    originals = [
        record(example(image, label, names=names))
        for image, label in samples
        for names in (TFDS_NAMES, ("image/encoded", "label"))
    ]
    num_read = unnamed = 0
    path = tmp_path / "shard.tfrecord"
    for number in range(600):
        content = bytearray(originals[number % len(originals)])
        for _ in range(rng.integers(1, 4)):
            content[int(rng.integers(len(content)))] = int(rng.choice([0, 1, 8, 10, 18, 26, 127, 128, 255]))
        if rng.random() < 0.1:
            del content[int(rng.integers(len(content))) :]
        elif rng.random() < 0.8:
            content[:12] = head(len(content) - 16)
        path.write_bytes(bytes(content) + originals[0])
        try:
            shard = TFRecordShard(path)
        except ValueError as error:
            unnamed += not str(error).startswith(f"{path}: record ")
            continue
        num_read += 1
        for index in range(len(shard.labels)):
            assert len(shard.image_bytes(index)) == shard.sizes[index]
            shard.is_sound(index)
        shard = None  # unmapped before its file is written again
    assert not unnamed
    assert 30 < num_read < 570, "mutations that are all refused, or all harmless, test little"
