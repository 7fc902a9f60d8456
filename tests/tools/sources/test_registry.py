"""What opens a data set by its name and split."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from tools.sources import cifar10
from tools.sources.registry import SOURCES, Dataset, default_split, named_columns, open_source


@pytest.fixture
def cifar_splits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the real data set; the list holds the splits that were asked for."""
    splits: list[str] = []

    def read_cifar10(_: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
        splits.append(split)
        return np.zeros((1, 32, 32, 3), np.uint8), np.array([0])

    monkeypatch.setattr(cifar10, "read_cifar10", read_cifar10)
    return splits


def test_open_source(tmp_path: Path, cifar_splits: list[str]):
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "cat" / "1.jpg")
    source = open_source("folder", tmp_path, None)
    assert (source.class_names, source[0].name, source.random_access) == (("cat",), "cat/1.jpg", True)
    for split in (None, "train", "test"):
        open_source("cifar10", tmp_path, split)
    assert cifar_splits == ["train", "train", "test"]
    assert [default_split(dataset) for dataset in ("cifar10", "imagenet", "folder")] == ["train", "train", None]


def test_every_dataset_of_the_type_has_a_source():
    assert list(SOURCES) == list(get_args(Dataset))
    with pytest.raises(
        ValueError, match=r"unknown dataset 'mnist'; choose one of: cifar10, folder, imagenet, tar, tfrecord, par"
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


def test_columns_are_for_parquet(tmp_path: Path):
    columns = named_columns(image="photo", label=None)
    assert columns == {"image_column": "photo"}
    message = "dataset folder has no columns; leave --image-column and --label-column, which are for parquet, out"
    with pytest.raises(ValueError, match=message):
        open_source("folder", tmp_path, None, **columns)
