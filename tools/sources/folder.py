"""Image files in one folder for each class, as torchvision's ``ImageFolder`` reads them."""

import os
from pathlib import Path
from typing import NamedTuple

from loaders import _native
from loaders.image_folder import ClassFolders

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
    """The image files that `loaders.image_folder.ClassFolders` finds, as the loaders do.

    Raises:
        FastvitError: The folder does not hold a sub-folder of images for each class.
        OSError: A folder cannot be read.
    """

    random_access = True

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        found = ClassFolders(folder)
        self.class_names, self.left_out = found.class_names, found.left_out
        self._names, self._labels = found.names, found.labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int, /) -> FileSample:
        return FileSample(self._folder, self._names[index], int(self._labels[index]))
