import os
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionImageFolder

from tools.sources import registry
from tools.sources.registry import SOURCES, Cifar10, Dataset, ImageFolder, default_split, open_source


def save(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), (shade, 0, 0)).save(path, "PNG" if path.suffix.lower() == ".png" else "JPEG")


def test_image_folder_numbers_as_torchvision_does(tmp_path: Path):
    names = ["b/2.jpg", "b/10.jpg", "b/inner/deeper/1.PNG", "b/inner-2/1.jpeg", "a/x.JPEG", "Z/y.JPG", "a/.hidden.png"]
    for shade, name in enumerate(names):
        save(tmp_path / name, shade)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "classes.txt").write_text("no class")
    source = ImageFolder(tmp_path)
    reference = TorchvisionImageFolder(tmp_path)
    assert source.class_names == tuple(reference.classes) == ("Z", "a", "b")
    assert [(str(sample), sample.label) for sample in source] == reference.samples
    assert [str(tmp_path / sample.name) for sample in source] == [path for path, _ in reference.samples]
    assert len(source) == len(names)
    assert source[0].load() == (tmp_path / "Z" / "y.JPG").read_bytes()


def test_a_linked_class_folder_counts(tmp_path: Path):
    save(tmp_path / "elsewhere" / "1.jpg")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    assert [str(sample) for sample in ImageFolder(tmp_path / "data")] == [str(tmp_path / "data" / "cat" / "1.jpg")]


LAYOUT = r"expected .*/CLASS/IMAGE with images that end in \.jpeg, \.jpg, \.png"


def test_folders_that_hold_no_data_set(tmp_path: Path):
    with pytest.raises(ValueError, match=rf"missing: no such folder; {LAYOUT}"):
        ImageFolder(tmp_path / "missing")
    save(tmp_path / "loose.jpg")
    with pytest.raises(ValueError, match=rf"no class folders in it; {LAYOUT}"):
        ImageFolder(tmp_path)
    with pytest.raises(ValueError, match=r"loose\.jpg: no such folder"):
        ImageFolder(tmp_path / "loose.jpg")
    save(tmp_path / "cat" / "1.jpg")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "1.txt").touch()
    with pytest.raises(ValueError, match=rf"no images in 1 of 2 class folders, the first 'dog'; {LAYOUT}; remove"):
        ImageFolder(tmp_path)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path / "cat" / "1.jpg")
    save(tmp_path / "cat" / "more" / "2.jpg")
    scandir = os.scandir

    def refuse(path: str):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="more"):
        ImageFolder(tmp_path)


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    labels = np.array([6, 9, 0, 6])
    asked: list[tuple[Path, str]] = []

    def read_cifar10(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
        asked.append((folder, split))
        return images, labels

    monkeypatch.setattr(registry, "read_cifar10", read_cifar10)
    source = Cifar10(tmp_path, "test")
    assert asked == [(tmp_path, "test")]
    assert len(source) == 4
    assert source.class_names[6] == "frog"
    assert [source[index].label for index in range(4)] == [6, 9, 0, 6]
    np.testing.assert_array_equal(source[2].load(), images[2])
    assert str(source[2]) == f"{tmp_path}, test/00002"
    assert (source[2].name, source[-1].name) == ("test/00002", "test/00003")


def test_a_loop_of_links_ends(tmp_path: Path):
    save(tmp_path / "cat" / "1.jpg")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
    with pytest.raises(OSError, match="symbolic links"):
        ImageFolder(tmp_path)


def test_names_that_are_no_utf8(tmp_path: Path):
    save(tmp_path / "cat" / "1.jpg")
    os.rename(tmp_path / "cat" / "1.jpg", os.fsencode(tmp_path / "cat") + b"/\xff.jpg")
    (sample,) = ImageFolder(tmp_path)
    assert sample.load().startswith(b"\xff\xd8")
    assert os.fsencode(sample.name) == b"cat/\xff.jpg"


# What open_source makes of a name and a split


@pytest.fixture
def cifar_splits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the real data set; the list holds the splits that were asked for."""
    splits: list[str] = []

    def read_cifar10(_: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
        splits.append(split)
        return np.zeros((1, 32, 32, 3), np.uint8), np.array([0])

    monkeypatch.setattr(registry, "read_cifar10", read_cifar10)
    return splits


def test_open_source(tmp_path: Path, cifar_splits: list[str]):
    save(tmp_path / "cat" / "1.jpg")
    source = open_source("folder", tmp_path, None)
    assert (source.class_names, source[0].name, source.random_access) == (("cat",), "cat/1.jpg", True)
    for split in (None, "train", "test"):
        open_source("cifar10", tmp_path, split)
    assert cifar_splits == ["train", "train", "test"]
    assert [default_split(dataset) for dataset in ("cifar10", "imagenet", "folder")] == ["train", "train", None]


def test_every_dataset_of_the_type_has_a_source():
    assert list(SOURCES) == list(get_args(Dataset))
    with pytest.raises(
        ValueError, match=r"unknown dataset 'mnist'; choose one of: cifar10, folder, imagenet, tar, par"
    ):
        open_source("mnist", Path(), None)


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [
        ("cifar10", "val", "dataset cifar10 has no split 'val'; choose one of: train, test"),
        ("imagenet", "test", "dataset imagenet has no split 'test'; choose one of: train, val"),
        ("folder", "train", "dataset folder has no split 'train'; let its path name the files of the split"),
        ("parquet", "train", "dataset parquet has no split 'train'; let its path name the files of the split"),
    ],
)
def test_splits_that_a_dataset_lacks(tmp_path: Path, dataset: Dataset, split: str, message: str):
    with pytest.raises(ValueError, match=message):
        open_source(dataset, tmp_path, split)
