"""Tar shards: the same batches as from other sources, all formats of tar, and shards that are damaged or incomplete."""

import io
import json
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from backends import of_backend
from loaders import BadSampleError, Batch, LoaderConfig, build_loader
from loaders.beton import Beton, EncodedImage, ImageMode
from loaders.records import ShardRecords, open_records
from loaders.shards import find_shards
from loaders.tar_shard import TarShard

pytestmark = pytest.mark.timeout(60)

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
DEEP = "/".join(["a folder with a rather long name"] * 5)  # ustar splits it, GNU and pax need a header of its own
Files = dict[str, bytes]


def tar_bytes(files: Files, tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def sample_files(key: str, image: bytes, label: int) -> Files:
    return {f"{key}.jpg": image, f"{key}.cls": str(label).encode()}


def header(
    name: str = "a.jpg", *, kind: bytes = b"0", size: bytes = b"00000000005\0", magic: bytes = b"ustar\00000"
) -> bytes:
    """A header block with a right checksum, whatever else is in it."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    return with_checksum(block)


def with_checksum(block: bytes | bytearray) -> bytes:
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


END = bytes(1024)
LABEL = header("a.cls", size=b"00000000001\0") + padded(b"7")


def open_bytes(folder: Path, content: bytes) -> TarShard:
    path = folder / "shard.tar"
    path.write_bytes(content)
    return TarShard(path)


@pytest.fixture
def encoded(photo_set) -> list[bytes]:
    """The photos' JPEG files."""
    with Beton(photo_set.path) as beton:
        return [beton.image_bytes(index).tobytes() for index in range(beton.num_samples)]


def epoch_of(backend: str, path: Path, epoch: int = 1, **changes) -> list[Batch]:
    options = {"batch_size": 5, "resolution": 48, "crop": "random_resized", "order": "random", "drop_last": False}
    options["num_workers"] = 0 if backend == "torch" else 2  # processes for 12 images only take time
    loader = build_loader(backend, path, LoaderConfig(**(options | {"seed": 3} | changes)))
    loader.set_epoch(epoch)
    batches = [Batch(*(tensor.clone() for tensor in batch)) for batch in loader]
    loader.close()
    return batches


def equal(a: list[Batch], b: list[Batch]) -> bool:
    return all(torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))


# The same samples as from other sources


