"""Where images to convert come from: every source is a sequence of samples that load only when asked to."""

import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tools.get_cifar10 import CIFAR10_CLASSES, read_cifar10
from tools.sources.names import PackedNames, folder_order

IMAGE_EXTENSIONS = (".jpeg", ".jpg", ".png")

Dataset = Literal["cifar10", "folder", "imagenet", "tar", "parquet", "beton"]


class ImageSample(Protocol):
    """One labelled image; ``str()`` of it says where it is, for messages."""

    @property
    def label(self) -> int:
        """The index of its class in the source's `class_names`."""

    @property
    def name(self) -> str:
        """Where it is within its source: unique there, and the same on every machine. Not a path to open."""

    def load(self) -> bytes | NDArray[np.uint8]:
        """Fetch an image file's bytes, or pixels: uint8 [height, width, 3], RGB. Safe to call from many threads.

        Raises:
            ValueError: The source is damaged there; the message says how.
            OSError: It cannot be read.
        """


class ImageSource(Protocol):
    """A data set's samples, in the source's own order."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, by label."""

    @property
    def random_access(self) -> bool:
        """Whether samples load as fast in any order; else only neighbours after one another do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageSample: ...


class FileSample(NamedTuple):
    """An image file."""

    folder: str
    """The source's."""
    name: str
    """The path below it."""
    label: int

    def load(self) -> bytes:
        """Read the file.

        Raises:
            OSError: It cannot be read.
        """
        with open(str(self), "rb", buffering=0) as file:
            return file.readall()

    def __str__(self) -> str:
        return os.path.join(self.folder, self.name)


class ImageFolder:
    """JPEG and PNG files in one folder for each class, numbered as torchvision's ``ImageFolder`` does.

    Classes are the folders' names in sorted order; a class's files may lie in folders below its own; extensions count
    in upper and lower case; what is not an image is passed over.

    Raises:
        ValueError: There is no such folder, it has no class folders, or a class has no images.
        OSError: A folder cannot be read.
    """

    random_access = True

    def __init__(self, folder: Path) -> None:
        layout = f"expected {folder}/CLASS/IMAGE with images that end in {', '.join(IMAGE_EXTENSIONS)}"
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; {layout}")
        self.class_names = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
        if not self.class_names:
            raise ValueError(f"{folder}: no class folders in it; {layout}")
        self._folder = str(folder)
        self._names, self._labels = PackedNames(), array("i")
        empty = []
        for label, class_name in enumerate(self.class_names):
            names = sorted(_image_files(os.path.join(folder, class_name), f"{class_name}/"), key=folder_order)
            self._names.extend(names)
            self._labels.extend([label] * len(names))
            if not names:
                empty.append(class_name)
        if empty:
            raise ValueError(
                f"{folder}: no images in {len(empty)} of {len(self.class_names)} class folders, the first {empty[0]!r};"
                f" {layout}; remove folders that are no class"
            )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int, /) -> FileSample:
        return FileSample(self._folder, self._names[index], self._labels[index])


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
    """One split of CIFAR-10, as `tools.get_cifar10` lays it down.

    Raises:
        ValueError: The folder does not hold it whole.
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


# The factories import on use: a source whose library is not installed must not keep the others from working.


def _open_imagenet_train(path: Path) -> ImageSource:
    from tools.sources.imagenet import open_train

    return open_train(path)


def _open_imagenet_val(path: Path) -> ImageSource:
    from tools.sources.imagenet import open_val

    return open_val(path)


def _open_tar(path: Path) -> ImageSource:
    from tools.sources.converted import TarShards

    return TarShards(path)


def _open_parquet(path: Path) -> ImageSource:
    from tools.sources.parquet import ParquetShards

    return ParquetShards(path)


def _open_beton(path: Path) -> ImageSource:
    from tools.sources.converted import BetonSource

    return BetonSource(path)


SOURCES: Mapping[Dataset, Mapping[str | None, Callable[[Path], ImageSource]]] = {
    "cifar10": {"train": partial(Cifar10, split="train"), "test": partial(Cifar10, split="test")},
    "folder": {None: ImageFolder},
    "imagenet": {"train": _open_imagenet_train, "val": _open_imagenet_val},
    "tar": {None: _open_tar},
    "parquet": {None: _open_parquet},
    "beton": {None: _open_beton},
}
"""What opens each split of each data set, the default split first; a path of a data set with None is one split."""


def open_source(dataset: Dataset, path: Path, split: str | None) -> ImageSource:
    """Open a data set as a sequence of samples.

    Those of `folder` and `imagenet` come sorted by class, then by name; the others as they are stored.

    Args:
        dataset: Its kind.
        path: Where it is; for `tar` and `parquet` also a pattern of files.
        split: The part of `cifar10` or `imagenet`, by default the training images; None for the others.

    Raises:
        ValueError: There is no such kind or split, or the data set is missing, damaged or something else.
        OSError: It cannot be read.
        ImportError: A library that it needs is not installed; the message has the command that installs it.
    """
    if dataset not in SOURCES:
        raise ValueError(f"unknown dataset {dataset!r}; choose one of: {', '.join(SOURCES)}")
    splits = SOURCES[dataset]
    chosen = default_split(dataset) if split is None else split
    if chosen not in splits:
        known = [name for name in splits if name is not None]
        remedy = f"choose one of: {', '.join(known)}" if known else "let its path name the files of the split"
        raise ValueError(f"dataset {dataset} has no split {split!r}; {remedy}")
    return splits[chosen](path)


def default_split(dataset: Dataset) -> str | None:
    """The split that `open_source` opens when none is named; None where a path is one split."""
    return next(iter(SOURCES[dataset]))


def _image_files(folder: str, prefix: str) -> Iterator[str]:
    """Every image at or below `folder`, its path there behind `prefix`, in no order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _image_files(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                yield prefix + entry.name
