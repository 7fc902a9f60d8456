"""Image files in one folder for each class, as torchvision's ``ImageFolder`` reads them."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from loaders import _native
from loaders.errors import FastvitError
from tools.sources.names import IMAGE_EXTENSIONS, PackedNames, folder_order

__all__ = ["FileSample", "ImageFolder"]


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
        return _native.read_file(os.fsencode(str(self)))  # which never waits, as for a named pipe

    def __str__(self) -> str:
        return os.path.join(self.folder, self.name)


class ImageFolder:
    """JPEG and PNG files in one folder for each class, numbered as torchvision's ``ImageFolder`` does.

    Classes are the folders' names in sorted order; a class's files may lie in folders below its own; extensions count
    in upper and lower case; what is not an image is passed over.

    Raises:
        FastvitError: There is no such folder, it has no class folders, or a class has no images.
        OSError: A folder cannot be read.
    """

    random_access = True

    def __init__(self, folder: Path) -> None:
        layout = f"expected {folder}/CLASS/IMAGE with images that end in {', '.join(IMAGE_EXTENSIONS)}"
        if not folder.is_dir():
            raise FastvitError(f"{folder}: no such folder; {layout}")
        self.class_names = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
        if not self.class_names:
            raise FastvitError(f"{folder}: no class folders in it; {layout}")
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
            raise FastvitError(
                f"{folder}: no images in {len(empty)} of {len(self.class_names)} class folders, the first {empty[0]!r};"
                f" {layout}; remove folders that are not classes"
            )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int, /) -> FileSample:
        return FileSample(self._folder, self._names[index], self._labels[index])


def _image_files(folder: str, prefix: str) -> Iterator[str]:
    """Every image at or below `folder`, its path there behind `prefix`, in no order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _image_files(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                yield prefix + entry.name