@pytest.mark.parametrize("backend", [of_backend("dali"), "native", "nvjpeg", "torch"])
@pytest.mark.parametrize("crop", ["random_resized", "center"])
def test_folder_beton_and_shards_give_the_same_batches(backend, crop, encoded, photo_set, write_images, tmp_path):
    labels = np.sort(photo_set.labels)
    for index, (image, label) in enumerate(zip(encoded, labels.tolist(), strict=True)):
        (tmp_path / "folder" / f"class{label}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / f"class{label}" / f"{index:02}.JPEG").write_bytes(image)
    records = [
        EncodedImage(image, ImageMode.JPG, *array.shape[:2])
        for image, array in zip(encoded, photo_set.images, strict=True)
    ]
    write_images(tmp_path / "all.beton", records, labels)
    (tmp_path / "shards").mkdir()
    for number, (start, stop) in enumerate([(0, 5), (5, 5), (5, 6), (6, 12)]):  # one of them empty
        files: Files = {}
        for index in range(start, stop):
            files |= sample_files(f"{index:02}", encoded[index], int(labels[index]))
        (tmp_path / "shards" / f"train-{number}.tar").write_bytes(tar_bytes(files))
    expected = epoch_of(backend, tmp_path / "all.beton", crop=crop)
    assert equal(epoch_of(backend, tmp_path / "folder", crop=crop), expected)
    assert equal(epoch_of(backend, tmp_path / "shards", crop=crop), expected)
    assert equal(epoch_of(backend, tmp_path / "shards" / "train-{0..3}.tar", crop=crop), expected)


@pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("key", ["plain", "./dot/000123", f"{DEEP}/photo", f"{DEEP}/Übergröße", "x" * 94])
def test_all_formats_and_long_names(tar_format, key, encoded, tmp_path):
    files: Files = {}
    for number, image in enumerate(encoded):
        files |= sample_files(f"{key}{number}", image, number)
    path = tmp_path / "shard.tar"
    path.write_bytes(tar_bytes(files, tar_format))
    records = open_records(path)
    assert isinstance(records, ShardRecords)
    assert records.labels.tolist() == list(range(12))
    shard = TarShard(path)
    assert [shard.image_bytes(number).tobytes() for number in range(12)] == encoded
    assert [shard.member_name(number) for number in range(12)] == [f"{key}{number}.jpg" for number in range(12)]
    assert records.name(7) == f"{path}: {key}7.jpg"


def test_other_kinds_of_member_are_passed_over(tmp_path):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "for all"}) as archive:
        for kind, name in [(tarfile.DIRTYPE, "a"), (tarfile.SYMTYPE, "a/b.jpg"), (tarfile.FIFOTYPE, "a/c.jpg")]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "x" * 300
            archive.addfile(member)
        for name in ("README", "notes.txt", ".hidden.jpg", "0.JPG", "0.seg.png", "0.txt", "0.json", "README.md"):
            member = tarfile.TarInfo(f"a/{name}")
            member.size = 12
            archive.addfile(member, io.BytesIO(b'{"label": 4}'))
    shard = TarShard(path)
    assert shard.labels.tolist() == [4]
    assert shard.member_name(0) == "a/0.JPG"


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ({"0.cls": b"12"}, 12),
        ({"0.cls": b" -3\n"}, -3),
        ({"0.json": b'{"name": "cat", "label": 5}'}, 5),
        ({"0.json": b'{"no": "label"}', "0.cls": b"1"}, 1),
    ],
)
def test_labels(label, value, tmp_path):
    assert open_bytes(tmp_path, tar_bytes({"0.jpg": b"x"} | label)).labels.tolist() == [value]
    assert open_bytes(tmp_path, tar_bytes(label | {"0.jpg": b"x"})).labels.tolist() == [value]


BAD_LABELS = {
    "0.cls": [b"", b"cat", b"1_000", b"1 2", b"9" * 30, "٣".encode()],
    "0.json": [
        b"",
        b"{",
        b"5",
        b"[]",
        b"{}",
        b'{"label": "5"}',
        b'{"label": true}',
        b'{"label": 1e3}',
        b"[" * 100_000,
        json.dumps({"label": 2**63}).encode(),
        b'{"label": %s}' % (b"9" * 5000),
    ],
}


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, many in BAD_LABELS.items() for data in many])
def test_labels_that_are_no_integers_are_named(name, data, tmp_path):
    with pytest.raises(
        ValueError, match=r"shard\.tar: 0\.jpg has a \.(cls that is not an integer|json without an integer)"
    ):
        open_bytes(tmp_path, tar_bytes({"0.jpg": b"x", name: data}))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "b.jpg", "b.cls"], "sample 'a' has an image but no label"),
        (["a.cls", "a.jpg", "d/b.json"], "sample 'd/b' has a label but no image"),
        (
            ["a.jpg", "b.jpg", "a.cls", "b.cls"],
            "sample 'a' has an image but no label; its files must follow each other",
        ),
        (
            ["a.jpg", "a.cls", "a.jpg"],
            "sample 'a' has two images, 'a.jpg' and 'a.jpg'; its files must follow each other",
        ),
        (["a.jpg", "a.png", "a.cls"], "sample 'a' has two images, 'a.jpg' and 'a.png'"),
        (
            ["a.v1.jpg", "a.cls"],
            "sample 'a' has a label but no image; .*; 'a.v1.jpg' does not count, for a name ends at",
        ),
        (
            ["d/a.jpg", "d/a.b.JSON"],
            "sample 'd/a' has an image but no label; .* and the rest, '.b.JSON', is no ending of",
        ),
        (["cat.1.jpg", "cat.1.cls"], "no sample in it; 'cat.1.jpg' does not count, for a name ends at its first dot"),
        (["a.jpg", "a.cls", "a.CLS"], "sample 'a' has two files .cls"),
        (["a\n\x80.jpg"], r"sample 'a\\x0a\\x[0-9a-f]{2}\\x[0-9a-f]{2}' has an image but no label"),
    ],
)
def test_samples_that_are_not_complete_are_named(names, message, tmp_path):
    files = [tar_bytes({name: b"1"})[:1024] for name in names]
    with pytest.raises(ValueError, match=rf"shard\.tar: {message}"):
        open_bytes(tmp_path, b"".join(files) + END)


