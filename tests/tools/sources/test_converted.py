"""Shards and `.beton` files as sources; they were converted before, and may have a card beside them."""

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from loaders.beton import BetonWriter, EncodedImage, FieldKind, ImageMode
from tfrecords import write_tfrecord
from tools.sources.registry import open_source

pytestmark = pytest.mark.timeout(60)

Sample = tuple[str, bytes, int]
"""A path without extension, an image, a label."""


def write_shard(path: Path, samples: list[Sample]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, image, label in samples:
            for name, data in ((f"{key}.jpg", image), (f"{key}.cls", str(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def write_card(path: Path, class_names: object) -> None:
    path.write_text(json.dumps({"num_images": 4, "class_names": class_names}))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Four samples in three shards, one of them empty, not sorted by class."""
    write_shard(tmp_path / "shards" / "train-000000.tar", [("b/1", b"one", 2), ("a/1", b"two", 0)])
    write_shard(tmp_path / "shards" / "train-000001.tar", [])
    write_shard(tmp_path / "shards" / "train-000002.tar", [("b/1", b"three", 1), ("c/./1", b"four", 2)])
    return tmp_path / "shards"


def test_tar_shards_come_as_they_lie(shards: Path):
    for path in (shards, shards / "train-*.tar", shards / "train-{000000..000002}.tar"):
        source = open_source("tar", path, None)
        assert [(sample.name, sample.load(), sample.label) for sample in source] == [
            ("train-000000.tar/b/1.jpg", b"one", 2),
            ("train-000000.tar/a/1.jpg", b"two", 0),
            ("train-000002.tar/b/1.jpg", b"three", 1),
            ("train-000002.tar/c/1.jpg", b"four", 2),
        ]
        assert (len(source), source.class_names, source.random_access) == (4, ("0", "1", "2"), True)
        assert str(source[2]) == f"{shards}/train-000002.tar: b/1.jpg"
        assert source[-1].load() == b"four"
        with pytest.raises(IndexError):
            source[4]
    assert len(open_source("tar", shards / "train-000000.tar", None)) == 2


def test_the_card_beside_shards_names_the_classes(shards: Path):
    write_card(shards / "train.json", ["ant", "bee", "cat", "dog"])
    assert open_source("tar", shards, None).class_names == ("ant", "bee", "cat", "dog")
    assert open_source("tar", shards / "train-000002.tar", None).class_names == ("ant", "bee", "cat", "dog")
    write_shard(shards / "val-000000.tar", [("b/1", b"five", 2)])
    write_card(shards / "val.json", ["ant", "bee", "cat", "dog"])
    source = open_source("tar", shards, None)
    assert (len(source), source.class_names[1]) == (5, "bee")
    write_card(shards / "val.json", ["bee", "ant", "cat", "dog"])
    with pytest.raises(ValueError, match=r"train\.json and .*val\.json name different classes"):
        open_source("tar", shards, None)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"class_names": "abc"}', '{"class_names": []}', "[" * 100_000]
)
def test_a_card_that_is_none(shards: Path, content: str):
    (shards / "train.json").write_text(content)
    with pytest.raises(ValueError, match=r"train\.json: .*class.names"):
        open_source("tar", shards, None)


def test_labels_without_a_class(shards: Path):
    write_card(shards / "train.json", ["ant", "bee"])
    with pytest.raises(ValueError, match=r"shards: sample 0 has the label 2, expected 0 to 1"):
        open_source("tar", shards, None)
    (shards / "train.json").unlink()
    for label in (-1, 1 << 20, 10**17):
        write_shard(shards / "train-000001.tar", [("x", b"", label)])
        with pytest.raises(ValueError, match=rf"shards: sample 2 has the label {label}, expected 0 to 1048575"):
            open_source("tar", shards, None)


def test_names_must_be_unique_and_stay_inside(shards: Path):
    write_shard(shards / "train-000001.tar", [("a", b"", 0), ("b", b"", 0), ("a", b"", 0)])
    with pytest.raises(ValueError, match=r"train-000001\.tar: two images 'a\.jpg'"):
        open_source("tar", shards, None)
    write_shard(shards / "train-000001.tar", [("../../a", b"", 0)])
    with pytest.raises(ValueError, match=r"train-000001\.tar: '\.\./\.\./a\.jpg' leads out of the archive"):
        open_source("tar", shards, None)


def test_tfrecord_shards_come_as_they_lie(shards: Path, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("records")
    for number, samples in enumerate([[(b"one", 2), (b"two", 0)], [], [(b"three", 1)]]):
        write_tfrecord(tmp_path / f"train-{number:05}-of-00003", samples)
    for path in (tmp_path, tmp_path / "train-*"):
        source = open_source("tfrecord", path, None)
        assert [(sample.name, sample.load(), sample.label) for sample in source] == [
            ("train-00000-of-00003/00000000", b"one", 2),
            ("train-00000-of-00003/00000001", b"two", 0),
            ("train-00002-of-00003/00000000", b"three", 1),
        ]
        assert str(source[1]) == f"{tmp_path}/train-00000-of-00003: record 1"
    write_card(tmp_path / "train.json", ["ant", "bee", "cat"])
    assert open_source("tfrecord", tmp_path, None).class_names == ("ant", "bee", "cat")
    with pytest.raises(ValueError, match=r": no tar shards; name a folder of \.tar files"):
        open_source("tar", tmp_path, None)
    with pytest.raises(ValueError, match=r": no TFRecord shards; name a folder of \.tfrecord files"):
        open_source("tfrecord", shards, None)


def test_paths_without_shards(shards: Path, tmp_path: Path):
    for path in (tmp_path, tmp_path / "missing", shards / "train.txt"):
        with pytest.raises(ValueError, match=r": no tar shards; name a folder of \.tar files"):
            open_source("tar", path, None)
    with pytest.raises(ValueError, match=r"no such file; name tar shards"):
        open_source("tar", shards / "val-*.tar", None)
    with pytest.raises(ValueError, match=r"no image with a label in any shard"):
        open_source("tar", shards / "train-000001.tar", None)
    (shards / "train-000002.tar").write_bytes((shards / "train-000002.tar").read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"train-000002\.tar: .*cut short or damaged"):
        open_source("tar", shards, None)


@pytest.fixture
def beton(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A record with a JPEG file's bytes and one of pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    path = tmp_path / "data.beton"
    with BetonWriter(path, {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}, num_samples=2) as writer:
        writer.append([EncodedImage(b"a JPEG file", ImageMode.JPG, 4, 6), 1])
        writer.append([EncodedImage(pixels.reshape(-1), ImageMode.RAW, 4, 6), 0])
    return path, pixels


def test_beton(beton: tuple[Path, np.ndarray]):
    path, pixels = beton
    source = open_source("beton", path, None)
    assert (len(source), source.class_names, source.random_access) == (2, ("0", "1"), True)
    assert [(sample.name, sample.label) for sample in source] == [("00000000", 1), ("00000001", 0)]
    assert source[0].load() == b"a JPEG file"
    np.testing.assert_array_equal(source[1].load(), pixels)
    assert str(source[1]) == f"{path}: record 1"
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: source[0].load(), range(100))) == {b"a JPEG file"}


def test_the_card_beside_a_beton_names_the_classes(beton: tuple[Path, np.ndarray]):
    path, _ = beton
    card = path.with_name("data.beton.json")
    write_card(card, ["ant", "bee", "cat"])
    assert open_source("beton", path, None).class_names == ("ant", "bee", "cat")
    write_card(card, ["ant"])
    with pytest.raises(ValueError, match=r"data\.beton: sample 0 has the label 1, expected 0 to 0"):
        open_source("beton", path, None)


def test_beton_files_without_images_or_labels(tmp_path: Path):
    for name, fields, record in [
        ("image", {"label": FieldKind.INT}, [1]),
        ("int", {"image": FieldKind.RGB_IMAGE}, [EncodedImage(b"x", ImageMode.JPG, 4, 6)]),
    ]:
        with BetonWriter(tmp_path / name, fields, num_samples=1) as writer:
            writer.append(record)
        with pytest.raises(ValueError, match=rf"{name}: no {name} field"):
            open_source("beton", tmp_path / name, None)
    with pytest.raises(ValueError, match=r"missing: no such file"):
        open_source("beton", tmp_path / "missing", None)
