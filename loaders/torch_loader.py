"""The `torch` backend: torchvision's decoding and transforms in a DataLoader, the reference for all others."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transforms

from loaders import BadSample, BadSampleError, Batch, LoaderConfig
from loaders._epochs import PlannedEpochs
from loaders.records import ImageRecords, open_records


class _Request(NamedTuple):
    """What a worker needs to make one batch, so that it needs no state of its own."""

    indices: NDArray[np.int64]
    epoch: int
    resolution: int


class _Batches(Dataset[tuple[Batch, list[BadSample]]]):
    """Whole batches by request; runs in the workers."""

    def __init__(self, records: ImageRecords, config: LoaderConfig) -> None:
        self._records = records
        self._config = config

    def __getitem__(self, request: _Request) -> tuple[Batch, list[BadSample]]:
        decoded: dict[int, Tensor] = {}
        bad: list[BadSample] = []
        for index in request.indices.tolist():
            try:
                decoded[index] = self._records.decode(index)
            except (OSError, RuntimeError) as error:
                bad.append(BadSample(index, self._records.name(index), str(error).splitlines()[0]))
        indices = np.array(list(decoded), dtype=np.int64)
        images = torch.empty(
            (len(decoded), 3, request.resolution, request.resolution),
            dtype=torch.uint8,
            memory_format=torch.channels_last,
        )
        for row, image in enumerate(self._cropped(list(decoded.values()), indices, request)):
            images[row] = image
        return Batch(images, torch.from_numpy(self._records.labels[indices]), torch.from_numpy(indices)), bad

    def _cropped(self, images: list[Tensor], indices: NDArray[np.int64], request: _Request) -> Iterator[Tensor]:
        config, side = self._config, request.resolution
        if config.crop == "center":
            for image in images:
                resized = transforms.resize(image, [round(side / config.center_fraction)], antialias=True)
                yield transforms.center_crop(resized, [side, side])
            return
        boxes, flips = config.crops(
            indices,
            heights=np.array([image.shape[1] for image in images], dtype=np.int64),
            widths=np.array([image.shape[2] for image in images], dtype=np.int64),
            epoch=request.epoch,
        )
        for image, (top, left, height, width), flip in zip(images, boxes.tolist(), flips, strict=True):
            resized = transforms.resized_crop(image, top, left, height, width, [side, side], antialias=True)
            yield resized.flip(-1) if flip else resized


class TorchLoader(PlannedEpochs):
    """An `ImageLoader` over a `.beton` file, an ImageFolder or tar shards.

    `num_workers` are processes, 0 loads in this one.
    """

    def __init__(self, path: Path, config: LoaderConfig) -> None:
        records = open_records(path)
        super().__init__(config, num_samples=len(records.labels))
        self._raise = config.on_error == "raise"
        self._loader: DataLoader[tuple[Batch, list[BadSample]]] | None = DataLoader(
            _Batches(records, config),
            batch_size=None,
            sampler=_Requests(self),
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # without batching it gets what the dataset gives
            num_workers=config.num_workers,
            persistent_workers=config.num_workers > 0,
            pin_memory=config.device.type == "cuda",
        )

    def requests(self) -> Iterator[_Request]:
        """What the workers are asked for in this epoch, batch by batch."""
        for indices in self._planned():
            yield _Request(indices, self._epoch, self._resolution)

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None:
            raise ValueError("the loader is closed; build another one")
        for batch, bad in self._loader:
            if bad and self._raise:
                raise BadSampleError(bad[0])
            self.skipped.extend(bad)
            if len(batch.index):
                yield batch

    def close(self) -> None:
        """End the worker processes."""
        self._loader = None


class _Requests:
    """The DataLoader's sampler; the DataLoader asks it anew at the start of each epoch."""

    def __init__(self, loader: TorchLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[_Request]:
        return self._loader.requests()

    def __len__(self) -> int:
        return len(self._loader)


def _as_it_is(item: tuple[Batch, list[BadSample]]) -> tuple[Batch, list[BadSample]]:
    return item