# Which paths are shards


def test_what_names_shards(tmp_path):
    for name in ("b-0001", "b-0000", "a-7", "a-10"):
        (tmp_path / f"{name}.tar").write_bytes(tar_bytes({}))
    (tmp_path / ".cache").mkdir()
    (tmp_path / "sizes.json").write_text("{}")

    def named(path: str) -> list[str]:
        return [shard.name for shard in find_shards(tmp_path / path)]

    assert named("") == ["a-10.tar", "a-7.tar", "b-0000.tar", "b-0001.tar"]
    assert named("b-*.tar") == named("b-{0000..0001}.tar") == ["b-0000.tar", "b-0001.tar"]
    assert named("a-7.tar") == ["a-7.tar"]
    assert named("{a,b}.beton") == []
    with pytest.raises(ValueError, match=r"b-0002\.tar: no such file"):
        named("b-{0000..9999999999}.tar")
    for path in ("c-*.tar", "missing.tar", "b-{1..0}.tar"):
        with pytest.raises(ValueError, match="no such file; name tar shards"):
            named(path)
    with pytest.raises(ValueError, match=r"a-10\.tar: no image with a label"):
        open_records(tmp_path)
    (tmp_path / "class0").mkdir()
    assert named("") == []


@pytest.mark.parametrize(("name", "tool"), [("a.tar.gz", "gunzip"), ("b.tgz", "gunzip"), ("c.tar.zst", "unzstd")])
def test_compressed_shards_are_named_with_a_remedy(name, tool, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sizes.json.gz").write_bytes(b"x")  # no shard
    ending = re.escape(name[1:])
    message = rf"{ending}: compressed, but samples are read at random; decompress it \({tool} .*{ending}\) and name"
    for path in (tmp_path, tmp_path / name, tmp_path / f"*{name[1:]}"):
        with pytest.raises(ValueError, match=message):
            find_shards(path)
    (tmp_path / "other.tar").write_bytes(b"x")
    assert find_shards(tmp_path) == [tmp_path / "other.tar"]


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"nope: no such file or folder; name a \.beton file, a folder with .* or tar"):
        open_records(tmp_path / "nope")
    with pytest.raises(ValueError, match=r"nope\.beton: no such file; name a \.beton file"):
        open_records(tmp_path / "nope.beton")


def test_more_shards_than_open_files(tmp_path):
    resource = pytest.importorskip("resource")
    for number in range(200):
        (tmp_path / f"{number:03}.tar").write_bytes(tar_bytes(sample_files("a", b"x", number)))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, limits[1]))
    try:
        assert open_records(tmp_path).labels.tolist() == list(range(200))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_worker_processes_can_carry_records(encoded, tmp_path):
    path = tmp_path / "shard.tar"
    path.write_bytes(tar_bytes(sample_files("a", encoded[0], 3)))
    records = open_records(path)
    copy = pickle.loads(pickle.dumps(records))
    assert torch.equal(copy.decode(0), records.decode(0))


@pytest.mark.parametrize("backend", [of_backend("dali"), "native", "nvjpeg", "torch"])
def test_a_broken_image_is_named(backend, encoded, tmp_path):
    files = sample_files("good", encoded[0], 0) | sample_files("bad", encoded[1][:300], 1)
    (tmp_path / "shard.tar").write_bytes(tar_bytes(files))
    with pytest.raises(BadSampleError, match=r"sample 1 \(.*shard\.tar: bad\.jpg\) cannot be decoded"):
        epoch_of(backend, tmp_path / "shard.tar", batch_size=2)


