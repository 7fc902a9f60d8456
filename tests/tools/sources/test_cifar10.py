"""CIFAR-10's binary files as a source (small data of conftest.py)."""

from pathlib import Path

import numpy as np
import pytest

from tools.sources import cifar10
from tools.sources.cifar10 import CIFAR10, CIFAR10_CLASSES, Cifar10, read_cifar10

FOLDER = "cifar-10-batches-bin"


@pytest.fixture
def finished(tmp_path, small):
    return small.write_folder(tmp_path / "finished" / FOLDER, small.binary()).parent


@pytest.mark.parametrize("inside", ["", FOLDER])
@pytest.mark.parametrize(("split", "position"), [("train", slice(5)), ("test", slice(5, 6))])
def test_read(finished, release, inside, split, position, small):
    images, labels = read_cifar10(finished / inside, split, release=release)
    expected = np.concatenate([small.records[batch] for batch in small.batches[position]])
    assert images.dtype == np.uint8
    assert images.shape == (len(expected), 32, 32, 3)
    assert images.flags.c_contiguous
    assert labels.dtype == np.int64
    assert labels.tolist() == expected[:, 0].tolist()
    for channel in range(3):
        plane = expected[:, 1 + 1024 * channel : 1 + 1024 * (channel + 1)]
        assert np.array_equal(images[..., channel].reshape(-1, 1024), plane)


def test_read_errors(finished, release, tmp_path):
    with pytest.raises(ValueError, match=r"elsewhere does not hold CIFAR-10: no .*data_batch_1\.bin"):
        read_cifar10(tmp_path / "elsewhere", "train", release=release)
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        read_cifar10(finished, "val", release=release)
    with pytest.raises(ValueError, match=r"data_batch_1\.bin has 12292 bytes, expected 30730000"):
        read_cifar10(finished, "train")
    (finished / FOLDER / "test_batch.bin").write_bytes(b"\xff" * release.file_bytes)
    with pytest.raises(ValueError, match="a label is 255, expected 0 to 9"):
        read_cifar10(finished, "test", release=release)


def test_the_official_numbers(small):
    assert tuple(CIFAR10.md5s) == small.batches
    assert CIFAR10.file_bytes == 30_730_000
    assert CIFAR10_CLASSES[3] == "cat"


def test_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    labels = np.array([6, 9, 0, 6])
    asked: list[tuple[Path, str]] = []

    def read_cifar10(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
        asked.append((folder, split))
        return images, labels

    monkeypatch.setattr(cifar10, "read_cifar10", read_cifar10)
    source = Cifar10(tmp_path, "test")
    assert asked == [(tmp_path, "test")]
    assert len(source) == 4
    assert source.class_names[6] == "frog"
    assert [source[index].label for index in range(4)] == [6, 9, 0, 6]
    np.testing.assert_array_equal(source[2].load(), images[2])
    assert str(source[2]) == f"{tmp_path}, test/00002"
    assert (source[2].name, source[-1].name) == ("test/00002", "test/00003")
