"""The contender `torch`: the backend of that name, but with JPEGs decoded by torchvision, as its users do."""

from collections.abc import Iterator, Sized
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from benchmarks.peers.epochs import Epochs
from loaders import LoaderConfig
from loaders.beton import ImageMode
from loaders.orientation import ExifOrientation
from loaders.records import BetonRecords, FolderRecords, ImageRecords, ShardRecords
from loaders.shards import find_shards
from loaders.torch_loader import TorchLoader

__all__ = ["open_epochs"]


def open_epochs(path: Path, config: LoaderConfig) -> Epochs:
    """A `DataLoader` over a `.beton` file, an ImageFolder or shards, with the loaders' order and crops.

    Raises:
        FastvitError: The data is damaged.
    """
    loader = _Loader(path, config)

    def epochs(number: int) -> Iterator[Sized]:
        loader.set_epoch(number)
        for batch in loader:
            yield batch.images

    return epochs


class _Loader(TorchLoader):
    @staticmethod
    def _open(path: Path) -> ImageRecords:
        if shards := find_shards(path):
            return _Shards(shards)
        return _Folder(path) if path.is_dir() else _Beton(path)


class _Beton(BetonRecords):
    def decode(self, index: int, *, exif_orientation: ExifOrientation = "ignore") -> Tensor:
        if self._beton.modes[index] == ImageMode.RAW:
            return super().decode(index, exif_orientation=exif_orientation)
        return _decoded(self._beton.image_bytes(index).copy(), exif_orientation)


class _Folder(FolderRecords):
    def decode(self, index: int, *, exif_orientation: ExifOrientation = "ignore") -> Tensor:
        return _decoded(np.fromfile(self._files[index], np.uint8), exif_orientation)


class _Shards(ShardRecords):
    def decode(self, index: int, *, exif_orientation: ExifOrientation = "ignore") -> Tensor:
        shard, number = self._place(index)
        return _decoded(shard.image_bytes(number).copy(), exif_orientation)


def _decoded(data: NDArray[np.uint8], exif_orientation: ExifOrientation) -> Tensor:
    """The pixels [3, h, w] of an image file, whose memory torch wants to be writable."""
    turns = exif_orientation == "apply"
    image: Tensor = decode_image(torch.from_numpy(data), mode=ImageReadMode.RGB, apply_exif_orientation=turns)
    return image
