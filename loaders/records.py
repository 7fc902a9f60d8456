"""Where images come from: a `.beton` file, an ImageFolder or tar shards, as records that can be decoded one by one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image, read_file

from loaders import _native
from loaders.beton import Beton, ImageMode
from loaders.errors import FastvitError
from loaders.tar_shard import TarShard, find_shards, open_each

__all__ = ["BetonRecords", "FileRecords", "FolderRecords", "ImageRecords", "TarRecords", "open_records"]


class ImageRecords(Protocol):
    """A dataset's labels and images, by position: what `open_records` returns."""

    labels: NDArray[np.int64]
    """int64 [n], the numbers of the classes."""

    def decode(self, index: int) -> Tensor:
        """The whole image, uint8 [3, h, w] RGB; EXIF orientation is ignored.

        Raises:
            RuntimeError: The image is damaged.
            OSError: Its file cannot be read.
        """

    def name(self, index: int) -> str:
        """What to call the record in a message."""

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

    def decode(self, index: int) -> Tensor:
        """See `ImageRecords.decode`."""
        beton = self._beton
        data = torch.from_numpy(beton.image_bytes(index).copy())  # torch warns of memory that is read-only
        height, width = int(beton.heights[index]), int(beton.widths[index])
        if beton.modes[index] == ImageMode.RAW:
            return data.view(height, width, 3).permute(2, 0, 1)
        image = _decode_rgb(data)
        if image.shape[1:] != (height, width):
            raise RuntimeError(f"it decodes to {tuple(image.shape[1:])}, where the file's table says {(height, width)}")
        return image

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

    def decode(self, index: int) -> Tensor:
        """See `ImageRecords.decode`."""
        return _decode_rgb(read_file(self._files[index]))

    def name(self, index: int) -> str:
        """See `ImageRecords.name`."""
        return self._files[index]

    def native(self) -> _native.Records:
        """See `ImageRecords.native`."""
        return _native.file_records(self._files)


class FolderRecords(FileRecords):
    """The images of a folder with one sub-folder per class, numbered as torchvision's ImageFolder does.

    Raises:
        FastvitError: The folder has no sub-folders with images.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.records import FolderRecords
        >>> records = FolderRecords(Path("photos"))
        >>> records.name(0), records.name(9)
        ('photos/cat/0.jpg', 'photos/dog/9.jpg')
    """

    def __init__(self, path: Path) -> None:
        try:
            samples = ImageFolder(path).samples
        except FileNotFoundError as error:
            raise FastvitError(f"{path} is not an ImageFolder (CLASS/IMAGE.jpg below it): {error}") from error
        super().__init__([file for file, _ in samples])
        self.labels = np.array([label for _, label in samples], dtype=np.int64)


class TarRecords:
    """The samples of WebDataset's tar shards, shard by shard.

    Raises:
        FastvitError: A shard is missing or damaged, or none has a sample.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.records import TarRecords
        >>> from loaders.tar_shard import find_shards
        >>> TarRecords(find_shards(Path("shards"))).name(7)
        'shards/train-0001.tar: 7.jpg'
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._shards = open_each(TarShard, paths)
        self.labels = np.concatenate([shard.labels for shard in self._shards])
        if not len(self.labels):
            raise FastvitError(
                f"{paths[0]}: no image with a label in it or in any other shard; name shards with samples"
            )
        self._ends = np.cumsum([len(shard.labels) for shard in self._shards])

    def decode(self, index: int) -> Tensor:
        """See `ImageRecords.decode`."""
        shard, number = self._place(index)
        return _decode_rgb(torch.from_numpy(shard.image_bytes(number).copy()))

    def name(self, index: int) -> str:
        """See `ImageRecords.name`."""
        shard, number = self._place(index)
        return f"{shard.path}: {shard.member_name(number)}"

    def native(self) -> _native.Records:
        """See `ImageRecords.native`."""
        return _native.joined_records([_native_shard(shard) for shard in self._shards])

    def _place(self, index: int) -> tuple[TarShard, int]:
        """The shard that holds a record, and the record's number there."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[part]
        return shard, index - int(self._ends[part]) + len(shard.labels)


def open_records(path: Path | Sequence[Path]) -> ImageRecords:
    """Open a `.beton` file, an ImageFolder, tar shards (`find_shards` says which paths name them) or a list of files.

    Raises:
        FastvitError: `path` is missing, damaged, or holds no images.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.records import open_records
        >>> for path in ("train.beton", "photos", "shards"):
        ...     records = open_records(Path(path))
        ...     print(records.labels, tuple(records.decode(2).shape))
        [0 0 0 0 0 1 1 1 1 1] (3, 120, 160)
        [0 0 0 0 0 1 1 1 1 1] (3, 120, 160)
        [0 0 0 0 0 1 1 1 1 1] (3, 120, 160)
    """
    if not isinstance(path, Path):
        return FileRecords(path)
    if shards := find_shards(path):
        return TarRecords(shards)
    return FolderRecords(path) if path.is_dir() else BetonRecords(path)


def _native_shard(shard: TarShard) -> _native.Records:
    unknown = np.zeros(len(shard.labels), np.int64)  # a shard has no table of sizes to compare a JPEG's with
    return _native.mapped_records(
        shard.data,
        offsets=shard.offsets,
        sizes=shard.sizes,
        raw=np.zeros(len(shard.labels), np.uint8),
        heights=unknown,
        widths=unknown,
    )


def _decode_rgb(data: Tensor) -> Tensor:
    image: Tensor = decode_image(data, mode=ImageReadMode.RGB)
    return image
