"""Where images to convert come from: every source is a sequence of samples that load only when asked to."""

import os
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tools.get_cifar10 import CIFAR10_CLASSES, read_cifar10

IMAGE_EXTENSIONS = (".jpeg", ".jpg", ".png")

Dataset = Literal["cifar10", "folder"]
"""The kinds of data set that `open_source` opens."""


class ImageSample(Protocol):
    """One labelled image; ``str()`` of it says where it is, for messages."""

    @property
    def label(self) -> int:
        """The index of its class in the source's `class_names`."""

    @property
    def name(self) -> str:
        """Where it is within its source: unique there, and the same on every machine."""

    def load(self) -> bytes | NDArray[np.uint8]:
        """Fetch an image file's bytes, or pixels: uint8 [height, width, 3], RGB. Safe to call from many threads."""


class ImageSource(Protocol):
    """A data set's samples, in the source's own order."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, by label."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageSample: ...


class FileSample(NamedTuple):
    """An image file."""

    path: str
    label: int
    name: str

    def load(self) -> bytes:
        """Read the file.

        Raises:
            OSError: It cannot be read.
        """
        return Path(self.path).read_bytes()

    def __str__(self) -> str:
        return self.path


class ImageFolder:
    """JPEG and PNG files in one folder for each class, numbered as torchvision's ``ImageFolder`` does.

    Classes are the folders' names in sorted order; a class's files may lie in folders below its own; extensions count
    in upper and lower case; what is not an image is passed over.

    Raises:
        ValueError: There is no such folder, it has no class folders, or a class has no images.
        OSError: A folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        layout = f"expected {folder}/CLASS/IMAGE with images that end in {', '.join(IMAGE_EXTENSIONS)}"
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; {layout}")
        self.class_names = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
        if not self.class_names:
            raise ValueError(f"{folder}: no class folders in it; {layout}")
        files = [_image_files(folder / name) for name in self.class_names]
        empty = [name for name, paths in zip(self.class_names, files, strict=True) if not paths]
        if empty:
            raise ValueError(
                f"{folder}: no images in {len(empty)} of {len(files)} class folders, the first {empty[0]!r}; {layout}; "
                "remove folders that are no class"
            )
        self._folder = folder
        self._paths = [path for paths in files for path in paths]
        self._labels = [label for label, paths in enumerate(files) for _ in paths]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int, /) -> FileSample:
        path = self._paths[index]
        return FileSample(path, self._labels[index], os.path.relpath(path, self._folder))


class PixelSample(NamedTuple):
    """An image that is already decoded."""

    pixels: NDArray[np.uint8]
    """uint8 [height, width, 3], RGB."""
    label: int
    name: str
    folder: Path

    def load(self) -> NDArray[np.uint8]:
        """Fetch the pixels, uint8 [height, width, 3]."""
        return self.pixels

    def __str__(self) -> str:
        return f"{self.folder}, {self.name}"


class Cifar10:
    """One split of CIFAR-10, as `tools.get_cifar10` lays it down.

    Raises:
        ValueError: The folder does not hold it whole.
    """

    class_names = CIFAR10_CLASSES

    def __init__(self, folder: Path, split: Literal["train", "test"]) -> None:
        self._images, self._labels = read_cifar10(folder, split)
        self._folder, self._split = folder, split

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int, /) -> PixelSample:
        name = f"{self._split} image {index}"
        return PixelSample(self._images[index], int(self._labels[index]), name, self._folder)


def open_source(dataset: Dataset, path: Path, split: str | None) -> ImageSource:
    """Open a data set; `split` is a part of cifar10, by default `train`.

    Raises:
        ValueError: It is not there, not whole, or has no such split.
        OSError: A folder cannot be read.
    """
    if dataset == "cifar10":
        if split not in (None, "train", "test"):
            raise ValueError(f"split must be train or test, got {split!r}")
        return Cifar10(path, "test" if split == "test" else "train")
    if split is not None:
        raise ValueError(f"split {split} belongs to cifar10 alone: let source name the folder of the split")
    return ImageFolder(path)


def _image_files(folder: Path) -> list[str]:
    """Every image at or below `folder`: folders in sorted order, and the files in each of them."""
    return [
        os.path.join(parent, file)
        for parent, _, files in sorted(os.walk(folder, onerror=_raise, followlinks=True))
        for file in sorted(files)
        if file.lower().endswith(IMAGE_EXTENSIONS)
    ]


def _raise(error: OSError) -> None:
    raise error
