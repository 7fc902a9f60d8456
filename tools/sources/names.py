"""Where samples are within their source, as text: kept in little memory, in ImageFolder's order."""

import os
import posixpath
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

from loaders.errors import FastvitError

__all__ = ["IMAGE_EXTENSIONS", "PackedNames", "checked_name", "folder_order", "shard_names"]

IMAGE_EXTENSIONS = (".jpeg", ".jpg", ".png")
"""What an image file's name ends in, in lower case."""


class PackedNames:
    """A sequence of names in one buffer: 1.3 million of 30 bytes take 50 MB, where a list of strings takes 110 MB.

    Bytes of a file name that are no UTF-8 are kept, as Python's surrogate escapes.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])
        self.extend(names)

    def extend(self, names: Iterable[str]) -> None:
        """Add names behind the others."""
        for name in names:
            self._text += name.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int, /) -> str:
        place = range(len(self))[index]
        return self._text[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogateescape")


def folder_order(name: str) -> tuple[str, str]:
    """The key by which torchvision's ``ImageFolder`` sorts the images of one class: folder by folder."""
    folder, _, file = name.rpartition("/")
    return folder, file


def checked_name(name: str) -> str:
    """A path within an archive in its shortest form.

    Raises:
        FastvitError: It leads out of the archive.
    """
    if "/" not in name:
        return name
    if name.startswith("/") or ".." in name.split("/"):
        raise FastvitError(f"{name!r} leads out of the archive; write it again with names that lie below its root")
    return posixpath.normpath(name)


def shard_names(paths: Sequence[Path]) -> list[str]:
    """What to call each file within a source of many: its path below the folder that holds them all."""
    folder = os.path.commonpath([path.absolute().parent for path in paths])
    return [os.path.relpath(path.absolute(), folder) for path in paths]
