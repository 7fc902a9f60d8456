"""Where images come from: a `.beton` file, an ImageFolder or shards, as records that can be decoded one by one."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loaders import _native
from loaders._mapped_shard import MappedShard
from loaders.beton import Beton, ImageMode
from loaders.errors import FastvitError
from loaders.image_files import ImageError, decode_image
from loaders.image_folder import ClassFolders
from loaders.orientation import ExifOrientation, read_orientation, turn_pixels
from loaders.shards import find_shards, open_each, open_shard

__all__ = ["BetonRecords", "FileRecords", "FolderRecords", "ImageRecords", "ShardRecords", "open_records"]


class ImageRecords(Protocol):
    """A dataset's labels and images, by position: what `open_records` returns."""

    labels: NDArray[np.int64]
    """int64 [n], the numbers of the classes."""

    def decode(self, index: int, *, exif_orientation: ExifOrientation = "ignore") -> Tensor:
        """The whole image, uint8 [3, h, w] RGB: as it is stored, or turned upright with `exif_orientation` "apply".

        Raises:
            ImageError: The image is damaged.
            OSError: Its file cannot be read.
        """

    def name(self, index: int) -> str:
        """What to call the record in a message, which can be printed: bytes of a file's name may be no text."""

    def native(self) -> _native.Records:
        """The records for the C++ engine, which reads their bytes itself."""


class BetonRecords:
    """The records of a `.beton` file: those of its first image field and its first int field.

    Raises:
        BetonError: The file is missing or damaged, or has no images or labels.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.records import BetonRecords
        >>> BetonRecords(Path("train.beton")).name(3)
        'record 3 of train.beton'
    """

    def __init__(self, path: Path) -> None:
        self._beton = Beton(path)
        self.labels = self._beton.labels

    def decode(self, index: int, *, exif_orientation: ExifOrientation = "ignore") -> Tensor:
        """See `ImageRecords.decode`."""
        beton = self._beton
        data = _copy_of(beton, index)
        height, width = int(beton.heights[index]), int(beton.widths[index])
        if beton.modes[index] == ImageMode.RAW:
            return _as_tensor(data.reshape(height, width, 3))
        pixels = decode_image(data)
        if pixels.shape[:2] != (height, width):
            raise ImageError(f"it decodes to {pixels.shape[:2]}, where the file's table says {(height, width)}")
        return _as_tensor(_shown(pixels, data, exif_orientation))

    def name(self, index: int) -> str:
        """See `ImageRecords.name`."""
        return f"record {index} of {self._beton.path}"

    def native(self) -> _native.Records:
        """See `ImageRecords.native`."""
        beton = self._beton
        return _native.mapped_records(
            beton.data,
            offsets=beton.offsets,
            sizes=beton.sizes,
            raw=(beton.modes == ImageMode.RAW).astype(np.uint8),
            heights=beton.heights,
            widths=beton.widths,
        )


class FileRecords:
    """Image files in the order given, without labels: all have the label 0.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.records import FileRecords
        >>> records = FileRecords([Path("photos/dog/9.jpg"), Path("photos/cat/0.jpg")])
        >>> records.name(0), tuple(records.decode(0).shape)
        ('photos/dog/9.jpg', (3, 120, 160))
    """

    def __init__(self, files: Sequence[Path | str]) -> None:
        self._files = [str(file) for file in files]
        self.labels = np.zeros(len(self._files), np.int64)

    def decode(self, index: int, *, exif_orientation: ExifOrientation = "ignore") -> Tensor:
        """See `ImageRecords.decode`."""
        data = _native.read_file(os.fsencode(self._files[index]))
        return _as_tensor(_shown(decode_image(data), data, exif_orientation))

    def name(self, index: int) -> str:
        """See `ImageRecords.name`."""
        return os.fsencode(self._files[index]).decode(errors="backslashreplace")

    def native(self) -> _native.Records:
        """See `ImageRecords.native`."""
        return _native.file_records([os.fsencode(file) for file in self._files])


