"""ILSVRC2012's own archives as sources: tar stores files as they are, so that every image is a range of bytes.

One pass over the headers finds the images; nothing is unpacked. Classes, order, labels and names are those that
torchvision's ``ImageFolder`` finds in the unpacked folders.

Source: https://image-net.org/challenges/LSVRC/2012/2012-downloads.php
"""

import os
import re
import weakref
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from loaders.errors import FastvitError
from loaders.image_files import IMAGE_EXTENSIONS
from loaders.image_folder import folder_order
from loaders.packed_names import PackedNames
from tools.sources.names import checked_name
from tools.sources.tar_members import TarMember, TarMembers

__all__ = ["Archive", "ArchiveImages", "ArchiveSample", "open_train", "open_val"]

_TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
_VAL_ARCHIVE = "ILSVRC2012_img_val.tar"

_CLASS_ARCHIVE = re.compile(r"(n[0-9]{8})\.tar")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_([0-9]{8})\.JPEG")
# Looking at headers mostly waits for the disk, so that cores don't matter.
_NUM_SCANNING_THREADS = 16


class Archive:
    """A file that many threads may read at once.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, size: int, offset: int) -> bytes:
        """Read `size` bytes at `offset`.

        Raises:
            FastvitError: The file has become shorter.
            OSError: It cannot be read.
        """
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise FastvitError(
                f"{self.path}: {len(data)} of {size} bytes at byte {offset}; it changed while it was read"
            )
        return data


class ArchiveSample(NamedTuple):
    """An image file in an archive."""

    archive: Archive
    offset: int
    size: int
    label: int
    name: str

    def load(self) -> bytes:
        """Read the image file.

        Raises:
            FastvitError: The archive has become shorter.
            OSError: It cannot be read.
        """
        return self.archive.read(self.size, self.offset)

    def __str__(self) -> str:
        return f"{self.archive.path}: {self.name}"


class ArchiveImages:
    """The image files of one archive, class by class.

    Args:
        archive: Where all of them are.
        class_names: The classes' names, by label.
        classes: Each class's images, in order; their names are those within the class.

    Raises:
        FastvitError: A class has no images, or two images have the same name.
    """

    random_access = True

    def __init__(self, archive: Archive, class_names: Sequence[str], classes: Iterable[Sequence[TarMember]]) -> None:
        self.class_names = tuple(class_names)
        self._archive = archive
        self._names = PackedNames()
        self._labels, self._offsets, self._sizes = array("i"), array("q"), array("q")
        for label, (class_name, images) in enumerate(zip(class_names, classes, strict=True)):
            names = [image.name for image in images]
            if not names:
                raise FastvitError(f"{archive.path}: no images of the class {class_name}; download the archive again")
            if len(set(names)) < len(names):
                twice = next(name for name, following in pairwise(names) if name == following)
                raise FastvitError(f"{archive.path}: two images {class_name}/{twice}; write it again with one of them")
            self._names.extend(f"{class_name}/{name}" for name in names)
            self._labels.extend([label] * len(names))
            self._offsets.extend(image.offset for image in images)
            self._sizes.extend(image.size for image in images)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int, /) -> ArchiveSample:
        offset, size, label = self._offsets[index], self._sizes[index], self._labels[index]
        return ArchiveSample(self._archive, offset, size, label, self._names[index])


def open_train(path: Path) -> ArchiveImages:
    """Open ``ILSVRC2012_img_train.tar``, a tar of one tar for each class, ``n01440764.tar`` and so on.

    Args:
        path: The archive, under whatever name, or the folder that holds it.

    Raises:
        FastvitError: It is missing, damaged, cut short or something else.
    """
    archive = Archive(_find(path, _TRAIN_ARCHIVE))
    classes: dict[str, TarMember] = {}
    for member in _members(archive, TarMember("", 0, archive.size)):
        found = _CLASS_ARCHIVE.fullmatch(member.name)
        if not found or found[1] in classes:
            problem = "no nXXXXXXXX.tar" if not found else "there twice"
            raise FastvitError(f"{archive.path}: its member {member.name!r} is {problem}; expected {_TRAIN_ARCHIVE}")
        classes[found[1]] = member
    if not classes:
        raise FastvitError(f"{archive.path}: an empty archive; expected {_TRAIN_ARCHIVE}")
    wnids = sorted(classes)
    with ThreadPoolExecutor(_NUM_SCANNING_THREADS) as threads:
        listings = threads.map(lambda wnid: _images(archive, classes[wnid]), wnids)
        return ArchiveImages(archive, wnids, listings)


def open_val(path: Path) -> ArchiveImages:
    """Open ``ILSVRC2012_img_val.tar``; the development kit with its labels, packed or unpacked, lies beside it.

    Args:
        path: The archive, under whatever name, or the folder that holds it.

    Raises:
        FastvitError: Archive or kit are missing, damaged, cut short or something else, or don't belong together.
        ImportError: SciPy, which reads the kit, is not installed.
    """
    # Imported on use: without SciPy, the training archive must still open.
    from tools.sources.imagenet_devkit import read_devkit

    archive = Archive(_find(path, _VAL_ARCHIVE))
    devkit = read_devkit(archive.path.parent)
    classes: dict[str, list[TarMember]] = {wnid: [] for wnid in devkit.wnids}
    images = _images(archive, TarMember("", 0, archive.size))
    if len(images) != len(devkit.val_wnids):
        raise FastvitError(
            f"{archive.path}: it holds {len(images)} images, the kit there has labels for {len(devkit.val_wnids)}; "
            f"expected {_VAL_ARCHIVE}, whole"
        )
    for image in images:
        found = _VAL_IMAGE.fullmatch(image.name)
        if not found or not 1 <= int(found[1]) <= len(images):
            raise FastvitError(
                f"{archive.path}: its member {image.name!r} is none of ILSVRC2012_val_00000001.JPEG to "
                f"{len(images):08}; expected {_VAL_ARCHIVE}"
            )
        classes[devkit.val_wnids[int(found[1]) - 1]].append(image)
    return ArchiveImages(archive, devkit.wnids, classes.values())


def _find(path: Path, name: str) -> Path:
    archive = path / name if path.is_dir() else path
    if not archive.is_file():
        raise FastvitError(
            f"{archive}: no such file; name ImageNet's own {name} or the folder that holds it; for images that are "
            "unpacked already there is dataset folder"
        )
    return archive


def _members(archive: Archive, part: TarMember) -> Iterable[TarMember]:
    """The files in an archive that is itself a part of `archive`, their names checked and short."""
    try:
        for member in TarMembers(archive.read, begin=part.offset, end=part.offset + part.size):
            yield member._replace(name=checked_name(member.name))
    except ValueError as error:
        raise FastvitError(f"{archive.path}{part.name and f', {part.name}'}: {error}") from error


def _images(archive: Archive, part: TarMember) -> list[TarMember]:
    """The image files in it, in ImageFolder's order."""
    images = [member for member in _members(archive, part) if member.name.lower().endswith(IMAGE_EXTENSIONS)]
    return sorted(images, key=lambda image: folder_order(image.name))