@pytest.mark.parametrize("backend", [of_backend("dali"), "native", "nvjpeg", "torch"])
def test_png_and_webp(backend, raw_set, tmp_path):
    from PIL import Image

    files: Files = {}
    for number, extension in enumerate(["png", "webp"]):
        buffer = io.BytesIO()
        Image.fromarray(raw_set.images[number]).save(buffer, extension, lossless=True)
        files |= {f"{number}.{extension}": buffer.getvalue(), f"{number}.cls": b"0"}
    (tmp_path / "shard.tar").write_bytes(tar_bytes(files))
    (batch,) = epoch_of(backend, tmp_path / "shard.tar", crop="whole", resolution=32, order="sequential")
    for image, expected in zip(batch.images, raw_set.images[:2], strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


# Damage

IMAGE = header() + padded(b"image")


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    data = b"".join(records)
    return header("pax", kind=kind, size=b"%011o\0" % len(data)) + padded(data)


def huge(value: int) -> bytes:
    return value.to_bytes(12, "big", signed=True) if value < 0 else b"\x80" + value.to_bytes(11, "big")


def test_the_shards_that_are_damaged_below_are_fine_without_damage(tmp_path):
    assert open_bytes(tmp_path, IMAGE + LABEL + END).image_bytes(0).tobytes() == b"image"
    for name, size in [("x", huge(5)), ("x", b"         5 \0"), ("x", b"\0" * 12)]:
        shard = open_bytes(
            tmp_path, pax(b"14 path=a.jpg\n", b"10 size=5\n") + header(name, size=size) + padded(b"image") + LABEL + END
        )
        assert (shard.image_bytes(0).tobytes(), shard.member_name(0)) == (b"image", "a.jpg")
    for magic in (b"ustar  \0", b"", b"ustar\00000"):
        assert open_bytes(tmp_path, header(magic=magic) + padded(b"image") + LABEL + END).labels.tolist() == [7]
    v7_folder = header("folder/", kind=b"\0", magic=b"", size=b"77777777777\0")
    assert open_bytes(tmp_path, v7_folder + IMAGE + LABEL + END).labels.tolist() == [7]
    assert open_bytes(tmp_path, IMAGE + LABEL + END + bytes(10_000)).labels.tolist() == [7]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no header and no end mark at byte 0 of 0"),
        (b"\x1f\x8b" + bytes(2000), "no header with a right checksum at byte 0 of 2002"),
        (b"no tar" * 500, "no header with a right checksum at byte 0 of 3000"),
        (IMAGE + LABEL, "no header and no end mark at byte 2048 of 2048"),
        (
            IMAGE + LABEL[:700],
            "a member that does not end in the archive at byte 1024 of 1724|no header and no end mark",
        ),
        (IMAGE + LABEL[:300], "no header and no end mark at byte 1024 of 1324"),
        (IMAGE + LABEL + END + IMAGE + LABEL + END, "an end mark with more behind it at byte 2048"),
        (IMAGE + bytes([LABEL[0] ^ 1]) + LABEL[1:] + END, "no header with a right checksum at byte 1024"),
        (header(size=b"77777777777\0") + LABEL + END, "a member that does not end in the archive at byte 0"),
        (header(size=b"-0000000005\0") + LABEL + END, "a member that does not end in the archive at byte 0"),
        (header(size=b"five") + LABEL + END, "a member that does not end in the archive at byte 0"),
        (header(size=huge(-5)) + LABEL + END, "a member that does not end in the archive at byte 0"),
        (header(size=huge(-(2**94))) + LABEL + END, "a member that does not end in the archive at byte 0"),
        (header(size=huge(2**63)) + LABEL + END, "a member that does not end in the archive at byte 0"),
        (header(size=huge(2**63 - 1)) + LABEL + END, "a member that does not end in the archive at byte 0"),
        (header(size=huge(2**87)) + LABEL + END, "a member that does not end in the archive at byte 0"),
        (header(kind=b"S") + LABEL + END, "a sparse file, which cannot be read in place, at byte 0"),
        (
            pax(b"22 GNU.sparse.major=1\n") + IMAGE + LABEL + END,
            "a sparse file, which cannot be read in place, at byte 0",
        ),
        (pax(b"10 size=5\n"), "no header and no end mark at byte 1024"),
        (pax(b"10 size=5\n") + END, "an extended header without a member at byte 0"),
        (pax(b"11 size=-5\n") + IMAGE + LABEL + END, "a pax header with the size '-5' at byte 0"),
        (pax(b"30 size=9999999999999999999999\n") + IMAGE + LABEL + END, "a pax header"),
        (
            pax(b"12 size=999\n") + pax(b"14 size=99999\n") + IMAGE + END,
            "a member that does not end in the archive at byte 2048",
        ),
        (pax(b"10 size=5\n", kind=b"g") + IMAGE + LABEL + END, "a pax header with one size for all members at byte 0"),
        (pax(b"99 size=5\n") + IMAGE + LABEL + END, "a pax header that is damaged at byte 0"),
        (pax(b"0 size=5\n") + IMAGE + LABEL + END, "a pax header that is damaged at byte 0"),
        (pax(b"2 \n") + IMAGE + LABEL + END, "a pax header that is damaged at byte 0"),
        (pax(b"-10 size=5\n") + IMAGE + LABEL + END, "a pax header that is damaged at byte 0"),
        (pax(b"18446744073709551626 size=5\n") + IMAGE + LABEL + END, "a pax header that is damaged at byte 0"),
        (
            header(kind=b"L", size=b"%011o\0" % (1 << 21)) + bytes(1 << 21) + END,
            "an extended header of more than 1 MiB at byte 0",
        ),
    ],
)
def test_damaged_shards_are_refused_by_name(content, message, tmp_path):
    with pytest.raises(ValueError, match=rf"shard\.tar: ({message}).*copy or write it again"):
        open_bytes(tmp_path, content)