class FolderRecords(FileRecords):
    """The images of a folder with a sub-folder for each class, numbered as torchvision's ImageFolder does.

    Attributes:
        left_out: How many other files there are, by their extension.

    Raises:
        FastvitError: The folder does not hold a sub-folder of images for each class.
        OSError: A folder cannot be read.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.records import FolderRecords
        >>> records = FolderRecords(Path("photos"))
        >>> records.name(0), records.name(9)
        ('photos/cat/0.jpg', 'photos/dog/9.jpg')
    """

    def __init__(self, path: Path) -> None:
        found = ClassFolders(path)
        super().__init__([f"{path}/{name}" for name in found.names])
        self.labels, self.left_out = found.labels, found.left_out


class ShardRecords:
    """The samples of tar or TFRecord shards, shard by shard.

    Raises:
        FastvitError: A shard is missing or damaged, or none has a sample.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.records import ShardRecords
        >>> from loaders.shards import find_shards
        >>> ShardRecords(find_shards(Path("shards"))).name(7)
        'shards/train-0001.tar: 7.jpg'
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._shards = open_each(open_shard, paths)
        self.labels = np.concatenate([shard.labels for shard in self._shards])
        if not len(self.labels):
            raise FastvitError(
                f"{paths[0]}: no image with a label in it or in any other shard; name shards with samples"
            )
        self._ends = np.cumsum([len(shard.labels) for shard in self._shards])

    def decode(self, index: int, *, exif_orientation: ExifOrientation = "ignore") -> Tensor:
        """See `ImageRecords.decode`."""
        shard, number = self._place(index)
        data = _copy_of(shard, number)
        return _as_tensor(_shown(decode_image(data), data, exif_orientation))

    def name(self, index: int) -> str:
        """See `ImageRecords.name`."""
        shard, number = self._place(index)
        return shard.name(number)

    def native(self) -> _native.Records:
        """See `ImageRecords.native`."""
        return _native.joined_records([_native_shard(shard) for shard in self._shards])

    def _place(self, index: int) -> tuple[MappedShard, int]:
        """The shard that holds a record, and the record's number there."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[part]
        return shard, index - int(self._ends[part]) + len(shard.labels)


def open_records(path: Path | Sequence[Path]) -> ImageRecords:
    """Open a `.beton` file, an ImageFolder, a list of files, or shards: `find_shards` says which paths name them.

    Raises:
        FastvitError: `path` is missing, damaged, or holds no images.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.records import open_records
        >>> for path in ("train.beton", "photos", "shards", "records"):
        ...     records = open_records(Path(path))
        ...     print(records.labels, tuple(records.decode(2).shape))
        [0 0 0 0 0 1 1 1 1 1] (3, 120, 160)
        [0 0 0 0 0 1 1 1 1 1] (3, 120, 160)
        [0 0 0 0 0 1 1 1 1 1] (3, 120, 160)
        [0 0 0 0 0 1 1 1 1 1] (3, 120, 160)
    """
    if not isinstance(path, Path):
        return FileRecords(path)
    if shards := find_shards(path):
        return ShardRecords(shards)
    if path.is_dir():
        return FolderRecords(path)
    if not path.exists() and path.suffix != ".beton":
        raise FastvitError(
            f"{path}: no such file or folder; name a .beton file, a folder with a sub-folder for each class, or tar or "
            "TFRecord shards"
        )
    return BetonRecords(path)


def _native_shard(shard: MappedShard) -> _native.Records:
    unknown = np.zeros(len(shard.labels), np.int64)  # a shard has no table of sizes to compare a JPEG's with
    return _native.mapped_records(
        shard.data,
        offsets=shard.offsets,
        sizes=shard.sizes,
        raw=np.zeros(len(shard.labels), np.uint8),
        heights=unknown,
        widths=unknown,
    )


def _copy_of(file: Beton | MappedShard, index: int) -> NDArray[np.uint8]:
    """An image's bytes; copied, as what is mapped may turn to zeros, and is read-only, of which torch warns.

    Raises:
        OSError: The file has become shorter.
    """
    offset = file.offsets[index]
    data = file.data[offset : offset + file.sizes[index]].copy()
    if not _native.is_whole(file.data):
        raise OSError(_native.cut_short)
    return data


def _shown(
    pixels: NDArray[np.uint8], file: bytes | NDArray[np.uint8], exif_orientation: ExifOrientation
) -> NDArray[np.uint8]:
    """A file's pixels as they are to be seen."""
    return turn_pixels(pixels, read_orientation(file)) if exif_orientation == "apply" else pixels


def _as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Pixels [h, w, 3] as [3, h, w]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)
