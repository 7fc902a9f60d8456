"""The contender `torch`: the backend of that name, but with JPEGs decoded by torchvision, as its users do."""

from collections.abc import Iterator, Sized
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from benchmarks.peers.epochs import Epochs
from loaders import LoaderConfig
from loaders.beton import ImageMode
from loaders.records import BetonRecords, ImageRecords
from loaders.torch_loader import TorchLoader

__all__ = ["open_epochs"]


def open_epochs(path: Path, config: LoaderConfig) -> Epochs:
    """A `DataLoader` over a `.beton` file with the loaders' order and crops.

    Raises:
        FastvitError: The file is damaged.
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
        return _Records(path)


class _Records(BetonRecords):
    def decode(self, index: int) -> Tensor:
        if self._beton.modes[index] == ImageMode.RAW:
            return super().decode(index)
        data = torch.from_numpy(self._beton.image_bytes(index).copy())  # torch warns of memory that is read-only
        image: Tensor = decode_image(data, mode=ImageReadMode.RGB)
        return image