def test_every_cut_is_noticed(tmp_path):
    whole = tar_bytes(sample_files(DEEP, b"image" * 200, 7), tarfile.GNU_FORMAT)
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for length in range(0, end + 512, 64):
        with pytest.raises(ValueError, match=rf"shard\.tar: .* at byte \d+ of {length};"):
            open_bytes(tmp_path, whole[:length])
    assert open_bytes(tmp_path, whole[: end + 512]).labels.tolist() == [7]


def test_folders_and_unreadable_files_are_refused(tmp_path):
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(ValueError, match=r"folder\.tar: Is a directory"):
        TarShard(tmp_path / "folder.tar")
    with pytest.raises(ValueError, match=r"missing\.tar: No such file"):
        TarShard(tmp_path / "missing.tar")


def test_mutated_shards_are_read_or_refused_by_name(tmp_path):
    """Bytes of headers set to others, most of them with the checksum made right again: never a crash."""
    rng = np.random.default_rng(0)
    files = (
        sample_files("a", b"image" * 100, 1)
        | sample_files(f"{DEEP}/b", b"photo", 2)
        | {"c.png": b"", "c.json": b'{"label": 3}'}
    )
    originals = [tar_bytes(files, tar_format) for tar_format in FORMATS.values()]
    num_read = unnamed = 0
    path = tmp_path / "shard.tar"
    for number in range(1500):
        content = bytearray(originals[number % 3])
        for _ in range(rng.integers(1, 4)):
            block = 512 * int(rng.integers(len(content) // 512 - 18))
            place = int(rng.choice([0, 99, 124, 125, 130, 135, 156, 157, 257, 345, int(rng.integers(512))]))
            content[block + place] = int(rng.choice([0, 32, 48, 55, 76, 103, 120, 128, 255, int(rng.integers(256))]))
            if rng.random() < 0.8 and content[block : block + 512].count(0) > 200:
                content[block : block + 512] = with_checksum(content[block : block + 512])
        if rng.random() < 0.1:
            del content[int(rng.integers(len(content))) :]
        path.write_bytes(content)
        try:
            shard = TarShard(path)
        except ValueError as error:
            unnamed += not str(error).startswith(str(path))
            continue
        num_read += 1
        for index in range(len(shard.labels)):
            assert len(shard.image_bytes(index)) == shard.sizes[index]
            shard.member_name(index)
        shard = None  # unmapped before its file is written again
    assert not unnamed
    assert 75 < num_read < 1425, "mutations that are all refused, or all harmless, test little"
