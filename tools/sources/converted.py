"""What was converted before as a source to convert again: tar and TFRecord shards, and `.beton` files."""

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loaders.beton import Beton, ImageMode
from loaders.companions import classes_on_cards
from loaders.errors import FastvitError
from loaders.shards import find_shards, open_each, shard_kind
from loaders.tar_shard import TarShard
from loaders.tfrecord_shard import TFRecordShard
from tools.sources.class_names import classes_of
from tools.sources.names import checked_name, shard_names

__all__ = ["BetonSample", "BetonSource", "ShardSource", "StoredImage"]

Shard = TarShard | TFRecordShard


class StoredImage(NamedTuple):
    """An image file in a shard."""

    shard: Shard
    number: int
    label: int
    name: str

    def load(self) -> bytes:
        """Read the image file."""
        return _read(self.shard.path, int(self.shard.offsets[self.number]), int(self.shard.sizes[self.number]))

    def __str__(self) -> str:
        return self.shard.name(self.number)


class ShardSource:
    """The samples of shards, as they lie in them, shard by shard in the order of the shards' names.

    The classes' names come from the card beside the shards, ``train.json`` beside ``train-000000.tar``; without one
    they are the labels as text. A sample's name is that of its shard and, in a tar shard, its path there; in a TFRecord
    shard its number.

    Args:
        path: A folder of shards, one of them, or a pattern (`loaders.shards.find_shards`).
        kind: What kind of shards they must be.

    Raises:
        FastvitError: There are no shards, one is damaged, a label has no class, or two samples of a tar shard have one
            name.
    """

    random_access = True

    def __init__(self, path: Path, *, kind: type[Shard]) -> None:
        paths = find_shards(path)
        if not paths or shard_kind(paths[0]) is not kind:
            ending = ".tar" if kind is TarShard else ".tfrecord"
            raise FastvitError(
                f"{path}: no {kind.kind} shards; name a folder of {ending} files, one of them or a pattern such as "
                f"*{ending}"
            )
        self._shards = open_each(partial(_open_shard, kind), paths)
        self._shard_names = shard_names(paths)
        self._ends = np.cumsum([len(shard.labels) for shard in self._shards])
        if not self._ends[-1]:
            raise FastvitError(f"{path}: no image with a label in any shard; name shards with samples")
        labels = np.concatenate([shard.labels for shard in self._shards])
        self.class_names = classes_of(labels, classes_on_cards(paths), where=str(path))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int, /) -> StoredImage:
        place = range(len(self))[index]
        part = int(np.searchsorted(self._ends, place, side="right"))
        shard = self._shards[part]
        number = place - int(self._ends[part]) + len(shard.labels)
        name = checked_name(shard.member_name(number)) if isinstance(shard, TarShard) else f"{number:08}"
        return StoredImage(shard, number, int(shard.labels[number]), f"{self._shard_names[part]}/{name}")


class BetonSample(NamedTuple):
    """A record of a `.beton` file."""

    beton: Beton
    number: int
    label: int
    name: str

    def load(self) -> bytes | NDArray[np.uint8]:
        """Read the JPEG file, or the pixels of a raw record: uint8 [height, width, 3], read-only."""
        beton, number = self.beton, self.number
        data = _read(beton.path, int(beton.offsets[number]), int(beton.sizes[number]))
        if beton.modes[number] == ImageMode.JPG:
            return data
        return np.frombuffer(data, np.uint8).reshape(int(beton.heights[number]), int(beton.widths[number]), 3)

    def __str__(self) -> str:
        return f"{self.beton.path}: record {self.number}"


class BetonSource:
    """The records of a `.beton` file, in its order; a record's name is its number.

    The classes' names come from the card beside the file, ``train.beton.json``; without one they are the labels as
    text.

    Raises:
        FastvitError: The file is missing or damaged, has no images or labels, or a label has no class.
    """

    random_access = True

    def __init__(self, path: Path) -> None:
        self._beton = Beton(path)
        self._labels = self._beton.labels
        _ = self._beton.modes  # a file without images is refused here
        self.class_names = classes_of(self._labels, classes_on_cards([path]), where=str(path))

    def __len__(self) -> int:
        return self._beton.num_samples

    def __getitem__(self, index: int, /) -> BetonSample:
        place = range(len(self))[index]
        return BetonSample(self._beton, place, int(self._labels[place]), f"{place:08}")


def _read(path: Path, offset: int, size: int) -> bytes:
    """Read a record. The mapped file would do, but count as memory of the process, all of it in the end.

    Raises:
        FastvitError: The file has become shorter.
    """
    with path.open("rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise FastvitError(f"{len(data)} of its {size} bytes can be read: the file has become shorter")
    return data


def _open_shard(kind: type[Shard], path: Path) -> Shard:
    shard = kind(path)
    if isinstance(shard, TarShard):
        _check_names(shard)
    return shard


def _check_names(shard: TarShard) -> None:
    """See that a shard's images have names of their own, none of which leads out of it."""
    names = set[str]()
    for number in range(len(shard.labels)):
        try:
            name = checked_name(shard.member_name(number))
        except ValueError as error:
            raise FastvitError(f"{shard.path}: {error}") from error
        if name in names:
            raise FastvitError(f"{shard.path}: two images {name!r}; write the shard again with a name for each")
        names.add(name)
